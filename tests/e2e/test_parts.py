"""An Envoy of one's own serves Azure OpenAI under a host of its own by `--parts`; what else it serves stays."""

from __future__ import annotations

import copy
import json
from typing import Any, Dict, Iterator, List

import openai
import pytest
import yaml

from azure_sim import AzureSim, errors
from e2e import config
from e2e.calls import Call, chat, own_answer
from e2e.envoy import Envoy
from e2e.limit_service import LimitService
from e2e.rendering import at, options_for, rendered
from e2e.wire import Connection, Response

Json = Dict[str, Any]
KEY, LIMITED = "key-of-the-team", "key-of-the-limited"
HOST = "ai.example.test"
REGIONS = ("eastus", "sweden")
POOL, SINGLE = "gpt-4o", "gpt-4o-mini"
_TYPES = "type.googleapis.com/envoy.extensions.filters"
_MANAGER = f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = {"name": "envoy.filters.http.router",
           "typed_config": {"@type": f"{_TYPES}.http.router.v3.Router"}}


@pytest.fixture(scope="module")
def cloud(azure: AzureSim) -> AzureSim:
    for name in REGIONS:
        azure.add_resource(name, host=f"contoso-{name}.openai.azure.com",
                           deployments={POOL: POOL, SINGLE: SINGLE})
    return azure


@pytest.fixture(scope="module")
def document(cloud: AzureSim) -> Json:
    resources = [cloud.resources[name] for name in REGIONS]
    return config.config(
        limits={"store": "ratelimit"},
        subscriptions=[config.subscription("team", key=KEY),
                       config.subscription("limited", key=LIMITED, limits={
                           "quota": {"tokens": 100, "period": "year"}})],
        backends=[config.backend(resource) for resource in resources],
        models=[config.model(POOL, *(config.route(one, priority=rank)
                                     for rank, one in enumerate(resources))),
                config.model(SINGLE, resources[0])])


@pytest.fixture(scope="module")
def limits(document: Json) -> Iterator[LimitService]:
    with LimitService(document) as service:
        yield service


def own(parts: Json, filters: List[Json]) -> Json:
    """An Envoy with a shop, and the parts where they say that they go; `filters` of them."""
    manager = parts["http_connection_manager"]
    routes = manager["route_config"]
    shop = {"name": "shop", "domains": ["*"], "routes": [
        {"match": {"prefix": "/shop"}, "direct_response": {
            "status": 200, "body": {"inline_string": "the shop"}}}]}
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "stats_config": parts["stats_config"],
        "static_resources": {
            "listeners": [{
                "name": "own",
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                **parts["listener"],
                "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {
                        "@type": _MANAGER, "stat_prefix": "own", **manager,
                        "route_config": {**routes, "virtual_hosts": [shop, *routes["virtual_hosts"]]},
                        "http_filters": [*filters, _ROUTER]}}]}]}],
            "clusters": parts["static_resources"]["clusters"]}}


@pytest.fixture(scope="module")
def parts(cloud: AzureSim, document: Json, limits: LimitService) -> Json:
    text = rendered("-", *options_for(cloud, document), at("aoai-limits", limits.port),
                    "--parts", "--host", HOST, stdin=json.dumps(document))
    found: Json = json.loads(json.dumps(yaml.safe_load(text)))
    return found


@pytest.fixture(scope="module")
def envoy(parts: Json, workers: int) -> Iterator[Envoy]:
    bootstrap = own(parts, parts["http_connection_manager"]["http_filters"])
    with Envoy(bootstrap, workers=workers) as envoy:
        yield envoy


def ask(envoy: Envoy, call: Call) -> Response:
    with Connection(envoy.port("own")) as connection:
        return connection.exchange(call.raw())


def at_host(call: Call, host: str = HOST) -> Call:
    return call.at(host)


@pytest.mark.parametrize("host", [HOST, f"{HOST}:8080", "contoso-eastus.openai.azure.com"])
@pytest.mark.parametrize("model", [POOL, SINGLE])
def test_its_host_is_the_gateway(envoy: Envoy, model: str, host: str) -> None:
    answer = ask(envoy, at_host(chat(model, ("api-key", KEY)), host))
    assert (answer.status, answer.head.values("x-aoai-backend")) == (200, ["eastus"])
    own_answer(ask(envoy, at_host(chat(model, ("api-key", "wrong")), host)), "unknown_key",
               hidden=["wrong"])


def test_a_request_moves_on_and_a_stream_is_served(envoy: Envoy, cloud: AzureSim) -> None:
    cloud.resources["eastus"].script.then(errors.throttled(retry_after_ms="10"))
    answer = ask(envoy, at_host(chat(POOL, ("api-key", KEY))))
    assert [answer.head.values(f"x-aoai-{name}") for name in ("backend", "attempts")] == [
        ["sweden"], ["2"]]
    with openai.OpenAI(base_url=f"http://127.0.0.1:{envoy.port('own')}/openai/v1/", api_key=KEY,
                       default_headers={"host": HOST}) as client:
        chunks = list(client.chat.completions.create(
            model=SINGLE, messages=[{"role": "user", "content": "hi"}], stream=True))
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == "answer from eastus"


def test_limits_of_the_service_bind_its_requests(envoy: Envoy, limits: LimitService) -> None:
    before = limits.charged("quota", "limited")
    answer = ask(envoy, at_host(chat(SINGLE, ("api-key", LIMITED))))
    if before <= 100:
        assert answer.status == 200
        envoy.wait_until(lambda: limits.charged("quota", "limited") > before, "charge")


@pytest.mark.parametrize("host", ["shop.test", "elsewhere.test", "x.ai.example.test"])
def test_other_hosts_pass_the_filter_by(envoy: Envoy, cloud: AzureSim, host: str) -> None:
    shop = ask(envoy, Call("/shop/1", method="GET", host=host))
    assert (shop.status, shop.body) == (200, b"the shop")
    assert not [name for name, _ in shop.head.headers if name.startswith("x-aoai")]
    # Neither with a key nor without one is there a way to Azure.
    for headers in ([("api-key", KEY)], [("x-aoai-cluster", "aoai_eastus"), ("api-key", KEY)]):
        assert ask(envoy, at_host(chat(SINGLE, *headers), host)).status == 404
    assert all(not resource.requests for resource in cloud.resources.values())


@pytest.mark.parametrize("cluster", ["aoai_eastus", "aoai/eastus>sweden", "azure_identity"])
def test_without_the_filter_its_host_is_no_way_to_azure(
        parts: Json, cloud: AzureSim, cluster: str) -> None:
    found = own(copy.deepcopy(parts), [])
    [host] = [one for one in _manager(found)["route_config"]["virtual_hosts"]
              if one["name"] == "aoai"]
    del host["typed_per_filter_config"]
    with Envoy(found) as envoy:
        call = chat(SINGLE, ("api-key", KEY), ("x-aoai-cluster", cluster))
        assert ask(envoy, at_host(call)).status == 404
    assert all(not resource.requests for resource in cloud.resources.values())


def _manager(bootstrap: Json) -> Json:
    [listener] = bootstrap["static_resources"]["listeners"]
    found: Json = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found
