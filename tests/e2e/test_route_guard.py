"""The routes that `aoai render envoy` prints: they lead to clusters of backends and to no others, and
without the filter in front to nothing at all. What callers read in `x-aoai-…` is Envoy's or the
filter's, whatever a backend sends."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List, Tuple

import httpx
import pytest
from websockets.sync.client import connect

from azure_sim import HANG_LIMIT, RESET, Answer, AzureSim, Resource
from e2e import config
from e2e.envoy import Envoy
from e2e.rendering import LISTENER, bootstrap, resource_at
from e2e.single import BODY, KEY

Json = Dict[str, Any]
Pairs = List[Tuple[str, str]]
NAMES = ["eastus", "sweden", "custom"]
CUSTOM_CLUSTER = "outbound|443||custom"
# Each model's backends.
MODELS = {"single": ["eastus"], "elsewhere": ["custom"], "pooled": ["eastus", "sweden"]}
CLUSTER_HEADER = "x-aoai-cluster"
# Whatever a backend makes up.
SPOOFED: Pairs = [(f"x-aoai-{name}", "spoofed") for name in
                  ("attempts", "backend", "cluster", "diagnosis", "reason")]
MARKED = ("x-aoai-retry", "1")


@pytest.fixture(scope="module")
def rendered_bootstrap(azure: AzureSim) -> Json:
    """What is rendered for these models, at simulated Azure."""
    for name in NAMES:
        azure.add_resource(name, host=f"contoso-{name}.openai.azure.com",
                           deployments={model: model for model in MODELS})
    more: Dict[str, Json] = {"custom": {"cluster": CUSTOM_CLUSTER}}
    document = config.config(
        subscriptions=[config.subscription("team", key=KEY)],
        backends=[config.backend(azure.resources[name], **more.get(name, {})) for name in NAMES],
        models=[config.model(model, *names) for model, names in MODELS.items()],
    )
    return bootstrap(document, "--identity", f"127.0.0.1:{azure.identity.port}",
                     *(resource_at(azure.resources[name]) for name in NAMES))


@pytest.fixture(scope="module")
def gateway_url(rendered_bootstrap: Json, start_envoy: Callable[..., Envoy]) -> str:
    """The gateway as it is rendered."""
    return _url(start_envoy(rendered_bootstrap))


@pytest.fixture(scope="module")
def unfiltered_url(rendered_bootstrap: Json, start_envoy: Callable[..., Envoy]) -> str:
    """The same without the filter, as where somebody forgot or removed it."""
    return _url(start_envoy(_without_filters(rendered_bootstrap)))


@pytest.fixture(scope="module")
def routes_url(rendered_bootstrap: Json, start_envoy: Callable[..., Envoy]) -> str:
    """The routes alone: the test says in the header what the filter would."""
    return _url(start_envoy(_routes_alone(rendered_bootstrap)))


CLUSTERS: Dict[str, Pairs] = {
    "a backend": [(CLUSTER_HEADER, "aoai_eastus")],
    "a backend's own cluster": [(CLUSTER_HEADER, CUSTOM_CLUSTER)],
    "a pool": [(CLUSTER_HEADER, "aoai/eastus>sweden")],
    "the identity endpoint": [(CLUSTER_HEADER, "azure_identity")],
    "several": [(CLUSTER_HEADER, "aoai_eastus"), (CLUSTER_HEADER, "aoai_sweden")],
    "in upper case": [("X-AOAI-CLUSTER", "aoai_eastus")],
    "an empty name": [(CLUSTER_HEADER, "")],
    "none": [],
}


@pytest.mark.parametrize("headers", CLUSTERS.values(), ids=CLUSTERS.keys())
def test_without_the_filter_a_caller_reaches_nothing(
        unfiltered_url: str, azure: AzureSim, headers: Pairs) -> None:
    assert _post(unfiltered_url, "single", headers).status_code == 404
    assert _arrivals(azure) == []


OTHERS = {"the identity endpoint": "azure_identity", "none": "", "the prefix of a custom cluster":
          "outbound|443||", "more than a custom cluster": f"{CUSTOM_CLUSTER}2"}


@pytest.mark.parametrize("cluster", OTHERS.values(), ids=OTHERS.keys())
def test_the_routes_lead_to_no_other_cluster(
        routes_url: str, azure: AzureSim, cluster: str) -> None:
    assert _post(routes_url, "single", [(CLUSTER_HEADER, cluster)]).status_code == 404
    assert _arrivals(azure) == []


@pytest.mark.parametrize("model, backend", [
    ("single", "eastus"), ("elsewhere", "custom"), ("pooled", "eastus")])
def test_with_the_filter_a_request_finds_the_route_of_its_cluster(
        gateway_url: str, azure: AzureSim, model: str, backend: str) -> None:
    # A model on several backends begins with either.
    for _ in MODELS[model]:
        response = _post(gateway_url, model, [(CLUSTER_HEADER, "azure_identity"), ("api-key", KEY)])
        assert response.status_code == 200, response.text
    [first, *_] = [request for request in azure.resources[backend].requests
                   if request.target.startswith("/openai/")]
    assert first.header(CLUSTER_HEADER) is None


@pytest.mark.parametrize("model, backends", MODELS.items(), ids=MODELS.keys())
def test_with_the_filter_a_realtime_session_finds_its_route(
        gateway_url: str, model: str, backends: List[str]) -> None:
    url = f"{gateway_url.replace('http:', 'ws:')}/openai/v1/realtime?model={model}"
    with connect(url, additional_headers={"api-key": KEY, CLUSTER_HEADER: "azure_identity"},
                 proxy=None, open_timeout=HANG_LIMIT, close_timeout=0.1) as session:
        assert json.loads(session.recv(HANG_LIMIT))["type"] == "session.created"
        session.send("hello")
        assert session.recv(HANG_LIMIT) == "hello"
        assert session.response is not None
        assert session.response.headers["x-aoai-backend"] in backends


OK = Answer(200, SPOOFED)
THROTTLED = Answer(429, SPOOFED)
NEXT = Answer(429, [*SPOOFED, MARKED])
# The cluster, what its backends do, the status that the caller reads, and the headers of the gateway.
RESPONSES: Dict[str, Tuple[str, Dict[str, Any], int, Dict[str, str]]] = {
    "a single backend": ("aoai_eastus", {"eastus": OK}, 200, {"backend": "eastus"}),
    "a mark where nobody retries": ("aoai_eastus", {"eastus": NEXT}, 429, {"backend": "eastus"}),
    "a custom cluster": (CUSTOM_CLUSTER, {"custom": OK}, 200, {"backend": "custom"}),
    "a connection that is lost": ("aoai_eastus", {"eastus": RESET}, 503, {"backend": "eastus"}),
    "a pool's first": ("aoai/eastus>sweden", {"eastus": OK}, 200,
                       {"backend": "eastus", "attempts": "1"}),
    "a pool's second after a mark": ("aoai/sweden>eastus", {"sweden": NEXT, "eastus": OK}, 200,
                                     {"backend": "eastus", "attempts": "2"}),
    "a pool's second after a lost connection": (
        "aoai/eastus>sweden", {"eastus": RESET, "sweden": OK}, 200,
        {"backend": "sweden", "attempts": "2"}),
    "a pool without a mark": ("aoai/eastus>sweden", {"eastus": THROTTLED}, 429,
                              {"backend": "eastus", "attempts": "1"}),
    "a pool that is all marked": ("aoai/eastus>sweden", {"eastus": NEXT, "sweden": NEXT}, 429,
                                  {"backend": "sweden", "attempts": "2"}),
    "a pool that is all lost": ("aoai/eastus>sweden", {"eastus": RESET, "sweden": RESET}, 503,
                                {"backend": "sweden", "attempts": "2"}),
    "a pool that is missing": ("aoai/eastus", {}, 503, {"attempts": "0"}),
    "a backend that is missing": ("aoai_france", {}, 503, {}),
}


@pytest.mark.parametrize("cluster, steps, status, told", RESPONSES.values(), ids=RESPONSES.keys())
def test_envoy_tells_the_backend_and_the_attempts(
        routes_url: str, azure: AzureSim, cluster: str, steps: Dict[str, Any], status: int,
        told: Dict[str, str]) -> None:
    for name, step in steps.items():
        azure.resources[name].script.then(step)
    response = _post(routes_url, "single", [(CLUSTER_HEADER, cluster)])
    assert response.status_code == status, response.text
    found = [pair for pair in response.headers.multi_items() if pair[0].startswith("x-aoai-")]
    assert sorted(found) == sorted((f"x-aoai-{name}", value) for name, value in told.items())
    assert [azure.resources[name].script.pending for name in NAMES] == [0, 0, 0]
    assert all(request.header(CLUSTER_HEADER) is None for request in _arrivals(azure))
    assert len(_arrivals(azure)) == len(steps)


def test_the_member_that_answers_is_named_where_all_connections_are_refused(
        rendered_bootstrap: Json, start_envoy: Callable[..., Envoy]) -> None:
    alone = _routes_alone(rendered_bootstrap)
    for cluster in alone["static_resources"]["clusters"]:
        for locality in cluster.get("load_assignment", {}).get("endpoints", []):
            for endpoint in locality["lb_endpoints"]:
                # A port that the system gives to nobody.
                endpoint["endpoint"]["address"]["socket_address"]["port_value"] = 1
    response = _post(_url(start_envoy(alone)), "single",
                     [(CLUSTER_HEADER, "aoai/eastus>sweden")])
    found = [response.headers.get(f"x-aoai-{name}") for name in ("backend", "attempts")]
    assert (response.status_code, found) == (503, ["sweden", "2"])


def _post(url: str, model: str, headers: Pairs) -> httpx.Response:
    return httpx.post(f"{url}/openai/deployments/{model}/chat/completions?api-version=2024-10-21",
                      headers=headers, json=BODY, timeout=HANG_LIMIT, trust_env=False)


def _arrivals(azure: AzureSim) -> List[Any]:
    """Every request that reached simulated Azure, its identity endpoint included."""
    return [request for endpoint in (*azure.resources.values(), azure.identity)
            for request in endpoint.requests]


def _url(envoy: Envoy) -> str:
    return f"http://127.0.0.1:{envoy.port(LISTENER)}"


def _managers(found: Json) -> List[Json]:
    """The configurations of the HTTP connection managers."""
    return [one["typed_config"] for listener in found["static_resources"]["listeners"]
            for chain in listener["filter_chains"] for one in chain["filters"]]


def _without_filters(found: Json) -> Json:
    """A copy without the module: neither in the listener nor in the pools."""
    copy: Json = json.loads(json.dumps(found))
    clusters = copy["static_resources"]["clusters"]
    options = [one for cluster in clusters
               for one in cluster.get("typed_extension_protocol_options", {}).values()]
    for chain in (*_managers(copy), *options):
        chain["http_filters"] = [one for one in chain["http_filters"] if one["name"] != "aoai"]
    return copy


def _routes_alone(found: Json) -> Json:
    """A copy without the module, in which the routes obey a caller's header."""
    copy = _without_filters(found)
    for manager in _managers(copy):
        del manager["early_header_mutation_extensions"]
    return copy
