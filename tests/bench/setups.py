"""What is measured: plain Envoy, Envoy with the module, and Envoy with what it brings itself for the
comparable part; and the upstream, an Envoy that answers every request by itself."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence

from azure_sim import AzureSim
from e2e.bootstrap import Options, bootstrap, cluster
from e2e.config import backend, config, model, route, subscription
from e2e.envoy import Envoy
from e2e.pools import pool_name, retry_policy

Json = Dict[str, Any]
KEY = "aoai_bench_key"
HOST = "contoso-eastus.openai.azure.com"
URL_NAMED = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
BODY_NAMED = "/openai/v1/chat/completions"
# About what a short chat request is, and its answer.
BODY = json.dumps({"messages": [{"role": "user", "content": "word " * 200}], "model": "gpt-4o"})
ANSWER = json.dumps({"object": "chat.completion", "choices": [{"message": {"content": "x" * 800}}]})
THROTTLED = json.dumps({"error": {"code": "429", "message": "Requests have exceeded call rate."}})

# Each memory of a 429 ends after this, so that the next request for the same model meets one again.
PAUSE_MS = 1
# Models whose first backend is throttled. In turn, so that a memory has ended when its turn comes.
HOPPING = tuple(f"throttled-{number}" for number in range(8))
REGIONS = ("eastus", "sweden", "france")
HOPPING_REGIONS = ("throttled", "eastus", "sweden")

_FILTERS = "type.googleapis.com/envoy.extensions.filters"


@dataclass(frozen=True)
class Ports:
    """The upstream's: where every request is answered, and where every one is throttled."""

    serving: int
    throttled: int

    @classmethod
    def of(cls, upstream: Envoy) -> "Ports":
        return cls(upstream.port("serving"), upstream.port("throttled"))


@dataclass(frozen=True)
class Setup:
    """One thing that is measured.

    * `path` is what the load asks for.
    * `aim` is the most that its CPU for a request may be, as a multiple of plain Envoy's.
    * `attempts` names the response header that says how many backends were tried, where it has
      several: there the latency of a hop is measured too.
    """

    name: str
    bootstrap: Callable[[AzureSim, Ports], Json]
    path: str = URL_NAMED
    aim: Optional[float] = None
    attempts: Optional[str] = None


def setups() -> List[Setup]:
    """All of them, plain Envoy first."""
    return [
        Setup("plain Envoy", _plain),
        Setup("gateway: URL names the model", _gateway(10), aim=1.25),
        Setup("  of 10,000 subscriptions", _gateway(10_000), aim=1.25),
        Setup("  body names the model", _gateway(10), path=BODY_NAMED),
        Setup("both stages: pool of 3", _both_stages, aim=1.40, attempts="x-aoai-attempts"),
        Setup("Envoy's filters: key, credential", _own(retries=False)),
        Setup("  and a pool of 3 with retries", _own(retries=True),
              attempts="x-envoy-attempt-count"),
    ]


