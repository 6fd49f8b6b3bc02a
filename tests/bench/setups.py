"""The Envoys that are measured: what `aoai render envoy` prints for a document, the same without
the filter, and the same with what Envoy brings itself in the filter's place.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence

import yaml

from e2e.config import backend, config, model, route, subscription
from e2e.envoy import Envoy
from e2e.rendering import at, rendered, wasm_module

Json = Dict[str, Any]
KEY = "aoai_bench_key"
LISTENER = "aoai"
HOST = "contoso-eastus.openai.azure.com"
URL_NAMED = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
BODY_NAMED = "/openai/v1/chat/completions"
REGIONS = ("eastus", "sweden", "france")
# Models whose first backend is throttled. In turn, so that a model's cooldown has ended by then.
HOPPING = tuple(f"throttled-{number}" for number in range(8))
HOPPING_REGIONS = ("throttled", "eastus", "sweden")

_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_WASM = f"{_EXTENSIONS}.filters.http.wasm.v3.Wasm"
_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True)
class Ports:
    """Ports of this machine: of the identity endpoint, of the backends, and of the one that is
    throttled."""

    identity: int
    serving: int
    throttled: int


def start(found: Any, workers: int = 1) -> Envoy:
    """An Envoy that logs little. A log line is not what is measured."""
    return Envoy(found, workers=workers, log_level="warning", wasm_log_level="info")


def subscriptions(count: int) -> List[Json]:
    """As many, with that of the load in their middle."""
    found = [subscription(f"team-{index}", key=f"key-{index}") for index in range(count - 1)]
    found.insert(len(found) // 2, subscription("bench", key=KEY))
    return found


def one_backend(count: int = 10, **more: Any) -> Json:
    """A document whose model is on one backend: the gateway stage is all there is."""
    return config(subscriptions=subscriptions(count), backends=[backend("eastus")],
                  models=[model("gpt-4o", "eastus")], **more)


def pool_of_three(**more: Any) -> Json:
    """A document whose models are on three backends. `gpt-4o`'s are well, of the others' the first
    is throttled."""
    return config(
        subscriptions=subscriptions(10),
        backends=[backend(one) for one in sorted({*REGIONS, *HOPPING_REGIONS})],
        models=[_in_order("gpt-4o", REGIONS),
                *(_in_order(one, HOPPING_REGIONS) for one in HOPPING)],
        **more)


def many(backends: int, count: int) -> Json:
    """A document with 5 models, each on all of these backends, and as many subscriptions."""
    names = [f"region-{index}" for index in range(backends)]
    return config(subscriptions=subscriptions(count), backends=[backend(one) for one in names],
                  models=[model("gpt-4o", *names),
                          *(model(f"model-{index}", *names) for index in range(1, 5))])


def limited(document: Json, **where: Any) -> Json:
    """The same document with limits that are never reached, kept where this says."""
    most = {"requests_per_minute": 4_000_000_000, "tokens_per_minute": 4_000_000_000}
    for one in document["subscriptions"]:
        one["limits"] = most
    return {**document, **({"limits": where} if where else {})}


def gateway(document: Json, ports: Ports, *options: str) -> str:
    """What the tool prints, as it is, but for the access log: plain Envoy has none here either."""
    document = {**document, "listener": {"access_log": "none", **document.get("listener", {})}}
    return rendered("-", "--listener-port", "0", *_options(document, ports), *options,
                    stdin=json.dumps(document))


def of_module(found: str, path: str) -> str:
    """The same bootstrap with another module."""
    return found.replace(wasm_module(), str(Path(path).resolve()))


def plain(document: Json, ports: Ports) -> Json:
    """The same without the filter: one route, to the first backend, and pools without the backend
    stage."""
    found = _loaded(gateway(document, ports))
    manager = _manager(found)
    manager["http_filters"] = _without_wasm(manager["http_filters"])
    for pool in _pools(found):
        pool["http_filters"] = _without_wasm(pool["http_filters"])
    first = document["backends"][0]["name"]
    _route(found, [{"match": {"prefix": "/"}, "route": _to(f"aoai_{first}")}])
    return found


def own_filters(ports: Ports) -> Json:
    """Envoy's own: a key lets a caller in, and a fixed credential takes its place."""
    found = plain(one_backend(), ports)
    _add_own_filters(found)
    return found


