"""Pools: an aggregate cluster per order of backends, with the backend stage as its upstream filter.

Source of the shapes: Envoy's v3 API reference, and the facts measured about pools and retries: the
upstream filters of the pool run, not its members'; `previous_priorities` moves each retry on.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence

Json = Dict[str, Any]
RETRY_HEADER = "x-aoai-retry"
# With the TLS handshake, by a simulation that has little of a busy machine.
CONNECT_TIMEOUT = "60s"
_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def pool_name(backends: Sequence[str]) -> str:
    """`aoai/` and the backends in the order in which they are tried."""
    return "aoai/" + ">".join(backends)


def pool_cluster(backends: Sequence[str], backend_stage: Optional[Json]) -> Json:
    """The pool over the backends' default clusters. Without a stage attempts go on unchanged."""
    codec = {"name": "envoy.filters.http.upstream_codec", "typed_config": {
        "@type": f"{_EXTENSIONS}.filters.http.upstream_codec.v3.UpstreamCodec"}}
    return {
        "name": pool_name(backends),
        "connect_timeout": CONNECT_TIMEOUT,
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {"name": "envoy.clusters.aggregate", "typed_config": {
            "@type": f"{_EXTENSIONS}.clusters.aggregate.v3.ClusterConfig",
            "clusters": [f"aoai_{name}" for name in backends],
        }},
        "typed_extension_protocol_options": {_PROTOCOL_OPTIONS: {
            "@type": f"type.googleapis.com/{_PROTOCOL_OPTIONS}",
            "explicit_http_config": {"http_protocol_options": {}},
            "http_filters": [*([] if backend_stage is None else [backend_stage]), codec],
        }},
    }


def retry_policy(longest: int) -> Json:
    """Each retry goes to the pool's next member; answers are retried only where the backend stage
    marked them with the retry header."""
    return {
        "retry_on": "retriable-headers,connect-failure,refused-stream,reset-before-request",
        "retriable_headers": [{"name": RETRY_HEADER, "present_match": True}],
        "num_retries": max(longest - 1, 0),
        "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.002s"},
        "retry_priority": {"name": "envoy.retry_priorities.previous_priorities", "typed_config": {
            "@type": f"{_EXTENSIONS}.retry.priority.previous_priorities.v3."
                     "PreviousPrioritiesConfig",
            "update_frequency": 1,
        }},
    }
