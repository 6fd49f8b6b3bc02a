"""What the identity endpoint does in a test, and several gateways in one Envoy that differ in their
identity, so that their waits pass at the same time."""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping

from azure_sim import Answer, AzureSim
from e2e.bootstrap import cluster, listener
from e2e.config import IDENTITY_CLUSTER

Json = Dict[str, Any]


def token_answer(azure: AzureSim, lifetime: int) -> Answer:
    """A token that the endpoint gives this many seconds, and that lasts a little longer: claims are
    whole seconds, and a test of expiry shall measure the filter's reading of the answer."""
    return Answer(200, body={"access_token": azure.identity.token(lifetime=lifetime + 1.0),
                             "expires_in": str(lifetime), "token_type": "Bearer"})


def more_listeners(configurations: Mapping[str, Json]) -> Callable[[Json], None]:
    """An `edit` of the bootstrap: a listener with the filter for each configuration, by name."""
    def edit(bootstrap: Json) -> None:
        found = bootstrap["static_resources"]["listeners"]
        found.extend({**listener(one), "name": name} for name, one in configurations.items())
    return edit


def identity_port(port: int) -> Callable[[Json], None]:
    """An `edit` of the bootstrap: the identity's cluster leads to this port."""
    def edit(bootstrap: Json) -> None:
        clusters = bootstrap["static_resources"]["clusters"]
        clusters[:] = [one for one in clusters if one["name"] != IDENTITY_CLUSTER]
        clusters.append(cluster(IDENTITY_CLUSTER, port))
    return edit
