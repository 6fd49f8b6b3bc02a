"""What callers can make Envoy hold is bounded by what is rendered."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

from azure_sim import AzureSim
from e2e import config
from e2e.calls import chat, own_answer, served, v1, warm
from e2e.edits import MANAGER, put
from e2e.gateway import Gateway
from e2e.identities import Identities
from e2e.wire import request

KEY, OTHER_KEY = ("api-key", "key-of-the-team"), ("api-key", "key-of-another-team")
GOOD = chat("gpt-4o", KEY)
MOST_CONNECTIONS = 3
# Of these bodies one subscription may have so many in half of a worker's buffer.
BODY, MOST_HELD = 9 << 20, 7
HEAP = ("overload_manager.resource_monitors[envoy.resource_monitors.fixed_heap]"
        ".typed_config.max_heap_size_bytes")
ACTIONS = ("reduce_timeouts", "shrink_heap", "reset_high_memory_stream",
           "stop_accepting_requests", "stop_accepting_connections")


@pytest.fixture(scope="module")
def cloud(azure: AzureSim) -> AzureSim:
    azure.add_resource("eastus", host="contoso-eastus.openai.azure.com",
                       deployments={"gpt-4o": "gpt-4o"})
    return azure


def document(azure: AzureSim, **listener: Any) -> Dict[str, Any]:
    east = azure.resources["eastus"]
    return config.config(subscriptions=[config.subscription("team", key=KEY[1]),
                                        config.subscription("other", key=OTHER_KEY[1])],
                         backends=[config.backend(east)], models=[config.model("gpt-4o", east)],
                         listener=listener)


def test_half_written_heads_do_not_stay(
        cloud: AzureSim, start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway(document(cloud), edits=[
        put(f"{MANAGER}.request_headers_timeout", "0.3s")])
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(gateway.connect()) for _ in range(200)]
        for connection in connections:
            connection.send(GOOD.raw()[:40])
        for connection in connections:
            assert connection.read_response().status == 408
            assert connection.at_end()
    with gateway.connect() as connection:
        served(connection, GOOD)


def test_a_body_that_takes_longer_than_a_head_may_is_served(
        cloud: AzureSim, start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway(document(cloud), edits=[
        put(f"{MANAGER}.request_headers_timeout", "0.05s")])
    call = v1(b'{"messages":[],"model":"gpt-4o"}', KEY)
    with gateway.connect() as connection:
        connection.send(call.raw()[:-5])
        assert connection.silent_for(0.2)
        connection.send(call.raw()[-5:])
        assert connection.read_response().status == 200


def test_one_subscriptions_bodies_leave_room_for_others(
        cloud: AzureSim, start_gateway: Callable[..., Gateway], workers: int) -> None:
    """Each has sent 9 MiB that name no model, and sends no more."""
    head = b'{"messages":"'
    sent = head + b"x" * (BODY - len(head))
    attack = request("POST", "/openai/v1/chat/completions", [
        KEY, ("content-type", "application/json"), ("content-length", str(BODY + 1))])
    gateway = start_gateway(document(cloud))
    warm(gateway, GOOD)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(gateway.connect()) for _ in range(60)]
        for connection in connections:
            connection.send(attack, sent)

        held = list(connections)

        def few_are_held() -> bool:
            held[:] = [connection for connection in held if connection.silent_for(0.001)]
            return len(held) <= MOST_HELD * workers
        gateway.envoy.wait_until(few_are_held, "local replies")
        assert held
        for connection in connections:
            if connection not in held:
                own_answer(connection.read_response(), "request_buffer_full", waits=True)
        # In every worker.
        other = v1(b'{"messages":[],"user":"' + b"x" * (BODY - 100) + b'","model":"gpt-4o"}',
                   OTHER_KEY)
        for _ in range(4 * workers):
            with gateway.connect() as connection:
                served(connection, other)


def test_connections_beyond_the_limit_are_closed_at_once(
        cloud: AzureSim, start_gateway: Callable[..., Gateway]) -> None:
    """Except those to the admin interface, which this test looks at all the time."""
    gateway = start_gateway(document(cloud, max_connections=MOST_CONNECTIONS))
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(gateway.connect()) for _ in range(MOST_CONNECTIONS)]
        for connection in connections:
            served(connection, GOOD)
        with gateway.connect() as another:
            assert another.at_end()
        served(connections[1], GOOD)
    gateway.envoy.wait_until(lambda: gateway.envoy.stats()["http.aoai.downstream_cx_active"] == 0,
                             "end of all connections")
    warm(gateway, GOOD)


def test_when_the_heap_is_full_callers_wait_and_tokens_are_fetched(
        workers: int, tmp_path: Path) -> None:
    """The client secret is read through a listener of Envoy itself."""
    with AzureSim() as sim:
        found = Identities(sim, tmp_path)
        found.add("client_secret", "east")
        with found.gateway(workers, edits=[put(HEAP, 1)]) as gateway:
            found.wait_for_fetches(gateway, "success", 1)
            for action in ACTIONS:
                gateway.envoy.wait_for_stat(f"overload.envoy.overload_actions.{action}.active")
            # The system takes connections for it, and they stay where they are.
            with gateway.connect() as connection:
                connection.send(GOOD.raw())
                assert connection.silent_for(0.1)