def upstream() -> Json:
    """One listener that serves every request and one that throttles it."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    hint = {"header": {"key": "retry-after-ms", "value": str(PAUSE_MS)}}
    listeners = [_answering("serving", 200, ANSWER, []),
                 _answering("throttled", 429, THROTTLED, [hint])]
    return {"node": {"id": "upstream", "cluster": "upstream"}, "admin": {"address": address},
            "static_resources": {"listeners": [{**one, "address": address} for one in listeners]}}


def _answering(name: str, status: int, body: str, headers: List[Json]) -> Json:
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [{
            "match": {"prefix": "/"},
            "direct_response": {"status": status, "body": {"inline_string": body}},
            "response_headers_to_add": headers,
        }]}]},
        # An answer before the request's last byte would cost the connection.
        "http_filters": [
            _filter("buffer", "Buffer", max_request_bytes=1 << 20),
            _filter("router", "Router"),
        ],
    }
    return {"name": name, "filter_chains": [{"filters": [
        {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}


def _plain(sim: AzureSim, ports: Ports) -> Json:
    def edit(listener: Json) -> None:
        _routes(listener)[0]["route"] = _to("aoai_eastus")
    return _with_backends(bootstrap(None, sim, Options(edit_listener=edit)), ports)


def _gateway(subscriptions: int) -> Callable[[AzureSim, Ports], Json]:
    """The gateway stage alone: every model is on one backend."""
    others = [subscription(f"team-{index}", key=f"key-{index}")
              for index in range(subscriptions - 1)]
    middle = len(others) // 2
    document = config(
        subscriptions=[*others[:middle], subscription("bench", key=KEY), *others[middle:]],
        backends=[backend("eastus")], models=[model("gpt-4o", "eastus")])
    return lambda sim, ports: _with_backends(bootstrap(document, sim), ports)


def _both_stages(sim: AzureSim, ports: Ports) -> Json:
    """Every model is on three backends. `gpt-4o`'s are well, of the others' the first is not."""
    def in_order(name: str, regions: Sequence[str]) -> Json:
        return model(name, *[route(one, priority=rank) for rank, one in enumerate(regions)])
    others = [subscription(f"team-{index}", key=f"key-{index}") for index in range(9)]
    document = config(
        subscriptions=[*others, subscription("bench", key=KEY)],
        backends=[backend(one) for one in sorted({*REGIONS, *HOPPING_REGIONS})],
        models=[in_order("gpt-4o", REGIONS), *(in_order(one, HOPPING_REGIONS) for one in HOPPING)])
    pools = [pool for regions in (REGIONS, HOPPING_REGIONS) for pool in _orders(regions)]
    unique = [list(pool) for pool in dict.fromkeys(map(tuple, pools))]
    return _with_backends(bootstrap(document, sim, Options(pools=unique)), ports)


def _orders(regions: Sequence[str]) -> List[Sequence[str]]:
    """The pools of a model: each region first, then any of the others in the order of priority."""
    return [(first, *some) for first in regions for count in range(len(regions))
            for some in itertools.combinations([one for one in regions if one != first], count)]


def _own(retries: bool) -> Callable[[AzureSim, Ports], Json]:
    """What Envoy brings itself: a key lets a caller in, a fixed credential replaces it, and a 429
    moves the request on to the next member of an aggregate."""
    keys = [{"key": KEY, "client": "bench"},
            *({"key": f"key-{index}", "client": f"team-{index}"} for index in range(9))]

    def edit_listener(listener: Json) -> None:
        manager = _manager(listener)
        manager["http_filters"][:0] = [
            _filter("api_key_auth", "ApiKeyAuth", credentials=keys,
                    key_sources=[{"header": "api-key"}], forwarding={"hide_credentials": True}),
            _filter("credential_injector", "CredentialInjector", overwrite=True, credential={
                "name": "envoy.http.injected_credentials.generic",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.http.injected_credentials."
                             "generic.v3.Generic",
                    "credential": {"name": "token"}},
            }),
        ]
        [route] = _routes(listener)
        if not retries:
            route["route"] = _to("aoai_eastus")
            return
        policy = {**retry_policy(3), "retriable_status_codes": [429], "retry_on":
                  "retriable-status-codes,connect-failure,refused-stream,reset-before-request"}
        del policy["retriable_headers"]
        [host] = manager["route_config"]["virtual_hosts"]
        host["include_attempt_count_in_response"] = True
        host["routes"] = [
            {**route, "match": {"prefix": prefix},
             "route": {**_to(pool_name(regions)), "retry_policy": policy}}
            for prefix, regions in (("/openai/deployments/throttled", HOPPING_REGIONS),
                                    ("/", REGIONS))]

    def edit(result: Json) -> None:
        # Of about the length of a real one.
        result["static_resources"]["secrets"] = [{"name": "token", "generic_secret": {
            "secret": {"inline_string": "Bearer " + "x" * 1500}}}]

    pools = [REGIONS, HOPPING_REGIONS] if retries else []
    options = Options(pools=pools, edit_listener=edit_listener, edit=edit)
    return lambda sim, ports: _with_backends(bootstrap(None, sim, options), ports)


def _with_backends(result: Json, ports: Ports) -> Json:
    found = [cluster(f"aoai_{name}", ports.serving, backend=name) for name in REGIONS]
    found.append(cluster("aoai_throttled", ports.throttled, backend="throttled"))
    # Members before the pools that name them.
    result["static_resources"]["clusters"][:0] = found
    return result


def _to(cluster_name: str) -> Json:
    return {"cluster": cluster_name, "host_rewrite_literal": HOST, "timeout": "0s"}


def _filter(name: str, message: str, **fields: Any) -> Json:
    return {"name": f"envoy.filters.http.{name}",
            "typed_config": {"@type": f"{_FILTERS}.http.{name}.v3.{message}", **fields}}


def _manager(listener: Json) -> Json:
    manager: Json = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def _routes(listener: Json) -> List[Json]:
    [host] = _manager(listener)["route_config"]["virtual_hosts"]
    routes: List[Json] = host["routes"]
    return routes
