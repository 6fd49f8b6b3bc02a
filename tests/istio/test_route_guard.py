"""Whatever is missing or wrong of what `aoai render istio` prints, the mesh is no way to Azure without a key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest
import yaml

from azure_sim import TOKEN_FILE, AzureSim, ProjectedVolume, assertions
from e2e import config
from e2e.calls import Call, chat, send, warm
from istio.mesh import Mesh, at_gateway, resources_for

Json = Dict[str, Any]
KEY = "aoai_the-search-teams-key-0001"
POOL, SINGLE = "gpt-4o", "gpt-4o-mini"
REGIONS = ("eastus", "sweden")
CLUSTERS = ("aoai_eastus", "aoai/eastus>sweden", "azure_identity", "projected_token")


@pytest.fixture(scope="module")
def document(azure: AzureSim, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """With a file that no caller may read."""
    volume = ProjectedVolume(tmp_path_factory.mktemp("volume"), {TOKEN_FILE: assertions.issue()})
    for name in REGIONS:
        azure.add_resource(name, host=f"contoso-{name}.openai.azure.com",
                           deployments={POOL: POOL, SINGLE: SINGLE})
    first, second = (azure.resources[name] for name in REGIONS)
    workload = {"workload_identity": {
        "tenant": "contoso.onmicrosoft.com", "client_id": "3f0c0000-0000-0000-0000-00000000000a",
        "cluster": "entra_id", "token_cluster": "projected_token",
        "token_file": str(volume.path(TOKEN_FILE))}}
    return config.config(
        subscriptions=[config.subscription("team", key=KEY)],
        identities={"workload": workload},
        backends=[config.backend(first), config.backend(second), config.backend(
            "other", identity="workload")],
        models=[config.model(POOL, config.route(first), config.route(second)),
                config.model(SINGLE, first), config.model("other", "other")])


@pytest.fixture(scope="module")
def mesh(azure: AzureSim, document: Json) -> Iterator[Mesh]:
    with Mesh(document, azure, workers=2) as mesh:
        warm(mesh, chat(SINGLE, ("api-key", KEY)))
        yield mesh


def whole(mesh: Mesh, azure: AzureSim, document: Json, **more: Any) -> List[Json]:
    text = resources_for(azure, at_gateway(document, mesh.port, **more))
    return [one for one in yaml.safe_load_all(text) if one]


def patches(resources: List[Json], name: str) -> List[Json]:
    [found] = [one["spec"]["configPatches"] for one in resources
               if one["kind"] == "EnvoyFilter" and one["metadata"]["name"] == name]
    patches: List[Json] = found
    return patches


def damaged(mesh: Mesh, azure: AzureSim, document: Json) -> Iterator[Tuple[str, List[Json]]]:
    """Everything without one of its parts, and with wrong ports."""
    for name in ("aoai", "aoai-clusters"):
        for number, patch in enumerate(patches(whole(mesh, azure, document), name)):
            resources = whole(mesh, azure, document)
            del patches(resources, name)[number]
            yield f"without {patch['applyTo']} {patch['patch']['operation']}", resources
        yield f"without {name}", [one for one in whole(mesh, azure, document)
                                  if (one["kind"], one["metadata"]["name"]) != ("EnvoyFilter", name)]
    yield "another target port", whole(mesh, azure, document, target_port=1)
    resources = whole(mesh, azure, document)
    for patch in patches(resources, "aoai"):
        if patch["applyTo"] == "VIRTUAL_HOST" and patch["patch"]["operation"] == "ADD":
            del patch["patch"]["value"]["typed_per_filter_config"]
    yield "a virtual host that does not enable the filter", resources
    # As an istiod does that does not know the field.
    text = json.dumps(whole(mesh, azure, document))
    yield "without a field", json.loads(text.replace('"allow_on_headers_stop_iteration": true, ', ""))



def refusals(mesh: Mesh) -> int:
    """How often the proxy has refused routes, and kept those that it had."""
    return sum(value for name, value in mesh.envoy.stats().items()
               if ".rds." in name and name.endswith(".update_rejected"))


def test_no_damage_opens_a_way_to_azure_or_to_a_secret(
        mesh: Mesh, azure: AzureSim, document: Json) -> None:
    seen = []
    for what, resources in damaged(mesh, azure, document):
        # A host by which it shows that the proxy has this damage, and not the one before: routes come last.
        mark = f"mark-{len(seen)}.test"
        resources.append({
            "apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
            "metadata": {"name": "mark", "namespace": "istio-system"},
            "spec": {"configPatches": [{
                "applyTo": "VIRTUAL_HOST", "match": {"context": "GATEWAY"},
                "patch": {"operation": "ADD", "value": {
                    "name": mark, "domains": [mark], "routes": [{
                        "match": {"prefix": "/"}, "direct_response": {
                            "status": 200, "body": {"inline_string": mark}}}]}}}]}})
        before = refusals(mesh)
        mesh.istiod.apply("aoai", yaml.safe_dump_all(resources))
        there = Call("/", method="GET", host=mark)
        mesh.envoy.wait_until(
            lambda: (refusals(mesh) > before or send(mesh, there).body == mark.encode())
            and not mesh.envoy.stats()["listener_manager.total_listeners_warming"], what)
        azure.reset()
        for cluster in CLUSTERS:
            for call in (chat(SINGLE, ("x-aoai-cluster", cluster)),
                         Call("/", [("x-aoai-cluster", cluster)], method="GET")):
                answer = send(mesh, call)
                assert answer.status in (401, 404, 500, 503), (what, cluster, answer)
                assert assertions.MARK.encode() not in answer.body, what
        arrived = {name: one.requests for name, one in azure.resources.items() if one.requests}
        assert arrived == {}, what
        assert [one for one in azure.identity.requests if not one.header("metadata")] == [], what
        seen.append(what)
    assert len(seen) > 15, seen
