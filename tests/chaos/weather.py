"""How regions and the identity endpoint fail at random, by a seed, while one region is always well."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from azure_sim import Answer, AzureSim, Delivery, RecordedRequest, Resource, errors, faults
from azure_sim.script import Step

Fault = Callable[[Resource, Random], Step]
WELL = "well"
# For so many seconds at least one region is the well one, and for so long the next one has been well
# before it takes over: longer than any cooldown.
_TENURE, _OVERLAP = (12.0, 30.0), 8.0
# A fault of a region lasts so long.
_SPELL = (1.0, 6.0)
LONGEST_COOLDOWN = 3
# How often the identity endpoint fails.
_IDENTITY_FAILS = 0.5
TOKEN_LIFETIME, TOKEN_REFRESH = 120.0, 10.0


def _throttled(_resource: Resource, random: Random) -> Answer:
    return errors.throttled(1, retry_after_ms=str(random.randint(50, 1500)))


FAULTS: Dict[str, Fault] = {
    "throttled": _throttled,
    "throttled without a time": lambda _resource, _random: errors.throttled(),
    "busy": lambda _resource, _random: Answer(503, body={"error": {"code": "503", "message": "busy"}}),
    "failing": lambda _resource, _random: errors.MODEL_ERROR,
    "resets": lambda _resource, _random: Delivery(reset=True),
    "slow": lambda _resource, random: Delivery(delay=random.uniform(0.1, 0.6)),
    "role missing": lambda resource, _random: resource.refusal("role_missing"),
    "token rejected": lambda resource, _random: resource.refusal("token_refused"),
    "unreachable network": lambda resource, _random: resource.refusal("firewall"),
}


@dataclass
class Weather:
    """What each region is like, second by second, for as long as a run takes."""

    seed: int
    regions: Sequence[str]
    seconds: float
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = Random(f"{self.seed} weather")
        self._begin = time.monotonic()
        tenures = self._tenures()
        self._spells = {region: self._spells_of(region, tenures) for region in self.regions}

    def region_fault(self, resource: Resource) -> Optional[Step]:
        """What a region does to a request now; None where it is well."""
        starts, names = self._spells[resource.name]
        name = names[max(bisect_right(starts, time.monotonic() - self._begin) - 1, 0)]
        self.counts[name] += 1
        return None if name == WELL else FAULTS[name](resource, self._random)

    def trouble_identity(self, azure: AzureSim) -> None:
        """From now on the identity endpoint fails at random."""
        identity = azure.identity
        random = Random(f"{self.seed} identity")

        def rule(_request: RecordedRequest) -> Optional[Step]:
            if random.random() >= _IDENTITY_FAILS:
                self.counts["tokens issued"] += 1
                return None
            name, fault = random.choice(sorted(faults.of(identity).items(), key=lambda one: one[0]))
            self.counts["tokens not issued"] += 1
            return fault
        identity.script.always(rule)

    def _tenures(self) -> List[Tuple[float, float, str]]:
        """From when to when which region is the well one; the next begins before the last one ends."""
        tenures: List[Tuple[float, float, str]] = []
        start, region = 0.0, self._random.choice(self.regions)
        while start <= self.seconds + 60:
            end = start + self._random.uniform(*_TENURE) + _OVERLAP
            tenures.append((start, end, region))
            start = end - _OVERLAP
            region = self._random.choice([one for one in self.regions if one != region])
        return tenures

    def _spells_of(self, region: str, tenures: Sequence[Tuple[float, float, str]]
                   ) -> Tuple[List[float], List[str]]:
        """When what begins in a region."""
        starts, names = [], []
        time = 0.0
        end_of_all = tenures[-1][1]
        while time < end_of_all:
            own = next(((start, end) for start, end, name in tenures
                        if name == region and start <= time < end), None)
            if own is not None:
                name, end = WELL, own[1]
            else:
                name = self._random.choice([WELL, WELL, *FAULTS])
                following = min((start for start, _, name in tenures
                                 if name == region and start > time), default=end_of_all)
                end = min(time + self._random.uniform(*_SPELL), following)
            starts.append(time)
            names.append(name)
            time = end
        return starts, names
