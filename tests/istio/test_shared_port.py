"""A gateway that serves something else gets Azure OpenAI under hosts of its own."""

from __future__ import annotations

from typing import Any, Dict, Iterator

import pytest

from azure_sim import AzureSim
from e2e.calls import Call, at_host, chat
from e2e.limit_service import LimitService
from e2e.rendering import at
from e2e.serves import HOST, ServesBesideOthers, document_with_a_quota
from e2e.two_regions import KEY, SINGLE
from istio.mesh import Mesh

Json = Dict[str, Any]
# What is there before: a gateway for all hosts, and a shop for all of them. PORT is the gateway's.
SHOP = """\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: public, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: PORT, name: http, protocol: HTTP}
    hosts: ["*"]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: istio-system}
spec:
  hosts: ["*"]
  gateways: [public]
  http:
  - match: [{uri: {prefix: /shop}}]
    directResponse: {status: 200, body: {string: the shop}}
"""


@pytest.fixture(scope="module")
def document(azure: AzureSim) -> Json:
    return document_with_a_quota(azure)


@pytest.fixture(scope="module")
def limits(document: Json) -> Iterator[LimitService]:
    with LimitService(document) as service:
        yield service


@pytest.fixture(scope="module", params=["own", "existing"])
def mesh(request: pytest.FixtureRequest, azure: AzureSim, document: Json, limits: LimitService,
         workers: int) -> Iterator[Mesh]:
    """The Gateway of the hosts is our own, or the one that is there."""
    with Mesh(document, azure, workers=workers, others=SHOP, hosts=[HOST], gateway=request.param,
              options=[at("aoai-limits", limits.port)]) as mesh:
        yield mesh


@pytest.fixture
def gateway(mesh: Mesh) -> Mesh:
    return mesh


class TestOfIstio(ServesBesideOthers):
    """The mesh serves its host as every gateway does."""


@pytest.mark.parametrize("host", ["shop.test", "elsewhere.test", f"x.{HOST}"])
def test_other_hosts_are_as_they_were(mesh: Mesh, azure: AzureSim, host: str) -> None:
    shop = at_host(mesh, Call("/shop/1", method="GET"), host)
    assert (shop.status, shop.body) == (200, b"the shop")
    assert not [name for name, _ in shop.head.headers if name.startswith("x-aoai")]
    # Neither with a key nor without one is there a way to Azure.
    for headers in ([("api-key", KEY)], [("x-aoai-cluster", "aoai_eastus"), ("api-key", KEY)]):
        assert at_host(mesh, chat(SINGLE, *headers), host).status == 404
    assert all(not resource.requests for resource in azure.resources.values())
