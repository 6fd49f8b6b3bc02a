"""Answers, and the ways in which they can arrive late, broken or not at all."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any, Deque, Dict, List, Optional, Sequence, Tuple, Union

Pairs = Sequence[Tuple[str, str]]


class Gate:
    """Lets simulated Azure go on only as far as a test allows. Closed at first.

    `release` gives permits, one for each waiter now or later; `open` lets everybody through.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._permits = 0
        self._open = False
        self._waiting: Deque[Tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]] = deque()

    def release(self, permits: int = 1) -> None:
        with self._lock:
            self._permits += permits
            self._wake()

    def open(self) -> None:
        with self._lock:
            self._open = True
            self._wake()

    async def passage(self) -> None:
        """Returns when this caller has a permit."""
        loop = asyncio.get_running_loop()
        while not self._taken():
            future: "asyncio.Future[None]" = loop.create_future()
            with self._lock:
                self._waiting.append((loop, future))
                self._wake()
            await future

    def _taken(self) -> bool:
        with self._lock:
            if self._open:
                return True
            if self._permits:
                self._permits -= 1
                return True
            return False

    def _wake(self) -> None:
        if not (self._open or self._permits):
            return
        while self._waiting:
            loop, future = self._waiting.popleft()
            loop.call_soon_threadsafe(_resolve, future)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


@dataclass(frozen=True)
class Delivery:
    """How an answer travels. Steps happen in the order of the fields.

    * `early`: do not wait for the request's body.
    * `delay`: seconds to wait; `before`: a gate to pass.
    * `hang`: never answer; the peer or the end of the simulation ends it.
    * `reset`: reset the connection before any byte of an answer.
    * `raw`: write these bytes in place of an HTTP answer, then close.
    * `each_chunk`: a gate to pass before each chunk of a streamed body.
    * `cut_after`: close the connection after this many chunks of a streamed body, or bytes of one
      whose Content-Length promises more.
    """

    early: bool = False
    delay: float = 0.0
    before: Optional[Gate] = None
    hang: bool = False
    reset: bool = False
    raw: Optional[bytes] = None
    each_chunk: Optional[Gate] = None
    cut_after: Optional[int] = None


AT_ONCE = Delivery()
HANG = Delivery(hang=True)
RESET = Delivery(reset=True)


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. A `body` of another type than bytes and str is sent as JSON.

    With `chunks` the body is streamed, one write (and one HTTP chunk) for each.
    """

    status: int = 200
    headers: Pairs = ()
    body: Union[bytes, str, Dict[str, Any], List[Any]] = b""
    chunks: Optional[Sequence[bytes]] = None
    delivery: Delivery = field(default=AT_ONCE)

    def content(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        if isinstance(self.body, str):
            return self.body.encode()
        # Compact, as Azure writes its JSON.
        return json.dumps(self.body, separators=(",", ":")).encode()

    def content_type(self) -> str:
        """The type that goes with the body's Python type; an explicit header wins over it."""
        if self.chunks is not None:
            return "text/event-stream; charset=utf-8"
        if isinstance(self.body, bytes):
            return "application/octet-stream"
        return "text/plain; charset=utf-8" if isinstance(self.body, str) else "application/json"

    def with_headers(self, extra: Pairs) -> "Answer":
        """The same answer with `extra` added where it has no header of that name."""
        names = {name.lower() for name, _ in self.headers}
        added = [(name, value) for name, value in extra if name.lower() not in names]
        return replace(self, headers=[*self.headers, *added])

    def delivered(self, delivery: Delivery) -> "Answer":
        """The same answer, travelling another way."""
        return replace(self, delivery=delivery)


def sse(*events: Union[Dict[str, Any], str], named: bool = False) -> List[bytes]:
    """Server-sent events, one chunk each; `named` adds the `event:` line from each one's `type`."""
    chunks = []
    for event in events:
        data = event if isinstance(event, str) else json.dumps(event, separators=(",", ":"))
        name = f"event: {event['type']}\n" if named and isinstance(event, dict) else ""
        chunks.append(f"{name}data: {data}\n\n".encode())
    return chunks
