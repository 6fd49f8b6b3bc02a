"""Whether an official client waits as long as an answer tells it to."""

from __future__ import annotations

import time
from typing import Any, List, Tuple

import openai


class Pauses:
    """When a client asked and what it was told, both by this process's clock."""

    def __init__(self) -> None:
        self._asked: List[float] = []
        self._told: List[Tuple[float, Any]] = []

    def client(self) -> Any:
        """The `http_client` of a client to be watched."""
        return openai.DefaultHttpxClient(event_hooks={
            "request": [lambda _request: self._asked.append(time.monotonic())],
            "response": [lambda answer: self._told.append((time.monotonic(), answer))],
        })

    def assert_obeyed(self) -> int:
        """Each time that the client asked again it had waited as it was told. Returns how often."""
        again = self._asked[1:]
        for (told_at, answer), asked_at in zip(self._told, again):
            assert asked_at - told_at >= int(answer.headers["retry-after-ms"]) / 1000
        return len(again)
