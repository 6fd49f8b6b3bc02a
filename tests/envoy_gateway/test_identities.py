"""Every kind of identity signs in from a proxy of Envoy Gateway's."""

from __future__ import annotations

from typing import Iterator, Tuple

import pytest

from azure_sim import AzureSim
from e2e.identities import KINDS, Identities
from e2e.serves import SignsIn
from envoy_gateway.controller import Attached

Found = Tuple[Identities, Attached]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    with AzureSim() as sim:
        identities = Identities(sim, tmp_path_factory.mktemp("files"))
        for kind in KINDS:
            identities.add(kind, kind)
        environment = {"IDENTITY_HEADER": str(sim.app_service.identity_header)}
        with Attached(identities.document(), sim, workers=2, environment=environment) as gateway:
            yield identities, gateway


class TestOfEnvoyGateway(SignsIn):
    """A proxy of Envoy Gateway's signs in as every gateway does."""
