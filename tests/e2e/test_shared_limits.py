"""What a subscription may use by all proxies together: envoyproxy/ratelimit and Redis behind two Envoys."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, Iterator, List, Tuple

import openai
import pytest

from azure_sim import Answer, AzureSim
from e2e import config
from e2e.calls import Call, chat, get, own_answer, send
from e2e.gateway import Gateway
from e2e.limit_service import LimitService
from e2e.rendering import at
from e2e.wire import Response

Start = Callable[..., Gateway]
Json = Dict[str, Any]
MODEL, OWN = "gpt-4o", "with-limits-of-its-own"
# A subscription for each test: counters outlive it.
REQUESTS, TOKENS, QUOTA, STREAM, OUTAGE, OF_MODEL, FREE = (
    "requests", "tokens", "quota", "stream", "outage", "of-model", "free")
LIMITS: Dict[str, Json] = {
    REQUESTS: {"requests_per_minute": 40},
    TOKENS: {"tokens_per_minute": 500},
    QUOTA: {"quota": {"tokens": 1000, "period": "year"}},
    STREAM: {"quota": {"tokens": 1000, "period": "year"}},
    OUTAGE: {"quota": {"tokens": 100, "period": "year"}},
    OF_MODEL: {"requests_per_minute": 600, "models": {OWN: {"requests_per_minute": 3}}},
    FREE: {},
}
CLUSTER = "aoai-limits"


def key(subscription: str) -> str:
    return f"key-of-{subscription}"


def call(subscription: str, model: str = MODEL) -> Call:
    return chat(model, ("api-key", key(subscription)))


def document(azure: AzureSim, on_error: str = "deny", **more: Any) -> Json:
    east = azure.resources["eastus"]
    return config.config(
        limits={"store": "ratelimit", "on_error": on_error, **more},
        subscriptions=[config.subscription(name, key=key(name), limits=limits, operations=["*"])
                       for name, limits in LIMITS.items()],
        backends=[config.backend(east)],
        models=[config.model(MODEL, east), config.model(OWN, config.route(east, deployment=MODEL))])


@pytest.fixture(scope="module")
def cloud(azure: AzureSim) -> AzureSim:
    azure.add_resource("eastus", host="contoso-eastus.openai.azure.com",
                       deployments={MODEL: MODEL})
    return azure


@pytest.fixture(scope="module")
def service(cloud: AzureSim, workers: int) -> Iterator[LimitService]:
    """One for each number of workers: what the tests with one have used is not there for those with two."""
    with LimitService(document(cloud)) as service:
        yield service


@pytest.fixture(scope="module")
def gateways(cloud: AzureSim, service: LimitService, start_gateway: Start) -> Tuple[Gateway, Gateway]:
    """Two Envoys: what the first denies while the service is away, the second allows."""
    deny, allow = (start_gateway(document(cloud, on_error), options=[at(CLUSTER, service.port)])
                   for on_error in ("deny", "allow"))
    return deny, allow


def uses(tokens: int) -> Answer:
    return Answer(200, body={"choices": [], "usage": {
        "prompt_tokens": tokens - 1, "completion_tokens": 1, "total_tokens": tokens}})


def in_turns(gateways: Tuple[Gateway, Gateway], asked: Call, count: int
             ) -> Tuple[List[Response], int]:
    """What comes of so many requests, one after the other, and in how many minutes of the clock."""
    begun = int(time.time() // 60)
    answers = [send(gateways[number % 2], asked) for number in range(count)]
    return answers, int(time.time() // 60) - begun + 1


def test_two_proxies_together_serve_as_many_requests_as_may_be_made(
        gateways: Tuple[Gateway, Gateway]) -> None:
    limit = 40
    answers, minutes = in_turns(gateways, call(REQUESTS), limit + 20)
    served = [answer for answer in answers if answer.status == 200]
    assert limit <= len(served) <= limit * minutes
    for answer in answers:
        assert answer.head.values("x-aoai-limit-requests") == [str(limit)]
        # Those in which Envoy's filter tells the same.
        assert not {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"} & {
            name for name, _ in answer.head.headers}
        if answer.status != 200:
            own_answer(answer, "request_limit_reached", hidden=[key(REQUESTS)], waits=True)
            assert 0 < int(answer.head.header("retry-after") or 0) <= 60
    assert answers[0].head.values("x-aoai-remaining-requests") == [str(limit - 1)]


def test_two_proxies_together_serve_as_many_tokens_as_may_be_used(
        gateways: Tuple[Gateway, Gateway], cloud: AzureSim) -> None:
    limit, each = 500, 50
    cloud.resources["eastus"].script.always(uses(each))
    answers, minutes = in_turns(gateways, call(TOKENS), 30)
    served = sum(answer.status == 200 for answer in answers) * each
    # What crosses a limit passes, and so do the requests that come before the service was charged.
    assert limit <= served <= (limit + 3 * each) * minutes
    refused = next(answer for answer in answers if answer.status != 200)
    own_answer(refused, "token_limit_reached", hidden=[key(TOKENS)], waits=True)
    files = send(gateways[0], get("/openai/v1/files", ("api-key", key(TOKENS))))
    assert files.status == 200, "what uses no tokens is not bound by them"


def test_an_exhausted_quota_is_a_403_that_no_client_retries(
        gateways: Tuple[Gateway, Gateway], cloud: AzureSim) -> None:
    cloud.resources["eastus"].script.then(uses(1001))
    assert send(gateways[0], call(QUOTA)).status == 200
    refused = until_refused(gateways[1], call(QUOTA))
    own_answer(refused, "quota_exhausted", hidden=[key(QUOTA)], waits=True)
    # Until the next year of 365 days since 1970.
    year = 365 * 24 * 3600
    left = year - time.time() % year
    assert left - 60 <= int(refused.head.header("retry-after") or 0) <= left + 60
    asked = len(cloud.resources["eastus"].requests)
    with openai.OpenAI(base_url=f"{gateways[1].url}/openai/v1/", api_key=key(QUOTA),
                       max_retries=5) as client, pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    assert len(cloud.resources["eastus"].requests) == asked


def until_refused(gateway: Gateway, asked: Call) -> Response:
    """The service is charged once a response is over, a moment after its caller has it."""
    def look() -> "Response | None":
        answer = send(gateway, asked)
        return answer if answer.status != 200 else None
    return gateway.envoy.wait_until(look, "refusal")


def test_a_stream_is_charged_with_all_that_it_has_used(
        gateways: Tuple[Gateway, Gateway], service: LimitService) -> None:
    before = service.charged("quota", STREAM)
    for gateway, words in zip(gateways, (40, 34)):
        with openai.OpenAI(base_url=f"{gateway.url}/openai/v1/", api_key=key(STREAM),
                           max_retries=0) as client:
            list(client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "word " * words}], stream=True))
    # With the 10 words around a prompt, and the 3 of an answer.
    expected = before + (10 + 40 + 3) + (10 + 34 + 3)
    gateways[0].envoy.wait_until(lambda: service.charged("quota", STREAM) >= expected, "charge")
    assert service.charged("quota", STREAM) == expected


def test_a_model_has_limits_of_its_own(gateways: Tuple[Gateway, Gateway]) -> None:
    answers, minutes = in_turns(gateways, call(OF_MODEL, OWN), 6)
    assert 3 <= sum(answer.status == 200 for answer in answers) <= 3 * minutes
    assert send(gateways[0], call(OF_MODEL)).status == 200


@pytest.mark.parametrize("lost", ["redis", "service"])
def test_while_the_service_or_its_redis_is_away_requests_are_denied_or_allowed_as_configured(
        gateways: Tuple[Gateway, Gateway], service: LimitService, cloud: AzureSim, lost: str) -> None:
    deny, allow = gateways
    cloud.resources["eastus"].script.then(uses(101))
    if send(deny, call(OUTAGE)).status == 200:
        until_refused(deny, call(OUTAGE))
    allowed = f"wasmcustom.aoai_limits_unchecked_total.subscription.{OUTAGE}.model.{MODEL}"
    before = allow.envoy.stats().get(allowed, 0)
    if lost == "redis":
        service.kill_redis()
    else:
        service.kill()
    try:
        own_answer(send(deny, call(OUTAGE)), "limits_unavailable", hidden=[key(OUTAGE)])
        assert send(deny, call(FREE)).status == 200, "what has no limits asks nobody"
        assert send(allow, call(OUTAGE)).status == 200
        assert allow.envoy.stats()[allowed] == before + 1
    finally:
        if lost == "redis":
            service.start_redis()
        else:
            service.start()

    def answers_again() -> "Response | None":
        answer = send(deny, call(OUTAGE))
        return None if answer.head.header("x-aoai-reason") == "limits_unavailable" else answer
    # Nothing is forgotten: Redis had it on its disk.
    own_answer(deny.envoy.wait_until(answers_again, "answer of the service"), "quota_exhausted",
               hidden=[key(OUTAGE)], waits=True)


def test_the_service_is_reached_by_tls_where_its_url_says_so(
        cloud: AzureSim, start_gateway: Start) -> None:
    secure = document(cloud, endpoint="https://limits.internal:8081")
    with LimitService(secure, cloud.certificate("limits.internal")) as service, start_gateway(
            secure, options=[at(CLUSTER, service.port, tls=True)]) as gateway:
        answer = send(gateway, call(REQUESTS))
        assert (answer.status, answer.head.values("x-aoai-remaining-requests")) == (200, ["39"])
    # A certificate for another name is not the service's.
    with LimitService(secure, cloud.certificate("other.internal")) as service, start_gateway(
            secure, options=[at(CLUSTER, service.port, tls=True)]) as gateway:
        own_answer(send(gateway, call(REQUESTS)), "limits_unavailable", hidden=[key(REQUESTS)])
