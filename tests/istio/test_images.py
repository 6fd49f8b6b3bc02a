"""A proxy's agent pulls the module from a registry, by its digest."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from azure_sim import AzureSim
from e2e.calls import chat, send
from e2e.callers import Callers
from e2e.images import pushed, registry, written
from e2e.modules import like_the_module
from istio.mesh import Mesh
from e2e.two_regions import KEY, POOL, SINGLE, document_of_two

Json = Dict[str, Any]
MANY = 10_000


# Where the agent keeps what it has pulled: nothing tells it another place.
PULLED = Path("/var/lib/istio/data")


@pytest.fixture(scope="module", autouse=True)
def place() -> None:
    """The folder, which the image of Istio's proxies has."""
    try:
        PULLED.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=PULLED).close()
    except OSError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"pilot-agent keeps modules in {PULLED}: {error}")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[List[str]]:
    """Three images, each by its digest."""
    folder = tmp_path_factory.mktemp("images")
    with registry(folder) as host:
        found = []
        for number, module in enumerate(like_the_module(folder, 2)):
            written(folder / f"image-{number}", module)
            found.append("oci://" + pushed(folder / f"image-{number}", host))
        yield found


@pytest.fixture(scope="module")
def document(azure: AzureSim) -> Json:
    return document_of_two(azure)


@pytest.fixture(scope="module")
def mesh(azure: AzureSim, document: Json, images: List[str], workers: int) -> Iterator[Mesh]:
    with Mesh(document, azure, workers=workers, module=images[0]) as mesh:
        yield mesh


def test_the_module_is_pulled_and_replaced_without_losing_a_request(
        mesh: Mesh, document: Json, images: List[str]) -> None:
    calls = [chat(POOL, ("api-key", KEY)), chat(SINGLE, ("api-key", KEY))]
    with Callers(mesh, calls) as callers:
        for image in (*images[1:], images[0]):
            callers.grow(MANY // 4)
            mesh.reconfigure(document, module=image)
        callers.grow(MANY // 4)
    assert callers.served() >= MANY


def test_an_image_that_is_not_there_leaves_the_module_that_is(
        mesh: Mesh, document: Json, images: List[str]) -> None:
    missing = images[0].partition("@")[0] + "@sha256:" + "0" * 64
    mesh.apply(document, module=missing)
    mesh.envoy.wait_for_log(f"cannot fetch Wasm module {missing}")
    assert send(mesh, chat(POOL, ("api-key", KEY))).status == 200
    mesh.reconfigure(document, module=images[1])
    assert send(mesh, chat(POOL, ("api-key", KEY))).status == 200
