"""Azure OpenAI behind a Gateway of its own of Envoy Gateway's, by what `aoai render envoy-gateway` prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from azure_sim import AzureSim, Delivery, Gate
from e2e import config
from e2e.callers import Callers
from e2e.calls import chat, own_answer, send, warm
from e2e.modules import like_the_module
from e2e.serves import Serves
from e2e.two_regions import KEY, POOL, REGIONS, SINGLE, document_of_two
from envoy_gateway.controller import Attached

Json = Dict[str, Any]
NEW_KEY = "aoai_a-key-that-comes-00000003"
# Requests that one change must not touch.
MANY = 10_000


@pytest.fixture(scope="module")
def document(azure: AzureSim) -> Json:
    return document_of_two(azure)


@pytest.fixture(scope="module")
def gateway(azure: AzureSim, document: Json, workers: int) -> Iterator[Attached]:
    with Attached(document, azure, workers=workers) as gateway:
        warm(gateway, chat(SINGLE, ("api-key", KEY)))
        yield gateway


class TestOfEnvoyGateway(Serves):
    """A Gateway serves what every gateway does."""


def test_the_policy_is_accepted_and_programmed(gateway: Attached) -> None:
    log = gateway.envoy.log_text()
    assert "Patches have been successfully applied." in log
    assert "ResourceNotFound" not in log and "Invalid" not in log


def test_a_document_is_replaced_and_one_with_a_problem_is_not(
        gateway: Attached, document: Json) -> None:
    def with_new() -> int:
        return send(gateway, chat(SINGLE, ("api-key", NEW_KEY))).status
    subscriptions = [*document["subscriptions"], config.subscription("new", key=NEW_KEY)]
    own_answer(send(gateway, chat(SINGLE, ("api-key", NEW_KEY))), "unknown_key")
    gateway.apply({**document, "subscriptions": subscriptions})
    gateway.envoy.wait_until(lambda: with_new() == 200, "the new key")

    # What `aoai render envoy-gateway` never prints, and an edit by hand might: a field that there is not.
    good = (gateway.envoy.resources / "aoai.yaml").read_text()
    bad = re.sub(r"^( *)- id: new\n", r"\g<0>\1  status: active\n", good, flags=re.MULTILINE)
    assert bad != good
    refusals = "listener_manager.lds.update_rejected"
    before = gateway.envoy.stats().get(refusals, 0)
    gateway.envoy.apply("aoai", bad)
    gateway.envoy.wait_for_stat(refusals, before + 1)
    gateway.envoy.wait_for_log("unknown field")
    assert with_new() == 200
    gateway.apply(document)
    gateway.envoy.wait_until(lambda: with_new() == 401, "the old document")


def test_a_request_outlives_the_listener_that_a_new_document_replaces(
        gateway: Attached, azure: AzureSim, document: Json) -> None:
    gate = Gate()
    azure.resources["eastus"].script.then(Delivery(before=gate))
    call = chat(SINGLE, ("api-key", KEY))
    with gateway.connect() as connection:
        connection.send(call.raw())
        azure.resources["eastus"].recorder.wait_until(lambda seen: bool(seen), "request")
        gateway.apply({**document, "token_wait": "4s"})
        gateway.envoy.wait_for_stat("listener_manager.total_listeners_draining")
        gate.open()
        assert connection.read_response().status == 200
    # And for how long: Envoy Gateway's own default is a minute.
    options = gateway.envoy.admin.get("/server_info").json()["command_line_options"]
    assert options["drain_time"] == "900s"
    gateway.apply(document)


def test_backends_are_added_and_removed_in_steps_without_losing_a_request(
        gateway: Attached, azure: AzureSim, document: Json) -> None:
    names = ("france", "japan")
    for name in names:
        azure.add_resource(name, host=f"contoso-{name}.openai.azure.com",
                           deployments={POOL: POOL, SINGLE: SINGLE})
    all_of_them = [azure.resources[name] for name in (*names, *REGIONS)]
    many = {**document, "backends": [config.backend(one) for one in all_of_them], "models": [
        config.model(POOL, *(config.route(one, priority=rank)
                             for rank, one in enumerate(all_of_them))),
        config.model(SINGLE, all_of_them[0])]}
    calls = [chat(POOL, ("api-key", KEY)), chat(SINGLE, ("api-key", KEY))]

    def served_by() -> str:
        return send(gateway, calls[0]).head.header("x-aoai-backend") or ""
    with Callers(gateway, calls) as callers:
        for old, new, first in ((document, many, "france"), (many, document, "eastus")):
            callers.grow(MANY // 4)
            gateway.apply(old, clusters_of=new)
            gateway.envoy.wait_until(lambda: clusters(gateway) == {*names, *REGIONS}, "clusters of both")
            gateway.apply(new, clusters_of=old)
            gateway.envoy.wait_until(lambda name=first: served_by() == name, "the new document")
            callers.grow(MANY // 4)
            gateway.apply(new)
            wanted = {one["name"] for one in new["backends"]}
            gateway.envoy.wait_until(lambda those=wanted: clusters(gateway) == those,
                                     "clusters of the new")
    assert callers.served() >= MANY


def clusters(gateway: Attached) -> "set[str]":
    """The backends that the proxy has clusters of, when all of its clusters are ready for use."""
    if gateway.envoy.stats()["cluster_manager.warming_clusters"]:
        return set()
    found = gateway.envoy.admin.get("/clusters").text
    return set(re.findall(r"^aoai_(\w+)::default_priority", found, re.MULTILINE))


def test_the_module_is_replaced_by_another_path_without_losing_a_request(
        gateway: Attached, document: Json, tmp_path: Path) -> None:
    modules = like_the_module(tmp_path, 2)
    calls = [chat(POOL, ("api-key", KEY)), chat(SINGLE, ("api-key", KEY))]
    updates = "listener_manager.lds.update_success"
    with Callers(gateway, calls) as callers:
        for module in (*modules[1:], modules[0]):
            callers.grow(MANY // 4)
            before = gateway.envoy.stats().get(updates, 0)
            gateway.apply(document, module=module)
            gateway.envoy.wait_for_stat(updates, before + 1)
        callers.grow(MANY // 2)
    assert callers.served() >= MANY


def test_metrics_have_their_labels(gateway: Attached) -> None:
    send(gateway, chat(SINGLE, ("api-key", KEY)))
    labelled = re.compile(r'aoai_tokens_total\{(?=[^}]*backend="eastus")(?=[^}]*model="gpt-4o-mini")'
                          r'(?=[^}]*subscription="team")(?=[^}]*type="output")')
    gateway.envoy.wait_until(lambda: labelled.search(gateway.envoy.prometheus()), "tokens with labels")
