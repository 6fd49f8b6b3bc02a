"""What every listener's service has: a record of what it got, and a script that overrides it."""

from __future__ import annotations

from typing import List, Union

from .answers import Answer
from .limits import HANG_LIMIT
from .recorder import Recorder
from .records import RecordedRequest
from .script import Script


class Endpoint:
    """A service without its answers; `port` is the one of 127.0.0.1 on which it listens."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.recorder = Recorder(name)
        self.script = Script()
        self.port = 0

    @property
    def requests(self) -> List[RecordedRequest]:
        return self.recorder.requests

    @property
    def max_concurrent(self) -> int:
        return self.recorder.max_concurrent

    def wait_for_requests(self, count: int, timeout: float = HANG_LIMIT) -> List[RecordedRequest]:
        return self.recorder.wait_for_requests(count, timeout)

    def reset(self) -> None:
        """Forget what was recorded and scripted, and every changed setting."""
        self.script.clear()
        self.reset_settings()
        self.recorder.clear()

    def reset_settings(self) -> None:
        """The settings as they were at first."""
        raise NotImplementedError

    def answer(self, request: RecordedRequest) -> Answer:
        """The usual answer to a request that has arrived whole."""
        raise NotImplementedError

    def greeting(self, request: RecordedRequest) -> Union[Answer, str]:
        """For a WebSocket handshake: its refusal, or the first event of the session."""
        return self.answer(request)
