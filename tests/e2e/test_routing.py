"""Where each operation of the data plane goes, as which deployment, and what passes untouched."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest
from websockets.sync.client import connect as websocket

from azure_sim import HANG_LIMIT, Answer, AzureSim, Delivery, Gate, errors
from e2e import config
from e2e.calls import (API_VERSION, JSON, MESSAGES, Call, arrived_at, chat, dated, get, left_clean,
                       refused, send, served, unmetered, v1, warm)
from e2e.gateway import Gateway

ALL, INFERENCE, RESOURCES, MINIS, PAIR = (f"key-{name}" for name in (
    "all", "inference", "resources", "minis", "pair"))
DEPLOYMENT = "gpt-4o-2024-11-20"


def key(value: str) -> Tuple[str, str]:
    return ("api-key", value)


@pytest.fixture(scope="module")
def cloud(azure: AzureSim) -> AzureSim:
    deployments = {"eastus": {DEPLOYMENT: "gpt-4o"}, "sweden": {"mini": "gpt-4o-mini"},
                   "france": {"emb-1": "text-embedding-3-small"}}
    for name, has in deployments.items():
        azure.add_resource(name, host=f"contoso-{name}.openai.azure.com", deployments=has)
    return azure


@pytest.fixture(scope="module")
def gateway(cloud: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    east, sweden, france = (cloud.resources[name] for name in ("eastus", "sweden", "france"))
    to_east = config.route(east, deployment=DEPLOYMENT)
    return warm(start_gateway(config.config(
        subscriptions=[
            config.subscription("all", key=ALL, operations=["*"]),
            config.subscription("inference", key=INFERENCE),
            config.subscription("resources", key=RESOURCES, operations=["resources"]),
            config.subscription("minis", key=MINIS, models=["mini"],
                                operations=["inference", "resources"]),
            config.subscription("pair", key=PAIR, models=["embeddings", "mini"],
                                operations=["*"]),
        ],
        backends=[config.backend(east), config.backend(sweden), config.backend(france)],
        models=[
            config.model("gpt-4o", to_east),
            config.model("mini", sweden),
            config.model("embeddings", config.route(france, deployment="emb-1")),
            config.model("org/mini:1@eu", config.route(sweden, deployment="mini")),
            config.model("weighted", {**to_east, "weight": 3},
                         config.route(sweden, deployment="mini", weight=1),
                         config.route(france, deployment="emb-1", priority=1, weight=1000)),
            config.model("by-priority", config.route(france, deployment="emb-1", priority=7),
                         config.route(sweden, deployment="mini", priority=2),
                         {**to_east, "priority": 3}),
        ],
    )), chat("gpt-4o", key(ALL)))


def form(model: Optional[str], **fields: str) -> Tuple[Tuple[str, str], bytes]:
    """A multipart form with a file: its content type and bytes."""
    parts: Dict[str, str] = {**({} if model is None else {"model": model}), **fields}
    body = "".join(f'--frontier\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
                   for name, value in parts.items())
    body += ('--frontier\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
             "Content-Type: audio/wav\r\n\r\nRIFF\r\n--frontier--\r\n")
    return ("content-type", "multipart/form-data; boundary=frontier"), body.encode()


def content(operation: str, model: Optional[str]) -> Tuple[Tuple[str, str], bytes]:
    """What an operation's body is like: its content type and bytes."""
    if operation in ("audio/transcriptions", "audio/translations"):
        return form(model)
    if operation == "images/edits":
        return form(model, prompt="a cat")
    bodies: Dict[str, Dict[str, Any]] = {
        "chat/completions": {"messages": []}, "completions": {"prompt": "a"},
        "embeddings": {"input": "a"}, "audio/speech": {"input": "a", "voice": "alloy"},
        "images/generations": {"prompt": "a cat"}, "responses": {"input": "a"},
    }
    named = {} if model is None else {"model": model}
    return JSON, json.dumps({**bodies[operation], **named}).encode()


STATELESS = ["chat/completions", "completions", "embeddings", "audio/transcriptions",
             "audio/translations", "audio/speech", "images/generations", "images/edits"]

# What callers ask for: the backend and the deployment.
MODELS = {"gpt-4o": ("eastus", DEPLOYMENT), "mini": ("sweden", "mini"),
          "embeddings": ("france", "emb-1")}


