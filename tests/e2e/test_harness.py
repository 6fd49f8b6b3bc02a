"""The harness itself: what is rendered, but without the filter, in front of simulated Azure."""

from __future__ import annotations

from typing import Any, Callable, Dict

import httpx
import pytest

from azure_sim import HANG_LIMIT, AzureSim, Delivery, Gate
from e2e import config
from e2e.edits import (CLUSTERS, MANAGER, VIRTUAL_HOST, Edit, add, all_at, put, remove,
                       without_filter)
from e2e.envoy import Envoy, EnvoyFailed
from e2e.gateway import Gateway, Rejected
from e2e.rendering import in_front_of
from e2e.wire import request

Json = Dict[str, Any]
CHAT = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
BODY = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def document(azure: AzureSim) -> Json:
    """A model on a resource and another one that is down, and one on a resource with TLS."""
    azure.add_resource("eastus", host="contoso-eastus.openai.azure.com",
                       deployments={"gpt-4o": "gpt-4o"})
    azure.add_resource("sweden", host="contoso-sweden.openai.azure.com", tls=True,
                       deployments={"gpt-4o": "gpt-4o"})
    azure.add_resource("down", host="contoso-down.openai.azure.com", refuses_connections=True)
    return config.config(
        subscriptions=[config.subscription("search", key="a-key")],
        backends=[config.backend(one) for one in azure.resources.values()],
        models=[config.model("gpt-4o", "eastus", "down"), config.model("private", "sweden")])


@pytest.fixture(scope="module")
def plain(document: Json, start_gateway: Callable[..., Gateway]) -> Gateway:
    return start_gateway(document, lds=True, edits=[without_filter])


def headers(azure: AzureSim, name: str) -> Dict[str, str]:
    return {"host": f"contoso-{name}.openai.azure.com", "x-aoai-cluster": f"aoai_{name}",
            "authorization": f"Bearer {azure.identity.token()}"}


def stream_request(azure: AzureSim) -> bytes:
    pairs = headers(azure, "eastus")
    host = pairs.pop("host")
    return request("POST", CHAT, [*pairs.items(), ("content-type", "application/json")],
                   b'{"messages":[],"stream":true}', host=host)


@pytest.mark.parametrize("name", ["eastus", "sweden"], ids=["plain", "tls"])
def test_a_request_reaches_the_resource_through_envoy(plain: Gateway, azure: AzureSim, name: str
                                                      ) -> None:
    answer = plain.http.post(CHAT, headers=headers(azure, name), json=BODY)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == f"answer from {name}"
    [seen] = azure.resources[name].requests
    assert (seen.method, seen.target) == ("POST", CHAT)
    assert seen.host == azure.resources[name].host
    assert seen.header("x-aoai-cluster") is None
    assert seen.token is not None and seen.token.aud == "https://cognitiveservices.azure.com"


def test_a_streamed_answer_arrives_chunk_by_chunk(plain: Gateway, azure: AzureSim) -> None:
    gate = Gate()
    azure.resources["eastus"].script.then(Delivery(each_chunk=gate))
    with plain.connect() as connection:
        connection.send(stream_request(azure))
        assert connection.read_head().status == 200
        for _ in range(3):
            assert connection.silent_for(0.05)
            gate.release()
            event = connection.read_event()
            assert event is not None and event.data.startswith(b"data: {")
        gate.open()
        rest = list(iter(connection.read_event, None))
        assert rest[-1].data == b"data: [DONE]"


@pytest.mark.parametrize("pool", ["aoai/down>eastus", "aoai/eastus>down"])
def test_a_pool_passes_over_a_member_that_refuses_connections(plain: Gateway, azure: AzureSim,
                                                              pool: str) -> None:
    answer = plain.http.post(CHAT, headers={**headers(azure, "eastus"), "x-aoai-cluster": pool},
                             json=BODY)
    assert answer.status_code == 200
    assert len(azure.resources["eastus"].requests) == 1


def test_an_upload_is_visible_while_it_arrives(plain: Gateway, azure: AzureSim) -> None:
    east = azure.resources["eastus"]
    with plain.connect() as connection:
        head = request("POST", "/openai/v1/files", [
            ("x-aoai-cluster", "aoai_eastus"), ("content-length", "100")])
        connection.send(head, b"x" * 60)
        [seen] = east.recorder.wait_until(
            lambda seen: bool(seen) and seen[0].body_length == 60, "first 60 bytes")
        assert not seen.complete
        connection.leave()
    [seen] = east.recorder.wait_until(
        lambda seen: any(one.left for one in seen), "request that was given up")
    assert not seen.complete and seen.body == b"x" * 60


