"""hop: what it takes to move on from a backend that answers 429 to one that serves.

One connection, one request at a time. Each hop has two neighbours in time: a request through the
same Envoy that is served at once, and one straight to the throttled backend. What remains of the
hop without these two is what moving on adds (`added`): reading the 429, remembering it, Envoy's
back-off. The time that the 429s give is so short that each request meets one again.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from dataclasses import dataclass, field
from typing import Iterator, List, Tuple

from bench import setups
from bench.load import BODY
from bench.machine import MEASURED_CORE, pin
from bench.session import Session
from bench.setups import HOPPING, HOST, KEY, LISTENER, URL_NAMED
from bench.tables import percentile
from e2e.envoy import Envoy
from e2e.wire import Connection, Response, request

# The most that a hop may add at p50, in ms.
AIM_MS = 0.3


@dataclass
class Hops:
    """An Envoy with a pool, and what its hops took, in seconds. `attempts` is the response header
    that says how many backends were tried."""

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
        """One round. A request whose first backend was still in cooldown did not hop, and another
        one takes its place."""
        counted = 0
        with Connection(self.envoy.port(LISTENER)) as gateway, \
                Connection(self.throttled_port) as backend:
            for _ in range(4 * count):
                hop, response = _timed(gateway, _chat(next(self._models)))
                straight, other = _timed(gateway, _chat("gpt-4o"))
                refused, throttled = _timed(backend, _chat("gpt-4o"))
                if (response.status, other.status, throttled.status) != (200, 200, 429):
                    raise SystemExit(f"{self.name}: {response}\n{other}\n{throttled}\n"
                                     + self.envoy.log_for_people())
                if [one.head.header(self.attempts) for one in (response, other)] == ["2", "1"]:
                    self.hops.append(hop)
                    self.straight.append(straight)
                    self.refused.append(refused)
                    counted += 1
                if counted == count:
                    self.rounds.append(statistics.median(self.added[-count:]))
                    return
        raise SystemExit(f"{self.name}: of {4 * count} requests only {counted} moved on")


def measure(session: Session) -> None:
    with contextlib.ExitStack() as stack:
        found = [Hops(name, stack.enter_context(setups.start(one)), attempts,
                      session.ports.throttled)
                 for name, one, attempts in (
                     ("both stages: pool of 3",
                      setups.gateway(setups.pool_of_three(), session.ports), "x-aoai-attempts"),
                     ("Envoy's filters, pool of 3",
                      setups.own_filters_and_retries(session.ports), "x-envoy-attempt-count"))]
        for one in found:
            pin(one.envoy.pid, MEASURED_CORE)
        for turn in session.turns():
            for one in found[::turn]:
                one.measure(session.hops)
    title = f"hop over a 429, ms (p50 / p99 of {len(found[0].hops):,})"
    print(f"\n{title:<44} {'with a hop':>13} {'without':>13} {'the 429':>13} {'added':>13}"
          "  p50 of rounds  aim")
    for one in found:
        columns = "".join(
            f" {percentile(values, 50) * 1e3:>6.2f} / {percentile(values, 99) * 1e3:.2f}"
            for values in (one.hops, one.straight, one.refused, one.added))
        rounds = f"{min(one.rounds) * 1e3:.2f}–{max(one.rounds) * 1e3:.2f}"
        aim = f"{AIM_MS:.2f}" if one is found[0] else ""
        print(f"{one.name:<44}{columns}  {rounds:<13}  {aim}".rstrip())


def _timed(connection: Connection, raw: bytes) -> Tuple[float, Response]:
    begin = time.perf_counter()
    response = connection.exchange(raw)
    return time.perf_counter() - begin, response


def _chat(name: str) -> bytes:
    return request("POST", URL_NAMED.replace("gpt-4o", name),
                   [("api-key", KEY), ("content-type", "application/json")], BODY, host=HOST)
