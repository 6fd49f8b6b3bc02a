"""The official clients understand simulated Azure, and it them."""

from __future__ import annotations

import ssl
from typing import Any, Iterator, List

import httpx
import openai
import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ManagedIdentityCredential, get_bearer_token_provider

from azure_sim import HANG_LIMIT, Answer, AzureSim, ManagedIdentity, Resource, errors
from azure_sim.tokens import decode

HOST = "contoso-eastus.openai.azure.com"
SCOPE = "https://cognitiveservices.azure.com/.default"
DEPLOYMENT = "gpt-4o-2024-11-20"
ASK: Any = {"model": DEPLOYMENT, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(autouse=True)
def imds(monkeypatch: pytest.MonkeyPatch, sim: AzureSim) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST",
                       f"http://127.0.0.1:{sim.identity.port}")
    for name in ("IDENTITY_ENDPOINT", "MSI_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture()
def azure_client(sim: AzureSim, east: Resource) -> Iterator[openai.AzureOpenAI]:
    """Signs in by managed identity, as an application on a machine of Azure does."""
    provider = get_bearer_token_provider(ManagedIdentityCredential(), SCOPE)
    with openai.AzureOpenAI(
            azure_endpoint=f"http://127.0.0.1:{east.port}", api_version="2024-10-21",
            azure_ad_token_provider=provider, default_headers={"Host": HOST}) as client:
        yield client


@pytest.fixture()
def v1_client(sim: AzureSim, east: Resource) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{east.port}/openai/v1/",
                       api_key=sim.identity.token(), default_headers={"Host": HOST}) as client:
        yield client


def test_azure_identity_gets_a_token_and_sends_what_imds_wants(sim: AzureSim) -> None:
    token = ManagedIdentityCredential().get_token(SCOPE)
    claims = decode(token.token)
    assert claims is not None and claims.aud == "https://cognitiveservices.azure.com"
    # The client counts from when it asked.
    assert claims.exp - HANG_LIMIT <= token.expires_on <= claims.exp
    seen = sim.identity.requests[-1]
    assert dict(seen.query) == {"api-version": "2018-02-01",
                                "resource": "https://cognitiveservices.azure.com"}


def test_azure_identity_chooses_a_user_assigned_identity(sim: AzureSim) -> None:
    one, two = ManagedIdentity(), ManagedIdentity()
    sim.identity.system_assigned, sim.identity.user_assigned = None, [one, two]
    claims = decode(ManagedIdentityCredential(client_id=two.client_id).get_token(SCOPE).token)
    assert claims is not None and claims.oid == two.object_id


def test_azure_identity_reports_an_unknown_identity_without_retrying(sim: AzureSim) -> None:
    with pytest.raises(ClientAuthenticationError):
        ManagedIdentityCredential(client_id="unknown").get_token(SCOPE)
    assert len(sim.identity.requests) == 1


def test_azure_openai_signs_in_and_chats(azure_client: openai.AzureOpenAI, east: Resource) -> None:
    answer = azure_client.chat.completions.create(**ASK)
    assert answer.choices[0].message.content == "answer from eastus"
    [seen] = east.requests
    assert seen.path == f"/openai/deployments/{DEPLOYMENT}/chat/completions"
    assert seen.header("api-key") is None and seen.token is not None


def test_azure_openai_streams_with_usage(azure_client: openai.AzureOpenAI) -> None:
    chunks = list(azure_client.chat.completions.create(
        **ASK, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "answer from eastus"
    assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == 14


def test_openai_v1_covers_the_other_operations(v1_client: openai.OpenAI) -> None:
    client = v1_client
    assert client.chat.completions.create(**ASK).choices[0].message.content == "answer from eastus"
    vectors = client.embeddings.create(model="embed", input=["a"])
    assert vectors.data[0].embedding == [0.5, -0.25]
    heard = client.audio.transcriptions.create(model="whisper", file=("a.wav", b"RIFF"))
    assert heard.text == "answer from eastus: 4 bytes heard"
    assert client.audio.speech.create(model="tts", voice="alloy", input="a").read()[:3] == b"ID3"
    assert (client.images.generate(model="dalle", prompt="a").data or [])[0].b64_json
    file = client.files.create(file=("a.jsonl", b"{}"), purpose="batch")
    assert [one.id for one in client.files.list()] == [file.id]
    assert client.models.list().data[0].id == "dall-e-3"
    response = client.responses.create(model=DEPLOYMENT, input="a")
    assert response.output_text == "answer from eastus"
    assert client.responses.retrieve(response.id).id == response.id
    kinds = [event.type for event in client.responses.create(model=DEPLOYMENT, input="a",
                                                             stream=True)]
    assert kinds[-1] == "response.completed"


@pytest.mark.parametrize("scripted, expected", [
    (errors.TOKEN_REFUSED, openai.AuthenticationError),
    (errors.KEYS_DISABLED, openai.PermissionDeniedError),
    (errors.DEPLOYMENT_NOT_FOUND, openai.NotFoundError),
    (errors.REGIONAL_ENDPOINT, openai.BadRequestError),
    (errors.throttled(), openai.RateLimitError),
], ids=["401", "403", "404", "400", "429"])
def test_openai_raises_what_it_should(v1_client: openai.OpenAI, east: Resource, scripted: Answer,
                                      expected: type) -> None:
    east.script.then(scripted)
    with pytest.raises(expected):
        v1_client.with_options(max_retries=0).chat.completions.create(**ASK)


def test_openai_waits_as_long_as_a_429_says_and_tries_again(v1_client: openai.OpenAI, east: Resource
                                                            ) -> None:
    # Longer than it waits before its first retry by itself.
    east.script.then(errors.throttled(1, retry_after_ms="1200"))
    v1_client.chat.completions.create(**ASK)
    first, second = east.requests
    assert second.received_at - first.received_at >= 1.2


def test_a_tls_resource_has_a_certificate_for_its_names(sim: AzureSim) -> None:
    with AzureSim() as other:
        secure = other.add_resource("secure", host=["a.openai.azure.com", "a.cognitiveservices."
                                                    "azure.com"], tls=True)
        trust = ssl.create_default_context(cafile=str(other.ca_pem))
        seen: List[int] = []
        for host in sorted(secure.hosts):
            with httpx.Client(verify=trust, timeout=HANG_LIMIT, trust_env=False) as client:
                answer = client.get(
                    f"https://127.0.0.1:{secure.port}/openai/v1/models",
                    headers={"host": host, "authorization": f"Bearer {other.identity.token()}"},
                    extensions={"sni_hostname": host})
                seen.append(answer.status_code)
        assert seen == [200, 200]
        with httpx.Client(verify=trust, timeout=HANG_LIMIT, trust_env=False) as client:
            with pytest.raises(httpx.ConnectError, match=r"b\.openai\.azure\.com"):
                client.get(f"https://127.0.0.1:{secure.port}/",
                           extensions={"sni_hostname": "b.openai.azure.com"})
