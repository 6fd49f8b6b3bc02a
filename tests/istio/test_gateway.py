"""Azure OpenAI behind a gateway of Istio's, by what `aoai render istio` prints."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
import yaml

from azure_sim import AzureSim, errors
from e2e import config
from e2e.calls import chat, own_answer, send, warm
from e2e.callers import Callers
from e2e.modules import like_the_module
from e2e.serves import Serves
from e2e.two_regions import KEY, LIMITED, POOL, SINGLE
from istio.mesh import REFUSED, Mesh, at_gateway, resources_for
from istio.proxy import Proxy

Json = Dict[str, Any]
NEW_KEY = "aoai_a-key-that-comes-00000003"
REGIONS = ("eastus", "sweden", "france", "japan")
# Requests that one change of the mesh must not touch.
MANY = 10_000
# For how many seconds istiod is away.
AWAY = 60


def document_of(azure: AzureSim, *regions: str, **more: Any) -> Json:
    """Both models in these regions: one in all of them, in their order."""
    resources = [azure.resources[name] for name in regions]
    subscriptions = [config.subscription("team", key=KEY),
                     config.subscription("limited", key=LIMITED, limits={"requests_per_minute": 1})]
    return config.config(**{
        "subscriptions": subscriptions,
        "backends": [config.backend(resource) for resource in resources],
        "models": [config.model(POOL, *(config.route(one, priority=rank)
                                        for rank, one in enumerate(resources))),
                   config.model(SINGLE, resources[0])],
        **more})


@pytest.fixture(scope="module")
def document(azure: AzureSim) -> Json:
    for name in REGIONS:
        azure.add_resource(name, host=f"contoso-{name}.openai.azure.com",
                           deployments={POOL: POOL, SINGLE: SINGLE})
    return document_of(azure, *REGIONS[:2])


@pytest.fixture(scope="module")
def mesh(azure: AzureSim, document: Json, workers: int) -> Iterator[Mesh]:
    with Mesh(document, azure, workers=workers) as mesh:
        warm(mesh, chat(SINGLE, ("api-key", KEY)))
        yield mesh


@pytest.fixture
def gateway(mesh: Mesh) -> Mesh:
    return mesh


class TestOfIstio(Serves):
    """The mesh serves what every gateway does."""


def test_a_document_is_replaced_and_one_with_a_problem_is_not(
        mesh: Mesh, azure: AzureSim, document: Json) -> None:
    subscriptions = [*document["subscriptions"], config.subscription("new", key=NEW_KEY)]
    own_answer(send(mesh, chat(SINGLE, ("api-key", NEW_KEY))), "unknown_key")
    mesh.reconfigure({**document, "subscriptions": subscriptions})
    assert send(mesh, chat(SINGLE, ("api-key", NEW_KEY))).status == 200

    here = at_gateway({**document, "subscriptions": subscriptions}, mesh.port)
    good = resources_for(azure, here)
    # What `aoai render istio` never prints, and an edit by hand might: a field that there is not.
    bad = good.replace("- id: new\n", "- id: new\n" + " " * 18 + "status: active\n")
    assert bad != good
    before = mesh.envoy.stats().get(REFUSED, 0)
    mesh.istiod.apply("aoai", bad)
    mesh.envoy.wait_for_stat(REFUSED, before + 1)
    mesh.envoy.wait_for_log("unknown field")
    assert send(mesh, chat(SINGLE, ("api-key", NEW_KEY))).status == 200
    mesh.apply(document)
    mesh.envoy.wait_until(
        lambda: send(mesh, chat(SINGLE, ("api-key", NEW_KEY))).status == 401, "the old document")


def test_backends_are_added_and_removed_in_steps_without_losing_a_request(
        mesh: Mesh, azure: AzureSim) -> None:
    few, many = document_of(azure, *REGIONS[:2]), document_of(azure, *reversed(REGIONS))
    with Callers(mesh, [chat(POOL, ("api-key", KEY)), chat(SINGLE, ("api-key", KEY))]) as callers:
        for old, new in ((few, many), (many, few)):
            callers.grow(500)
            mesh.apply(old, clusters_of=new)
            mesh.envoy.wait_until(lambda: has_clusters(mesh, many), "clusters of both")
            callers.grow(MANY // 4)
            mesh.reconfigure(new, clusters_of=old)
            callers.grow(MANY // 4)
            mesh.apply(new)
            mesh.envoy.wait_until(lambda: has_clusters(mesh, new, only=True), "clusters of the new")
            callers.grow(500)
    assert callers.served() >= MANY
    assert azure.resources["japan"].requests


def has_clusters(mesh: Mesh, document: Json, *, only: bool = False) -> bool:
    """Whether the proxy has the clusters of the backends of a document, ready for use, and no others."""
    if mesh.envoy.stats()["cluster_manager.warming_clusters"]:
        return False
    there = set(re.findall(r"^aoai_(\w+)::default_priority", clusters(mesh), re.MULTILINE))
    wanted = {one["name"] for one in document["backends"]}
    return there == wanted if only else there >= wanted


def clusters(mesh: Mesh) -> str:
    return mesh.envoy.admin.get("/clusters").text


def test_the_module_is_replaced_by_another_path_without_losing_a_request(
        mesh: Mesh, document: Json, tmp_path: Path) -> None:
    modules = like_the_module(tmp_path, 2)
    calls = [chat(POOL, ("api-key", KEY)), chat(SINGLE, ("api-key", KEY))]
    with Callers(mesh, calls) as callers:
        for module in (*modules[1:], modules[0]):
            callers.grow(MANY // 4)
            mesh.reconfigure(document, module=module)
        callers.grow(MANY // 4)
    assert callers.served() >= MANY


def test_without_istiod_for_a_minute_requests_are_served_and_with_it_again_a_new_key_is_known(
        mesh: Mesh, azure: AzureSim, document: Json) -> None:
    mesh.istiod.kill()
    mesh.envoy.wait_until(lambda: mesh.envoy.stats()["control_plane.connected_state"] == 0
                          or "disconnect" in mesh.envoy.log_text(), "loss of istiod")
    try:
        azure.resources["eastus"].script.then(errors.throttled(retry_after_ms="1"))
        assert send(mesh, chat(POOL, ("api-key", KEY))).head.values("x-aoai-backend") == ["sweden"]
        calls = [chat(POOL, ("api-key", KEY)), chat(SINGLE, ("api-key", KEY))]
        with Callers(mesh, calls) as callers:
            gone = time.monotonic()
            while time.monotonic() - gone < AWAY:
                callers.grow(1000)
        callers.served()
        subscriptions = [*document["subscriptions"], config.subscription("new", key=NEW_KEY)]
        mesh.apply({**document, "subscriptions": subscriptions})
    finally:
        mesh.istiod.start()
    mesh.envoy.wait_until(
        lambda: send(mesh, chat(SINGLE, ("api-key", NEW_KEY))).status == 200, "the new key")
    mesh.reconfigure(document)


def test_metrics_have_their_labels_by_the_bootstrap_override(
        mesh: Mesh, azure: AzureSim, document: Json) -> None:
    resources: List[Json] = list(yaml.safe_load_all(
        resources_for(azure, at_gateway(document, mesh.port))))
    [labels] = [one["data"]["custom_bootstrap.json"] for one in resources if one
                and one["kind"] == "ConfigMap"]
    # Another proxy of the same gateway, with what Istio shows by default: both share the port.
    with Proxy(mesh.istiod, override=labels, stats=()) as proxy:
        proxy.listens(mesh.port)

        def counted() -> bool:
            send(mesh, chat(SINGLE, ("api-key", KEY)))
            return re.search(
                r'aoai_tokens_total\{[^}]*backend="eastus",[^}]*model="gpt-4o-mini"[^}]*\}',
                proxy.prometheus()) is not None
        proxy.wait_until(counted, "tokens with labels")
        found = proxy.prometheus()
    for labelled in (r'aoai_requests_total\{[^}]*outcome="forwarded"[^}]*subscription="team"',
                     r'aoai_tokens_total\{[^}]*subscription="team"[^}]*type="output"'):
        assert re.search(labelled, found), found
