"""Two regions behind one gateway: a model that both serve, and one of the first alone; a subscription without limits,
and one with."""

from __future__ import annotations

from typing import Any, Dict

from azure_sim import AzureSim
from e2e import config

Json = Dict[str, Any]
KEY, LIMITED = "aoai_the-search-teams-key-0001", "aoai_the-limited-teams-key-02"
REGIONS = ("eastus", "sweden")
POOL, SINGLE = "gpt-4o", "gpt-4o-mini"


def document_of_two(azure: AzureSim, **more: Any) -> Json:
    """Adds the regions to simulated Azure. `more` are further fields of the document, or others."""
    for name in REGIONS:
        azure.add_resource(name, host=f"contoso-{name}.openai.azure.com",
                           deployments={POOL: POOL, SINGLE: SINGLE})
    resources = [azure.resources[name] for name in REGIONS]
    return config.config(**{
        "subscriptions": [
            config.subscription("team", key=KEY),
            config.subscription("limited", key=LIMITED, limits={"requests_per_minute": 1})],
        "backends": [config.backend(resource) for resource in resources],
        "models": [config.model(POOL, *(config.route(one, priority=rank)
                                        for rank, one in enumerate(resources))),
                   config.model(SINGLE, resources[0])],
        **more})