@pytest.mark.parametrize("model, where", MODELS.items(), ids=MODELS.keys())
@pytest.mark.parametrize("operation", STATELESS)
def test_a_dated_operation_goes_to_its_deployment(
        gateway: Gateway, azure: AzureSim, operation: str, model: str, where: Tuple[str, str]
        ) -> None:
    kind, body = content(operation, None)
    response = send(gateway, Call(dated(model, operation), [key(INFERENCE), kind], body))
    seen = arrived_at(azure, where[0])
    assert (seen.method, seen.target) == ("POST", dated(where[1], operation))
    assert unmetered(seen.body) == body
    assert seen.header_values("content-type") == [kind[1]]
    assert (response.status, response.head.values("x-aoai-backend")) == (200, [where[0]])


@pytest.mark.parametrize("model, where", MODELS.items(), ids=MODELS.keys())
@pytest.mark.parametrize("operation", [*STATELESS, "responses"])
def test_a_v1_operation_goes_to_its_deployment(
        gateway: Gateway, azure: AzureSim, operation: str, model: str, where: Tuple[str, str]
        ) -> None:
    kind, body = content(operation, model)
    response = send(gateway, Call(f"/openai/v1/{operation}", [key(INFERENCE), kind], body))
    seen = arrived_at(azure, where[0])
    assert (seen.method, seen.target) == ("POST", f"/openai/v1/{operation}")
    assert seen.body == content(operation, where[1])[1]
    assert seen.header_values("content-length") == [str(len(seen.body))]
    assert seen.header_values("content-type") == [kind[1]]
    assert (response.status, response.head.values("x-aoai-backend")) == (200, [where[0]])


def test_a_dated_response_names_its_model_in_the_body(gateway: Gateway, azure: AzureSim) -> None:
    target = "/openai/responses?api-version=2025-03-01-preview"
    kind, body = content("responses", "gpt-4o")
    assert send(gateway, Call(target, [key(INFERENCE), kind], body)).status == 200
    seen = arrived_at(azure, "eastus")
    assert (seen.target, seen.models) == (target, [DEPLOYMENT])


def test_a_model_with_separators_in_its_name_is_asked_for_in_the_body(
        gateway: Gateway, azure: AzureSim) -> None:
    call = v1(b'{"messages":[],"model":"org\\/mini:1@eu"}', key(INFERENCE))
    assert send(gateway, call).status == 200
    assert arrived_at(azure, "sweden").body == b'{"messages":[],"model":"mini"}'


# Path, headers, and the target that arrives.
REALTIME = {
    "v1": ("/openai/v1/realtime?model=gpt-4o", {"api-key": INFERENCE},
           f"/openai/v1/realtime?model={DEPLOYMENT}"),
    "v1, bearer": ("/openai/v1/realtime?model=gpt-4o", {"Authorization": f"Bearer {INFERENCE}"},
                   f"/openai/v1/realtime?model={DEPLOYMENT}"),
    "v1 from a browser": (f"/openai/v1/realtime?api-key={INFERENCE}&model=gpt-4o&x=%41", {},
                          f"/openai/v1/realtime?model={DEPLOYMENT}&x=%41"),
    "dated": ("/openai/realtime?api-version=2024-10-01-preview&deployment=gpt-4o",
              {"api-key": INFERENCE},
              f"/openai/realtime?api-version=2024-10-01-preview&deployment={DEPLOYMENT}"),
    "dated from a browser": (
        f"/openai/realtime?api-version=2024-10-01-preview&deployment=gpt-4o&api-key={INFERENCE}",
        {}, f"/openai/realtime?api-version=2024-10-01-preview&deployment={DEPLOYMENT}"),
}


@pytest.mark.parametrize("target, headers, arrives", REALTIME.values(), ids=REALTIME.keys())
def test_a_realtime_session_runs_both_ways(gateway: Gateway, azure: AzureSim, target: str,
                                           headers: Dict[str, str], arrives: str) -> None:
    long = "x" * 300_000
    with websocket(f"ws://127.0.0.1:{gateway.port}{target}", additional_headers=headers,
                   proxy=None, open_timeout=HANG_LIMIT, close_timeout=0.1) as session:
        assert json.loads(session.recv(HANG_LIMIT))["session"]["model"] == "gpt-4o"
        for text in ("hello", "\u00e4\u4e16", long):
            session.send(text)
            assert session.recv(HANG_LIMIT) == text
        assert session.response is not None
        assert session.response.headers["x-aoai-backend"] == "eastus"
    seen = arrived_at(azure, "eastus")
    assert (seen.target, seen.websocket_messages) == (arrives, ["hello", "\u00e4\u4e16", long])


