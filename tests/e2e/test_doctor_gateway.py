"""`aoai doctor --gateway --metrics`: whether callers reach the gateway, and whether it has this document and all of its
clusters."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, List

import pytest

from azure_sim import AzureSim, taken_port
from e2e.doctor import Found, at, examined, identity_at
from e2e.edits import CLUSTERS, remove, without_filter
from e2e.gateway import Gateway
from e2e.two_regions import REGIONS, document_of_two

Json = Dict[str, Any]
Start = Callable[..., Gateway]


@pytest.fixture
def document(azure: AzureSim) -> Json:
    return document_of_two(azure)


def options(azure: AzureSim) -> List[str]:
    return [identity_at(azure.identity.port), *at(*(azure.resources[name] for name in REGIONS))]


def asked(azure: AzureSim, document: Json, gateway: Gateway) -> Found:
    """A run that looks at the gateway and at its metrics."""
    return examined(azure, document, *options(azure), "--gateway", f"http://127.0.0.1:{gateway.port}", "--metrics",
                    f"{gateway.envoy.admin.base_url}/stats/prometheus")


def of_the_gateway(found: Found) -> Dict[str, str]:
    return {step: result for result, subject, step in found.results if subject == "gateway" and step != "dns"}


def test_a_gateway_with_this_document_is_well_and_one_with_another_is_named(
        azure: AzureSim, document: Json, start_gateway: Start) -> None:
    with start_gateway(document, lds=True) as gateway:
        found = asked(azure, document, gateway)
        assert of_the_gateway(found) == {"reply": "ok", "document": "ok", "clusters": "ok"}
        assert found.step("gateway/reply")["text"] == "responds, and asks for a subscription key"
        assert found.step("gateway/clusters")["text"] == "has all 4 clusters of backends and pools"
        version = found.step("gateway/document")["version"]
        assert f"backends, version {version}" in gateway.envoy.log_text()
        other = {**document, "token_wait": "7s"}
        # Times in the metrics are whole seconds: the other document must not be of the same one.
        gateway.envoy.wait_until(lambda: _is_later(gateway, version), "a second later")
        gateway.reconfigure(other)
        found = asked(azure, document, gateway)
        assert found.step("gateway/document")["text"].startswith("has another document, version ")
        assert of_the_gateway(found) == {"reply": "ok", "document": "fail", "clusters": "ok"}
        assert of_the_gateway(asked(azure, other, gateway))["document"] == "ok"
    assert all(not azure.resources[name].requests[0].header("api-key") for name in REGIONS)


def _is_later(gateway: Gateway, version: str) -> bool:
    taken = gateway.envoy.stats()[f"wasmcustom.aoai_document_taken_timestamp_seconds.version.{version}"]
    return time.time() >= taken + 1


def test_a_pool_that_envoy_lacks_is_named(azure: AzureSim, document: Json, start_gateway: Start) -> None:
    with start_gateway(document, edits=[remove(f"{CLUSTERS}[aoai/sweden>eastus]")]) as gateway:
        found = asked(azure, document, gateway)
    assert of_the_gateway(found) == {"reply": "ok", "document": "ok", "clusters": "fail"}
    assert found.step("gateway/clusters")["text"].startswith(
        "lacks 1 of 4 clusters of backends and pools: aoai/sweden>eastus. Render")


def test_a_listener_without_the_filter_is_not_the_gateway(
        azure: AzureSim, document: Json, start_gateway: Start) -> None:
    with start_gateway(document, edits=[without_filter]) as gateway:
        found = asked(azure, document, gateway)
    assert of_the_gateway(found)["reply"] == "fail"
    assert found.step("gateway/reply")["status"] == 404


def test_a_gateway_that_is_not_there_is_a_problem_and_its_document_is_not_asked_for(
        azure: AzureSim, document: Json) -> None:
    with taken_port() as taken:
        port = taken.getsockname()[1]
        found = examined(azure, document, *options(azure), "--gateway", f"http://127.0.0.1:{port}")
    assert of_the_gateway(found) == {"reply": "fail", "document": "skip"}
