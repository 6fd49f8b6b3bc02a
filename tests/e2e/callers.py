"""Clients that call all the time while a test changes something, and what became of each request."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Sequence

from e2e.calls import Call
from e2e.gateway import Gateway
from e2e.side_by_side import SideBySide

_CLIENTS = 4
# A client opens another connection after so many requests.
_ON_ONE_CONNECTION = 50


class Callers(SideBySide[int]):
    """While it is entered, each client makes the calls in turn. `outcomes` counts responses by status and reason, and
    what broke by its exception."""

    def __init__(self, gateway: Gateway, calls: Sequence[Call]) -> None:
        super().__init__(range(_CLIENTS))
        self._gateway, self._calls = gateway, calls
        self._lock = threading.Lock()
        self.outcomes: "Counter[str]" = Counter()

    def call(self, client: int) -> None:
        turn = client
        while not self.stop.is_set():
            try:
                with self._gateway.connect() as connection:
                    for _ in range(_ON_ONE_CONNECTION):
                        response = connection.exchange(self._calls[turn % len(self._calls)].raw())
                        turn += 1
                        reason = response.head.header("x-aoai-reason") or ""
                        self._count(f"{response.status} {reason}".strip())
                        if self.stop.is_set() or response.head.values("connection") == ["close"]:
                            break
            except Exception as error:  # whatever it is, the request is lost
                self._count(repr(error))

    def grow(self, count: int) -> None:
        """Returns after so many more requests."""
        wanted = sum(self.outcomes.values()) + count
        self._gateway.envoy.wait_until(lambda: sum(self.outcomes.values()) >= wanted, "requests")

    def served(self) -> int:
        """How many requests were served, none being lost."""
        assert set(self.outcomes) == {"200"}, dict(self.outcomes)
        return self.outcomes["200"]

    def _count(self, outcome: str) -> None:
        with self._lock:
            self.outcomes[outcome] += 1
