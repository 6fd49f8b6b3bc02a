"""What tests of diagnoses and misconfigurations share: the rows of the table, resources by the way in
which requests reach them, and the same response in each form in which it may arrive."""

from __future__ import annotations

import contextlib
import copy
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from azure_sim import Answer, AzureSim, Resource, errors
from e2e import config
from e2e.edits import (CLUSTERS, IN_LISTENER, LISTENERS, OUR_LISTENER, Edit, add, forward_to, only,
                       put, with_trailers)
from e2e.gateway import Gateway
from e2e.single import JSON_TYPE, KEY, RAW_BODY
from e2e.wire import Head, Response, request

Json = Dict[str, Any]
HEADER = "x-aoai-diagnosis"

# Simulated Azure's mistakes, by its names, and what the filter calls them: those of operators, and the
# others. None: nobody's mistake.
OPERATORS: Dict[str, str] = {
    "regional_endpoint": "regional_endpoint",
    "regional_endpoint_namespace": "regional_endpoint",
    "regional_endpoint_subdomain": "regional_endpoint",
    "unknown_subdomain": "unknown_subdomain",
    "token_refused": "token_rejected",
    "role_missing": "role_missing",
    "no_access": "role_missing",
    "wrong_tenant": "wrong_tenant",
    "keys_disabled": "key_authentication_disabled",
    "public_access_disabled": "network_denied",
    "firewall": "network_denied",
    "wrong_key": "azure_key_rejected",
    "deployment_not_found": "deployment_not_found",
}
OTHERS: Dict[str, Optional[str]] = {
    "resource_not_found": "unknown_path",
    "throttled": None,
    "content_filter": None,
}
CALLERS = "unknown_path"

# How requests reach a resource: by its own cluster, by a pool of two, or over HTTP/2.
SINGLE, POOLED, HTTP2 = "single", "pooled", "over-http2"
KINDS = (SINGLE, POOLED, HTTP2)
_PROTOCOL = "typed_extension_protocol_options"


def add_resources(azure: AzureSim) -> None:
    for name in (SINGLE, POOLED, "spare", HTTP2):
        azure.add_resource(name, host=f"contoso-{name}.openai.azure.com",
                           deployments={model_of(kind): "gpt-4o" for kind in KINDS})


def model_of(kind: str) -> str:
    return f"gpt-4o.{kind}"


def document(azure: AzureSim, **more: Any) -> Json:
    """A model for each kind; the pooled one tries its resource first."""
    resources = azure.resources
    return config.config(
        subscriptions=[config.subscription("search", key=KEY, operations=["*"])],
        backends=[config.backend(resource) for resource in resources.values()],
        models=[
            config.model(model_of(SINGLE), resources[SINGLE]),
            config.model(model_of(POOLED), resources[POOLED],
                         config.route(resources["spare"], priority=1)),
            config.model(model_of(HTTP2), resources[HTTP2]),
        ],
        # A throttled backend is asked again in the next test.
        failover={"cooldown": "1s", "longest_cooldown": "1s"},
        **more)


@contextlib.contextmanager
def over_http2(*names: str) -> Iterator[Edit]:
    """An edit: the clusters of these resources speak HTTP/2, each to a listener of the same Envoy that
    passes everything on to the resource; and trailers pass everywhere."""
    with tempfile.TemporaryDirectory(prefix="aoai-h2-") as folder:
        def edit(tree: Json) -> None:
            with_trailers(tree)
            put(f"{CLUSTERS}[aoai_*].{_PROTOCOL}", speaks(
                {"http_protocol_options": {"enable_trailers": True}}))(tree)
            for name in names:
                front, behind = f"{CLUSTERS}[aoai_{name}]", f"behind_{name}"
                pipe = {"pipe": {"path": str(Path(folder) / name)}}
                plain = {**copy.deepcopy(only(tree, front)), "name": behind}
                plain.pop(_PROTOCOL)
                put(f"{front}.{_PROTOCOL}", speaks({"http2_protocol_options": {}}))(tree)
                put(f"{front}.load_assignment.endpoints[*].lb_endpoints[*].endpoint.address",
                    pipe)(tree)
                middle = {**copy.deepcopy(only(tree, OUR_LISTENER)), "name": behind, "address": pipe}
                forward_to(middle, behind)
                # The response's own, as the front's would be.
                put(f"{IN_LISTENER}.server_header_transformation", "PASS_THROUGH")(middle)
                put(f"{IN_LISTENER}.stat_prefix", behind)(middle)
                add(CLUSTERS, plain)(tree)
                add(LISTENERS, middle)(tree)
        yield edit


