"""sse: CPU for one server-sent event, as a multiple of plain Envoy's.

64 streams at once. The upstream, which is this process on core 1, writes one event to each of them,
and the next one only when the caller of every stream has got it: so each event comes to Envoy as a
piece of its own, however fast anything is. Only events are measured, not the heads and ends of
streams.
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import time
from dataclasses import dataclass, field, replace
from typing import List

from bench import setups, tables
from bench.machine import MEASURED_CORE, cpu_seconds, pin
from bench.session import Session
from bench.setups import HOST, KEY, LISTENER, URL_NAMED
from azure_sim import HANG_LIMIT
from e2e.envoy import Envoy
from e2e.wire import request

STREAMS = 64
# For plain Envoy, the gateway stage, and both stages.
AIMS = (None, 1.25, 1.30)
REQUEST = request("POST", URL_NAMED, [("api-key", KEY), ("content-type", "application/json")],
                  b'{"messages":[{"role":"user","content":"hi"}],"stream":true}', host=HOST)
EVENT = ("data: " + json.dumps({
    "id": "chatcmpl-AbCdEfGhIjKlMnOpQrStUvWxYz012", "object": "chat.completion.chunk",
    "created": 1764115200, "model": "gpt-4o-2024-11-20", "system_fingerprint": "fp_0123456789",
    "choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}],
}, separators=(",", ":")) + "\n\n").encode()

_HEAD = (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
         b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n")
_CHUNK = f"{len(EVENT):x}\r\n".encode() + EVENT + b"\r\n"


@dataclass
class Streams:
    """An Envoy with streams through it; one figure for each round."""

    name: str
    envoy: Envoy
    listening: socket.socket
    costs: List[float] = field(default_factory=list)

    def measure(self, seconds: float) -> None:
        with contextlib.ExitStack() as stack:
            callers, upstream = [], []
            for _ in range(STREAMS):
                caller = stack.enter_context(
                    socket.create_connection(("127.0.0.1", self.envoy.port(LISTENER)), HANG_LIMIT))
                caller.sendall(REQUEST)
                connection, _ = self.listening.accept()
                upstream.append(stack.enter_context(connection))
                connection.settimeout(HANG_LIMIT)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _received(connection, b"}")
                connection.sendall(_HEAD)
                head = _received(caller, b"\r\n\r\n")
                if not head.startswith(b"HTTP/1.1 200 "):
                    raise SystemExit(f"{self.name}: {head!r}\n{self.envoy.log_for_people()}")
                callers.append(caller)
            before, rounds = cpu_seconds(self.envoy.pid), 0
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                _one_event_each(upstream, callers)
                rounds += 1
            self.costs.append((cpu_seconds(self.envoy.pid) - before) * 1e6 / (rounds * STREAMS))
            for connection in upstream:
                connection.sendall(b"0\r\n\r\n")
            for caller in callers:
                _received(caller, b"0\r\n\r\n")


def _one_event_each(upstream: List[socket.socket], callers: List[socket.socket]) -> None:
    for connection in upstream:
        connection.sendall(_CHUNK)
    for caller in callers:
        _received(caller, _CHUNK)


def _received(connection: socket.socket, end: bytes) -> bytes:
    """What comes up to these bytes."""
    received = connection.recv(65536)
    while not received.endswith(end):
        part = connection.recv(65536)
        if not part:
            raise SystemExit(f"a connection ended after {received!r}")
        received += part
    return received


def measure(session: Session) -> None:
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=STREAMS))
        listening.settimeout(HANG_LIMIT)
        ports = replace(session.ports, serving=listening.getsockname()[1])
        found = [Streams(name, stack.enter_context(setups.start(one)), listening)
                 for name, one in (
                     ("plain Envoy", setups.plain(setups.one_backend(), ports)),
                     ("gateway", setups.gateway(setups.one_backend(), ports)),
                     ("both stages: pool of 3",
                      setups.gateway(setups.pool_of_three(), ports)))]
        for streams in found:
            pin(streams.envoy.pid, MEASURED_CORE)
            streams.measure(0.5)
            streams.costs.clear()
        for turn in session.turns():
            for streams in found[::turn]:
                streams.measure(session.seconds)
    print(f"\n{'server-sent events':<34} {'CPU µs/event':>14} {'ratio':>5}  {'least–most':<10} "
          "aim")
    for streams, aim in zip(found, AIMS):
        print(f"{streams.name:<34} {statistics.median(streams.costs):>14.1f} "
              f"{tables.spread(tables.ratios(streams.costs, found[0].costs))}  "
              f"{tables.aim(aim)}".rstrip())
