"""The official clients, as their documentation uses them, through the gateway."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Callable, Iterator

import httpx
import openai
import pytest

from azure_sim import HANG_LIMIT, Answer, AzureSim, Resource
from e2e import config
from e2e.gateway import Gateway
from e2e.identity import FETCHES, closed_gate
from e2e.pauses import Pauses
from e2e.single import BODY, CHAT, HOST, KEY, Json, chat, settings

ANSWER = "answer from eastus"
ASK: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
MODELS = ("gpt-4o", "embed", "whisper", "tts", "dalle", "secret")
Start = Callable[..., Gateway]


@pytest.fixture(scope="module")
def resource(azure: AzureSim) -> Resource:
    """Deployments whose names differ from those that callers ask for."""
    return azure.add_resource("eastus", host=HOST, deployments={
        f"{name}-deployed": name for name in MODELS})


@pytest.fixture(scope="module")
def document(resource: Resource) -> Json:
    allowed = [name for name in MODELS if name != "secret"]
    return {
        **settings(resource),
        "subscriptions": [config.subscription("team", key=KEY, models=allowed)],
        "models": [config.model(name, config.route(resource, deployment=f"{name}-deployed"))
                   for name in MODELS],
    }


@pytest.fixture(scope="module")
def gateway(document: Json, start_gateway: Start) -> Gateway:
    gateway = start_gateway(document)
    assert chat(gateway).status_code == 200
    return gateway


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy",
                 "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def azure_client(gateway: Gateway, key: str = KEY, retries: int = 0, **more: Any
                 ) -> openai.AzureOpenAI:
    return openai.AzureOpenAI(azure_endpoint=gateway.url, api_key=key, api_version="2024-10-21",
                              max_retries=retries, **more)


def v1_client(gateway: Gateway, key: str = KEY, retries: int = 0, **more: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/openai/v1/", api_key=key, max_retries=retries,
                         **more)


@pytest.fixture(params=[azure_client, v1_client], ids=["AzureOpenAI", "OpenAI-v1"])
def client(request: pytest.FixtureRequest, gateway: Gateway, azure: AzureSim
           ) -> Iterator[openai.OpenAI]:
    azure.reset()
    with request.param(gateway) as made:
        yield made


def test_chat(client: openai.OpenAI, resource: Resource) -> None:
    assert client.chat.completions.create(**ASK).choices[0].message.content == ANSWER
    [seen] = resource.requests
    assert seen.token is not None and seen.header("api-key") is None


def test_streaming_chat_with_usage(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(
        **ASK, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == ANSWER
    assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == 14


def test_the_models_of_the_subscription_are_listed(client: openai.OpenAI, resource: Resource
                                                   ) -> None:
    models = list(client.models.list())
    assert [model.id for model in models] == sorted(name for name in MODELS if name != "secret")
    assert {model.object for model in models} == {"model"}
    assert client.models.retrieve("gpt-4o").id == "gpt-4o"
    with pytest.raises(openai.PermissionDeniedError):
        client.models.retrieve("secret")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")
    assert resource.requests == []


def test_embeddings(client: openai.OpenAI) -> None:
    vectors = client.embeddings.create(model="embed", input=["a", "b"])
    assert [one.embedding for one in vectors.data] == [[0.5, -0.25]] * 2


def test_audio_transcription_of_a_file(client: openai.OpenAI, resource: Resource) -> None:
    sound = bytes(range(256)) * 300
    heard = client.audio.transcriptions.create(model="whisper", file=("a.wav", sound))
    assert heard.text == f"{ANSWER}: {len(sound)} bytes heard"
    [seen] = resource.requests
    assert sound in seen.body


def test_speech(client: openai.OpenAI) -> None:
    assert client.audio.speech.create(model="tts", voice="alloy", input="a").read()[:3] == b"ID3"


def test_images(client: openai.OpenAI) -> None:
    [image] = client.images.generate(model="dalle", prompt="a").data or []
    assert image.b64_json and image.revised_prompt == ANSWER


def test_responses_plain_and_streaming(gateway: Gateway, resource: Resource) -> None:
    with v1_client(gateway) as client:
        assert client.responses.create(model="gpt-4o", input="a").output_text == ANSWER
        kinds = [event.type for event in client.responses.create(model="gpt-4o", input="a",
                                                                 stream=True)]
    assert kinds == ["response.created", "response.output_text.delta", "response.completed"]


def test_a_realtime_response_of_the_official_client(gateway: Gateway) -> None:
    def counted() -> int:
        return sum(count for name, count in gateway.envoy.stats().items()
                   if ".type.output." in name and name.endswith(".model.gpt-4o"))
    before = counted()
    with v1_client(gateway) as client, client.realtime.connect(model="gpt-4o") as session:
        session.response.create()
        done = next(event for event in session if event.type == "response.done")
        assert done.response.usage is not None and done.response.usage.output_tokens == 3
    gateway.envoy.wait_until(lambda: counted() == before + 3, "tokens")


def test_async_client_with_many_calls_at_once(gateway: Gateway) -> None:
    async def ask() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/openai/v1/", api_key=KEY,
                                      max_retries=0) as client:
            return await asyncio.gather(*(client.chat.completions.create(**ASK)
                                          for _ in range(20)))
    answers = asyncio.run(ask())
    assert [one.choices[0].message.content for one in answers] == [ANSWER] * 20


@pytest.mark.parametrize("make", [azure_client, v1_client], ids=["AzureOpenAI", "OpenAI-v1"])
@pytest.mark.parametrize("key, model, raises, code, reason", [
    ("aoai_wrong", "gpt-4o", openai.AuthenticationError, "401", "unknown_key"),
    (KEY, "nothing", openai.NotFoundError, "DeploymentNotFound", "unknown_model"),
    (KEY, "secret", openai.PermissionDeniedError, "PermissionDenied", "model_not_allowed"),
], ids=["wrong key", "unknown model", "forbidden model"])
def test_a_refusal_is_the_exception_that_the_client_has_for_it(
        gateway: Gateway, resource: Resource, make: Callable[..., openai.OpenAI], key: str,
        model: str, raises: "type[openai.APIStatusError]", code: str, reason: str) -> None:
    with make(gateway, key) as client, pytest.raises(raises) as failure:
        client.chat.completions.create(**{**ASK, "model": model})
    assert (failure.value.code, failure.value.type) == (code, reason)
    assert failure.value.response.headers["x-aoai-reason"] == reason
    assert key not in str(failure.value)
    assert resource.requests == []


@pytest.mark.parametrize("make", [azure_client, v1_client], ids=["AzureOpenAI", "OpenAI-v1"])
def test_a_client_sees_an_outage_of_the_identity_endpoint_as_a_delay(
        azure: AzureSim, document: Json, start_gateway: Start,
        make: Callable[..., openai.OpenAI]) -> None:
    gate = closed_gate(azure)
    azure.identity.script.then(Answer(500))
    found, pauses = [], Pauses()
    with start_gateway({**document, "token_wait": "100ms"}) as gateway:
        azure.identity.wait_for_requests(1)
        with make(gateway, retries=50, http_client=pauses.client()) as client:
            asking = threading.Thread(target=lambda: found.append(
                client.chat.completions.create(**ASK).choices[0].message.content))
            asking.start()
            gateway.envoy.wait_for_stat(
                "wasmcustom.aoai_requests_total.outcome.token_unavailable.backend.none"
                ".subscription.team.model.gpt-4o")
            assert found == []
            gate.open()
            asking.join()
        assert found == [ANSWER]
        assert pauses.assert_obeyed() >= 1


@pytest.mark.parametrize("make", [azure_client, v1_client], ids=["AzureOpenAI", "OpenAI-v1"])
def test_a_client_does_not_retry_what_the_identity_endpoint_refuses(
        azure: AzureSim, document: Json, start_gateway: Start,
        make: Callable[..., openai.OpenAI]) -> None:
    azure.identity.system_assigned = None
    with start_gateway(document) as gateway:
        gateway.envoy.wait_for_stat(FETCHES + "refused")
        with make(gateway, retries=5) as client:
            with pytest.raises(openai.InternalServerError) as failure:
                client.chat.completions.create(**ASK)
        assert failure.value.type == "token_refused"
        assert gateway.envoy.stats()["http.aoai.downstream_rq_total"] == 1


def test_the_key_may_come_in_both_headers_as_azure_ai_inference_sends_it(
        gateway: Gateway, azure: AzureSim, resource: Resource) -> None:
    azure.reset()
    headers = {"api-key": KEY, "authorization": f"Bearer {KEY}"}
    answer = httpx.post(gateway.url + CHAT, headers=headers, json=BODY, timeout=HANG_LIMIT,
                        trust_env=False)
    assert answer.status_code == 200
    [seen] = resource.requests
    assert seen.header("api-key") is None
    assert len(seen.header_values("authorization")) == 1 and seen.token is not None
