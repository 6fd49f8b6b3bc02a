"""latency: how long a short chat request takes at a fixed rate, and what is added to plain Envoy's.

Requests leave on time, whether or not those before them have been answered (an open loop), each on
a connection that is free, at a rate that leaves Envoy idle most of the time. A request's time is
from its first byte sent to its last byte received. `added` compares with plain Envoy in the same
round, and is the median of the rounds. The client's own time is in all figures alike.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Deque, Dict, List

from bench import setups
from bench.load import BODY
from bench.machine import MEASURED_CORE, pin
from bench.session import Session
from bench.setups import HOST, KEY, LISTENER, URL_NAMED
from bench.tables import percentile
from azure_sim import HANG_LIMIT
from e2e.envoy import Envoy
from e2e.wire import request

REQUEST = request("POST", URL_NAMED, [("api-key", KEY), ("content-type", "application/json")],
                  BODY, host=HOST)
# As many as may be under way at once; more is an Envoy that does not keep up.
CONNECTIONS = 200

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


@dataclass
class Latencies:
    """An Envoy at a fixed rate; the times of each round, in seconds."""

    name: str
    envoy: Envoy
    rounds: List[List[float]] = field(default_factory=list)

    def measure(self, rate: int, seconds: float) -> None:
        port = self.envoy.port(LISTENER)
        with contextlib.ExitStack() as stack:
            def connect() -> "_Caller":
                return stack.enter_context(contextlib.closing(_Caller(port)))
            free: Deque[_Caller] = deque(connect() for _ in range(4))
            busy: Dict[int, _Caller] = {}
            times: List[float] = []
            count, sent, begin = int(rate * seconds), 0, time.perf_counter()
            while len(times) < count:
                due = begin + sent / rate
                if sent < count and time.perf_counter() >= due:
                    caller = free.pop() if free else connect()
                    caller.send()
                    busy[caller.fileno()] = caller
                    sent += 1
                    if len(busy) > CONNECTIONS:
                        raise SystemExit(f"{self.name}: does not keep up with {rate} requests/s")
                    continue
                wait = max(due - time.perf_counter(), 0) if sent < count else HANG_LIMIT
                # Of these calls, select alone does not round up to a millisecond.
                for number in select.select(list(busy), [], [], wait)[0]:
                    if busy[number].receive():
                        caller = busy.pop(number)
                        times.append(caller.seconds)
                        free.append(caller)
        self.rounds.append(times)


class _Caller:
    """A connection, and its request."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=HANG_LIMIT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        self._begin = 0.0
        self.seconds = 0.0

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self) -> None:
        self._received, self._begin = b"", time.perf_counter()
        self._socket.sendall(REQUEST)

    def receive(self) -> bool:
        """Whether this was the end of the response."""
        part = self._socket.recv(65536)
        now = time.perf_counter()
        self._received += part
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if not part or (found and (not head.startswith(b"HTTP/1.1 200 ") or length is None)):
            raise SystemExit(f"a request failed: {self._received!r}")
        self.seconds = now - self._begin
        return length is not None and len(body) == int(length.group(1))


def measure(session: Session) -> None:
    with contextlib.ExitStack() as stack:
        found = [Latencies(name, stack.enter_context(setups.start(one))) for name, one in (
            ("plain Envoy", setups.plain(setups.one_backend(), session.ports)),
            ("gateway: URL names the model",
             setups.gateway(setups.one_backend(), session.ports)),
            ("both stages: pool of 3",
             setups.gateway(setups.pool_of_three(), session.ports)))]
        for one in found:
            pin(one.envoy.pid, MEASURED_CORE)
            one.measure(session.rate, 0.5)
            one.rounds.clear()
        for turn in session.turns():
            for one in found[::turn]:
                one.measure(session.rate, session.seconds)
    title = f"latency at {session.rate:,} requests/s, ms"
    print(f"\n{title:<34} {'p50':>6} {'added':>6} {'p99':>7} {'added':>6}")
    for one in found:
        columns = []
        for rank in (50, 99):
            times = [percentile(times, rank) * 1e3 for times in one.rounds]
            plain = [percentile(times, rank) * 1e3 for times in found[0].rounds]
            added = statistics.median(mine - other for mine, other in zip(times, plain))
            columns.append(f"{statistics.median(times):>6.3f} {added:>6.3f}")
        print(f"{one.name:<34} {columns[0]}  {columns[1]}")
