"""The quiet tenants: each calls steadily, and looks at every response."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Event
from typing import Dict, Iterator, List, Optional, Tuple

from chaos.scene import BALANCED, ORDERED, QUIET
from e2e.load import SEEN, Sent, content
from e2e.side_by_side import SideBySide
from e2e.wire import Closed, Connection, Response

SERVED = "served"
WRONG, LOST = "wrong: ", "lost: "
# No response within this time is a lost one.
_PATIENCE = 30.0
# Each tenant has so many connections.
_CONNECTIONS = 3
CONNECTIONS = _CONNECTIONS * len(QUIET)
_KINDS: List[Dict[str, object]] = [
    {"model": BALANCED, "in_url": True}, {"model": ORDERED, "in_url": False},
    {"model": BALANCED, "in_url": False, "stream": True},
    {"model": ORDERED, "in_url": True, "padding": 20_000}]


@dataclass(frozen=True)
class Outcome:
    """What became of a request: by the monotonic clock when it was due, how many seconds later it was
    answered, and how."""

    due: float
    seconds: float
    verdict: str


def run(port: int, interval: float, most: int, stop: Event, results: Pipe) -> None:
    """Calls until `stop`, in a process of its own, and sends the outcomes."""
    tenants = Tenants(port, interval, most)
    with tenants:
        stop.wait()
    results.send(tenants.outcomes)


class Tenants(SideBySide[Tuple[str, int]]):
    """All tenants' connections, on each of which a request is due every so many seconds, and which are
    made anew after so many requests at most. A request that has to wait for the response before it counts
    from when it was due."""

    def __init__(self, port: int, interval: float, most: int) -> None:
        self.outcomes: List[Outcome] = []
        self._port, self._interval, self._most = port, interval, most
        super().__init__((tenant, number) for tenant in QUIET for number in range(_CONNECTIONS))

    def call(self, client: Tuple[str, int]) -> None:
        tenant, number = client
        place = list(QUIET).index(tenant) * _CONNECTIONS + number
        due = time.monotonic() + self._interval * place / CONNECTIONS
        connection: Optional[Connection] = None
        used = 0
        for sent in _requests(tenant, number):
            if self.stop.wait(max(due - time.monotonic(), 0)):
                break
            connection, verdict = self._exchange(connection, sent)
            self.outcomes.append(Outcome(due, time.monotonic() - due, verdict))
            due += self._interval
            used += 1
            if connection is not None and used % self._most == 0:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    def _exchange(self, connection: Optional[Connection], sent: Sent
                  ) -> Tuple[Optional[Connection], str]:
        try:
            connection = connection or Connection(self._port, timeout=_PATIENCE)
            response = connection.exchange(sent.raw())
        except (Closed, OSError) as error:
            if connection is not None:
                connection.close()
            return None, f"{LOST}{type(error).__name__}"
        verdict = judged(sent, response)
        if response.head.values("connection") == ["close"]:
            connection.close()
            return None, verdict
        return connection, verdict


def _requests(tenant: str, number: int) -> Iterator[Sent]:
    for index in count(number):
        fields = _KINDS[index % len(_KINDS)]
        yield Sent(f"{tenant}-{number}-{index}", version=0, key=QUIET[tenant],
                   **fields)  # type: ignore[arg-type]


def judged(sent: Sent, response: Response) -> str:
    """How a request was answered: with `WRONG` in front where the response is not the request's, and with
    `LOST` where Envoy has answered."""
    head = response.head
    region, seen = head.header("x-aoai-backend"), head.values(SEEN)
    if seen not in ([sent.mark], []):
        return f"{WRONG}the response to another request"
    if response.status == 200:
        try:
            right = bool(seen) and content(sent, response.body) == f"answer from {region}"
        except (AssertionError, ValueError, KeyError, IndexError):
            right = False
        return SERVED if right else f"{WRONG}not what the region sent"
    if seen:
        return f"{response.status} {_code(response)}from {region}"
    reason = head.header("x-aoai-reason")
    return f"{response.status} {reason}" if reason else f"{LOST}{response.status} {response.body!r:.80}"


def _code(response: Response) -> str:
    """What an error of Azure's is called, where that is more than its status."""
    try:
        error = json.loads(response.body)["error"]
        code = str(error.get("type") or error["code"])
    except (ValueError, KeyError, TypeError):
        return ""
    return "" if code == str(response.status) else f"{code} "
