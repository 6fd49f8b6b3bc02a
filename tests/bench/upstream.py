"""The upstream of most sections: an Envoy that answers every request by itself."""

from __future__ import annotations

import json
from typing import Any, Dict, List

Json = Dict[str, Any]
# About what the answer to a short chat request is.
ANSWER = json.dumps({
    "object": "chat.completion", "choices": [{"message": {"content": "x" * 800}}],
    "usage": {"prompt_tokens": 200, "completion_tokens": 150, "total_tokens": 350,
              "prompt_tokens_details": {"cached_tokens": 0},
              "completion_tokens_details": {"reasoning_tokens": 0}}})
THROTTLED = json.dumps({"error": {"code": "429", "message": "Requests have exceeded call rate."}})
# The time that a 429 gives: the next request for the same model meets a 429 again.
RETRY_AFTER_MS = 1
LARGEST_BODY = 32 << 20

_FILTERS = "type.googleapis.com/envoy.extensions.filters"


def upstream() -> Json:
    """A listener that serves every request (`serving`), and one that throttles it (`throttled`)."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    retry_after = {"header": {"key": "retry-after-ms", "value": str(RETRY_AFTER_MS)}}
    listeners = [_answering("serving", 200, ANSWER, []),
                 _answering("throttled", 429, THROTTLED, [retry_after])]
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
        "http_filters": [_filter("buffer", "Buffer", max_request_bytes=LARGEST_BODY),
                         _filter("router", "Router")],
    }
    return {"name": name, "filter_chains": [{"filters": [
        {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}


def _filter(name: str, message: str, **fields: Any) -> Json:
    return {"name": f"envoy.filters.http.{name}",
            "typed_config": {"@type": f"{_FILTERS}.http.{name}.v3.{message}", **fields}}
