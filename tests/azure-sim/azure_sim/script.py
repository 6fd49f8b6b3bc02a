"""What a test tells a listener to do in place of its usual answers."""

from __future__ import annotations

import threading
from collections import deque
from typing import Callable, Deque, Optional, Union

from .answers import Answer, Delivery
from .records import RecordedRequest

Step = Union[Answer, Delivery]
Decision = Callable[[RecordedRequest], Optional[Step]]


class Script:
    """One-off steps first, in order; then a rule for the rest; else the usual answer.

    An `Answer` replaces the usual one; a `Delivery` only changes how the usual one travels.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: Deque[Step] = deque()
        self._rule: Optional[Decision] = None

    def then(self, *steps: Step) -> "Script":
        """Queue one-off steps: each serves one request, in the order in which heads arrive."""
        with self._lock:
            self._steps.extend(steps)
        return self

    def always(self, rule: Union[Step, Decision]) -> "Script":
        """Serve every request that has no one-off step so. A function is asked once the request's
        body is here, on the simulation's thread, and may return None for the usual answer."""
        with self._lock:
            self._rule = (lambda _request: rule) if isinstance(rule, (Answer, Delivery)) else rule
        return self

    def clear(self) -> None:
        """Back to the usual answers."""
        with self._lock:
            self._steps.clear()
            self._rule = None

    @property
    def pending(self) -> int:
        """One-off steps not yet used."""
        with self._lock:
            return len(self._steps)

    # What the server side calls.

    def pop(self) -> Optional[Step]:
        with self._lock:
            return self._steps.popleft() if self._steps else None

    def decide(self, request: RecordedRequest) -> Optional[Step]:
        with self._lock:
            rule = self._rule
        return rule(request) if rule is not None else None
