"""Envoy configurations: the listener with the filter in front of simulated Azure's clusters.

Source of the shapes: Envoy's v3 API reference. `allow_on_headers_stop_iteration` is a wrapped
boolean of `envoy.extensions.wasm.v3.PluginConfig`, which JSON writes as a plain one.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from azure_sim import AzureSim, Resource
from e2e.pools import CONNECT_TIMEOUT, pool_cluster, retry_policy

Json = Dict[str, Any]
CLUSTER_HEADER = "x-aoai-cluster"
# Connections that may wait to be accepted: as many as a test makes at once, and more.
BACKLOG = 1024
LISTENER = "ingress"
_HTTP = "type.googleapis.com/envoy.extensions.filters"


@dataclass(frozen=True)
class Options:
    """How the listener is set up, apart from the plugin's configuration.

    * `as_struct`: hand the configuration over as a protobuf Struct, not as JSON text.
    * `stop_iteration`: set `allow_on_headers_stop_iteration`; off, the field is absent.
    * `buffer_limit`: bytes that Envoy buffers of a body; None keeps Envoy's default.
    * `pools`: backends in the order in which they are tried, one pool for each; the route retries.
    * `lds`: the listener comes from a file in this folder, and can be replaced while Envoy runs.
    * `edit_listener`: changes the finished listener, wherever it comes from.
    * `edit`: changes the finished bootstrap.
    """

    as_struct: bool = False
    stop_iteration: bool = True
    buffer_limit: Optional[int] = None
    stream_idle_timeout: str = "600s"
    failure_policy: str = "FAIL_RELOAD"
    pools: Sequence[Sequence[str]] = ()
    lds: Optional[Path] = None
    edit_listener: Optional[Callable[[Json], None]] = None
    edit: Optional[Callable[[Json], None]] = None


def wasm_module() -> str:
    """The module under test, from the environment variable AOAI_WASM."""
    path = os.environ.get("AOAI_WASM", "")
    if not Path(path).is_file():
        raise RuntimeError("AOAI_WASM must name the built module (make wasm)")
    return str(Path(path).resolve())


def bootstrap(config: Union[Json, str, None], sim: AzureSim, options: Options = Options()) -> Json:
    """A whole bootstrap. Without a configuration there is no filter, and the client's header names
    the cluster."""
    result: Json = {
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": _address(0)},
        "static_resources": {
            "clusters": [
                cluster("azure_identity", sim.identity.port),
                *(resource_cluster(name, resource, sim)
                  for name, resource in _named(config, sim).items()),
                *(pool_cluster(pool, None if config is None else
                               wasm_filter(config, options, root_id="backend"))
                  for pool in options.pools),
            ],
        },
    }
    if options.lds is None:
        result["static_resources"]["listeners"] = [listener(config, options)]
    else:
        source = {"path": str(options.lds / "lds.json"),
                  "watched_directory": {"path": str(options.lds)}}
        result["dynamic_resources"] = {"lds_config": {
            "resource_api_version": "V3", "path_config_source": source}}
    if options.edit is not None:
        options.edit(result)
    return result


def listener(config: Union[Json, str, None], options: Options = Options()) -> Json:
    """The listener alone: HTTP connection manager, filter, router, one route by cluster header."""
    router = {"name": "envoy.filters.http.router",
              "typed_config": {"@type": f"{_HTTP}.http.router.v3.Router"}}
    route: Json = {"cluster_header": CLUSTER_HEADER, "timeout": "0s"}
    if options.pools:
        route["retry_policy"] = retry_policy(max(len(pool) for pool in options.pools))
    manager = {
        "@type": f"{_HTTP}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "codec_type": "AUTO",
        "stream_idle_timeout": options.stream_idle_timeout,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"name": "aoai", "virtual_hosts": [{
            "name": "aoai", "domains": ["*"], "routes": [{
                "match": {"prefix": "/"},
                "route": route,
                "request_headers_to_remove": [CLUSTER_HEADER],
            }],
        }]},
        "http_filters": [*([] if config is None else [wasm_filter(config, options)]), router],
    }
    result: Json = {
        "name": LISTENER,
        "address": _address(0),
        "tcp_backlog_size": BACKLOG,
        "filter_chains": [{"filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
        ]}],
    }
    if options.buffer_limit is not None:
        result["per_connection_buffer_limit_bytes"] = options.buffer_limit
    if options.edit_listener is not None:
        options.edit_listener(result)
    return result


def wasm_filter(config: Union[Json, str], options: Options = Options(), root_id: str = "gateway"
                ) -> Json:
    """The module as an HTTP filter. Text is passed on as it is, however wrong."""
    plugin: Json = {
        "name": "aoai",
        "root_id": root_id,
        "failure_policy": options.failure_policy,
        "vm_config": {"vm_id": "aoai", "runtime": "envoy.wasm.runtime.v8",
                      "code": {"local": {"filename": wasm_module()}}},
        "configuration": _configuration(config, options.as_struct),
    }
    if options.stop_iteration:
        plugin["allow_on_headers_stop_iteration"] = True
    return {"name": "envoy.filters.http.wasm",
            "typed_config": {"@type": f"{_HTTP}.http.wasm.v3.Wasm", "config": plugin}}


def resource_cluster(name: str, resource: Resource, sim: AzureSim) -> Json:
    """The cluster of a simulated resource, with SNI and validation when the resource speaks TLS."""
    result = cluster(name, resource.port, backend=resource.name)
    if resource.tls:
        result["transport_socket"] = tls(resource.host, sim)
    return result


def tls(host: str, sim: AzureSim) -> Json:
    """A cluster's `transport_socket`: TLS to this host, whose certificate must be of simulated
    Azure's authority and in its name."""
    name_match = {"san_type": "DNS", "matcher": {"exact": host}}
    return {"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
                 "UpstreamTlsContext",
        "sni": host,
        "common_tls_context": {"validation_context": {
            "trusted_ca": {"filename": str(sim.ca_pem)},
            "match_typed_subject_alt_names": [name_match],
        }},
    }}


def cluster(name: str, port: int, backend: Optional[str] = None) -> Json:
    """A cluster with one endpoint on this machine, which says which backend it is."""
    endpoint: Json = {"endpoint": {"address": _address(port)}}
    if backend is not None:
        endpoint["metadata"] = {"filter_metadata": {"aoai": {"backend": backend}}}
    return {"name": name, "type": "STATIC", "connect_timeout": CONNECT_TIMEOUT,
            "load_assignment": {"cluster_name": name,
                                "endpoints": [{"lb_endpoints": [endpoint]}]}}


def _named(config: Union[Json, str, None], sim: AzureSim) -> Dict[str, Resource]:
    """Every resource under its default cluster name, and under the one that the configuration gives
    it."""
    named = {f"aoai_{name}": resource for name, resource in sim.resources.items()}
    backends: List[Any] = config.get("backends", []) if isinstance(config, dict) else []
    for one in backends:
        if isinstance(one, dict) and one.get("name") in sim.resources and "cluster" in one:
            named[one["cluster"]] = sim.resources[one["name"]]
    return named


def _configuration(config: Union[Json, str], as_struct: bool) -> Json:
    if as_struct and isinstance(config, dict):
        return {"@type": "type.googleapis.com/google.protobuf.Struct", "value": config}
    text = config if isinstance(config, str) else json.dumps(config)
    return {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text}


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
