"""What all sections of a run share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, Optional

from bench.setups import Ports


@dataclass(frozen=True)
class Session:
    """Where everything is, and how long and how much is measured."""

    ports: Ports
    folder: Path
    rounds: int
    seconds: int
    hops: int
    rate: int
    backends: List[int]
    before: Optional[str]

    def turns(self) -> Iterator[int]:
        """For each round, the step by which to go through what is measured: there and back again,
        so that a machine that slows down is nobody's fault."""
        for number in range(self.rounds):
            yield 1 if number % 2 == 0 else -1
