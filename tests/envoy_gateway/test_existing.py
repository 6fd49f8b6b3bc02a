"""A Gateway that serves other hosts gets Azure OpenAI under a host of its own."""

from __future__ import annotations

from typing import Any, Dict, Iterator

import pytest

from azure_sim import AzureSim
from e2e.calls import Call, at_host, chat
from e2e.limit_service import LimitService
from e2e.rendering import at
from e2e.serves import HOST, ServesBesideOthers, document_with_a_quota
from e2e.two_regions import KEY, SINGLE
from envoy_gateway.controller import Attached
from envoy_gateway.shop import ROUTE, SHOP, SHOP_HOST

Json = Dict[str, Any]


@pytest.fixture(scope="module")
def document(azure: AzureSim) -> Json:
    return document_with_a_quota(azure)


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


class TestOfEnvoyGateway(ServesBesideOthers):
    """The Gateway serves its host as every gateway does."""


@pytest.mark.parametrize("host", [SHOP_HOST, "elsewhere.test", f"x.{HOST}"])
def test_other_hosts_are_as_they_were(gateway: Attached, azure: AzureSim, host: str) -> None:
    shop = at_host(gateway, Call("/shop/1", method="GET"), host)
    assert (shop.status, shop.body) == ((200, b"the shop") if host == SHOP_HOST else (404, b""))
    assert not [name for name, _ in shop.head.headers if name.startswith("x-aoai")]
    # Neither with a key nor without one is there a way to Azure.
    for headers in ([("api-key", KEY)], [("x-aoai-cluster", "aoai_eastus"), ("api-key", KEY)]):
        assert at_host(gateway, chat(SINGLE, *headers), host).status == 404
    assert all(not resource.requests for resource in azure.resources.values())
