"""What official clients use is counted to the token, whatever happens on its way, and they see none of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import openai
import pytest

from azure_sim import HANG_LIMIT, Answer, AzureSim, Delivery, Gate, RecordedRequest, errors, inference
from e2e import config
from e2e.edits import MANAGER, put
from e2e.gateway import Gateway
from e2e.regions import REGIONS
from e2e.rendering import ROOT
from e2e.wire import request

Start = Callable[..., Gateway]
Json = Dict[str, Any]
KEYS = {"search": "key-of-search", "chat": "key-of-chat"}
MODEL = "m"
VERSION = "2024-10-21"
TOOLS: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
THROTTLED = errors.throttled(retry_after_ms="600000")
# By subscription, backend and type.
Tokens = Counter[Tuple[str, str, str]]


@pytest.fixture(scope="module")
def regions(azure: AzureSim) -> AzureSim:
    for name in REGIONS:
        azure.add_resource(name, host=f"contoso-{name}.openai.azure.com",
                           deployments={f"{MODEL}-in-{name}": "gpt-4o"})
    return azure


def document(regions: AzureSim, **more: Any) -> Json:
    routes = [config.route(regions.resources[name], deployment=f"{MODEL}-in-{name}", priority=number)
              for number, name in enumerate(REGIONS)]
    return config.config(
        subscriptions=[config.subscription(name, key=key) for name, key in KEYS.items()],
        backends=[config.backend(regions.resources[name]) for name in REGIONS],
        models=[config.model(MODEL, *routes)], **more)


@pytest.fixture
def gateway(regions: AzureSim, start_gateway: Start) -> Iterator[Gateway]:
    regions.reset()
    with start_gateway(document(regions)) as gateway:
        yield gateway


def client(gateway: Gateway, subscription: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/openai/v1/", api_key=KEYS[subscription], max_retries=0)


def azure_client(gateway: Gateway, subscription: str) -> openai.AzureOpenAI:
    return openai.AzureOpenAI(azure_endpoint=gateway.url, api_key=KEYS[subscription],
                              api_version=VERSION, max_retries=0)


def prompt(words: int) -> Any:
    return [{"role": "user", "content": "word " * words}]


def chat(made: openai.OpenAI, number: int) -> None:
    made.chat.completions.create(model=MODEL, messages=prompt(number), max_tokens=5)


def chat_with_tools(made: openai.OpenAI, number: int) -> None:
    made.chat.completions.create(model=MODEL, messages=prompt(number), tools=TOOLS)


def streamed(made: openai.OpenAI, number: int, **options: Any) -> List[Any]:
    chunks = list(made.chat.completions.create(model=MODEL, messages=prompt(number), stream=True,
                                               **options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.startswith("answer from ")
    return chunks


def stream(made: openai.OpenAI, number: int) -> None:
    assert all(chunk.choices and chunk.usage is None for chunk in streamed(made, number))


def stream_that_asks(made: openai.OpenAI, number: int) -> None:
    *_, last = streamed(made, number, stream_options={"include_usage": True})
    assert last.choices == [] and last.usage.prompt_tokens == 10 + number


def stream_that_does_not_want_to_know(made: openai.OpenAI, number: int) -> None:
    chunks = streamed(made, number, stream_options={"include_usage": False})
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def completion(made: openai.OpenAI, number: int) -> None:
    made.completions.create(model=MODEL, prompt="word " * number)


def completion_stream(made: openai.OpenAI, number: int) -> None:
    chunks = list(made.completions.create(model=MODEL, prompt="word " * number, stream=True))
    assert all(chunk.choices for chunk in chunks)


def embedding(made: openai.OpenAI, number: int) -> None:
    made.embeddings.create(model=MODEL, input=["word " * number, "another"])


def response(made: openai.OpenAI, number: int) -> None:
    made.responses.create(model=MODEL, input="word " * number)


def response_stream(made: openai.OpenAI, number: int) -> None:
    *_, last = made.responses.create(model=MODEL, input="word " * number, stream=True)
    assert last.response.usage.input_tokens == 10 + number


CALLS = (chat, chat_with_tools, stream, stream_that_asks, stream_that_does_not_want_to_know,
         completion, completion_stream, embedding, response, response_stream)


def given(regions: AzureSim) -> Tokens:
    """What the regions have given out, by their own rules, for the requests that they have served."""
    found: Tokens = Counter()
    for name in REGIONS:
        for seen in regions.resources[name].requests:
            if subscription := seen.header("x-subscription"):
                found += used(name, subscription, seen)
    return found


def used(region: str, subscription: str, seen: RecordedRequest) -> Tokens:
    asked = inference.read(seen)
    assert isinstance(asked, inference.Asked)
    prompt, cached, output = inference.tokens(asked, f"answer from {region}")
    if "/embeddings" in seen.path:
        prompt, cached, output = prompt - 6, 0, 0
    kinds = {"input": prompt, "cached_input": cached, "output": output}
    return Counter({(subscription, region, kind): count for kind, count in kinds.items() if count})


def counted(gateway: Gateway, source: str = "reported") -> Tokens:
    """What the module has counted, from Envoy's metrics for Prometheus."""
    found: Tokens = Counter()
    # Envoy 1.37.0 puts the pool's cluster in front.
    lines = re.findall(r"^(?:envoy_cluster_wasmcustom_)?aoai_tokens_total\{(.*)\} (\d+)$",
                       gateway.envoy.prometheus(), re.MULTILINE)
    for labels, value in lines:
        of = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        assert of["model"] == MODEL
        if of["source"] == source:
            found[of["subscription"], of["backend"], of["type"]] += int(value)
    return found


