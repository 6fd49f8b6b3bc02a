"""Bodies and sessions pass through as they are sent: events, WebSockets, large answers, connections
that carry several requests."""

from __future__ import annotations

import json
from typing import Callable, Dict

import pytest
from websockets.sync.client import connect

from azure_sim import HANG_LIMIT, Answer, AzureSim, Delivery, Gate, Resource
from e2e.gateway import Gateway
from e2e.single import CHAT, JSON_TYPE, KEY, MODEL, V1_CHAT, chat, east, raw_chat, settings
from e2e.wire import Closed, request

STREAMS: Dict[str, bytes] = {
    "model in the URL": request(
        "POST", CHAT, [("api-key", KEY), JSON_TYPE], b'{"messages":[],"stream":true}'),
    "model in the body": request(
        "POST", V1_CHAT, [("authorization", f"Bearer {KEY}"), JSON_TYPE],
        b'{"messages":[],"stream":true,"model":"gpt-4o"}'),
}
BOTH = pytest.mark.parametrize("stream", list(STREAMS.values()), ids=list(STREAMS))


@pytest.fixture(scope="module")
def resource(azure: AzureSim) -> Resource:
    return east(azure)


@pytest.fixture(scope="module")
def gateway(resource: Resource, start_gateway: Callable[..., Gateway]) -> Gateway:
    gateway = start_gateway(settings(resource))
    assert chat(gateway).status_code == 200
    return gateway


@pytest.fixture(autouse=True)
def _served_before(gateway: Gateway, azure: AzureSim) -> None:
    azure.reset()


# Events


@BOTH
def test_each_event_arrives_when_it_is_sent(gateway: Gateway, resource: Resource, stream: bytes
                                            ) -> None:
    gate = Gate()
    resource.script.then(Delivery(each_chunk=gate))
    with gateway.connect() as connection:
        connection.send(stream)
        head = connection.read_head()
        assert head.status == 200
        assert head.header("content-type") == "text/event-stream; charset=utf-8"
        assert head.values("x-aoai-backend") == ["eastus"]
        text = ""
        for _ in range(4):
            assert connection.silent_for(0.03)
            gate.release()
            event = connection.read_event()
            assert event is not None and event.data.startswith(b"data: ")
            text += json.loads(event.data[6:])["choices"][0]["delta"].get("content", "")
        assert text == "answer from eastus"
        gate.open()
        rest = [event.data for event in iter(connection.read_event, None)]
        assert len(rest) == 2 and rest[-1] == b"data: [DONE]"


@BOTH
def test_a_stream_that_breaks_breaks_for_the_client_too(
        gateway: Gateway, resource: Resource, stream: bytes) -> None:
    resource.script.then(Delivery(cut_after=2))
    with gateway.connect() as connection:
        connection.send(stream)
        assert connection.read_head().status == 200
        for _ in range(2):
            assert connection.read_event() is not None
        with pytest.raises(Closed):
            connection.read_event()
    assert chat(gateway).status_code == 200


@BOTH
def test_a_client_that_leaves_in_the_middle_is_noticed_upstream(
        gateway: Gateway, resource: Resource, stream: bytes) -> None:
    gate = Gate()
    resource.script.then(Delivery(each_chunk=gate))
    with gateway.connect() as connection:
        connection.send(stream)
        gate.release()
        assert connection.read_head().status == 200
        assert connection.read_event() is not None
        connection.leave()
    resource.recorder.wait_until(lambda seen: any(one.left for one in seen), "client that left")
    gateway.envoy.wait_until(
        lambda: gateway.envoy.stats()["http.aoai.downstream_rq_active"] == 0, "ended request")


# WebSockets

SESSIONS = {
    "v1": f"/openai/v1/realtime?model={MODEL}",
    "dated": f"/openai/realtime?api-version=2024-10-01-preview&deployment={MODEL}",
}


@pytest.mark.parametrize("where", ["query", "header"])
@pytest.mark.parametrize("target", list(SESSIONS.values()), ids=list(SESSIONS))
def test_a_realtime_session_runs_both_ways(
        gateway: Gateway, resource: Resource, target: str, where: str) -> None:
    url = f"ws://127.0.0.1:{gateway.port}{target}"
    query, headers = (f"&api-key={KEY}", {}) if where == "query" else ("", {"api-key": KEY})
    with connect(url + query, additional_headers=headers, proxy=None,
                 open_timeout=HANG_LIMIT) as session:
        created = json.loads(session.recv(timeout=HANG_LIMIT))
        assert created["type"] == "session.created" and created["session"]["model"] == MODEL
        for message in ("one", "zwölf", "x" * 100_000):
            session.send(message)
            assert session.recv(timeout=HANG_LIMIT) == message
    [seen] = resource.requests
    assert seen.target == target
    assert seen.header("api-key") is None and seen.token is not None
    assert seen.websocket_messages == ["one", "zwölf", "x" * 100_000]


# Whatever else an answer or a request has


def test_headers_that_nobody_knows_pass_both_ways(gateway: Gateway, resource: Resource) -> None:
    up = [("x-team", "search"), ("x-twice", "one"), ("x-twice", "two"), ("x-odd", 'a;b="c, d"'),
          ("openai-beta", "assistants=v2"), ("accept-language", "de"), ("x-empty", "")]
    down = [("apim-request-id", "4711"), ("x-ms-region", "East US"), ("x-later", "a=b"),
            ("x-ratelimit-remaining-tokens", "123"), ("set-cookie", "a=1"), ("set-cookie", "b=2")]
    resource.script.then(Answer(203, down, {"fine": True}))
    with gateway.connect() as connection:
        answer = connection.exchange(raw_chat(*up))
    assert (answer.status, json.loads(answer.body)) == (203, {"fine": True})
    for name in {name for name, _ in down}:
        assert answer.head.values(name) == [value for key, value in down if key == name]
    [seen] = resource.requests
    for name in {name for name, _ in up}:
        expected = [value for key, value in up if key == name]
        assert [part for value in seen.header_values(name) for part in value.split(",")
                ] == [part for value in expected for part in value.split(",")]


def test_an_answer_of_ten_mebibytes_passes_whole(gateway: Gateway, resource: Resource) -> None:
    whole = bytes(range(256)) * 4096 * 10
    resource.script.then(Answer(200, body=whole))
    answer = chat(gateway)
    assert answer.status_code == 200 and answer.headers["content-length"] == str(10 * 2 ** 20)
    assert answer.content == whole


# Connections


def test_one_connection_carries_several_requests_of_all_kinds(
        gateway: Gateway, resource: Resource) -> None:
    with gateway.connect() as connection:
        for _ in range(3):
            assert connection.exchange(raw_chat()).status == 200
            missing = connection.exchange(request("GET", "/openai/v1/models"))
            assert missing.head.header("x-aoai-reason") == "missing_key"
            connection.send(STREAMS["model in the body"])
            assert connection.read_head().status == 200
            assert b"[DONE]" in connection.read_body()
    assert len(resource.requests) == 6


def test_pipelined_requests_are_answered_in_order(gateway: Gateway, resource: Resource) -> None:
    bodies = [b'{"messages":[],"model":"gpt-4o","user":"%d"}' % number for number in range(4)]
    whole = b"".join(request("POST", V1_CHAT, [("api-key", KEY), JSON_TYPE], body)
                     for body in bodies)
    resource.script.always(lambda seen: Answer(200, body=seen.body))
    with gateway.connect() as connection:
        connection.send(whole)
        assert [connection.read_response().body for _ in bodies] == bodies
    assert len(resource.requests) == 4
