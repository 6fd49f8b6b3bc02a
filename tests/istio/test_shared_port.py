"""A gateway that serves something else gets Azure OpenAI under hosts of its own."""

from __future__ import annotations

from typing import Any, Dict, Iterator

import pytest

from azure_sim import AzureSim, errors
from e2e import config
from e2e.calls import Call, chat, own_answer, send
from e2e.limit_service import LimitService
from e2e.rendering import at
from e2e.wire import Response
from istio.mesh import Mesh
from e2e.two_regions import KEY, POOL, SINGLE, document_of_two

Json = Dict[str, Any]
LIMITED = "aoai_the-limited-teams-key-02"
HOST = "ai.example.test"
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
    return document_of_two(azure, limits={"store": "ratelimit"}, subscriptions=[
        config.subscription("team", key=KEY),
        config.subscription("limited", key=LIMITED, limits={
            "quota": {"tokens": 1, "period": "year"}})])


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


def at_host(mesh: Mesh, call: Call, host: str = HOST) -> Response:
    return send(mesh, Call(call.target, call.headers, call.body, call.method, host))


@pytest.mark.parametrize("host", [HOST, f"{HOST}:8443"])
@pytest.mark.parametrize("model", [POOL, SINGLE])
def test_its_host_is_the_gateway(mesh: Mesh, model: str, host: str) -> None:
    answer = at_host(mesh, chat(model, ("api-key", KEY)), host)
    assert (answer.status, answer.head.values("x-aoai-backend")) == (200, ["eastus"])
    own_answer(at_host(mesh, chat(model, ("api-key", "wrong")), host), "unknown_key",
               hidden=["wrong"])


def test_a_throttled_request_moves_on(mesh: Mesh, azure: AzureSim) -> None:
    azure.resources["eastus"].script.then(errors.throttled(retry_after_ms="1"))
    answer = at_host(mesh, chat(POOL, ("api-key", KEY)))
    assert [answer.head.values(f"x-aoai-{name}") for name in ("backend", "attempts")] == [
        ["sweden"], ["2"]]


def test_a_quota_of_the_service_of_limits_binds(mesh: Mesh, limits: LimitService) -> None:
    call = chat(SINGLE, ("api-key", LIMITED))
    at_host(mesh, call)
    mesh.envoy.wait_until(lambda: limits.charged("quota", "limited") > 1, "charge")
    own_answer(at_host(mesh, call), "quota_exhausted")


@pytest.mark.parametrize("host", ["shop.test", "elsewhere.test", f"x.{HOST}"])
def test_other_hosts_are_as_they_were(mesh: Mesh, azure: AzureSim, host: str) -> None:
    shop = at_host(mesh, Call("/shop/1", method="GET"), host)
    assert (shop.status, shop.body) == (200, b"the shop")
    assert not [name for name, _ in shop.head.headers if name.startswith("x-aoai")]
    # Neither with a key nor without one is there a way to Azure.
    for headers in ([("api-key", KEY)], [("x-aoai-cluster", "aoai_eastus"), ("api-key", KEY)]):
        assert at_host(mesh, chat(SINGLE, *headers), host).status == 404
    assert all(not resource.requests for resource in azure.resources.values())