# Operations that name no model, by method and path; with what Azure answers.
WITHOUT_A_MODEL: List[Tuple[str, str, bytes, int]] = [
    ("DELETE", "/openai/v1/models/absent", b"", 404),
    ("GET", "/openai/v1/files", b"", 200),
    ("GET", f"/openai/files?{API_VERSION}", b"", 200),
    ("DELETE", "/openai/v1/files/assistant-1", b"", 404),
    ("POST", "/openai/v1/uploads", b'{"purpose":"batch"}', 200),
    ("POST", "/openai/v1/batches", b'{"input_file_id":"f"}', 200),
    ("POST", f"/openai/batches?{API_VERSION}", b'{"input_file_id":"f"}', 200),
    ("POST", "/openai/v1/vector_stores", b'{"model":"secret"}', 200),
    ("POST", "/openai/v1/vector_stores", b"", 200),
    ("POST", "/openai/v1/fine_tuning/jobs", b'{"training_file":"f"}', 200),
    ("POST", "/openai/v1/evals", b"{}", 200),
    ("POST", "/openai/v1/assistants", b'{"name":"x"}', 200),
    ("POST", f"/openai/assistants?{API_VERSION}", b"{}", 200),
    ("POST", f"/openai/threads?{API_VERSION}", b"{}", 200),
    ("GET", f"/openai/threads/thread_1/messages?{API_VERSION}", b"", 404),
    ("GET", "/openai/v1/responses/resp_1", b"", 404),
    ("DELETE", "/openai/v1/responses/resp_1", b"", 404),
    ("POST", "/openai/v1/responses/resp_1/cancel", b"", 404),
    ("GET", "/openai/v1/new/thing?x=%2F&y", b"", 404),
    ("PUT", "/openai/v1/new/thing", b"\x00\xff", 404),
]

def home(subscription: str, *backends: str) -> str:
    """The backend that a subscription is drawn to most, of those that serve a model in its scope."""
    return max(backends, key=lambda one: hashlib.sha256(f"{subscription}\n{one}".encode()).digest())


HOMES = {ALL: home("all", "eastus", "sweden", "france"), MINIS: "sweden",
         PAIR: home("pair", "sweden", "france")}


@pytest.mark.parametrize("subscription, home", HOMES.items(), ids=HOMES.values())
@pytest.mark.parametrize("method, target, body, status", WITHOUT_A_MODEL,
                         ids=[f"{method} {target}" for method, target, _, _ in WITHOUT_A_MODEL])
def test_an_operation_without_a_model_goes_to_the_subscriptions_home(
        gateway: Gateway, azure: AzureSim, subscription: str, home: str, method: str, target: str,
        body: bytes, status: int) -> None:
    response = send(gateway, Call(target, [key(subscription), JSON], body, method=method))
    seen = arrived_at(azure, home)
    assert (seen.method, seen.target, seen.body) == (method, target, body)
    assert (response.status, response.head.values("x-aoai-backend")) == (status, [home])


OPTIONAL_MODELS: Dict[str, Tuple[str, bytes, Optional[bytes], str]] = {
    # Subscription, body, the body that arrives at its first backend, or the reason of a refusal.
    "as it is called there": (ALL, b'{"model":"gpt-4o","name":"x"}',
                              b'{"model":"%s","name":"x"}' % DEPLOYMENT.encode(), ""),
    "not there": (ALL, b'{"model":"mini"}', None, "unknown_model"),
    "out of scope": (MINIS, b'{"model":"gpt-4o"}', None, "model_not_allowed"),
    "nowhere": (ALL, b'{"model":"gpt-5"}', None, "unknown_model"),
    "two": (ALL, b'{"model":"gpt-4o","model":"gpt-4o"}', None, "missing_model"),
    "no JSON": (ALL, b"[]", None, "missing_model"),
}


@pytest.mark.parametrize("subscription, body, arrives, reason", OPTIONAL_MODELS.values(),
                         ids=OPTIONAL_MODELS.keys())
@pytest.mark.parametrize("target", [
    f"/openai/assistants?{API_VERSION}", "/openai/v1/threads/runs", "/openai/v1/fine_tuning/jobs",
    "/openai/v1/videos", "/openai/v1/realtime/calls/rtc_1/accept"])
