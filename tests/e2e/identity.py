"""What the identity endpoint does in a test."""

from __future__ import annotations

from azure_sim import Answer, AzureSim, Delivery, Gate
from e2e.gateway import Gateway

FETCHES = "wasmcustom.aoai_entra_token_fetches_total.identity.default.result."


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
