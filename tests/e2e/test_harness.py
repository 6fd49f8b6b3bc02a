"""The harness itself, without the filter: a plain route from Envoy to simulated Azure."""

from __future__ import annotations

from typing import Any, Callable, Dict

import httpx
import pytest

from azure_sim import HANG_LIMIT, AzureSim, Delivery, Gate
from e2e.bootstrap import bootstrap
from e2e.envoy import Envoy, EnvoyFailed
from e2e.gateway import Gateway, Rejected
from e2e.wire import request

CHAT = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
BODY = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def plain(azure: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    for name, tls in (("eastus", False), ("sweden", True)):
        if name not in azure.resources:
            azure.add_resource(name, host=f"contoso-{name}.openai.azure.com", tls=tls,
                               deployments={"gpt-4o": "gpt-4o"})
    if "down" not in azure.resources:
        azure.add_resource("down", host="contoso-down.openai.azure.com", refuses_connections=True)
    return start_gateway(None, lds=True, pools=[["down", "eastus"], ["eastus", "down"]])


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
    before = plain.envoy.stats().get("http.ingress.downstream_rq_total", 0)
    assert plain.http.get("/", headers={"x-aoai-cluster": "nowhere"}).status_code == 503
    assert plain.envoy.wait_for_stat("http.ingress.downstream_rq_total", before + 1) == before + 1
    assert plain.envoy.stats()["server.concurrency"] in (1, 2)
    assert "configs" in plain.envoy.config_dump()
    assert "envoy_http_downstream_rq_total" in plain.envoy.prometheus()


def answer_everything(listener: Dict[str, Any]) -> None:
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["route_config"]["virtual_hosts"][0]["routes"] = [
        {"match": {"prefix": "/"}, "direct_response": {"status": 418}}]


def test_the_listener_can_be_replaced_while_an_answer_streams(
        azure: AzureSim, plain: Gateway) -> None:
    gate = Gate()
    azure.resources["eastus"].script.then(Delivery(each_chunk=gate))
    with plain.connect() as connection:
        connection.send(stream_request(azure))
        gate.release()
        assert connection.read_head().status == 200
        plain.reconfigure(None, edit_listener=answer_everything)
        assert plain.envoy.port() == plain.port
        assert status_of_a_new_connection(plain) == 418
        gate.open()
        assert list(iter(connection.read_event, None))[-1].data == b"data: [DONE]"
    plain.reconfigure(None, edit_listener=None)
    assert status_of_a_new_connection(plain) == 503


def status_of_a_new_connection(plain: Gateway) -> int:
    return httpx.get(plain.url, timeout=HANG_LIMIT, trust_env=False).status_code


def test_a_listener_that_envoy_refuses_leaves_the_old_one_and_says_why(plain: Gateway) -> None:
    def break_it(listener: Dict[str, Any]) -> None:
        listener["filter_chains"][0]["filters"][0]["typed_config"]["stat_prefix"] = ""

    with pytest.raises(Rejected, match=r"[sS]tat_?[pP]refix"):
        plain.reconfigure(None, edit_listener=break_it)
    assert plain.http.get("/", headers={"x-aoai-cluster": "nowhere"}).status_code == 503
    plain.reconfigure(None, edit_listener=None)


def test_a_bootstrap_that_envoy_refuses_fails_with_its_log(azure: AzureSim) -> None:
    broken = bootstrap(None, azure)
    broken["static_resources"]["clusters"].append({"name": "x", "type": "NOT_A_TYPE"})
    with pytest.raises(EnvoyFailed, match="NOT_A_TYPE"):
        Envoy(broken)