def test_a_model_of_what_is_stored_is_one_that_its_backend_has(
        gateway: Gateway, azure: AzureSim, target: str, subscription: str, body: bytes,
        arrives: Optional[bytes], reason: str) -> None:
    call = Call(target, [key(subscription), JSON], body)
    if arrives is None:
        refused(gateway, azure, call, reason)
        return
    send(gateway, call)
    assert arrived_at(azure, "eastus").body == arrives


CALLS = {
    "chat, dated": chat("mini"),
    "chat, v1": v1(b'{"messages":[],"model":"mini"}'),
    "creating a response": v1(b'{"input":"a","model":"mini"}', operation="responses"),
    "listing files": get("/openai/v1/files"),
    "reading a response": get("/openai/v1/responses/resp_1"),
    "an operation of tomorrow": get("/openai/v1/new/thing"),
    "a deployment's operation of tomorrow": Call(dated("mini", "new/thing"), [], b"{}"),
    "reading a deployment": get(f"/openai/deployments/mini?{API_VERSION}"),
}
IS_INFERENCE = {name for name in CALLS if name.split()[0] in ("chat,", "creating")}


@pytest.mark.parametrize("subscription, classes", [
    (INFERENCE, {"inference"}), (RESOURCES, {"resources"}), (ALL, {"inference", "resources"}),
    (MINIS, {"inference", "resources"})], ids=["inference", "resources", "star", "both by name"])
@pytest.mark.parametrize("name", CALLS)
def test_a_subscription_may_call_the_operations_that_it_is_granted(
        gateway: Gateway, azure: AzureSim, subscription: str, classes: Any, name: str) -> None:
    call = CALLS[name]
    call = Call(call.target, [key(subscription), *call.headers], call.body, call.method)
    if ("inference" if name in IS_INFERENCE else "resources") in classes:
        assert send(gateway, call).head.header("x-aoai-backend") is not None
        assert sum(len(one.requests) for one in azure.resources.values()) == 1
    else:
        refused(gateway, azure, call, "operation_not_allowed")


SCOPES: Dict[str, Tuple[Call, str]] = {
    "in the path": (chat("gpt-4o", key(MINIS)), "model_not_allowed"),
    "in the path, one of two": (chat("gpt-4o", key(PAIR)), "model_not_allowed"),
    "in the body": (v1(b'{"model":"embeddings"}', key(MINIS)), "model_not_allowed"),
    "in a form": (Call("/openai/v1/audio/transcriptions", [key(MINIS), form("gpt-4o")[0]],
                       form("gpt-4o")[1]), "model_not_allowed"),
    "in the query": (get("/openai/v1/realtime?model=gpt-4o", key(MINIS)), "model_not_allowed"),
    "unknown, and not called as the deployment is": (chat(DEPLOYMENT, key(ALL)), "unknown_model"),
    "unknown in the body": (v1(b'{"model":"emb-1"}', key(ALL)), "unknown_model"),
    "a star is no model": (chat("*", key(ALL)), "unknown_model"),
}


@pytest.mark.parametrize("call, reason", SCOPES.values(), ids=SCOPES.keys())
def test_a_model_out_of_scope_is_refused(gateway: Gateway, azure: AzureSim, call: Call, reason: str
                                         ) -> None:
    refused(gateway, azure, call, reason)


def test_a_refusal_says_which_models_there_are_to_choose_from(gateway: Gateway, azure: AzureSim
                                                              ) -> None:
    message = refused(gateway, azure, chat("gpt-4o", key(PAIR)), "model_not_allowed")
    assert "embeddings, mini." in message
    message = refused(gateway, azure, chat("gpt-5", key(MINIS)), "unknown_model")
    assert "mini" in message and "embeddings" not in message and "gpt" not in message


@pytest.mark.parametrize("call", [
    chat("weighted", key(ALL)), v1(b'{"messages":[],"model":"weighted"}', key(ALL))],
    ids=["model in the path", "model in the body"])
def test_weights_are_exact_on_each_worker(gateway: Gateway, azure: AzureSim, call: Call) -> None:
    """One connection is one worker, which may be anywhere in its round of four."""
    with gateway.connect() as connection:
        answered = [served(connection, call).head.header("x-aoai-backend") for _ in range(200)]
    counts = {"eastus": 150, "sweden": 50}
    assert Counter(answered) == counts
    # No round of four has more of one backend than its weight.
    assert {answered[at:at + 4].count("sweden") for at in range(0, 200, 4)} == {1}
    assert {name: len(one.requests) for name, one in azure.resources.items()} == {
        **counts, "france": 0}
    for name, deployment in (("eastus", DEPLOYMENT), ("sweden", "mini")):
        for seen in azure.resources[name].requests:
            left_clean(azure, seen, name)
            assert seen.models == [deployment] or seen.target == dated(deployment)


