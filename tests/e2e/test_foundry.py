"""What a Foundry resource serves besides OpenAI's paths, with the official clients: azure-ai-inference and Claude."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Callable, Dict, Iterator

import anthropic
import httpx
import pytest
from azure.ai.inference import ChatCompletionsClient, EmbeddingsClient
from azure.ai.inference.models import UserMessage
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError

from azure_sim import AzureSim, errors
from e2e import config
from e2e.gateway import Gateway

Json = Dict[str, Any]
Start = Callable[..., Gateway]
KEY, LIMITED = "aoai_the-search-teams-key-0001", "aoai_the-limited-teams-key-02"
REGIONS = ("eastus", "sweden")
MODELS = ("claude", "phi", "embed", "secret")
ASK: Any = {"model": "claude", "max_tokens": 100, "messages": [{"role": "user", "content": "one two"}]}
TOOL: Any = {"name": "weather", "description": "of a place", "input_schema": {"type": "object"}}
ANSWER = "answer from eastus"


@pytest.fixture(scope="module")
def gateway(azure: AzureSim, start_gateway: Start) -> Gateway:
    """Deployments whose names differ from those that callers ask for, in two regions."""
    for name in REGIONS:
        azure.add_resource(name, host=f"contoso-{name}.services.ai.azure.com",
                           deployments={f"{model}-in-{name}": model for model in MODELS})
    resources = [azure.resources[name] for name in REGIONS]
    allowed = [model for model in MODELS if model != "secret"]
    return start_gateway(config.config(
        subscriptions=[
            config.subscription("team", key=KEY, models=allowed),
            config.subscription("limited", key=LIMITED, limits={"requests_per_minute": 1})],
        backends=[config.backend(one) for one in resources],
        models=[config.model(model, *(
            config.route(one, deployment=f"{model}-in-{one.name}", priority=rank)
            for rank, one in enumerate(resources))) for model in MODELS]))


@pytest.fixture
def claude(gateway: Gateway) -> Iterator[anthropic.AnthropicFoundry]:
    with anthropic.AnthropicFoundry(base_url=f"{gateway.url}/anthropic", api_key=KEY,
                                    max_retries=0) as client:
        yield client


def chats(gateway: Gateway, key: str = KEY) -> ChatCompletionsClient:
    return ChatCompletionsClient(f"{gateway.url}/models", AzureKeyCredential(key), retry_total=0)


def tokens(gateway: Gateway, source: str = "reported") -> "Counter[str]":
    """How many tokens are counted, by their type."""
    found: "Counter[str]" = Counter()
    for name, count in gateway.envoy.stats().items():
        matched = re.match(r"wasmcustom\.aoai_tokens_total\.backend\.\w+\.type\.(\w+)\.source\.(\w+)", name)
        if matched and matched[2] == source:
            found[matched[1]] += count
    return found


def assert_counts(gateway: Gateway, before: "Counter[str]", **expected: int) -> None:
    gateway.envoy.wait_until(lambda: tokens(gateway) - before == Counter(expected),
                             f"{expected} tokens")


def test_a_message_of_claude(gateway: Gateway, azure: AzureSim,
                             claude: anthropic.AnthropicFoundry) -> None:
    before = tokens(gateway)
    message = claude.messages.create(**ASK)
    assert [block.text for block in message.content if block.type == "text"] == [ANSWER]
    [seen] = azure.resources["eastus"].requests
    assert seen.json()["model"] == "claude-in-eastus"
    # Its keys do not leave, and a token of Entra ID is there instead.
    assert seen.token is not None and seen.header("x-api-key") is None
    assert seen.header("api-key") is None and seen.header("anthropic-version")
    # A frame of 10 and two words, a quarter of them from a cache; three words.
    assert_counts(gateway, before, input=12, cached_input=3, output=3)


def test_a_streamed_message_of_claude_is_counted_exactly(
        gateway: Gateway, claude: anthropic.AnthropicFoundry) -> None:
    before = tokens(gateway)
    with claude.messages.stream(**ASK) as stream:
        assert "".join(stream.text_stream) == ANSWER
    assert_counts(gateway, before, input=12, cached_input=3, output=3)


def test_claude_uses_a_tool(claude: anthropic.AnthropicFoundry) -> None:
    [used] = claude.messages.create(**ASK, tools=[TOOL]).content
    assert used.type == "tool_use" and (used.name, used.input) == ("weather", {"of": ANSWER})
    with claude.messages.stream(**ASK, tools=[TOOL]) as stream:
        [used] = stream.get_final_message().content
    assert used.type == "tool_use" and used.input == {"of": ANSWER}


def test_the_tokens_of_a_message_are_counted_for_nothing(
        gateway: Gateway, claude: anthropic.AnthropicFoundry) -> None:
    before = tokens(gateway)
    asked = {name: value for name, value in ASK.items() if name != "max_tokens"}
    assert claude.messages.count_tokens(**asked).input_tokens == 12
    assert tokens(gateway) == before


def test_anthropics_own_client_has_its_key_in_a_header_or_as_bearer(gateway: Gateway) -> None:
    for how in ({"api_key": KEY}, {"auth_token": KEY}):
        with anthropic.Anthropic(base_url=f"{gateway.url}/anthropic", max_retries=0,
                                 **how) as client:  # type: ignore[arg-type]
            assert client.messages.create(**ASK).stop_reason == "end_turn"


def test_claude_moves_on_to_the_next_region(
        gateway: Gateway, azure: AzureSim, claude: anthropic.AnthropicFoundry) -> None:
    azure.resources["eastus"].script.then(errors.throttled(retry_after_ms="1"))
    answer = claude.messages.with_raw_response.create(**ASK)
    assert (answer.headers["x-aoai-backend"], answer.headers["x-aoai-attempts"]) == ("sweden", "2")
    assert azure.resources["sweden"].requests[0].json()["model"] == "claude-in-sweden"


def test_what_a_subscription_may_not_use_is_an_error_of_the_client(
        gateway: Gateway, claude: anthropic.AnthropicFoundry) -> None:
    with pytest.raises(anthropic.PermissionDeniedError, match="may not use this model"):
        claude.messages.create(**{**ASK, "model": "secret"})
    with pytest.raises(anthropic.NotFoundError, match="no model of that name"):
        claude.messages.create(**{**ASK, "model": "other"})
    with anthropic.AnthropicFoundry(base_url=f"{gateway.url}/anthropic", api_key="wrong",
                                    max_retries=0) as stranger:
        with pytest.raises(anthropic.AuthenticationError):
            stranger.messages.create(**ASK)


def test_a_limit_binds_claude_too(gateway: Gateway) -> None:
    with anthropic.AnthropicFoundry(base_url=f"{gateway.url}/anthropic", api_key=LIMITED,
                                    max_retries=0) as client:
        with pytest.raises(anthropic.RateLimitError):
            for _ in range(3):
                client.messages.create(**ASK)


def test_a_base_url_without_its_end_says_what_to_write(gateway: Gateway) -> None:
    with anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as client:
        with pytest.raises(anthropic.NotFoundError, match="base URL that ends with /anthropic"):
            client.messages.create(**ASK)


def test_azure_ai_inference_chats_and_embeds(gateway: Gateway, azure: AzureSim) -> None:
    before = tokens(gateway)
    with chats(gateway) as client:
        answer = client.complete(messages=[UserMessage("one two")], model="phi")
    assert answer.choices[0].message.content == ANSWER
    [seen] = azure.resources["eastus"].requests
    assert (seen.path, seen.json()["model"]) == ("/models/chat/completions", "phi-in-eastus")
    assert_counts(gateway, before, input=12, cached_input=3, output=3)
    with EmbeddingsClient(f"{gateway.url}/models", AzureKeyCredential(KEY), retry_total=0) as client:
        assert client.embed(input=["a b"], model="embed").data[0].embedding == [0.5, -0.25]


def test_azure_ai_inference_streams_and_is_counted_as_its_caller_asks(gateway: Gateway) -> None:
    """Exactly where the caller asks for usage, else by estimate."""
    message = [UserMessage("one two")]
    for extras, source in (({"stream_options": {"include_usage": True}}, "reported"), ({}, "estimated")):
        before = tokens(gateway, source)
        with chats(gateway) as client:
            chunks = list(client.complete(messages=message, model="phi", stream=True,
                                          model_extras=extras))
        texts = [choice.delta.content or "" for one in chunks for choice in one.choices]
        assert "".join(texts) == ANSWER
        gateway.envoy.wait_until(
            lambda source=source, before=before: tokens(gateway, source)["output"] > before["output"],
            f"{source} tokens")


def test_azure_ai_inference_is_refused_what_it_may_not_use(gateway: Gateway) -> None:
    with chats(gateway) as client, pytest.raises(HttpResponseError) as refused:
        client.complete(messages=[UserMessage("hi")], model="secret")
    assert refused.value.status_code == 403
    with chats(gateway, "wrong") as client, pytest.raises(HttpResponseError) as refused:
        client.complete(messages=[UserMessage("hi")], model="phi")
    assert refused.value.status_code == 401


def test_what_is_not_known_yet_needs_a_grant(gateway: Gateway, azure: AzureSim) -> None:
    with httpx.Client(base_url=gateway.url, trust_env=False) as http:
        for path in ("/anthropic/v1/messages/batches", "/anthropic/v1/files", "/models/info"):
            method = "GET" if path == "/models/info" else "POST"
            answer = http.request(method, path, headers={"x-api-key": KEY}, json={})
            assert answer.headers["x-aoai-reason"] == "operation_not_allowed", path
    assert all(not one.requests for one in azure.resources.values())
