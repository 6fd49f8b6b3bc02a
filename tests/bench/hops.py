"""What a hop takes: the first backend answers 429 at once, the second serves.

One connection, one request at a time. Each hop has two neighbours in time: a request through the same
Envoy that is served at once, and one straight to the throttled backend. What remains of the hop
without these two is what moving on adds: reading the refusal, remembering it, Envoy's back-off.
"""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass, field
from typing import Iterator, List, Sequence, Tuple

from bench.setups import BODY, HOPPING, HOST, KEY, URL_NAMED
from e2e.envoy import Envoy
from e2e.wire import Connection, Response, request


@dataclass
class Hops:
    """An Envoy with a pool, and what its hops took, in seconds."""

    name: str
    envoy: Envoy
    attempts: str
    throttled_port: int
    hops: List[float] = field(default_factory=list)
    straight: List[float] = field(default_factory=list)
    refused: List[float] = field(default_factory=list)
    rounds: List[float] = field(default_factory=list)
    _models: Iterator[str] = field(default_factory=lambda: itertools.cycle(HOPPING))

    @property
    def added(self) -> List[float]:
        return [hop - straight - refused
                for hop, straight, refused in zip(self.hops, self.straight, self.refused)]

    def measure(self, count: int) -> None:
        """One round. A request whose first backend was still left alone did not hop, and another one
        takes its place."""
        counted = 0
        with Connection(self.envoy.port()) as gateway, Connection(self.throttled_port) as backend:
            for _ in range(4 * count):
                hop, answer = _timed(gateway, _chat(next(self._models)))
                straight, other = _timed(gateway, _chat("gpt-4o"))
                refused, throttled = _timed(backend, _chat("gpt-4o"))
                if (answer.status, other.status, throttled.status) != (200, 200, 429):
                    raise SystemExit(f"{self.name}: {answer}\n{other}\n{throttled}\n"
                                     + self.envoy.log_for_people())
                if (answer.head.header(self.attempts), other.head.header(self.attempts)) == ("2",
                                                                                            "1"):
                    self.hops.append(hop)
                    self.straight.append(straight)
                    self.refused.append(refused)
                    counted += 1
                if counted == count:
                    self.rounds.append(statistics.median(self.added[-count:]))
                    return
        raise SystemExit(f"{self.name}: of {4 * count} requests only {counted} moved on")


def percentile(values: Sequence[float], of_hundred: int) -> float:
    """A percentile by nearest rank."""
    return sorted(values)[max(-(-len(values) * of_hundred // 100) - 1, 0)]


def _timed(connection: Connection, raw: bytes) -> Tuple[float, Response]:
    begin = time.perf_counter()
    response = connection.exchange(raw)
    return time.perf_counter() - begin, response


def _chat(model: str) -> bytes:
    return request("POST", URL_NAMED.replace("gpt-4o", model),
                   [("api-key", KEY), ("content-type", "application/json")], BODY.encode(),
                   host=HOST)