def call(gateway: Gateway, number: int) -> None:
    """One of the calls, of one of the subscriptions, which tells the region whose it is."""
    subscription = list(KEYS)[number % len(KEYS)]
    make = (client, azure_client)[number // len(CALLS) % 2]
    ask = CALLS[number % len(CALLS)]
    if make is azure_client and ask in (response, response_stream):
        make = client
    with make(gateway, subscription) as made:
        ask(made.with_options(default_headers={"x-subscription": subscription}), 3 + number)


@pytest.mark.parametrize("calls", [100])
def test_the_tokens_of_all_clients_are_those_that_azure_gave_out(
        gateway: Gateway, regions: AzureSim, calls: int) -> None:
    with ThreadPoolExecutor(20) as pool:
        for done in [pool.submit(call, gateway, number) for number in range(calls)]:
            done.result()
    expected = given(regions)
    assert sum(expected.values()) > 5_000
    gateway.envoy.wait_until(lambda: counted(gateway) == expected, f"{expected}")
    assert counted(gateway, "estimated") == Counter()


def test_the_tokens_of_the_client_for_javascript_are_those_that_azure_gave_out(
        gateway: Gateway, regions: AzureSim) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("node")), str(ROOT / "tests" / "clients" / "calls.mjs"),
         gateway.url, KEYS["search"], MODEL, "search", "8"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, timeout=HANG_LIMIT)
    assert done.returncode == 0, done.stderr
    asked = sum(len(regions.resources[name].requests) for name in REGIONS)
    assert int(done.stdout) == asked >= 50
    expected = given(regions)
    gateway.envoy.wait_until(lambda: counted(gateway) == expected, f"{expected}")


@pytest.mark.skipif(sys.version_info < (3, 10), reason="LangChain needs Python 3.10")
def test_the_tokens_of_langchain_are_those_that_azure_gave_out(
        gateway: Gateway, regions: AzureSim) -> None:
    from langchain_openai import AzureChatOpenAI, ChatOpenAI, OpenAIEmbeddings
    common: Json = {"model": MODEL, "api_key": KEYS["chat"], "max_retries": 0,
                    "default_headers": {"x-subscription": "chat"}}
    v1: Json = {"base_url": f"{gateway.url}/openai/v1/", **common}
    dated = AzureChatOpenAI(azure_endpoint=gateway.url, api_version=VERSION, **common)
    for number in range(1, 9):
        text = "word " * number
        for made in (ChatOpenAI(**v1), dated):
            assert made.invoke(text).usage_metadata["input_tokens"] == 10 + number
            assert all(not chunk.usage_metadata for chunk in made.stream(text, stream_usage=False))
            told = [chunk for chunk in made.stream(text, stream_usage=True) if chunk.usage_metadata]
            assert [chunk.usage_metadata["input_tokens"] for chunk in told] == [10 + number]
            made.bind_tools(TOOLS).invoke(text)
        # Its own count of tokens would fetch a vocabulary.
        OpenAIEmbeddings(check_embedding_ctx_length=False, **v1).embed_query(text)
    expected = given(regions)
    assert sum(expected.values()) > 1_000
    gateway.envoy.wait_until(lambda: counted(gateway) == expected, f"{expected}")


