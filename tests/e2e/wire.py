"""HTTP/1.1 over a socket, byte by byte, for what a well-behaved client cannot say.

One `Connection` carries any number of requests, one after the other. Every wait has a deadline:
`socket.timeout` (TimeoutError) when it passes, `Closed` when the peer ended the connection.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Iterable, List, Optional, Tuple, Type, Union

from azure_sim import HANG_LIMIT

Pairs = List[Tuple[str, str]]


class Closed(Exception):
    """The peer closed or reset the connection before what was waited for."""


@dataclass(frozen=True)
class Head:
    """A response's status line and headers: names in lower case, in order, repeats kept."""

    status: int
    headers: Pairs

    def values(self, name: str) -> List[str]:
        return [value for key, value in self.headers if key == name.lower()]

    def header(self, name: str) -> Optional[str]:
        return next(iter(self.values(name)), None)


@dataclass(frozen=True)
class Response:
    """A whole response."""

    head: Head
    body: bytes

    @property
    def status(self) -> int:
        return self.head.status


@dataclass(frozen=True)
class Arrival:
    """One chunk or event, and the monotonic time at which its last byte was read."""

    data: bytes
    at: float


def request(method: str, target: str, headers: Iterable[Tuple[str, str]] = (), body: bytes = b"",
            *, host: str = "gateway.test") -> bytes:
    """The bytes of a request, with a Host and, for a body, its Content-Length."""
    pairs = [("host", host), *headers]
    if body:
        pairs.append(("content-length", str(len(body))))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in pairs), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


class Connection:
    """A TCP connection to a port of this machine."""

    def __init__(self, port: int, *, timeout: float = HANG_LIMIT) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self._events = b""
        self._head: Optional[Head] = None

    def send(self, *parts: Union[bytes, str]) -> None:
        """Send exactly these bytes, each part in a write of its own."""
        for part in parts:
            self._socket.sendall(part.encode("latin-1") if isinstance(part, str) else part)

    def exchange(self, *parts: Union[bytes, str]) -> Response:
        """Send a request and read its whole response."""
        self.send(*parts)
        return self.read_response()

    def read_response(self) -> Response:
        head = self.read_head()
        return Response(head, self.read_body())

    def read_head(self) -> Head:
        """The next response's head; interim (1xx) responses other than 101 are skipped."""
        while True:
            lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")[:-2]
            pairs = [(name.strip().lower(), value.strip()) for name, _, value in
                     (line.partition(":") for line in lines[1:])]
            self._head = Head(int(lines[0].split(" ", 2)[1]), pairs)
            if self._head.status >= 200 or self._head.status == 101:
                return self._head

    def read_body(self) -> bytes:
        """The rest of the current response's body, however its end is marked."""
        head = self._current()
        if head.status in (101, 204, 304):
            return b""
        if "chunked" in (head.header("transfer-encoding") or ""):
            return b"".join(iter(self.read_chunk_data, b""))
        length = head.header("content-length")
        return self._exactly(int(length)) if length is not None else self._rest()

    def read_chunk(self) -> Optional[Arrival]:
        """The next chunk of a chunked body, None at its end."""
        data = self.read_chunk_data()
        return Arrival(data, time.monotonic()) if data else None

    def read_chunk_data(self) -> bytes:
        """The next chunk's bytes, empty at the end of the body."""
        size = int(self._until(b"\r\n").split(b";")[0], 16)
        if size:
            data = self._exactly(size)
            self._exactly(2)
            return data
        while self._until(b"\r\n") != b"\r\n":
            pass  # trailers
        return b""

    def read_event(self) -> Optional[Arrival]:
        """The next server-sent event without its blank line, None at the end of the body."""
        while b"\n\n" not in self._events:
            data = self.read_chunk_data()
            if not data:
                return None
            self._events += data
        event, _, self._events = self._events.partition(b"\n\n")
        return Arrival(event, time.monotonic())

    def at_end(self) -> bool:
        """Waits for the peer's close: True when it closes with nothing more to say."""
        try:
            return not self._buffer and self._receive() == b""
        except ConnectionError:
            return True

    def silent_for(self, seconds: float) -> bool:
        """Whether nothing at all arrives during this time. Only for "no chunk was sent early"."""
        before = self._socket.gettimeout()
        self._socket.settimeout(seconds)
        try:
            self._buffer += self._receive()
            return False
        except socket.timeout:
            return True
        finally:
            self._socket.settimeout(before)

    def half_close(self) -> None:
        """Say that nothing more will be sent, and go on reading."""
        self._socket.shutdown(socket.SHUT_WR)

    def leave(self) -> None:
        """Go away at once, in the middle of whatever happens: a TCP reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

    def _current(self) -> Head:
        assert self._head is not None, "read_head comes first"
        return self._head

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._more()
        found, _, self._buffer = self._buffer.partition(mark)
        return found + mark

    def _exactly(self, count: int) -> bytes:
        parts, have = [self._buffer], len(self._buffer)
        while have < count:
            part = self._receive()
            if not part:
                raise Closed(f"closed with {have} of {count} bytes there")
            parts.append(part)
            have += len(part)
        whole = b"".join(parts)
        self._buffer = whole[count:]
        return whole[:count]

    def _rest(self) -> bytes:
        parts, self._buffer = [self._buffer], b""
        while part := self._receive():
            parts.append(part)
        return b"".join(parts)

    def _more(self) -> None:
        part = self._receive()
        if not part:
            raise Closed(f"closed after {len(self._buffer)} bytes")
        self._buffer += part

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(65536)
        except ConnectionError as error:
            raise Closed(str(error)) from None
