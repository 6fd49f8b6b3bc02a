"""What a deployment may be asked for: rate limits as Azure applies them.

Azure counts a request before it answers it, by an estimate: the prompt's tokens and `max_tokens`
(Microsoft, "Manage Azure OpenAI quota", tokens per minute). The words are those of public reports.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Deque, Mapping, Optional

from . import errors
from .answers import Answer

# About so many characters of a prompt are a token.
_CHARACTERS = 4


@dataclass
class Quota:
    """The limits of a resource, for each of its deployments together. `None` is no limit.

    * `tokens`: a request of more tokens than that is larger than the whole quota. It can never be
      served here, and its 429 says to wait for a day.
    * `peak`: a request of more tokens than that is too large for now, and its 429 says so and gives
      `peak_seconds`. Smaller ones are served at the same time.
    * `requests`: so many requests are served in `window` seconds. The 429 of another one gives the time
      until there is room again.
    """

    tokens: Optional[int] = None
    peak: Optional[int] = None
    peak_seconds: int = 20
    requests: Optional[int] = None
    window: float = 10.0
    _served: Deque[float] = field(default_factory=deque, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def refusal(self, fields: Mapping[str, Any]) -> Optional[Answer]:
        """The 429 for a request with this content; None where it is served, and counts."""
        tokens = estimate(fields)
        if self.tokens is not None and tokens > self.tokens:
            return errors.throttled(86_400, retry_after="86400")
        if self.peak is not None and tokens > self.peak:
            return errors.too_large_for_now(self.peak_seconds)
        if self.requests is None:
            return None
        wait = self._take(time.monotonic(), self.requests)
        if wait is None:
            return None
        seconds = int(wait) + 1
        return errors.throttled(seconds, retry_after=str(seconds),
                                retry_after_ms=str(int(wait * 1000) + 1))

    def _take(self, now: float, requests: int) -> Optional[float]:
        """Counts a request, or says how many seconds there is no room."""
        with self._lock:
            while self._served and self._served[0] <= now - self.window:
                self._served.popleft()
            if len(self._served) >= requests:
                return self._served[0] + self.window - now
            self._served.append(now)
            return None


def estimate(fields: Mapping[str, Any]) -> int:
    """The tokens for which a request counts."""
    prompt = next((fields[name] for name in ("messages", "prompt", "input") if name in fields), "")
    asked = next((fields[name] for name in ("max_completion_tokens", "max_tokens") if name in fields), 0)
    return len(json.dumps(prompt)) // _CHARACTERS + (asked if isinstance(asked, int) else 0)
