"""Every kind of identity signs in from a proxy of the mesh."""

from __future__ import annotations

from typing import Iterator, Tuple

import pytest

from azure_sim import AzureSim
from e2e.identities import KINDS, Identities
from e2e.serves import SignsIn
from istio.mesh import Mesh

Found = Tuple[Identities, Mesh]


@pytest.fixture(scope="module")
def found(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    with AzureSim() as sim:
        identities = Identities(sim, tmp_path_factory.mktemp("files"))
        for kind in KINDS:
            identities.add(kind, kind)
        environment = {"IDENTITY_HEADER": str(sim.app_service.identity_header)}
        with Mesh(identities.document(), sim, workers=workers, environment=environment) as mesh:
            yield identities, mesh


class TestOfIstio(SignsIn):
    """A proxy of the mesh signs in as every gateway does."""


def test_no_secret_is_in_the_log_the_metrics_or_the_configuration(found: Found) -> None:
    identities, mesh = found
    for kind in KINDS:
        identities.chat(mesh, kind)
    assert identities.shown(mesh) == []
