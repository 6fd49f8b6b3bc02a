"""What arrived at a listener, visible while it still arrives."""

from __future__ import annotations

import threading
from typing import Callable, List

from .limits import HANG_LIMIT
from .records import RecordedRequest


class Recorder:
    """The requests that one listener got, and how many it had at once. Safe across threads."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.listeners: List[Callable[[RecordedRequest], None]] = []
        self._changed = threading.Condition()
        self._requests: List[RecordedRequest] = []
        self._open = 0
        self._max_open = 0

    @property
    def requests(self) -> List[RecordedRequest]:
        """A copy of the list, oldest first. Its last members may still be arriving."""
        with self._changed:
            return list(self._requests)

    @property
    def concurrent(self) -> int:
        """Requests that have no complete answer yet."""
        with self._changed:
            return self._open

    @property
    def max_concurrent(self) -> int:
        """The most requests that were waiting for their answers at the same time."""
        with self._changed:
            return self._max_open

    def wait_until(self, condition: Callable[[List[RecordedRequest]], bool], what: str,
                   timeout: float = HANG_LIMIT) -> List[RecordedRequest]:
        """The requests as soon as `condition` holds for them; AssertionError after `timeout`."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(list(self._requests)), timeout):
                raise AssertionError(
                    f"{self.name}: no {what} within {timeout} s; got {self._requests}"
                )
            return list(self._requests)

    def wait_for_requests(self, count: int, timeout: float = HANG_LIMIT) -> List[RecordedRequest]:
        """The requests as soon as `count` have arrived whole."""
        return self.wait_until(
            lambda requests: sum(request.complete for request in requests) >= count,
            f"{count} complete requests", timeout,
        )

    def clear(self) -> None:
        """Forget every request and the high-water mark; requests under way still count as open."""
        with self._changed:
            self._requests.clear()
            self._max_open = self._open
            self._changed.notify_all()

    def take(self) -> List[RecordedRequest]:
        """The requests so far, which are forgotten here: a long run has very many."""
        with self._changed:
            taken, self._requests = self._requests, []
            return taken

    # What the server side calls, on its own thread.

    def opened(self, request: RecordedRequest) -> None:
        with self._changed:
            self._requests.append(request)
            self._open += 1
            self._max_open = max(self._max_open, self._open)
            self._changed.notify_all()

    def received(self, request: RecordedRequest, more: bytes) -> None:
        with self._changed:
            request.extend(more)
            self._changed.notify_all()

    def completed(self, request: RecordedRequest) -> None:
        with self._changed:
            request.complete = True
            self._changed.notify_all()
        for listener in self.listeners:
            listener(request)

    def websocket_message(self, request: RecordedRequest, text: str) -> None:
        with self._changed:
            request.websocket_messages.append(text)
            self._changed.notify_all()

    def closed(self, request: RecordedRequest, *, left: bool) -> None:
        with self._changed:
            request.left = left
            self._open -= 1
            self._changed.notify_all()
