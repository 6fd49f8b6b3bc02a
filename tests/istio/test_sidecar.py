"""Workloads of a mesh call Azure OpenAI by their own sidecars."""

from __future__ import annotations

from typing import Any, Dict, Iterator

import openai
import pytest

from azure_sim import AzureSim, errors
from e2e.calls import Call, chat, own_answer
from e2e.rendering import free_port
from e2e.wire import Connection, Response
from istio.control_plane import Istiod
from istio.mesh import at_gateway, resources_for
from istio.proxy import Proxy
from e2e.two_regions import KEY, POOL, SINGLE, document_of_two

Json = Dict[str, Any]
HOST = "ai.example.test"
NAMESPACE = "search"
# Another host that the same workloads call, on the same port.
OTHER = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: other, namespace: search}
spec:
  hosts: [other.example.test]
  ports: [{number: PORT, name: http, protocol: HTTP}]
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {http: SERVER}}]
"""


class Sidecar:
    """A workload's sidecar, and the port by which the workload calls."""

    def __init__(self, istiod: Istiod, port: int, labels: Dict[str, str], workers: int) -> None:
        # Without iptables, which would lead a workload's calls to the sidecar.
        self.envoy = Proxy(istiod, kind="sidecar", namespace=NAMESPACE, labels=labels,
                           workers=workers, environment={"ISTIO_META_INTERCEPTION_MODE": "NONE"})
        self.port = port
        self.envoy.listens(port)

    def ask(self, call: Call, host: str = HOST) -> Response:
        with Connection(self.port) as connection:
            return connection.exchange(call.at(host).raw())


@pytest.fixture(scope="module")
def document(azure: AzureSim) -> Json:
    return document_of_two(azure)


@pytest.fixture(scope="module")
def sidecar(azure: AzureSim, document: Json, workers: int) -> Iterator[Sidecar]:
    port = free_port()
    text = resources_for(azure, at_gateway(
        document, port, attach="sidecar", namespace=NAMESPACE, selector={"app": "search"},
        hosts=[HOST]))
    with Istiod() as istiod:
        istiod.apply("aoai", text)
        istiod.apply("other", OTHER.replace("PORT", str(port)).replace(
            "SERVER", str(azure.resources["sweden"].port)))
        found = Sidecar(istiod, port, {"app": "search"}, workers)
        with found.envoy:
            yield found


@pytest.mark.parametrize("model", [POOL, SINGLE])
def test_a_workload_calls_with_its_key(sidecar: Sidecar, model: str) -> None:
    answer = sidecar.ask(chat(model, ("api-key", KEY)))
    assert (answer.status, answer.head.values("x-aoai-backend")) == (200, ["eastus"])
    own_answer(sidecar.ask(chat(model, ("api-key", "wrong"))), "unknown_key", hidden=["wrong"])


def test_a_throttled_request_moves_on_and_a_stream_is_served(
        sidecar: Sidecar, azure: AzureSim) -> None:
    azure.resources["eastus"].script.then(errors.throttled(retry_after_ms="1"))
    answer = sidecar.ask(chat(POOL, ("api-key", KEY)))
    assert [answer.head.values(f"x-aoai-{name}") for name in ("backend", "attempts")] == [
        ["sweden"], ["2"]]
    with openai.OpenAI(base_url=f"http://127.0.0.1:{sidecar.port}/openai/v1/", api_key=KEY,
                       default_headers={"host": HOST}) as client:
        chunks = list(client.chat.completions.create(
            model=SINGLE, messages=[{"role": "user", "content": "hi"}], stream=True))
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == "answer from eastus"


def test_calls_of_other_hosts_go_where_they_went(sidecar: Sidecar, azure: AzureSim) -> None:
    answer = sidecar.ask(chat(SINGLE, ("api-key", KEY)), "other.example.test")
    assert answer.status == 404 and not answer.head.values("x-aoai-reason")
    [seen] = azure.resources["sweden"].requests
    assert (seen.host, seen.header("authorization")) == ("other.example.test", None)