def test_the_lowest_priority_number_is_used_alone(gateway: Gateway, azure: AzureSim) -> None:
    with gateway.connect() as connection:
        for _ in range(20):
            served(connection, chat("by-priority", key(ALL)))
    assert {name: len(one.requests) for name, one in azure.resources.items()} == {
        "eastus": 0, "sweden": 20, "france": 0}


SENT = [
    ("user-agent", "AzureOpenAI/Python 1.0"), ("accept", "application/json"),
    ("accept-encoding", "gzip, br"), ("x-ms-client-request-id", "7"), ("openai-beta", "a=v2"),
    ("x-stainless-retry-count", "0"), ("x-stainless-retry-count", "1"), ("extra", "\xff\x80"),
    ("empty", ""), ("cookie", "a=b; c=d"), ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-"
                                                           "b7ad6b7169203331-01"),
    ("x_aoai_cluster", "azure_identity"), ("x-aoa", "1"), ("authorization2", "Bearer x"),
    ("range", "bytes=0-1"), ("if-none-match", '"x"'), ("x-ms-useragent", "  spaced   out  "),
]
ENVOYS = {"x-forwarded-proto"}


@pytest.mark.parametrize("call, also", [
    (chat("mini"), ["content-type", "content-length"]),
    (v1(b'{"messages":[],"model":"mini"}'), ["content-type", "content-length"]),
    (get("/openai/v1/files"), [])], ids=["model in the path", "model in the body", "no model"])
def test_unknown_headers_pass_and_none_is_added(
        gateway: Gateway, azure: AzureSim, call: Call, also: List[str]) -> None:
    send(gateway, Call(call.target, [key(MINIS), *SENT, *call.headers], call.body, call.method))
    seen = arrived_at(azure, "sweden")
    # Usage is read from a response only where it is not compressed.
    is_metered = call.method == "POST"
    assert seen.header_values("accept-encoding") == ["identity" if is_metered else "gzip, br"]
    names = [name for name, _ in SENT if name != "accept-encoding"]
    assert [(name, str(value)) for name, value in seen.headers if name in names] == [
        (name, value.strip()) for name, value in SENT if name in names]
    added = {name for name, _ in seen.headers} - set(names)
    assert added == {"host", "authorization", "accept-encoding", *also, *ENVOYS}


@pytest.mark.parametrize("model", ["gpt-4o", "by-priority"], ids=["one backend", "a pool"])
def test_azure_does_not_learn_who_calls_and_its_request_id_reaches_the_caller(
        gateway: Gateway, azure: AzureSim, model: str) -> None:
    told = [("x-forwarded-for", "203.0.113.7"), ("x-envoy-external-address", "203.0.113.7"),
            ("x-request-id", "11111111-0000-4000-8000-000000000011")]
    response = send(gateway, chat(model, key(ALL), *told))
    [seen] = [request for one in azure.resources.values() for request in one.requests]
    assert [pair for pair in seen.headers if pair[0] in dict(told)] == []
    assert response.head.header("x-request-id") not in (None, told[2][1])


QUERY = "api-version=2024-10-21&&a=%41%2f+&b&=c&%zz=%&d=e=f&d=;/?@:,'"


@pytest.mark.parametrize("target, arrives", [
    (dated("gpt-4o", query=QUERY), dated(DEPLOYMENT, query=QUERY)),
    (f"/openai/v1/files?{QUERY}", f"/openai/v1/files?{QUERY}"),
    ("/openai/v1/files?", "/openai/v1/files?"),
    ("/openai/v1/files/a%20b", "/openai/v1/files/a%20b"),
], ids=["model in the path", "no model", "an empty query", "an encoded segment"])
def test_unknown_query_parameters_pass_byte_for_byte(
        gateway: Gateway, azure: AzureSim, target: str, arrives: str) -> None:
    send(gateway, get(target, key(ALL)))
    assert arrived_at(azure, "eastus").target == arrives


