"""The noisy neighbour: all attacks at once, forever changing."""

from __future__ import annotations

import os
import time
from collections import Counter
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Event
from random import Random
from typing import Sequence, Tuple

from chaos.attacks import ATTACKS, Attacker
from e2e.side_by_side import SideBySide
from e2e.wire import Closed

# How often an attack changes its pace, in seconds, and how fast it is then.
_MOOD = 2.0
_PACES = (0.0, 0.3, 1.0, 1.0, 4.0)

# How often which attack had which outcome.
Outcomes = Counter[Tuple[str, str]]


def run(port: int, seed: int, attacks: Sequence[str], stop: Event, results: Pipe) -> None:
    """Attacks until `stop`, in a process of its own, and sends the outcomes."""
    # What is measured is the gateway and not how the machine is shared.
    os.nice(19)
    neighbour = Neighbour(port, seed, attacks)
    with neighbour:
        stop.wait()
    results.send(neighbour.outcomes)


class Neighbour(SideBySide[str]):
    """One thread for each attack."""

    def __init__(self, port: int, seed: int, attacks: Sequence[str]) -> None:
        self.outcomes: Outcomes = Counter()
        self._attackers = {name: Attacker(port, Random(f"{seed} {name}")) for name in attacks}
        super().__init__(attacks)

    def call(self, client: str) -> None:
        attack, interval = ATTACKS[client]
        attacker = self._attackers[client]
        pace, until = 1.0, 0.0
        while not self.stop.is_set():
            now = time.monotonic()
            if now >= until:
                pace, until = attacker.random.choice(_PACES), now + _MOOD
            pause = attacker.random.expovariate(pace / interval) if pace else _MOOD
            if self.stop.wait(min(pause, _MOOD)) or not pace:
                continue
            try:
                outcome = attack(attacker)
            except (Closed, OSError) as error:
                outcome = f"no connection ({type(error).__name__})"
            self.outcomes[client, outcome] += 1
        for connection in attacker.held:
            connection.close()