def own_filters_and_retries(ports: Ports) -> Json:
    """The same, and a 429 moves the request on to the next member of a pool."""
    document = pool_of_three()
    routes = _virtual_host(_loaded(gateway(document, ports)))["routes"]
    policy = next(one["route"]["retry_policy"] for one in routes
                  if "retry_policy" in one["route"])
    del policy["retriable_headers"]
    policy["retry_on"] = "retriable-status-codes,connect-failure,refused-stream,reset"
    policy["retriable_status_codes"] = [429]
    found = plain(document, ports)
    _add_own_filters(found)
    pools = {"/openai/deployments/throttled": HOPPING_REGIONS, "/": REGIONS}
    _route(found, [{"match": {"prefix": prefix},
                    "route": {**_to("aoai/" + ">".join(regions)), "retry_policy": policy}}
                   for prefix, regions in pools.items()])
    _virtual_host(found)["include_attempt_count_in_response"] = True
    return found


def _in_order(name: str, regions: Sequence[str]) -> Json:
    return model(name, *[route(one, priority=rank) for rank, one in enumerate(regions)])


def _loaded(text: str) -> Json:
    """What YAML repeats by reference stays one value."""
    found: Json = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return found


def _options(document: Json, ports: Ports) -> List[str]:
    return ["--identity", f"127.0.0.1:{ports.identity}",
            *(at(one["name"], ports.throttled if one["name"] == "throttled" else ports.serving)
              for one in document["backends"])]


def _add_own_filters(found: Json) -> None:
    keys = [{"key": KEY, "client": "bench"},
            *({"key": f"key-{index}", "client": f"team-{index}"} for index in range(9))]
    _manager(found)["http_filters"][:0] = [
        _filter("api_key_auth", "ApiKeyAuth", credentials=keys,
                key_sources=[{"header": "api-key"}], forwarding={"hide_credentials": True}),
        _filter("credential_injector", "CredentialInjector", overwrite=True, credential={
            "name": "envoy.http.injected_credentials.generic",
            "typed_config": {
                "@type": f"{_EXTENSIONS}.http.injected_credentials.generic.v3.Generic",
                "credential": {"name": "token"}},
        }),
    ]
    # Of about the length of a real one.
    found["static_resources"]["secrets"] = [{"name": "token", "generic_secret": {
        "secret": {"inline_string": "Bearer " + "x" * 1500}}}]


def _filter(name: str, message: str, **fields: Any) -> Json:
    return {"name": f"envoy.filters.http.{name}",
            "typed_config": {"@type": f"{_EXTENSIONS}.filters.http.{name}.v3.{message}", **fields}}


def _without_wasm(filters: List[Json]) -> List[Json]:
    return [one for one in filters if one["typed_config"]["@type"] != _WASM]


def _manager(found: Json) -> Json:
    [listener] = [one for one in found["static_resources"]["listeners"] if one["name"] == LISTENER]
    manager: Json = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def _virtual_host(found: Json) -> Json:
    [host] = _manager(found)["route_config"]["virtual_hosts"]
    result: Json = host
    return result


def _route(found: Json, routes: List[Json]) -> None:
    """These routes alone, without what the filter's own need around them."""
    _manager(found)["route_config"]["virtual_hosts"] = [
        {"name": "plain", "domains": ["*"], "routes": routes}]


def _pools(found: Json) -> Iterator[Json]:
    """The HTTP options of each pool, in which the backend stage is."""
    for cluster in found["static_resources"]["clusters"]:
        options = cluster.get("typed_extension_protocol_options", {}).get(_PROTOCOL_OPTIONS)
        if options is not None and "http_filters" in options:
            yield options


def _to(cluster_name: str) -> Json:
    return {"cluster": cluster_name, "host_rewrite_literal": HOST, "timeout": "0s"}
