"""Three regions of which one is misconfigured and one throttled, ten quiet tenants, and a noisy one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List

from azure_sim import Access, AzureSim, Quota
from e2e import config

Json = Dict[str, Any]
MISCONFIGURED, THROTTLED, WELL = REGIONS = ("west", "east", "north")
# What the regions share by equal weights, and what goes to them in the order above.
BALANCED, ORDERED = MODELS = ("balanced", "ordered")
# Served by every region, and allowed to nobody who calls.
SECRET = "secret"
QUIET = {f"tenant-{number}": f"aoai_the-key-of-tenant-{number}" for number in range(10)}
NEIGHBOUR_KEY = "aoai_the-key-of-the-neighbour"

# A request of more tokens is larger than any region's quota, or too large for the moment.
LARGEST, TOO_LARGE_FOR_NOW = 20_000, 4_000
PEAK_SECONDS = 10
# What the throttled region serves in a second, of the quiet tenants' some fifty.
THROTTLED_RATE = 5


def deployment(model: str) -> str:
    """What every region calls a model."""
    return f"{model}-2024-11-20"


@dataclass
class Scene:
    """The regions in simulated Azure."""

    azure: AzureSim

    def prepare(self, *, all_well: bool) -> None:
        for region in REGIONS:
            resource = self.azure.add_resource(
                region, host=f"contoso-{region}.openai.azure.com",
                deployments={deployment(model): "gpt-4o" for model in (*MODELS, SECRET)})
            resource.quota = Quota(tokens=LARGEST, peak=TOO_LARGE_FOR_NOW, peak_seconds=PEAK_SECONDS)
        if all_well:
            return
        self.azure.resources[THROTTLED].quota = Quota(
            tokens=LARGEST, peak=TOO_LARGE_FOR_NOW, peak_seconds=PEAK_SECONDS,
            requests=THROTTLED_RATE, window=1.0)
        self.azure.resources[MISCONFIGURED].access = Access.ROLE_MISSING

    def document(self) -> Json:
        """All settings that a document need not have are the defaults."""
        def model(name: str) -> Json:
            routes: List[Any] = [
                config.route(region, deployment=deployment(name),
                             priority=rank if name == ORDERED else 0)
                for rank, region in enumerate(REGIONS)]
            return config.model(name, *routes)
        return config.config(
            subscriptions=[
                *(config.subscription(id, key=key, models=MODELS) for id, key in QUIET.items()),
                config.subscription("neighbour", key=NEIGHBOUR_KEY, models=MODELS)],
            backends=[config.backend(self.azure.resources[region]) for region in REGIONS],
            models=[model(name) for name in (*MODELS, SECRET)])