def test_stats_and_configuration_of_envoy_can_be_read(plain: Gateway) -> None:
    before = plain.envoy.stats().get("http.aoai.downstream_rq_total", 0)
    assert status_of_a_new_connection(plain) == 503
    assert plain.envoy.wait_for_stat("http.aoai.downstream_rq_total", before + 1) == before + 1
    assert plain.envoy.stats()["server.concurrency"] in (1, 2)
    assert "configs" in plain.envoy.config_dump()
    assert "envoy_http_downstream_rq_total" in plain.envoy.prometheus()


answer_everything = put(f"{VIRTUAL_HOST}.routes", [
    {"match": {"prefix": "/"}, "direct_response": {"status": 418}}])


def test_the_listener_can_be_replaced_while_an_answer_streams(
        azure: AzureSim, document: Json, plain: Gateway) -> None:
    gate = Gate()
    azure.resources["eastus"].script.then(Delivery(each_chunk=gate))
    with plain.connect() as connection:
        connection.send(stream_request(azure))
        gate.release()
        assert connection.read_head().status == 200
        plain.reconfigure(document, answer_everything)
        assert plain.envoy.port() == plain.port
        assert status_of_a_new_connection(plain) == 418
        gate.open()
        assert list(iter(connection.read_event, None))[-1].data == b"data: [DONE]"
    plain.reconfigure(document)
    assert status_of_a_new_connection(plain) == 503


def status_of_a_new_connection(plain: Gateway) -> int:
    """That of a request to a cluster that there is not."""
    return httpx.get(plain.url, headers={"x-aoai-cluster": "aoai_nowhere"}, timeout=HANG_LIMIT,
                     trust_env=False).status_code


def test_a_listener_that_envoy_refuses_leaves_the_old_one_and_says_why(
        document: Json, plain: Gateway) -> None:
    with pytest.raises(Rejected, match=r"[sS]tat_?[pP]refix"):
        plain.reconfigure(document, put(f"{MANAGER}.stat_prefix", ""))
    assert status_of_a_new_connection(plain) == 503
    plain.reconfigure(document)


def test_a_bootstrap_that_envoy_refuses_fails_with_its_log(azure: AzureSim, document: Json) -> None:
    broken = in_front_of(azure, document, [
        add(CLUSTERS, {"name": "x", "type": "NOT_A_TYPE"})])
    with pytest.raises(EnvoyFailed, match="NOT_A_TYPE"):
        Envoy(broken)


# Edits by path


def test_an_edit_is_made_wherever_its_path_leads() -> None:
    tree: Json = {"lists": [{"name": "aoai/a>b", "x": {"y.z": [1]}}, {"name": "aoai_a", "x": {}},
                            {"x": {"y.z": [2]}}]}
    put("lists[*].x.new", 0)(tree)
    put("lists[aoai*].old", 1)(tree)
    add("lists[*].x[y.z]", 3, 4)(tree)
    assert tree == {"lists": [{"name": "aoai/a>b", "old": 1, "x": {"y.z": [1, 3, 4], "new": 0}},
                              {"name": "aoai_a", "old": 1, "x": {"new": 0}},
                              {"x": {"y.z": [2, 3, 4], "new": 0}}]}
    assert all_at(tree, "lists[*].old") == [1, 1]
    remove("lists[aoai*]")(tree)
    assert tree == {"lists": [{"x": {"y.z": [2, 3, 4], "new": 0}}]}


@pytest.mark.parametrize("edit", [
    put("lists[aoai/*].x", 1), put("other.x", 1), add("lists[aoai_a].y", 1), remove("lists[b]"),
    remove("lists[*].y")])
def test_an_edit_whose_path_leads_nowhere_is_an_error(edit: Edit) -> None:
    tree: Json = {"lists": [{"name": "aoai_a"}]}
    with pytest.raises(AssertionError, match="nothing at"):
        edit(tree)
    assert tree == {"lists": [{"name": "aoai_a"}]}
    remove("lists[b]", if_there=True)(tree)
