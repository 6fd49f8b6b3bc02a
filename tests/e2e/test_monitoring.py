"""The monitoring listener shows metrics and readiness, and nothing else of the admin interface."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Dict, Iterator

import httpx
import pytest

from azure_sim import HANG_LIMIT, AzureSim
from e2e import config
from e2e.calls import chat, send
from e2e.gateway import Gateway
from e2e.rendering import free_port

KEY, MODEL = "key-of-the-team", "gpt-4o"
# More at once are closed by the gateway's listener.
MOST_CONNECTIONS = 2


@pytest.fixture(scope="module")
def cloud(azure: AzureSim) -> AzureSim:
    azure.add_resource("eastus", host="contoso-eastus.openai.azure.com",
                       deployments={MODEL: MODEL})
    return azure


@pytest.fixture(scope="module")
def port(workers: int) -> int:
    return free_port()


@pytest.fixture(scope="module")
def gateway(cloud: AzureSim, port: int, start_gateway: Callable[..., Gateway]) -> Gateway:
    east = cloud.resources["eastus"]
    document: Dict[str, Any] = config.config(
        subscriptions=[config.subscription("team", key=KEY)], backends=[config.backend(east)],
        models=[config.model(MODEL, east)],
        listener={"max_connections": MOST_CONNECTIONS,
                  "monitoring": {"address": "127.0.0.1", "port": port}})
    return start_gateway(document, options=["--admin-port", str(free_port())])


@pytest.fixture
def monitoring(gateway: Gateway, port: int) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANG_LIMIT,
                      trust_env=False) as client:
        yield client


def test_metrics_and_readiness_are_shown(gateway: Gateway, monitoring: httpx.Client) -> None:
    assert send(gateway, chat(MODEL, ("api-key", KEY))).status == 200
    ready = monitoring.get("/ready")
    assert (ready.status_code, ready.text) == (200, "LIVE\n")
    metrics = monitoring.get("/metrics")
    assert metrics.status_code == 200
    assert metrics.headers["content-type"].startswith("text/plain")
    assert f'subscription="team",model="{MODEL}"' in metrics.text
    assert "envoy_server_live" in metrics.text


@pytest.mark.parametrize("method, path", [
    ("GET", "/"), ("GET", "/stats"), ("GET", "/stats/prometheus"), ("GET", "/config_dump"),
    ("GET", "/metrics/"), ("GET", "/metricsx"), ("GET", "/ready/../config_dump"),
    ("GET", "/metrics%2f..%2fconfig_dump"), ("GET", "//ready"), ("POST", "/quitquitquit"),
    ("POST", "/ready"), ("POST", "/metrics"), ("DELETE", "/metrics")])
def test_nothing_else_is(monitoring: httpx.Client, method: str, path: str) -> None:
    url = httpx.URL(str(monitoring.base_url), raw_path=path.encode())
    assert monitoring.send(monitoring.build_request(method, url)).status_code == 404


def test_the_gateways_listener_has_no_metrics(gateway: Gateway) -> None:
    for path in ("/metrics", "/ready"):
        answer = gateway.http.get(path, headers={"x-aoai-cluster": "aoai-admin", "api-key": KEY})
        assert (answer.status_code, answer.headers["x-aoai-reason"]) == (404, "unknown_operation")


def test_callers_that_take_all_connections_do_not_keep_it_out(
        gateway: Gateway, monitoring: httpx.Client) -> None:
    gateway.http.close()
    active = "http.aoai.downstream_cx_active"
    gateway.envoy.wait_until(lambda: gateway.envoy.stats()[active] == 0, "end of connections before")
    with contextlib.ExitStack() as stack:
        for _ in range(MOST_CONNECTIONS):
            stack.enter_context(gateway.connect()).send(b"GET / HTTP/1.1\r\n")
        gateway.envoy.wait_for_stat(active, MOST_CONNECTIONS)
        with gateway.connect() as refused:
            assert refused.at_end()
        assert monitoring.get("/ready").status_code == 200
