"""Clients that call side by side while a test does something else."""

from __future__ import annotations

import threading
from typing import Any, Generic, Iterable, TypeVar

Client = TypeVar("Client")
Self = TypeVar("Self", bound="SideBySide[Any]")


class SideBySide(Generic[Client]):
    """While it is entered, `call` runs for each client in a thread of its own; it returns soon after
    `stop` is set."""

    def __init__(self, clients: Iterable[Client]) -> None:
        self.stop = threading.Event()
        self._threads = [threading.Thread(target=self.call, args=(client,)) for client in clients]

    def call(self, client: Client) -> None:
        raise NotImplementedError

    def __enter__(self: Self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()
