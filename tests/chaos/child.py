"""A process of its own for each side: in one, Python's threads would wait for each other."""

from __future__ import annotations

import multiprocessing
from typing import Any, Callable

_PROCESSES = multiprocessing.get_context("spawn")


class Child:
    """A process that runs until it is told to stop, and then says what it has seen."""

    def __init__(self, run: Callable[..., None], *arguments: Any) -> None:
        self._stop = _PROCESSES.Event()
        self._results, sending = _PROCESSES.Pipe(duplex=False)
        self._process = _PROCESSES.Process(
            target=run, args=(*arguments, self._stop, sending), daemon=True)
        self._process.start()
        sending.close()

    def stop(self) -> Any:
        self._stop.set()
        seen = self._results.recv()
        self._process.join()
        return seen
