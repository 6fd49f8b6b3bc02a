"""Whatever is missing or wrong of what `aoai render envoy-gateway` prints, it is no way to Azure without a key."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from azure_sim import AzureSim
from e2e.calls import Call, at_host, chat, send, warm
from e2e.serves import HOST
from e2e.two_regions import KEY, SINGLE, document_of_two
from envoy_gateway.controller import Attached
from envoy_gateway.shop import SHOP

Json = Dict[str, Any]


@pytest.fixture(scope="module")
def document(azure: AzureSim) -> Json:
    return document_of_two(azure)


def damaged(count: int) -> Iterator[Tuple[str, Callable[[List[Json]], None]]]:
    """The policy without one of its patches, or for another listener."""
    def without(number: int) -> Callable[[List[Json]], None]:
        def edit(resources: List[Json]) -> None:
            del patches(resources)[number]
        return edit
    for number in range(count):
        yield f"without patch {number}", without(number)

    def elsewhere(kind: str) -> Callable[[List[Json]], None]:
        def edit(resources: List[Json]) -> None:
            for patch in patches(resources):
                if patch["type"].endswith(kind) and patch["name"].startswith("default/"):
                    patch["name"] = "default/public/other"
        return edit
    yield "routes of another listener", elsewhere("RouteConfiguration")
    yield "another listener", elsewhere("Listener")

    def not_enabled(resources: List[Json]) -> None:
        [host] = [one["operation"]["value"] for one in patches(resources)
                  if one["type"].endswith("RouteConfiguration")]
        del host["typed_per_filter_config"]
    yield "a virtual host that does not enable the filters", not_enabled


def patches(resources: List[Json]) -> List[Json]:
    [found] = [one["spec"]["jsonPatches"] for one in resources if one["kind"] == "EnvoyPatchPolicy"]
    patches: List[Json] = found
    return patches


def test_no_damage_opens_a_way_to_azure(azure: AzureSim, document: Json) -> None:
    seen: List[str] = []
    whole: List[Json] = []
    edits: List[Callable[[List[Json]], None]] = [whole.extend]
    with Attached(document, azure, others=SHOP, gateway="public", listener="http", hosts=[HOST],
                  edit=lambda found: edits[-1](found)) as gateway:
        warm(gateway, Call(chat(SINGLE).target, [("api-key", KEY)], chat(SINGLE).body, host=HOST))
        for what, edit in damaged(len(patches(whole))):
            # A host by which it shows that the proxy has this damage, and not the one before: routes come last.
            mark = f"mark-{len(seen)}.test"

            def marked(resources: List[Json], edit: Callable[[List[Json]], None] = edit,
                       mark: str = mark) -> None:
                edit(resources)
                patches(resources).append({
                    "type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
                    "name": "default/public/http", "operation": {
                        "op": "add", "path": "/virtual_hosts/-", "value": {
                            "name": mark, "domains": [mark], "routes": [{
                                "match": {"prefix": "/"}, "direct_response": {
                                    "status": 200, "body": {"inline_string": mark}}}]}}})
            edits.append(marked)
            gateway.apply(document)
            there = Call("/", method="GET", host=mark)
            gateway.envoy.wait_until(
                lambda there=there, mark=mark: send(gateway, there).body == mark.encode()
                and not gateway.envoy.stats()["listener_manager.total_listeners_warming"], what)
            azure.reset()
            for cluster in ("aoai_eastus", "aoai/eastus>sweden", "azure_identity"):
                for call in (chat(SINGLE, ("x-aoai-cluster", cluster)),
                             Call("/", [("x-aoai-cluster", cluster)], method="GET")):
                    answer = at_host(gateway, call, HOST)
                    assert answer.status in (401, 404, 500, 503), (what, cluster, answer)
            arrived = {name: one.requests for name, one in azure.resources.items() if one.requests}
            assert arrived == {}, what
            seen.append(what)
    assert len(seen) > 10, seen