AZURES_HEADERS = [
    ("apim-request-id", "9e1c"), ("x-request-id", "r-1"), ("x-ms-region", "East US"),
    ("x-ms-deployment-name", DEPLOYMENT), ("x-ratelimit-remaining-tokens", "0"),
    ("x-ratelimit-reset-requests", "-1"), ("x-ms-spillover-from-deployment", "ptu"),
    ("azureml-model-session", "d1"), ("set-cookie", "a=b"), ("set-cookie", "c=d"),
    ("strict-transport-security", "max-age=1"), ("x-odd", "\u00e4"), ("www-authenticate", "Bearer"),
]
STATUSES = [200, 201, 202, 206, 207, 301, 302, 304, 400, 401, 403, 404, 405, 408, 409, 410, 413,
            415, 418, 422, 424, 429, 451, 499, 500, 501, 502, 503, 504, 529, 599]


@pytest.mark.parametrize("status", STATUSES)
def test_an_answer_of_azures_passes_untouched(gateway: Gateway, azure: AzureSim, status: int
                                              ) -> None:
    body = b"" if status == 304 else b'{"any": "\xff\x00bytes",\r\n "error":null}'
    azure.resources["eastus"].script.then(Answer(status, AZURES_HEADERS, body))
    response = send(gateway, chat("gpt-4o", key(ALL)))
    assert (response.status, response.body) == (status, body)
    names = {name for name, _ in AZURES_HEADERS}
    assert sorted(pair for pair in response.head.headers if pair[0] in names) == sorted(
        (name, value.encode().decode("latin-1")) for name, value in AZURES_HEADERS)
    assert response.head.values("x-aoai-backend") == ["eastus"]
    assert response.head.values("x-aoai-reason") == []
    assert len(azure.resources["eastus"].requests) == 1  # no attempt was repeated


ERRORS = {
    "a parameter": errors.bad_request("'messages' is a required property", "messages"),
    "another right": errors.error(403, "Forbidden", "This file belongs to another project."),
    "resource not found": errors.RESOURCE_NOT_FOUND,
    "content filtered": errors.CONTENT_FILTERED,
    "throttled": errors.throttled(),
    "throttled, with hints": errors.throttled(
        7, retry_after_ms="6500", retry_after="7", x_ms_retry_after_ms="6500"),
    "throttled, with strange hints": errors.throttled(
        retry_after="-1", retry_after_ms="soon", x_ratelimit_reset_tokens="86400"),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
def test_an_error_that_is_not_the_operators_passes_byte_for_byte(gateway: Gateway, azure: AzureSim, error: Answer
                                                 ) -> None:
    azure.resources["eastus"].script.then(error)
    response = send(gateway, chat("gpt-4o", key(ALL)))
    assert (response.status, response.body) == (error.status, error.content())
    for name in ("retry-after", "retry-after-ms", "x-ms-retry-after-ms",
                 "x-ratelimit-reset-tokens"):
        assert response.head.values(name) == [value for one, value in error.headers if one == name]
    assert response.head.values("x-aoai-backend") == ["eastus"]
    assert response.head.values("x-aoai-reason") == response.head.values("x-should-retry") == []


def test_only_the_gateway_says_which_backend_answered(gateway: Gateway, azure: AzureSim) -> None:
    azure.resources["eastus"].script.then(Answer(200, [("x-aoai-backend", "sweden")], {}))
    response = send(gateway, chat("gpt-4o", key(ALL)))
    assert response.head.values("x-aoai-backend") == ["eastus"]


STREAMS = {
    "model in the path": Call(dated("gpt-4o"), [key(ALL), JSON],
                              MESSAGES[:-1] + b',"stream":true}'),
    "model in the body": v1(MESSAGES[:-1] + b',"stream":true,"model":"gpt-4o"}', key(ALL)),
    "response": v1(b'{"stream":true,"input":"a","model":"gpt-4o"}', key(ALL),
                   operation="responses"),
}


@pytest.mark.parametrize("call", STREAMS.values(), ids=STREAMS.keys())
def test_a_streamed_answer_arrives_event_by_event(gateway: Gateway, azure: AzureSim, call: Call
                                                  ) -> None:
    gate = Gate()
    azure.resources["eastus"].script.then(Delivery(each_chunk=gate))
    with gateway.connect() as connection:
        connection.send(call.raw())
        head = connection.read_head()
        assert (head.status, head.values("x-aoai-backend")) == (200, ["eastus"])
        for _ in range(3):
            gate.release()
            event = connection.read_event()
            assert event is not None and b"data: {" in event.data
        gate.open()
        rest = b"".join(event.data for event in iter(connection.read_event, None))
    assert rest == b"" or b"[DONE]" in rest