@contextlib.contextmanager
def called_over_http2(front: str) -> Iterator[Edit]:
    """An edit: one more listener, of this name, that passes everything on over HTTP/2, to the gateway
    at a listener of its own. It takes no response whose body is not as long as the head says."""
    with tempfile.TemporaryDirectory(prefix="aoai-h2-") as folder:
        pipe = {"pipe": {"path": str(Path(folder) / "gateway")}}

        def edit(tree: Json) -> None:
            ours, inner = only(tree, OUR_LISTENER), f"{front}_inner"
            middle = {**copy.deepcopy(ours), "name": front}
            forward_to(middle, inner)
            put(f"{IN_LISTENER}.server_header_transformation", "PASS_THROUGH")(middle)
            endpoint = {"endpoint": {"address": pipe}}
            add(CLUSTERS, {
                "name": inner, "type": "STATIC", _PROTOCOL: speaks({"http2_protocol_options": {}}),
                "load_assignment": {"cluster_name": inner,
                                    "endpoints": [{"lb_endpoints": [endpoint]}]}})(tree)
            add(LISTENERS, {**copy.deepcopy(ours), "name": inner, "address": pipe}, middle)(tree)
        yield edit


def speaks(protocol: Json) -> Json:
    """A cluster's `typed_extension_protocol_options`."""
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {name: {"@type": f"type.googleapis.com/{name}", "explicit_http_config": protocol}}


def call(kind: str, *headers: Tuple[str, str], method: str = "POST") -> bytes:
    """A chat request for the model of this kind; the last header says where it goes without the
    filter, which removes it."""
    target = f"/openai/deployments/{model_of(kind)}/chat/completions?api-version=2024-10-21"
    return request(method, target, [
        ("api-key", KEY), JSON_TYPE, *headers, ("x-aoai-cluster", f"aoai_{kind}")],
        RAW_BODY if method == "POST" else b"")


def exchange(gateway: Gateway, kind: str, *headers: Tuple[str, str]) -> Response:
    """The response to such a request on a connection of its own, so that any worker may get it."""
    with gateway.connect() as connection:
        return connection.exchange(call(kind, *headers))


def theirs(head: Head) -> List[Tuple[str, str]]:
    """The headers of an answer, in order, but for the filter's own and for what Envoy measures."""
    return [(name, "" if name == "x-envoy-upstream-service-time" else value)
            for name, value in head.headers if not name.startswith("x-aoai-")]


def dated(answer: Answer) -> Answer:
    """The answer with every header that would otherwise be another each time."""
    return answer.with_headers([("Date", "Mon, 06 Jul 2026 08:49:37 GMT"),
                                ("Content-Type", "application/json")])


def in_chunks(answer: Answer, size: int = 7) -> Answer:
    """The same answer, chunked, without a length."""
    content = answer.content()
    pieces = [content[at:at + size] for at in range(0, len(content), size)]
    kind = [("Content-Type", answer.content_type())]
    return replace(answer.with_headers(kind), body=b"", chunks=pieces)


def told(resource: Resource, mistake: str = "resource_not_found") -> Answer:
    """A response that tells of a mistake: a caller's, unless it is another."""
    return dated(resource.refusal(mistake))


def forms(answer: Answer) -> List[Answer]:
    """The same response in each form in which it may arrive: with its length, as the other gateways in
    front of Azure write it, and in chunks, of which the second form has one."""
    return [answer, dated(errors.spaced(answer)), in_chunks(answer, 10_000), in_chunks(answer)]


def counted(gateway: Gateway) -> Dict[Tuple[str, str], int]:
    """The counter of diagnoses by backend and diagnosis."""
    name = re.compile(r"wasmcustom\.aoai_diagnoses_total\.backend\.(.+)\.diagnosis\.(.+)")
    found = ((name.fullmatch(stat), value) for stat, value in gateway.envoy.stats().items())
    return {(match[1], match[2]): value for match, value in found if match and value}


def lines(log: str, backend: str, slug: str) -> List[str]:
    """The log's lines that tell of this mistake of this backend."""
    mark = re.compile(rf"\[warning\].* backend {backend} responded \d+, {slug}: ")
    return [line for line in log.splitlines() if mark.search(line)]
