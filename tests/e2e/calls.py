"""What tests of requests and answers say again and again: a request as a row of a table has it, the
answers that the filter makes itself, and what must have become of a request that went on."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

from azure_sim import AzureSim, RecordedRequest
from e2e.gateway import Gateway
from e2e.wire import Connection, Response, request

Pairs = Sequence[Tuple[str, str]]

API_VERSION = "api-version=2024-10-21"
AUDIENCE = "https://cognitiveservices.azure.com"
MESSAGES = b'{"messages":[{"role":"user","content":"hi"}]}'
JSON = ("content-type", "application/json")

# The public table: status and code of each reason.
ANSWERS: Dict[str, Tuple[int, str]] = {
    "missing_key": (401, "401"),
    "unknown_key": (401, "401"),
    "conflicting_keys": (401, "401"),
    "inactive_subscription": (401, "401"),
    "model_not_allowed": (403, "PermissionDenied"),
    "operation_not_allowed": (403, "PermissionDenied"),
    "unknown_model": (404, "DeploymentNotFound"),
    "unknown_operation": (404, "404"),
    "missing_model": (400, "400"),
    "unreadable_body": (400, "400"),
    "request_limit_reached": (429, "429"),
    "token_limit_reached": (429, "429"),
    "quota_exhausted": (403, "403"),
    "limits_unavailable": (503, "503"),
    "request_buffer_full": (503, "503"),
    "body_not_delivered": (500, "500"),
    "token_unavailable": (503, "503"),
    "token_refused": (503, "503"),
    "all_backends_throttled": (429, "429"),
    "all_backends_failed": (503, "503"),
    "backend_misconfigured": (502, "502"),
    "backend_failed": (503, "503"),
    "backend_timeout": (504, "504"),
    "unknown_backend": (500, "500"),
}
# Those that say when to come back, and those that official clients must not retry.
_WAITING = ("limits_unavailable", "quota_exhausted", "request_limit_reached",
            "token_limit_reached", "token_unavailable", "all_backends_throttled", "all_backends_failed")
_FINAL = ("token_refused", "backend_misconfigured", "quota_exhausted")


_ASKED_USAGE = b',"stream_options":{"include_usage":true}'
# How much longer a chat's body becomes whose length has to be told before it was read.
RESERVE = len(_ASKED_USAGE)


def unmetered(body: bytes) -> bytes:
    """A body that has arrived, without what metering has added to it: that a stream is to tell its
    usage, or white space in the place of that."""
    return body.rstrip(b" ").replace(_ASKED_USAGE, b"")


@dataclass(frozen=True)
class Call:
    """A request. Target and header values are written in Latin-1, so that any byte can be said."""

    target: str
    headers: Pairs = ()
    body: bytes = b""
    method: str = "POST"
    host: str = "gateway.test"

    def at(self, host: str) -> "Call":
        """The same for another host."""
        return replace(self, host=host)

    def raw(self) -> bytes:
        """Its bytes, with a Content-Length where it has a body."""
        return request(self.method, self.target, self.headers, self.body, host=self.host)


def dated(model: str, operation: str = "chat/completions", query: str = API_VERSION) -> str:
    """A target that names its model in the path."""
    return f"/openai/deployments/{model}/{operation}?{query}"


def chat(model: str, *headers: Tuple[str, str], query: str = API_VERSION) -> Call:
    """A chat completion whose URL names the model."""
    return Call(dated(model, query=query), [*headers, JSON], MESSAGES)


def v1(body: bytes, *headers: Tuple[str, str], operation: str = "chat/completions") -> Call:
    """A v1 request with a JSON body, which names the model."""
    return Call(f"/openai/v1/{operation}", [*headers, JSON], body)


def get(target: str, *headers: Tuple[str, str]) -> Call:
    return Call(target, headers, method="GET")


def chunked(*pieces: bytes, trailers: Pairs = ()) -> List[bytes]:
    """A chunked body: one chunk for each piece that is not empty, then the last one."""
    chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece]
    end = "".join(f"{name}: {value}\r\n" for name, value in trailers).encode("latin-1")
    return [*chunks, b"0\r\n" + end + b"\r\n"]


def send(gateway: Gateway, call: Call) -> Response:
    """The response to a request on a connection of its own."""
    with gateway.connect() as connection:
        return connection.exchange(call.raw())


def served(connection: Connection, call: Call) -> Response:
    """The response to a request that must be a 200."""
    response = connection.exchange(call.raw())
    assert response.status == 200, response
    return response


def goes_on(gateway: Gateway, connection: Connection, response: Response, good: Call) -> None:
    """After this answer a good request is served: on the same connection, unless Envoy said that it
    will close that one. It does so after a 400, and in no other case."""
    closing = response.head.values("connection") == ["close"]
    assert closing == (response.status == 400), response.head
    if not closing:
        served(connection, good)
        return
    with gateway.connect() as another:
        served(another, good)


def at_host(gateway: Gateway, call: Call, host: str) -> Response:
    """What a call gets at another host."""
    return send(gateway, call.at(host))


def warm(gateway: Gateway, call: Call) -> Gateway:
    """The gateway, once it has served a request and so has its token."""
    with gateway.connect() as connection:
        served(connection, call)
    return gateway


def own_answer(response: Response, reason: str, *, hidden: Sequence[str] = (),
               backend: Optional[str] = None, diagnosis: Optional[str] = None,
               waits: Optional[bool] = None) -> str:
    """Checks a local reply against the public table, and that it shows none of what is `hidden`. It
    names the `backend` that was asked last, and the `diagnosis` that is its reason; `waits` is whether
    it says when to come back, where the reason alone does not tell. Returns its message."""
    status, code = ANSWERS[reason]
    head = response.head
    assert (head.status, head.values("x-aoai-reason")) == (status, [reason]), response
    assert head.values("content-type") == ["application/json"]
    assert head.values("content-length") == [str(len(response.body))]
    found: Dict[str, Any] = json.loads(response.body)
    message = found["error"].pop("message")
    assert found == {"error": {"code": code, "type": reason, "param": None}}
    assert isinstance(message, str) and message.strip()
    assert head.values("x-should-retry") == (["false"] if reason in _FINAL else [])
    assert head.values("x-aoai-backend") == ([] if backend is None else [backend])
    assert head.values("x-aoai-diagnosis") == ([] if diagnosis is None else [diagnosis])
    expected = reason in _WAITING if waits is None else waits
    assert [len(head.values(name)) for name in ("retry-after", "retry-after-ms")] == [expected] * 2
    shown = response.body.decode("latin-1") + repr(head.headers)
    assert not [index for index, secret in enumerate(hidden) if secret in shown], "a secret shows"
    return message


def refused(gateway: Gateway, azure: AzureSim, call: Call, reason: str, *,
            hidden: Sequence[str] = ()) -> str:
    """A request that the filter answers itself, of which nothing arrives anywhere."""
    message = own_answer(send(gateway, call), reason, hidden=hidden)
    nothing_arrived(azure)
    return message


def nothing_arrived(azure: AzureSim) -> None:
    """No backend got anything, and nobody asked the identity endpoint."""
    arrived = {name: one.requests for name, one in azure.resources.items() if one.requests}
    assert (arrived, azure.identity.requests) == ({}, [])


def arrived_at(azure: AzureSim, name: str) -> RecordedRequest:
    """The only request that arrived anywhere: it is here, complete, and as `left_clean` says."""
    counts = {other: len(one.requests) for other, one in azure.resources.items() if one.requests}
    assert counts == {name: 1}
    assert azure.identity.requests == []
    [seen] = azure.resources[name].requests
    assert seen.complete
    left_clean(azure, seen, name)
    return seen


def left_clean(azure: AzureSim, seen: RecordedRequest, name: str) -> None:
    """What every request to a backend is like: to its host, as the proxy and nobody else, without a
    key anywhere and without any of the filter's own headers."""
    assert seen.header_values("host") == [azure.resources[name].host]
    assert [one for one, _ in seen.headers if one.startswith("x-aoai-")] == []
    assert [one for one, _ in seen.headers if one in ("api-key", "ocp-apim-subscription-key", "x-api-key")] == []
    assert [one for one, _ in seen.query if one.lower() in ("api-key", "subscription-key")] == []
    assert len(seen.header_values("authorization")) == 1
    machine = azure.identity.system_assigned
    assert seen.token is not None and machine is not None
    assert (seen.token.aud, seen.token.oid) == (AUDIENCE, machine.object_id)
