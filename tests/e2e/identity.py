"""What the identity endpoint does in a test, and several gateways in one Envoy that differ in their
identity, so that their waits pass at the same time."""

from __future__ import annotations

import socket
from typing import Any, Callable, Dict, Mapping

from azure_sim import Answer, AzureSim, Delivery, Gate
from e2e.bootstrap import cluster, listener
from e2e.config import IDENTITY_CLUSTER
from e2e.gateway import Gateway

Json = Dict[str, Any]
FETCHES = "wasmcustom.aoai_token_fetches_total.identity.default.result."


def token_answer(azure: AzureSim, lifetime: int) -> Answer:
    """A token that the endpoint gives this many seconds, and that lasts longer: a test of expiry
    measures the filter's reading of the answer, and no request is too slow for its token."""
    return Answer(200, body={"access_token": azure.identity.token(lifetime=lifetime + 600.0),
                             "expires_in": str(lifetime), "token_type": "Bearer"})


def closed_gate(azure: AzureSim) -> Gate:
    """What every fetch has to pass. One that stands before it for seconds is given up, and then the
    next one does."""
    gate = Gate()
    azure.identity.script.always(Delivery(before=gate))
    return gate


def fetched(gateway: Gateway) -> int:
    """How many tokens the filter has got. A busy machine may give up fetches and make more."""
    return gateway.envoy.stats().get(FETCHES + "success", 0)


def more_listeners(configurations: Mapping[str, Json]) -> Callable[[Json], None]:
    """An `edit` of the bootstrap: a listener with the filter for each configuration, by name."""
    def edit(bootstrap: Json) -> None:
        found = bootstrap["static_resources"]["listeners"]
        found.extend({**listener(one), "name": name} for name, one in configurations.items())
    return edit


def identity_port(at: socket.socket) -> Callable[[Json], None]:
    """An `edit` of the bootstrap: the identity's cluster leads to this socket's port."""
    def edit(bootstrap: Json) -> None:
        clusters = bootstrap["static_resources"]["clusters"]
        clusters[:] = [one for one in clusters if one["name"] != IDENTITY_CLUSTER]
        clusters.append(cluster(IDENTITY_CLUSTER, at.getsockname()[1]))
    return edit
