"""The operations of the data plane, and what is recorded of them."""

from __future__ import annotations

import base64
import json
import socket
from typing import Any, Dict, List

import httpx
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from azure_sim import HANG_LIMIT, AzureSim, Delivery, Gate, NotStrictJson, Resource, errors
from e2e.wire import Connection, request

CHAT = "/openai/deployments/gpt-4o-2024-11-20/chat/completions?api-version=2024-10-21"
BODY: Dict[str, Any] = {"messages": []}


def events(text: str) -> List[str]:
    return [line[len("data: "):] for line in text.split("\n") if line.startswith("data: ")]


def realtime(sim: AzureSim, east: Resource, target: str) -> Any:
    return connect(f"ws://{east.host}{target}", proxy=None, open_timeout=HANG_LIMIT,
                   sock=socket.create_connection(("127.0.0.1", east.port)),
                   additional_headers={"authorization": f"Bearer {sim.identity.token()}"})


def test_every_answer_carries_the_headers_of_azure(http: httpx.Client) -> None:
    answer = http.post(CHAT, json=BODY)
    assert answer.headers["x-ms-region"] == "eastus"
    assert answer.headers["x-ms-deployment-name"] == "gpt-4o-2024-11-20"
    assert answer.headers["x-ratelimit-remaining-requests"] == "99"
    assert answer.headers["x-ratelimit-remaining-tokens"] == "99000"
    assert answer.headers["apim-request-id"] and answer.headers["x-request-id"]


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_chat_streams_to_done_with_usage_only_when_asked(http: httpx.Client, include_usage: bool
                                                           ) -> None:
    body = {**BODY, "stream": True, "stream_options": {"include_usage": include_usage}}
    answer = http.post(CHAT, json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(answer.text)
    assert done == "[DONE]"
    content = "".join(choice["delta"].get("content", "")
                      for chunk in chunks for choice in json.loads(chunk)["choices"])
    assert content == "answer from eastus"
    found = [json.loads(chunk) for chunk in chunks]
    assert [chunk.get("usage", "none") for chunk in found[:-1]].count(None) == (
        len(found) - 1 if include_usage else 0)
    assert bool(found[-1].get("usage")) == include_usage


def test_chunks_leave_one_by_one_as_the_gate_lets_them(http: httpx.Client, east: Resource) -> None:
    gate = Gate()
    east.script.then(Delivery(each_chunk=gate))
    with http.stream("POST", CHAT, json={**BODY, "stream": True}) as answer:
        arriving = answer.iter_raw()
        for _ in range(3):
            gate.release()
            assert next(arriving).count(b"data: ") == 1
        gate.open()
        assert b"".join(arriving).endswith(b"data: [DONE]\n\n")


def test_a_stream_can_break_in_the_middle(http: httpx.Client, east: Resource) -> None:
    east.script.then(Delivery(cut_after=2))
    seen = b""
    with pytest.raises(httpx.RemoteProtocolError):
        with http.stream("POST", CHAT, json={**BODY, "stream": True}) as answer:
            for part in answer.iter_raw():
                seen += part
    assert seen.count(b"data: ") == 2


def test_an_early_answer_does_not_wait_for_the_body(sim: AzureSim, east: Resource) -> None:
    east.script.then(errors.throttled().delivered(Delivery(early=True)))
    with Connection(east.port) as connection:
        connection.send(request("POST", CHAT, [("content-length", "10")]), b"12345")
        assert connection.read_head().status == 429
    assert not east.requests[0].complete


def test_completions_embeddings_speech_and_images(http: httpx.Client) -> None:
    version = "?api-version=2024-10-21"
    prefix = "/openai/deployments"
    text = http.post(f"{prefix}/gpt-4o-2024-11-20/completions{version}", json={"prompt": "a"})
    assert text.json()["choices"][0]["text"] == "answer from eastus"
    vectors = http.post(f"{prefix}/embed/embeddings{version}", json={"input": ["a", "b"]}).json()
    assert [one["embedding"] for one in vectors["data"]] == [[0.5, -0.25]] * 2
    speech = http.post(f"{prefix}/tts/audio/speech{version}", json={"input": "a"})
    assert speech.headers["content-type"] == "audio/mpeg" and speech.content.startswith(b"ID3")
    image = http.post("/openai/v1/images/generations", json={"model": "dalle", "prompt": "a"})
    assert base64.b64decode(image.json()["data"][0]["b64_json"]).startswith(b"\x89PNG")


def test_a_transcription_reads_file_and_model_of_the_form(http: httpx.Client) -> None:
    sound = bytes(range(256)) * 5 + b"\r\n--not-the-boundary\r\n"
    answer = http.post("/openai/v1/audio/transcriptions", data={"model": "whisper"},
                       files={"file": ("a.wav", sound)})
    assert answer.json() == {"text": f"answer from eastus: {len(sound)} bytes heard"}
    unknown = http.post("/openai/v1/audio/transcriptions", data={"model": "other"},
                        files={"file": ("a.wav", sound)})
    assert unknown.json()["error"]["code"] == "DeploymentNotFound"


def test_a_response_is_kept_and_can_be_continued_read_and_deleted(http: httpx.Client) -> None:
    ask = {"model": "gpt-4o-2024-11-20", "input": "a"}
    made = http.post("/openai/v1/responses", json=ask).json()
    path = f"/openai/v1/responses/{made['id']}"
    assert http.get(path).json() == made
    again = http.post("/openai/v1/responses", json={**ask, "previous_response_id": made["id"]})
    assert again.json()["previous_response_id"] == made["id"]
    assert http.delete(path).json()["deleted"] is True
    assert http.get(path).status_code == 404
    gone = http.post("/openai/v1/responses", json={**ask, "previous_response_id": made["id"]})
    assert gone.status_code == 404


def test_a_streamed_response_ends_with_its_usage(http: httpx.Client) -> None:
    answer = http.post("/openai/responses?api-version=2025-04-01-preview",
                       json={"model": "gpt-4o-2024-11-20", "input": "a", "stream": True})
    kinds = [json.loads(event)["type"] for event in events(answer.text)]
    assert kinds == ["response.created", "response.output_text.delta", "response.completed"]
    assert json.loads(events(answer.text)[-1])["response"]["usage"]["total_tokens"] == 14


@pytest.mark.parametrize("collection", ["files", "batches", "assistants", "threads",
                                        "vector_stores", "fine_tuning/jobs", "evals"])
@pytest.mark.parametrize("target", ["/openai/v1/{}", "/openai/{}?api-version=2024-10-21"],
                         ids=["v1", "dated"])
def test_a_collection_lists_what_was_created(http: httpx.Client, collection: str, target: str
                                             ) -> None:
    path = target.format(collection)
    assert http.get(path).json()["data"] == []
    if collection == "files":
        made = http.post(path, data={"purpose": "batch"}, files={"file": ("a.jsonl", b"{}\n")})
        assert (made.json()["bytes"], made.json()["filename"]) == (3, "a.jsonl")
    else:
        made = http.post(path, json={"name": "one"})
    assert [one["id"] for one in http.get(path).json()["data"]] == [made.json()["id"]]


def test_models_are_those_of_the_deployments(http: httpx.Client) -> None:
    found = http.get("/openai/v1/models").json()["data"]
    assert [one["id"] for one in found] == [
        "dall-e-3", "gpt-4o", "text-embedding-3-small", "tts", "whisper"]


def test_a_body_of_32_mib_arrives_whole(http: httpx.Client, east: Resource) -> None:
    content = b"0123456789abcdef" * (2 * 1024 * 1024)
    answer = http.post("/openai/v1/files", data={"purpose": "batch"}, files={"file": content},
                       timeout=HANG_LIMIT)
    assert (answer.status_code, answer.json()["bytes"]) == (201, 32 * 1024 * 1024)
    assert content in east.requests[0].body


def test_a_repeated_model_is_refused_and_recorded_as_seen(http: httpx.Client, east: Resource
                                                          ) -> None:
    body = b'{"model":"gpt-4o-2024-11-20","messages":[],"model":"other"}'
    answer = http.post("/openai/v1/chat/completions", content=body,
                       headers={"content-type": "application/json"})
    assert answer.status_code == 400 and "repeated names: model" in answer.text
    [seen] = east.requests
    assert (seen.models, seen.body) == (["gpt-4o-2024-11-20", "other"], body)
    with pytest.raises(NotStrictJson):
        seen.json()


def test_a_request_is_recorded_exactly_as_it_was_on_the_wire(sim: AzureSim, east: Resource) -> None:
    raw = ("GET /openai/v1/files?b=%41&a=1&a=%20 HTTP/1.1\r\n"
           "Host: x\r\nX-Twice: 1\r\nx-twice: 2\r\nX-Bytes: \xe9\r\n\r\n")
    with Connection(east.port) as connection:
        assert connection.exchange(raw).status == 404
    [seen] = east.requests
    assert (seen.method, seen.target) == ("GET", "/openai/v1/files?b=%41&a=1&a=%20")
    assert seen.headers == [("host", "x"), ("x-twice", "1"), ("x-twice", "2"), ("x-bytes", "\xe9")]
    assert seen.query == [("b", "A"), ("a", "1"), ("a", " ")]


def test_a_session_can_be_refused_held_back_or_cut_as_scripted(sim: AzureSim, east: Resource
                                                                ) -> None:
    target, gate = "/openai/v1/realtime?model=gpt-4o-2024-11-20", Gate()
    east.script.then(errors.throttled(), Delivery(before=gate, cut_after=1))
    with pytest.raises(InvalidStatus) as refused:
        with realtime(sim, east, target):
            pass
    assert refused.value.response.status_code == 429
    gate.open()
    with realtime(sim, east, target) as session:
        assert json.loads(session.recv(timeout=HANG_LIMIT))["type"] == "session.created"
        session.send("1")
        assert session.recv(timeout=HANG_LIMIT) == "1"
        with pytest.raises(ConnectionClosedError):
            session.recv(timeout=HANG_LIMIT)


def test_a_credential_is_recorded_and_never_shown(http: httpx.Client, sim: AzureSim, east: Resource
                                                  ) -> None:
    http.post(CHAT + "&api-key=hunter2", json=BODY, headers={"api-key": "hunter2"})
    [seen] = east.requests
    assert seen.header("api-key") == "hunter2" and "api-key=hunter2" in seen.target
    shown = repr([seen, seen.headers, seen.target])
    assert "hunter2" not in shown
    authorization = seen.header("authorization")
    assert authorization is not None and authorization.split()[1] not in shown


@pytest.mark.parametrize("target", [
    "/openai/v1/realtime?model=gpt-4o-2024-11-20",
    "/openai/realtime?api-version=2024-10-01-preview&deployment=gpt-4o-2024-11-20",
], ids=["v1", "dated"])
def test_realtime_greets_responds_and_echoes(http: httpx.Client, sim: AzureSim, east: Resource,
                                             target: str) -> None:
    sent = ['{"type":"response.create"}', '{"type":"session.update"}', "hello", "[1]"]
    with realtime(sim, east, target) as session:
        assert json.loads(session.recv(timeout=HANG_LIMIT))["session"]["model"] == "gpt-4o"
        session.send(sent[0])
        done = json.loads(session.recv(timeout=HANG_LIMIT))
        assert (done["type"], done["response"]["usage"]["output_tokens"]) == ("response.done", 3)
        for event in sent[1:]:
            session.send(event)
            assert session.recv(timeout=HANG_LIMIT) == event
    assert east.requests[0].websocket_messages == sent


@pytest.mark.parametrize("target, status", [
    ("/openai/v1/realtime?model=gpt-4o", 404),
    ("/openai/realtime?deployment=gpt-4o-2024-11-20", 404),
    ("/openai/v1/realtime?model=gpt-4o-2024-11-20&api-key=k", 403),
], ids=["unknown-deployment", "no-api-version", "key"])
def test_realtime_refuses_before_the_upgrade(sim: AzureSim, east: Resource, target: str, status: int
                                             ) -> None:
    with pytest.raises(InvalidStatus) as refused:
        with realtime(sim, east, target):
            pass
    assert refused.value.response.status_code == status
