"""Every local reply, and the connection after it: of requests that are not forwarded, and in place of
what Envoy itself says of a backend."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, Optional, Tuple, Union

import pytest

from azure_sim import HANG, RESET, Answer, AzureSim, Delivery
from e2e import config
from e2e.calls import (API_VERSION, JSON, MESSAGES, Call, arrived_at, chat, dated, get, goes_on,
                       nothing_arrived, own_answer, send, served, unmetered, v1, warm)
from e2e.diagnosed import called_over_http2
from e2e.edits import (CLUSTERS, IN_LISTENER, LISTENERS, MANAGER, bodies_held_back, put, remove)
from e2e.gateway import Gateway
from e2e.identity import FETCHES, closed_gate
from e2e.wire import Connection, Head

KEY, SUSPENDED, EARLY, LATE = "key-of-search", "key-suspended", "key-early", "key-late"
FULL = "key-with-all-grants"
KEYS = (KEY, SUSPENDED, EARLY, LATE, FULL, "not-a-key-of-anybody")
TEAM = ("api-key", KEY)
FILES = get("/openai/v1/files", ("api-key", FULL))
CONTENT = b'{"model":"gpt-4o","messages":[]}'


def document(azure: AzureSim, **more: Any) -> Dict[str, Any]:
    east = azure.resources["eastus"]
    return config.config(
        subscriptions=[
            config.subscription("search", key=KEY, models=["gpt-4o"]),
            config.subscription("operators", key=FULL, models=["gpt-4o"], operations=["*"]),
            config.subscription("old", key=SUSPENDED, state="suspended"),
            config.subscription("next-year", key=EARLY, not_before="2999-01-01T00:00:00Z"),
            config.subscription("last-year", key=LATE, expires_at="2001-01-01T00:00:00Z"),
        ],
        backends=[config.backend(east)],
        models=[config.model("gpt-4o", east), config.model("secret", east)],
        **more,
    )


def with_resource(azure: AzureSim) -> AzureSim:
    azure.add_resource("eastus", host="contoso-eastus.openai.azure.com",
                       deployments={"gpt-4o": "gpt-4o", "secret": "secret"})
    return azure


@pytest.fixture(scope="module")
def cloud(azure: AzureSim) -> AzureSim:
    return with_resource(azure)


@pytest.fixture(scope="module")
def gateway(cloud: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    return warm(start_gateway(document(cloud)), chat("gpt-4o", TEAM))


ROWS = {
    "no key": (chat("gpt-4o"), "missing_key"),
    "no key, body-named": (v1(CONTENT), "missing_key"),
    "no key, no model": (get("/openai/v1/models"), "missing_key"),
    "no key, outside the data plane": (get("/"), "missing_key"),
    "empty key": (chat("gpt-4o", ("api-key", "")), "missing_key"),
    "basic authentication": (chat("gpt-4o", ("authorization", "Basic a2V5")), "missing_key"),
    "unknown key": (chat("gpt-4o", ("api-key", KEYS[-1])), "unknown_key"),
    "unknown key, body-named": (v1(CONTENT, ("api-key", KEYS[-1])), "unknown_key"),
    "unknown key in the query": (
        chat("gpt-4o", query=f"{API_VERSION}&api-key={KEYS[-1]}"), "unknown_key"),
    "two different keys": (
        chat("gpt-4o", TEAM, ("authorization", f"Bearer {KEYS[-1]}")), "conflicting_keys"),
    "a key header twice": (chat("gpt-4o", TEAM, TEAM), "conflicting_keys"),
    "suspended": (chat("gpt-4o", ("api-key", SUSPENDED)), "inactive_subscription"),
    "not yet valid": (chat("gpt-4o", ("api-key", EARLY)), "inactive_subscription"),
    "expired": (chat("gpt-4o", ("api-key", LATE)), "inactive_subscription"),
    "expired, body-named": (v1(CONTENT, ("api-key", LATE)), "inactive_subscription"),
    "expired, outside the data plane": (get("/", ("api-key", LATE)), "inactive_subscription"),
    "model out of scope in the path": (chat("secret", TEAM), "model_not_allowed"),
    "model out of scope in the query": (
        get("/openai/v1/realtime?model=secret", TEAM), "model_not_allowed"),
    "model out of scope in the body": (
        v1(b'{"model":"secret","messages":[]}', TEAM), "model_not_allowed"),
    "uploading a file": (Call("/openai/v1/files", [TEAM], b"x"), "operation_not_allowed"),
    "reading a response": (get("/openai/v1/responses/resp_1", TEAM), "operation_not_allowed"),
    "an operation of tomorrow": (v1(b"{}", TEAM, operation="new/thing"), "operation_not_allowed"),
    "unknown model in the path": (chat("gpt-5", TEAM), "unknown_model"),
    "unknown model in the query": (
        get("/openai/realtime?deployment=gpt-5&" + API_VERSION, TEAM), "unknown_model"),
    "unknown model in the body": (v1(b'{"model":"gpt-5"}', TEAM), "unknown_model"),
    "the root": (get("/", TEAM), "unknown_operation"),
    "the OpenAI path without /openai": (
        Call("/v1/chat/completions", [TEAM, JSON], CONTENT), "unknown_operation"),
    "the identity endpoint's path": (
        get("/metadata/identity/oauth2/token", TEAM), "unknown_operation"),
    "a dot segment": (
        Call(dated("x/../gpt-4o"), [TEAM, JSON], MESSAGES), "unknown_operation"),
    "no body": (Call("/openai/v1/chat/completions", [TEAM, JSON]), "missing_model"),
    "a body without a model": (v1(MESSAGES, TEAM), "missing_model"),
    "a body with two models": (v1(b'{"model":"gpt-4o","model":"gpt-4o"}', TEAM), "missing_model"),
    "a body that is no JSON": (v1(b"model=gpt-4o", TEAM), "missing_model"),
    "realtime without a model": (get("/openai/v1/realtime", TEAM), "missing_model"),
}


@pytest.mark.parametrize("call, reason", ROWS.values(), ids=ROWS.keys())
def test_an_answer_is_that_of_the_table_and_the_connection_goes_on(
        gateway: Gateway, azure: AzureSim, call: Call, reason: str) -> None:
    with gateway.connect() as connection:
        response = connection.exchange(call.raw())
        own_answer(response, reason, hidden=KEYS)
        nothing_arrived(azure)
        goes_on(gateway, connection, response, chat("gpt-4o", TEAM))
    arrived_at(azure, "eastus")


LARGE = b'"messages":[{"role":"user","content":"' + b"x" * (6 << 20) + b'"}]}'
LARGE_BODIES = {
    "at its head": (v1(b'{"model":"gpt-4o",' + LARGE, ("api-key", KEYS[-1])), "unknown_key"),
    "at its body's beginning": (v1(b'{"model":"secret",' + LARGE, TEAM), "model_not_allowed"),
    "without the model": (v1(b"{" + LARGE, TEAM), "missing_model"),
}


@pytest.mark.parametrize("call, reason", LARGE_BODIES.values(), ids=LARGE_BODIES.keys())
def test_a_client_that_sends_a_large_body_before_it_reads_gets_the_answer(
        gateway: Gateway, azure: AzureSim, call: Call, reason: str) -> None:
    """More than the system keeps of what nobody reads. Asked to wait for a 100, a client does not get
    the answer sooner: Envoy asks for the body before the filter sees the request."""
    for headers in ((), (("expect", "100-continue"),)):
        expecting = Call(call.target, [*call.headers, *headers], call.body)
        with gateway.connect() as connection:
            response = connection.exchange(expecting.raw())
            own_answer(response, reason, hidden=KEYS)
            nothing_arrived(azure)
            goes_on(gateway, connection, response, chat("gpt-4o", TEAM))
        azure.reset()


MESSAGES_THAT_NAME = {
    "when a subscription begins": (EARLY, "next-year is not valid before 2999-01-01T00:00:00Z"),
    "when a subscription ended": (LATE, "last-year expired at 2001-01-01T00:00:00Z"),
    "who is suspended": (SUSPENDED, "old is suspended"),
}


@pytest.mark.parametrize("key, text", MESSAGES_THAT_NAME.values(), ids=MESSAGES_THAT_NAME.keys())
def test_the_message_names(gateway: Gateway, key: str, text: str) -> None:
    with gateway.connect() as connection:
        response = connection.exchange(chat("gpt-4o", ("api-key", key)).raw())
    assert text in own_answer(response, "inactive_subscription", hidden=KEYS)


@pytest.fixture(scope="module")
def held_back(cloud: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    """Without `allow_on_headers_stop_iteration` Envoy keeps bodies from a filter that waits."""
    return warm(start_gateway(document(cloud), edits=[bodies_held_back]), chat("gpt-4o", TEAM))


def test_a_body_that_comes_long_after_its_head_is_served(
        gateway: Gateway, held_back: Gateway, azure: AzureSim) -> None:
    """Longer than it takes to find that Envoy holds a body back: another gateway finds it twice.
    Two clients share the wait: one that has sent its head alone, and one that has sent some of its
    body without the model."""
    call = v1(b'{"messages":[],"model":"gpt-4o"}', TEAM)
    raw = call.raw()
    behind_head = len(raw) - len(call.body)
    with gateway.connect() as head_only, gateway.connect() as some_body:
        head_only.send(raw[:behind_head])
        some_body.send(raw[:behind_head + 10])
        for _ in range(2):
            own_answer(send(held_back, call), "body_not_delivered")
        assert head_only.silent_for(0.01) and some_body.silent_for(0.01)
        head_only.send(raw[behind_head:])
        assert head_only.read_response().status == 200
        some_body.send(raw[behind_head + 10:])
        assert some_body.read_response().status == 200
    assert [one.body for one in azure.resources["eastus"].requests] == [call.body] * 2


def test_a_body_that_envoy_holds_back_is_answered_and_the_connection_goes_on(
        held_back: Gateway, azure: AzureSim) -> None:
    with held_back.connect() as connection:
        response = connection.exchange(v1(CONTENT, TEAM).raw())
        message = own_answer(response, "body_not_delivered", hidden=KEYS)
        assert "allow_on_headers_stop_iteration" in message
        nothing_arrived(azure)
        served(connection, chat("gpt-4o", TEAM))
    arrived_at(azure, "eastus")


def test_where_envoy_holds_bodies_back_a_refused_request_is_answered_all_the_same(
        held_back: Gateway, azure: AzureSim) -> None:
    with held_back.connect() as connection:
        response = connection.exchange(v1(CONTENT, ("api-key", KEYS[-1])).raw())
        own_answer(response, "unknown_key", hidden=KEYS)
        nothing_arrived(azure)
        goes_on(held_back, connection, response, chat("gpt-4o", TEAM))


SERVED_WITHOUT_A_BODY = {
    "model in the path": chat("gpt-4o", TEAM),
    "no model": FILES,
}


@pytest.mark.parametrize("call", SERVED_WITHOUT_A_BODY.values(), ids=SERVED_WITHOUT_A_BODY.keys())
def test_where_envoy_holds_bodies_back_other_requests_are_served(
        held_back: Gateway, azure: AzureSim, call: Call) -> None:
    with held_back.connect() as connection:
        served(connection, call)
    assert unmetered(arrived_at(azure, "eastus").body) == call.body


def test_where_envoy_holds_bodies_back_a_missing_one_is_still_a_missing_model(
        held_back: Gateway) -> None:
    with held_back.connect() as connection:
        own_answer(connection.exchange(v1(b"", TEAM).raw()), "missing_model", hidden=KEYS)


IDENTITY_NOT_FOUND = Answer(400, body={
    "error": "invalid_request", "error_description": "Identity not found"})

TOKENS = {
    "identity endpoint fails": (Answer(500, body={"error": "unknown"}), "token_unavailable"),
    "identity endpoint does not answer": (HANG, "token_unavailable"),
    "identity not found": (IDENTITY_NOT_FOUND, "token_refused"),
}


@pytest.mark.parametrize("identity, reason", TOKENS.values(), ids=TOKENS.keys())
def test_without_a_token_nothing_leaves_and_the_answer_says_when_to_come_back(
        workers: int, identity: Union[Answer, Delivery], reason: str) -> None:
    with AzureSim() as sim:
        sim.identity.script.always(identity)
        with_resource(sim)
        with Gateway(document(sim, token_wait="300ms"), sim, workers=workers) as gateway:
            sim.identity.wait_for_requests(1)
            if reason == "token_refused":
                gateway.envoy.wait_for_stat(FETCHES + "refused")
            # Nothing but `token_wait` ends the wait for an endpoint that does not answer.
            for call in (chat("gpt-4o", TEAM), v1(CONTENT, TEAM), FILES):
                response = send(gateway, call)
                own_answer(response, reason, hidden=KEYS)
                if reason == "token_unavailable":
                    assert_comes_back_within(response.head, 75)
            # Of one that stalls, Envoy holds some of the body when it is refused.
            with gateway.connect() as connection:
                connection.send(chat("gpt-4o", TEAM).raw()[:-1])
                own_answer(connection.read_response(), reason, hidden=KEYS)
            assert sim.resources["eastus"].requests == []


def test_an_answer_for_want_of_a_token_leaves_the_connection_usable(workers: int) -> None:
    with AzureSim() as sim:
        gate = closed_gate(sim)
        with_resource(sim)
        with Gateway(document(sim, token_wait="500ms"), sim, workers=workers) as gateway:
            with gateway.connect() as connection:
                own_answer(connection.exchange(FILES.raw()), "token_unavailable", hidden=KEYS)
                gate.open()
                gateway.envoy.wait_for_stat(FETCHES + "success")
                served(connection, FILES)


def assert_comes_back_within(head: Head, most: int) -> None:
    seconds, milliseconds = (int(head.header(name) or "") for name in
                             ("retry-after", "retry-after-ms"))
    assert 1 <= seconds <= most
    assert seconds == -(-milliseconds // 1000)


# In place of Envoy's own

CALLED_BY_HTTP2 = "called-by-http2"
IN_PLACE: Dict[str, Tuple[str, Optional[Delivery], str, Optional[str]]] = {
    "a connection that is refused": ("dead", None, "backend_failed", "dead"),
    "a connection that is reset": ("gpt-4o", RESET, "backend_failed", "eastus"),
    "a circuit breaker's limit": ("full", None, "backend_failed", "full"),
    "no response in time": ("gpt-4o", HANG, "backend_timeout", "eastus"),
    "a cluster that is missing": ("missing", None, "unknown_backend", None),
    "a pool that is missing": ("pooled", None, "unknown_backend", None),
}


@pytest.fixture(scope="module")
def in_trouble(azure: AzureSim, cloud: AzureSim, start_gateway: Callable[..., Gateway]
               ) -> Iterator[Gateway]:
    names = ("dead", "full", "missing")
    for name in names:
        azure.add_resource(name, host=f"contoso-{name}.openai.azure.com", deployments={name: name},
                           refuses_connections=name == "dead")
    found = document(cloud)
    found["subscriptions"][0]["models"] = ["*"]
    found["backends"] += [config.backend(azure.resources[name]) for name in names]
    found["models"] += [*(config.model(name, name) for name in names),
                        config.model("pooled", "missing", "eastus")]
    front = f"{LISTENERS}[{CALLED_BY_HTTP2}].{IN_LISTENER}"
    idle, full = "stream_idle_timeout", f"{CLUSTERS}[aoai_full].circuit_breakers.thresholds[*]"
    with called_over_http2(CALLED_BY_HTTP2) as another:
        yield warm(start_gateway(found, edits=[
            put(f"{full}.max_pending_requests", 0), put(f"{MANAGER}.{idle}", "1s"), another,
            put(f"{front}.{idle}", "60s"), remove(f"{CLUSTERS}[aoai_missing]"),
            remove(f"{CLUSTERS}[aoai/*]")]), chat("gpt-4o", TEAM))


@pytest.mark.parametrize("listener", ["aoai", CALLED_BY_HTTP2], ids=["http1", "http2"])
@pytest.mark.parametrize("model, step, reason, backend", IN_PLACE.values(), ids=IN_PLACE.keys())
def test_what_envoy_says_of_a_backend_is_said_in_a_local_reply(
        in_trouble: Gateway, azure: AzureSim, model: str, step: Optional[Delivery], reason: str,
        backend: Optional[str], listener: str) -> None:
    if step is not None:
        azure.resources["eastus"].script.then(step)
    # Without a body, so that Envoy goes on with the connection however soon it replies.
    call = Call(dated(model), [TEAM])
    with Connection(in_trouble.envoy.port(listener)) as connection:
        response = connection.exchange(call.raw())
        own_answer(response, reason, hidden=KEYS, backend=backend, waits=model == "full")
        goes_on(in_trouble, connection, response, chat("gpt-4o", TEAM))
