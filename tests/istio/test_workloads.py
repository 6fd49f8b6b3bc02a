"""Two workloads of one namespace have a gateway each, and a third has none."""

from __future__ import annotations

import contextlib
from typing import Any, Dict, Iterator

import pytest

from azure_sim import AzureSim
from e2e import config
from e2e.calls import Call, chat, own_answer
from e2e.rendering import free_port
from e2e.wire import Connection, Response
from istio.control_plane import Istiod
from istio.mesh import at_gateway, resources_for
from istio.proxy import NAMESPACE, Proxy

Json = Dict[str, Any]
MODEL = "gpt-4o"
TEAMS = ("search", "support")
# A gateway of neither team.
SHOP = f"""\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: shop, namespace: {NAMESPACE}}}
spec:
  selector: {{istio: shop}}
  servers: [{{port: {{number: PORT, name: http, protocol: HTTP}}, hosts: ["*"]}}]
"""


@pytest.fixture(scope="module")
def ports(azure: AzureSim, workers: int) -> Iterator[Dict[str, int]]:
    """The port of each team's gateway, and of the shop's."""
    ports = {name: free_port() for name in (*TEAMS, "shop")}
    with contextlib.ExitStack() as stack:
        istiod = stack.enter_context(Istiod())
        istiod.apply("shop", SHOP.replace("PORT", str(ports["shop"])))
        for team in TEAMS:
            resource = azure.add_resource(team, host=f"contoso-{team}.openai.azure.com",
                                          deployments={MODEL: MODEL})
            document = config.config(
                subscriptions=[config.subscription(team, key=f"aoai_key-of-{team}")],
                backends=[config.backend(resource)], models=[config.model(MODEL, resource)])
            istiod.apply(team, resources_for(azure, at_gateway(
                document, ports[team], name=team, selector={"istio": team})))
        for name, port in ports.items():
            proxy = stack.enter_context(Proxy(istiod, labels={"istio": name}, workers=workers))
            proxy.listens(port)
        yield ports


def ask(port: int, call: Call) -> Response:
    with Connection(port) as connection:
        return connection.exchange(call.raw())


def test_each_gateway_has_its_own_document(ports: Dict[str, int]) -> None:
    for own, other in (TEAMS, TEAMS[::-1]):
        answer = ask(ports[own], chat(MODEL, ("api-key", f"aoai_key-of-{own}")))
        assert (answer.status, answer.head.values("x-aoai-backend")) == (200, [own])
        own_answer(ask(ports[own], chat(MODEL, ("api-key", f"aoai_key-of-{other}"))),
                   "unknown_key")


def test_another_gateway_has_none(ports: Dict[str, int], azure: AzureSim) -> None:
    for headers in ([("api-key", f"aoai_key-of-{TEAMS[0]}")],
                    [("x-aoai-cluster", f"aoai_{TEAMS[0]}")]):
        assert ask(ports["shop"], chat(MODEL, *headers)).status == 404
    assert all(not resource.requests for resource in azure.resources.values())
