"""Bodies that are larger than what Envoy keeps of them for another attempt."""

from __future__ import annotations

import dataclasses
from typing import Callable

import pytest

from azure_sim import AzureSim, Delivery, errors
from e2e.calls import JSON, Call, dated, send
from e2e.gateway import Gateway
from e2e.regions import KEY, add_regions, answered_by, chat, document, served, unused
from e2e.wire import Response

LIMIT = 64 << 10
BODY = b'{"messages":[{"role":"user","content":"' + b"x" * (4 * LIMIT) + b'"}]}'


@pytest.fixture(scope="module")
def regions(azure: AzureSim) -> AzureSim:
    add_regions(azure)
    return azure


@pytest.fixture(scope="module")
def gateway(regions: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    gateway = start_gateway({**document(regions), "listener": {"body_limit": f"{LIMIT >> 10}KiB"}})
    chat(gateway, "m0").raise_for_status()
    return gateway


def large(model: str) -> Call:
    return Call(dated(model), [("api-key", KEY), JSON], BODY)


MODELS = unused("m")
THROTTLED = errors.throttled(retry_after_ms="600000")


def test_the_429_of_the_only_attempt_reaches_the_caller_and_is_learned(
        gateway: Gateway, regions: AzureSim) -> None:
    model = next(MODELS)
    regions.resources["aa"].script.then(THROTTLED)
    throttled_by_aa(send(gateway, large(model)))
    in_cooldown(gateway, model)
    served(send(gateway, large(model)), "bb", 1)


def test_a_429_that_comes_before_the_body_is_not_given_up_for_an_attempt_that_cannot_be_made(
        gateway: Gateway, regions: AzureSim) -> None:
    """Envoy would reply with a 507 of its own when more comes than it keeps while no attempt is under
    way."""
    model = next(MODELS)
    regions.resources["aa"].script.then(
        dataclasses.replace(THROTTLED, delivery=Delivery(early=True)))
    with gateway.connect() as connection:
        connection.send(large(model).raw()[:LIMIT // 2])
        throttled_by_aa(connection.read_response())
    in_cooldown(gateway, model)


def throttled_by_aa(response: Response) -> None:
    assert response.status == 429, response
    answered_by(response, "aa", 1)
    # Another backend could serve it, if it came again.
    assert response.head.header("retry-after-ms") == "1000"


def in_cooldown(gateway: Gateway, model: str) -> None:
    gateway.envoy.wait_until(
        lambda: chat(gateway, model).headers["x-aoai-backend"] == "bb", "cooldown in all workers")


def test_a_connection_that_fails_while_the_body_comes_is_told_as_such_and_learned(
        gateway: Gateway) -> None:
    """The region refuses connections: Envoy tries the next one, and replies 507 where more of the
    body than it keeps comes before that."""
    model = next(unused("d"))
    for _ in range(40):
        response = send(gateway, large(model))
        if response.status != 200:
            assert (response.status, response.head.header("x-aoai-reason"),
                    response.head.header("x-aoai-backend")) == (503, "backend_failed", "dead")
            assert response.head.header("retry-after") is not None
    gateway.envoy.wait_until(
        lambda: send(gateway, large(model)).head.header("x-aoai-attempts") == "1", "cooldown")
