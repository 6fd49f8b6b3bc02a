"""The quiet tenants: each calls steadily, and looks at every response."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Event
from typing import Dict, Iterator, List, Optional, Tuple

from chaos.scene import BALANCED, MISCONFIGURED, ORDERED, QUIET, THROTTLED
from e2e.load import SEEN, Sent, content
from e2e.side_by_side import SideBySide
from e2e.wire import Closed, Connection, Response

SERVED = "served"
# A region's own state: a healthy one was there all the same.
EXPLAINED = {(MISCONFIGURED, 401): "401 of the misconfigured region",
             (THROTTLED, 429): "429 of the throttled region"}
WRONG = "wrong: "
# No response within this time is a failure.
_PATIENCE = 30.0
# Each tenant has so many connections, on each of which a request is due this often, in seconds.
_CONNECTIONS, _INTERVAL = 3, 0.6
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


def run(port: int, stop: Event, results: Pipe) -> None:
    """Calls until `stop`, in a process of its own, and sends the outcomes."""
    tenants = Tenants(port)
    with tenants:
        stop.wait()
    results.send(tenants.outcomes)


class Tenants(SideBySide[Tuple[str, int]]):
    """All tenants' connections. A request is due at fixed times: one that has to wait for the response
    before it counts from when it was due."""

    def __init__(self, port: int) -> None:
        self.outcomes: List[Outcome] = []
        self._port = port
        super().__init__((tenant, number) for tenant in QUIET for number in range(_CONNECTIONS))

    def call(self, client: Tuple[str, int]) -> None:
        tenant, number = client
        place = list(QUIET).index(tenant) * _CONNECTIONS + number
        due = time.monotonic() + _INTERVAL * place / (len(QUIET) * _CONNECTIONS)
        connection: Optional[Connection] = None
        for sent in _requests(tenant, number):
            if self.stop.wait(max(due - time.monotonic(), 0)):
                break
            connection, verdict = self._exchange(connection, sent)
            self.outcomes.append(Outcome(due, time.monotonic() - due, verdict))
            due += _INTERVAL
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
            return None, f"no response ({type(error).__name__})"
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
    """How a request was answered. It starts with `WRONG` where the response is not the request's."""
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
    explained = EXPLAINED.get((str(region), response.status)) if seen else None
    source = region if seen else "the gateway"
    return explained or f"{response.status} {_reason(response)} from {source}"


def _reason(response: Response) -> str:
    """What a failure says of itself."""
    reason = response.head.header("x-aoai-reason")
    if reason is not None:
        return reason
    try:
        error = json.loads(response.body)["error"]
        return str(error.get("type") or error["code"])
    except (ValueError, KeyError, TypeError):
        return response.body[:60].decode("latin-1")
