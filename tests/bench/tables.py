"""Figures of rounds, and the columns in which they are printed."""

from __future__ import annotations

import statistics
from typing import List, Optional, Sequence


def ratios(values: Sequence[float], to: Sequence[float]) -> List[float]:
    """For each round, of neighbours in time."""
    return [value / other for value, other in zip(values, to)]


def spread(values: Sequence[float]) -> str:
    """The median, and the least and the most."""
    return f"{statistics.median(values):>5.2f}  {min(values):.2f}–{max(values):.2f}"


def aim(most: Optional[float]) -> str:
    return "" if most is None else f"{most:.2f}"


def percentile(values: Sequence[float], of_hundred: int) -> float:
    """A percentile by nearest rank."""
    return sorted(values)[max(-(-len(values) * of_hundred // 100) - 1, 0)]
