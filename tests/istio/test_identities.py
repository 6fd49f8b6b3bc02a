"""Every kind of identity signs in from a proxy of the mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, Tuple

import pytest

from azure_sim import AzureSim
from e2e.identities import KINDS, Identities
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


@pytest.mark.parametrize("kind", KINDS)
def test_an_identity_of_every_kind_signs_in(found: Found, kind: str) -> None:
    identities, mesh = found
    assert identities.chat(mesh, kind).status == 200
    assert [seen.token.oid for seen in identities.arrived(kind) if seen.token] == [
        identities.all[kind].object_id]


def test_no_secret_is_in_the_log_the_metrics_or_the_configuration(found: Found) -> None:
    identities, mesh = found
    for kind in KINDS:
        identities.chat(mesh, kind)
    assert identities.shown(mesh) == []
