"""What stands behind a listener."""

from __future__ import annotations

from typing import Protocol, Union

from .answers import Answer
from .recorder import Recorder
from .records import RecordedRequest
from .script import Script


class Service(Protocol):
    """Has a record of what it got, a script that overrides it, and its usual answers."""

    recorder: Recorder
    script: Script

    def answer(self, request: RecordedRequest) -> Answer:
        """The usual answer to a request that has arrived whole."""

    def greeting(self, request: RecordedRequest) -> Union[Answer, str]:
        """For a WebSocket handshake: its refusal, or the first event of the session."""
