"""A Gateway that serves other hosts gets Azure OpenAI under a host of its own."""

from __future__ import annotations

from typing import Any, Dict, Iterator

import pytest

from azure_sim import AzureSim, errors
from e2e import config
from e2e.calls import Call, chat, own_answer
from e2e.limit_service import LimitService
from e2e.rendering import at
from e2e.two_regions import KEY, POOL, SINGLE, document_of_two
from envoy_gateway.controller import Attached
from envoy_gateway.shop import HOST, ROUTE, SHOP, SHOP_HOST, at_host

Json = Dict[str, Any]
QUOTA = "aoai_the-team-of-a-quota-key-4"


@pytest.fixture(scope="module")
def document(azure: AzureSim) -> Json:
    return document_of_two(azure, limits={"store": "ratelimit"}, subscriptions=[
        config.subscription("team", key=KEY),
        config.subscription("limited", key=QUOTA, limits={
            "quota": {"tokens": 1, "period": "year"}})])


@pytest.fixture(scope="module")
def limits(document: Json) -> Iterator[LimitService]:
    with LimitService(document) as service:
        yield service


@pytest.fixture(scope="module")
def gateway(azure: AzureSim, document: Json, limits: LimitService,
            workers: int) -> Iterator[Attached]:
    with Attached(document, azure, workers=workers, others=SHOP + ROUTE, gateway="public",
                  listener="http", hosts=[HOST],
                  options=[at("aoai-limits", limits.port)]) as gateway:
        yield gateway


@pytest.mark.parametrize("host", [HOST, f"{HOST}:8443"])
@pytest.mark.parametrize("model", [POOL, SINGLE])
def test_its_host_is_the_gateway(gateway: Attached, model: str, host: str) -> None:
    answer = at_host(gateway, chat(model, ("api-key", KEY)), host)
    assert (answer.status, answer.head.values("x-aoai-backend")) == (200, ["eastus"])
    own_answer(at_host(gateway, chat(model, ("api-key", "wrong")), host), "unknown_key",
               hidden=["wrong"])


def test_a_throttled_request_moves_on(gateway: Attached, azure: AzureSim) -> None:
    azure.resources["eastus"].script.then(errors.throttled(retry_after_ms="1"))
    answer = at_host(gateway, chat(POOL, ("api-key", KEY)))
    assert [answer.head.values(f"x-aoai-{name}") for name in ("backend", "attempts")] == [
        ["sweden"], ["2"]]


def test_a_quota_of_the_service_of_limits_binds(gateway: Attached, limits: LimitService) -> None:
    call = chat(SINGLE, ("api-key", QUOTA))
    at_host(gateway, call)
    gateway.envoy.wait_until(lambda: limits.charged("quota", "limited") > 1, "charge")
    own_answer(at_host(gateway, call), "quota_exhausted")


@pytest.mark.parametrize("host", [SHOP_HOST, "elsewhere.test", f"x.{HOST}"])
def test_other_hosts_are_as_they_were(gateway: Attached, azure: AzureSim, host: str) -> None:
    shop = at_host(gateway, Call("/shop/1", method="GET"), host)
    assert (shop.status, shop.body) == ((200, b"the shop") if host == SHOP_HOST else (404, b""))
    assert not [name for name, _ in shop.head.headers if name.startswith("x-aoai")]
    # Neither with a key nor without one is there a way to Azure.
    for headers in ([("api-key", KEY)], [("x-aoai-cluster", "aoai_eastus"), ("api-key", KEY)]):
        assert at_host(gateway, chat(SINGLE, *headers), host).status == 404
    assert all(not resource.requests for resource in azure.resources.values())
