"""What a subscription may use in a minute binds all workers, and official clients wait for room."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, Tuple

import openai
import pytest

from azure_sim import Answer, AzureSim
from e2e import config
from e2e.calls import chat, own_answer, send
from e2e.gateway import Gateway
from e2e.pauses import Pauses

Start = Callable[..., Gateway]
Json = Dict[str, Any]
KEY, OTHER_KEY = "key-of-the-team", "key-of-another-team"
MODEL = "gpt-4o"
GOOD = chat(MODEL, ("api-key", KEY))
CALLERS = 20


@pytest.fixture(scope="module")
def cloud(azure: AzureSim) -> AzureSim:
    azure.add_resource("eastus", host="contoso-eastus.openai.azure.com",
                       deployments={MODEL: MODEL})
    return azure


@pytest.fixture(autouse=True)
def usual_answers(cloud: AzureSim) -> None:
    cloud.reset()


def document(cloud: AzureSim, **limits: Any) -> Json:
    east = cloud.resources["eastus"]
    return config.config(subscriptions=[config.subscription("team", key=KEY, limits=limits),
                                        config.subscription("other", key=OTHER_KEY)],
                         backends=[config.backend(east)], models=[config.model(MODEL, east)])


def uses(tokens: int) -> Answer:
    return Answer(200, body={"choices": [], "usage": {
        "prompt_tokens": tokens - 1, "completion_tokens": 1, "total_tokens": tokens}})


def client(gateway: Gateway, retries: int, **more: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/openai/v1/", api_key=KEY, max_retries=retries,
                         **more)


def test_the_limit_of_requests_is_exact_for_all_workers_together(
        cloud: AzureSim, start_gateway: Start) -> None:
    limit, asked = 100, 400
    with start_gateway(document(cloud, requests_per_minute=limit)) as gateway:
        begun = time.monotonic()
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: send(gateway, GOOD), range(asked)))
        filled = (time.monotonic() - begun) * limit / 60
        refused = [answer for answer in answers if answer.status != 200]
        assert limit <= asked - len(refused) <= limit + filled + 1
        for answer in refused:
            own_answer(answer, "request_limit_reached", hidden=[KEY], waits=True)
            # The time in which one request's room comes.
            assert 0 < int(answer.head.header("retry-after-ms") or 0) <= 60_000 / limit
        other = send(gateway, chat(MODEL, ("api-key", OTHER_KEY)))
    assert other.status == 200
    assert not [name for name, _ in other.head.headers if name.startswith("x-aoai-limit")]


def test_a_response_tells_the_subscriptions_limits_beside_azures(
        cloud: AzureSim, start_gateway: Start) -> None:
    azures = [("x-ratelimit-limit-tokens", "120000"), ("x-ratelimit-remaining-requests", "119")]
    cloud.resources["eastus"].script.then(Answer(200, azures, uses(5).body))
    with start_gateway(document(cloud, requests_per_minute=7, tokens_per_minute=9000)) as gateway:
        head = send(gateway, GOOD).head
    told = {name: value for name, value in head.headers if "-limit-" in name or "remaining" in name}
    tokens = int(told.pop("x-aoai-remaining-tokens"))
    assert told == {**dict(azures), "x-aoai-limit-requests": "7", "x-aoai-remaining-requests": "6",
                    "x-aoai-limit-tokens": "9000"}
    # A quarter of the body's bytes is reserved.
    assert tokens == 9000 - -(-len(GOOD.body) // 4)


def test_an_official_client_waits_as_long_as_it_is_told_and_is_served(
        cloud: AzureSim, start_gateway: Start) -> None:
    pauses = Pauses()
    with start_gateway(document(cloud, tokens_per_minute=60_000)) as gateway:
        cloud.resources["eastus"].script.then(uses(61_000))
        assert send(gateway, GOOD).status == 200
        with client(gateway, 2, http_client=pauses.client()) as made:
            made.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    assert pauses.assert_obeyed() == 1


def test_twenty_callers_get_no_more_than_the_limit_and_all_are_served(
        cloud: AzureSim, start_gateway: Start) -> None:
    limit, drained, each, calls = 60_000, 60_000, 50, 5
    cloud.resources["eastus"].script.always(uses(each))

    def caller(_: int) -> Tuple[int, float]:
        with client(gateway, 100) as made:
            used = [made.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "word " * 25}]).usage
                    for _ in range(calls)]
        return sum(one.total_tokens for one in used if one), time.monotonic()

    with start_gateway(document(cloud, tokens_per_minute=limit)) as gateway:
        cloud.resources["eastus"].script.then(uses(drained))
        begun = time.monotonic()
        assert send(gateway, GOOD).status == 200
        with ThreadPoolExecutor(CALLERS) as threads:
            ends = list(threads.map(caller, range(CALLERS)))
    assert [used for used, _ in ends] == [each * calls] * CALLERS
    elapsed = max(end for _, end in ends) - begun
    used = drained + CALLERS * calls * each
    # Those at work at the end have used more than was reserved for them, by less than they used.
    assert used <= limit + limit / 60 * elapsed * 1.01 + CALLERS * each