def test_a_request_that_moves_on_is_charged_once(gateway: Gateway, regions: AzureSim) -> None:
    regions.resources["aa"].script.always(THROTTLED)
    regions.resources["bb"].script.then(errors.error(503, "503", "busy"))
    for number in range(2 * len(CALLS)):
        call(gateway, number)
    for name in ("aa", "bb"):
        assert regions.resources[name].requests
    served = Counter({key: count for key, count in given(regions).items() if key[1] == "bb"})
    first = next(iter(regions.resources["bb"].requests))
    served -= used("bb", str(first.header("x-subscription")), first)
    served += Counter({key: count for key, count in given(regions).items() if key[1] == "cc"})
    gateway.envoy.wait_until(lambda: counted(gateway) == served, f"{served}")


def raw_stream(gateway: Gateway, key: str = KEYS["search"]) -> bytes:
    body = json.dumps({"model": MODEL, "messages": prompt(3), "stream": True}).encode()
    with gateway.connect() as connection:
        found = connection.exchange(request("POST", "/openai/v1/chat/completions", [
            ("api-key", key), ("content-type", "application/json")], body))
    assert found.status == 200
    return found.body


def test_a_caller_who_did_not_ask_gets_the_bytes_of_a_stream_without_metering(
        regions: AzureSim, start_gateway: Start) -> None:
    def same(stream: bytes) -> bytes:
        """Without what differs between any two streams, and the documented difference."""
        stream = re.sub(rb'"(id|created)":("[^"]*"|\d+)', b"", stream)
        return stream.replace(b',"usage":null', b"")
    with start_gateway(document(regions)) as exact, start_gateway(
            document(regions, metering={"streams": "reported"})) as reported:
        metered, plain = raw_stream(exact), raw_stream(reported)
    assert b'"usage":null' in metered and b"usage" not in plain
    assert same(metered) == same(plain)


def test_a_stream_that_came_with_its_length_is_complete_without_its_usage(
        gateway: Gateway, regions: AzureSim) -> None:
    """As from a proxy that has received all of it before it sends any."""
    events = [{"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}],
               "usage": None},
              {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}}]
    lines = [*(f"data: {json.dumps(event)}" for event in events), "data: [DONE]"]
    body = "".join(f"{line}\n\n" for line in lines)
    regions.resources["aa"].script.then(Answer(200, [("content-type", "text/event-stream")], body))
    assert raw_stream(gateway).decode() == f"{lines[0]}\n\ndata: [DONE]\n\n"
    gateway.envoy.wait_until(lambda: counted(gateway)["search", "aa", "input"] == 5, "tokens")


def test_a_caller_that_leaves_in_the_middle_is_charged_by_an_estimate(
        gateway: Gateway, regions: AzureSim) -> None:
    gate = Gate()
    regions.resources["aa"].script.then(Delivery(each_chunk=gate))
    body = json.dumps({"model": MODEL, "messages": prompt(3), "stream": True}).encode()
    with gateway.connect() as connection:
        connection.send(request("POST", "/openai/v1/chat/completions", [
            ("api-key", KEYS["search"]), ("content-type", "application/json")], body))
        gate.release(3)
        connection.read_head()
        for _ in range(3):
            connection.read_event()
        connection.leave()
    gateway.envoy.wait_until(
        lambda: counted(gateway, "estimated")["search", "aa", "output"], "estimated output")
    estimated = counted(gateway, "estimated")
    assert estimated["search", "aa", "output"] == 3
    assert estimated["search", "aa", "input"] >= len(body) // 4
    gate.open()


def test_an_access_log_shows_whose_tokens_they_were(
        regions: AzureSim, start_gateway: Start, tmp_path: Any) -> None:
    names = ("subscription", "model", "backend", "attempts", "tokens", "input_tokens", "output_tokens",
             "reason")
    line = " ".join(f"%FILTER_STATE(wasm.aoai_{name}:PLAIN)%" for name in names)
    path = tmp_path / "access.log"
    logs = [{"name": "file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": str(path), "log_format": {"text_format_source": {"inline_string": line + "\n"}}}}]
    with start_gateway(document(regions), edits=[put(f"{MANAGER}.access_log", logs)]) as gateway:
        with client(gateway, "chat") as made:
            stream(made, 5)
            with pytest.raises(openai.NotFoundError):
                made.chat.completions.create(model="unknown", messages=prompt(1))
        gateway.envoy.wait_until(lambda: len(path.read_text().splitlines()) == 2, "access log")
    assert path.read_text().splitlines() == [
        "chat m aa 1 18 15 3 -", "chat - - - - - - unknown_model"]
