"""Where the token comes from: fetches, failures of the identity endpoint, expiry, who waits."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest

from azure_sim import (HANG, HANG_LIMIT, RESET, Answer, AzureSim, Delivery, Gate, ManagedIdentity,
                       Resource, taken_port)
from azure_sim.records import RecordedRequest
from azure_sim.script import Step
from e2e import config
from e2e.edits import CLUSTERS, leads_to, take
from e2e.gateway import Gateway, from_file, write_resources
from e2e.identity import FETCHES, closed_gate, fetched, token_answer
from e2e.rendering import more_listeners
from e2e.single import (CHAT, JSON_TYPE, KEY, MODEL, V1_CHAT, Json, assert_refused, callers, chat,
                        east, raw_chat, settings, until_served)
from e2e.wire import Connection, Response, request

Start = Callable[..., Gateway]
SHORT_WAIT = "300ms"
ACTIVE = "http.aoai.downstream_rq_active"


@pytest.fixture(scope="module")
def resource(azure: AzureSim) -> Resource:
    return east(azure)


# The first token


def test_the_first_token_is_fetched_before_any_request(
        azure: AzureSim, resource: Resource, start_gateway: Start) -> None:
    with start_gateway(settings(resource)) as gateway:
        azure.identity.wait_for_requests(1)
        gateway.envoy.wait_for_stat(FETCHES + "success")
        assert gateway.envoy.stats()["http.aoai.downstream_rq_total"] == 0
        assert chat(gateway).status_code == 200
        assert fetched(gateway) == 1


def test_the_endpoint_is_asked_as_imds_wants_it(
        azure: AzureSim, resource: Resource, start_gateway: Start) -> None:
    with start_gateway(settings(resource)):
        seen, *_ = azure.identity.wait_for_requests(1)
    assert (seen.method, seen.path) == ("GET", "/metadata/identity/oauth2/token")
    assert sorted(seen.query) == [("api-version", "2018-02-01"),
                                  ("resource", "https://cognitiveservices.azure.com")]
    assert seen.header_values("host") == ["169.254.169.254"]
    assert seen.header_values("metadata") == ["true"]
    assert seen.header("x-forwarded-for") is None
    assert seen.body == b""


def test_a_token_that_is_no_jwt_is_used(
        azure: AzureSim, resource: Resource, start_gateway: Start) -> None:
    azure.identity.script.always(azure.identity.granted(token="opaque~token/+=="))
    with start_gateway(settings(resource)) as gateway:
        gateway.envoy.wait_for_stat(FETCHES + "success")
        resource.script.then(Answer(200, body={}))
        assert chat(gateway).status_code == 200
    assert [one.header_values("authorization") for one in resource.requests] == [
        ["Bearer opaque~token/+=="]]


def test_a_crowd_at_a_cold_start_is_served_from_one_fetch(
        azure: AzureSim, resource: Resource, start_gateway: Start, workers: int) -> None:
    gate = closed_gate(azure)
    with start_gateway(settings(resource, token_wait="5m")) as gateway:
        crowd = callers(gateway, 200)
        for one in crowd:
            one.send(raw_chat())
        gateway.envoy.wait_for_stat(ACTIVE, 200)
        stats = gateway.envoy.stats()
        shares = [value for name, value in stats.items()
                  if ".worker_" in name and name.startswith("listener.")
                  and name.endswith("downstream_cx_active") and ".admin." not in name]
        assert len(shares) == workers and all(shares)
        assert resource.requests == []
        gate.open()
        assert [one.read_response().status for one in crowd] == [200] * 200
        for one in crowd:
            one.close()
        assert len(resource.requests) == 200
        assert len({one.token.jti for one in resource.requests if one.token}) == 1
        assert fetched(gateway) == azure.identity.max_concurrent == 1


# Outages


@dataclass
class Outage:
    """An endpoint that answers the first fetch so, and later ones once the test says so. Between
    the first two are at least so many seconds."""

    first: Step
    least: float = 1.0
    identity: ManagedIdentity = field(default_factory=ManagedIdentity)
    fetches: List[float] = field(default_factory=list)
    recovery: Gate = field(default_factory=Gate)
    refused: Optional[Response] = None
    forwarded_too_early: int = 0
    served: Optional[Response] = None


def outages_to_test() -> Dict[str, Outage]:
    rows: Dict[str, Step] = {
        "404": Answer(404),
        "410 being updated": Answer(410),
        "429": Answer(429, body="Too many requests"),
        "429 with Retry-After": Answer(429, [("Retry-After", "2")]),
        "500": Answer(500, body={"error": "unknown", "error_description": "internal"}),
        "503 page": Answer(503, body="<html>"),
        "garbage": Answer(200, body="<html>welcome</html>"),
        "empty 200": Answer(200),
        "truncated JSON": Answer(200, body=b'{"expires_in":"3600","access_token":"eyJ'),
        "cut": Answer(200, body=b"{" + b" " * 1000, delivery=Delivery(cut_after=100)),
        "oversized": Answer(200, body={"padding": "x" * 1_000_000, "access_token": "eyJ.eyJ.x",
                                       "expires_in": "3600"}),
        "no HTTP": Delivery(raw=b"\x00\x01 what is this\r\n\r\n"),
        "reset": RESET,
        "hanging": HANG,
    }
    # The first wait is a second, or what the endpoint asks for; an answer that does not come is
    # given up after three.
    least = {"429 with Retry-After": 2.0, "hanging": 3.0 + 1.0}
    return {name: Outage(first, least.get(name, 1.0)) for name, first in rows.items()}


OUTAGES = list(outages_to_test())


@pytest.fixture(scope="module")
def outages(workers: int) -> Iterator[Dict[str, Outage]]:
    """Every outage as it went, all at the same time: one Envoy, a listener and an identity for each
    of them."""
    found = outages_to_test()
    with AzureSim() as sim:
        resource = east(sim)

        def rule(request: RecordedRequest) -> Optional[Step]:
            client_id = dict(request.query).get("client_id")
            outage = next((one for one in found.values() if one.identity.client_id == client_id),
                          None)
            if outage is None:
                return None
            outage.fetches.append(request.received_at)
            return outage.first if len(outage.fetches) == 1 else Delivery(before=outage.recovery)

        began = time.time()

        sim.identity.user_assigned = [one.identity for one in found.values()]
        sim.identity.script.always(rule)
        configurations = {name: settings(
            resource, token_wait=SHORT_WAIT,
            identity=config.managed_identity(client_id=outage.identity.client_id),
        ) for name, outage in found.items()}
        with Gateway(settings(resource), sim, workers=workers,
                     edits=[more_listeners(sim, configurations)]) as gateway:
            sim.identity.wait_for_requests(len(found) + 1)
            ports = {name: gateway.envoy.port(name) for name in found}
            asking = {name: Connection(port) for name, port in ports.items()}
            for connection in asking.values():
                connection.send(raw_chat())
            for name, connection in asking.items():
                found[name].refused = connection.read_response()
                connection.close()
            forwarded = len(resource.requests)
            for outage in found.values():
                outage.forwarded_too_early = forwarded
                outage.recovery.open()
            # Envoy counts the three seconds from when it asks, which nobody else sees.
            found["hanging"].fetches[0] = began
            deadline = time.monotonic() + HANG_LIMIT
            while any(one.served is None for one in found.values()) and time.monotonic() < deadline:
                for name, outage in found.items():
                    if outage.served is None:
                        answer = ask(ports[name])
                        outage.served = answer if answer.status == 200 else None
                time.sleep(0.05)
            yield found


@pytest.mark.parametrize("name", OUTAGES)
def test_without_a_token_requests_are_answered_and_go_nowhere(
        outages: Dict[str, Outage], name: str) -> None:
    outage = outages[name]
    assert outage.refused is not None
    assert_refused(outage.refused, 503, "token_unavailable")
    head, body = outage.refused.head, json.loads(outage.refused.body)
    assert body["error"]["code"] == "503" and body["error"]["type"] == "token_unavailable"
    seconds, millis = (int(head.header(name) or 0) for name in ("retry-after", "retry-after-ms"))
    assert 1000 <= millis <= 30_000 and seconds == -(-millis // 1000)
    assert head.header("x-should-retry") is None
    assert outage.forwarded_too_early == 0


@pytest.mark.parametrize("name", OUTAGES)
def test_it_recovers_by_itself_once_the_endpoint_does(
        outages: Dict[str, Outage], name: str) -> None:
    outage = outages[name]
    assert outage.served is not None and outage.served.status == 200
    first, second, *_ = outage.fetches
    # The filter keeps times in milliseconds.
    assert second - first >= outage.least - 0.002


def test_the_old_token_serves_through_an_outage_until_it_expires(
        azure: AzureSim, resource: Resource, start_gateway: Start) -> None:
    first, life = iter([True]), 5
    azure.identity.script.always(
        lambda _: token_answer(azure, life) if next(first, False) else Answer(500))
    with start_gateway(settings(resource, token_wait="100ms")) as gateway:
        azure.identity.wait_for_requests(1)
        until_served(gateway)
        # The token was issued between these two, so it expires between the same two plus its life.
        earliest, latest = azure.identity.requests[0].received_at, time.time()
        gateway.envoy.wait_for_stat(FETCHES + "failed")
        refused_at, deadline = math.inf, time.monotonic() + HANG_LIMIT
        while (asked := time.time()) < refused_at and time.monotonic() < deadline:
            answer = ask(gateway.port)
            if answer.status == 200:
                assert asked < latest + life, "an expired token serves"
            else:
                assert_refused(answer, 503, "token_unavailable")
                refused_at = time.time()
                assert refused_at >= earliest + life, "a failed refresh ends the old token"
            time.sleep(0.005)
        assert refused_at < math.inf
        # One refresh at half-life, a tenth earlier at most, then waits that double, whatever the
        # number of requests.
        assert_apart(azure, life / 2 * 0.9, 1.0, 2.0, 4.0)
        azure.identity.script.clear()
        until_served(gateway)
        assert azure.identity.max_concurrent == 1


def assert_apart(azure: AzureSim, *least: float) -> None:
    """Each fetch came at least so many seconds after the one before it. The endpoint notes when one
    arrives, and the filter counts from the answer."""
    times = [one.received_at for one in azure.identity.requests]
    gaps = [after - before for before, after in zip(times, times[1:])]
    assert gaps and all(gap >= one - 0.002 for gap, one in zip(gaps, least)), gaps


def test_tokens_expire_while_requests_flow_and_nobody_notices(
        azure: AzureSim, resource: Resource, start_gateway: Start) -> None:
    life = 3
    azure.identity.script.always(lambda _: token_answer(azure, life))
    with start_gateway(settings(resource)) as gateway:
        connections = callers(gateway, 8)
        statuses, tokens = set(), set()
        deadline = time.monotonic() + HANG_LIMIT
        while len(tokens) < 5 and time.monotonic() < deadline:
            statuses |= {one.exchange(raw_chat()).status for one in connections}
            tokens = {one.token.jti for one in resource.requests if one.token}
            time.sleep(0.01)
        for one in connections:
            one.close()
    assert statuses == {200} and len(tokens) == 5
    # Each worker for itself would ask twice as often.
    assert_apart(azure, *[life / 2 * 0.9] * 4)
    assert azure.identity.max_concurrent == 1


# Refusals


def nobody(azure: AzureSim) -> None:
    azure.identity.system_assigned = None


def several(azure: AzureSim) -> None:
    azure.identity.system_assigned = None
    azure.identity.user_assigned = [ManagedIdentity(), ManagedIdentity()]


@pytest.mark.parametrize("machine, says", [(nobody, "Identity not found"),
                                           (several, "Multiple user assigned identities exist")],
                         ids=["identity not found", "multiple identities"])
def test_a_refusal_ends_the_wait_and_is_not_asked_for_again(
        azure: AzureSim, resource: Resource, start_gateway: Start,
        machine: Callable[[AzureSim], None], says: str) -> None:
    gate = closed_gate(azure)
    machine(azure)
    with start_gateway(settings(resource, token_wait="5m")) as gateway:
        waiting = callers(gateway, 10)
        for one in waiting:
            one.send(raw_chat())
        gateway.envoy.wait_for_stat(ACTIVE, 10)
        gate.open()
        answers = [one.read_response() for one in waiting]
        asked = len(azure.identity.requests)
        answers += [ask(gateway.port) for _ in range(50)]
        for one in waiting:
            one.close()
        for answer in answers:
            assert_refused(answer, 503, "token_refused")
            assert answer.head.header("x-should-retry") == "false"
            assert answer.head.header("retry-after") is None
        assert len(azure.identity.requests) == asked
        assert resource.requests == []
        log = gateway.envoy.wait_for_log("no token for Azure")
        [line] = [one for one in log.splitlines() if "no token for Azure" in one]
        assert "[error]" in line
        assert says in line
        assert int(line.split("Next attempt in ")[1].split()[0]) >= 60


# The way to the endpoint


def test_an_endpoint_that_refuses_connections_is_found_when_it_is_back(
        azure: AzureSim, resource: Resource, start_gateway: Start) -> None:
    port = taken_port()
    leads_there = leads_to(config.IDENTITY_CLUSTER, port.getsockname()[1])
    with start_gateway(settings(resource, token_wait=SHORT_WAIT), edits=[leads_there]) as gateway:
        answer = chat(gateway)
        assert_refused(answer, 503, "token_unavailable")
        assert int(answer.headers["retry-after-ms"]) >= 1000
        assert resource.requests == []
        with AzureSim(identity_port=port) as back:
            until_served(gateway)
            assert fetched(gateway) == back.identity.max_concurrent == 1


def test_a_cluster_that_envoy_does_not_have_is_used_once_it_does(
        azure: AzureSim, resource: Resource, start_gateway: Start, tmp_path: Path) -> None:
    file, kind = tmp_path / "cds.json", "cluster.v3.Cluster"
    moved: List[Json] = []

    def moved_to_a_file(bootstrap: Json) -> None:
        moved.append(take(bootstrap, f"{CLUSTERS}[{config.IDENTITY_CLUSTER}]"))
        bootstrap["dynamic_resources"] = {"cds_config": from_file(file)}

    write_resources(file, kind)
    with start_gateway(settings(resource, token_wait=SHORT_WAIT),
                       edits=[moved_to_a_file]) as gateway:
        assert_refused(chat(gateway), 503, "token_unavailable")
        assert resource.requests == azure.identity.requests == []
        gateway.envoy.wait_for_log("no cluster")
        write_resources(file, kind, *moved, version=1)
        until_served(gateway)


# Which identity

RESOURCE_ID = ("/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/group(1)"
               "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/gateway")


@pytest.mark.parametrize("selector, parameter", [
    (None, None),
    ("client_id", "client_id"),
    ("object_id", "object_id"),
    ("resource_id", "msi_res_id"),
], ids=["system-assigned", "client_id", "object_id", "resource_id"])
def test_requests_leave_as_the_configured_identity(
        azure: AzureSim, resource: Resource, start_gateway: Start, selector: Optional[str],
        parameter: Optional[str]) -> None:
    other, chosen = ManagedIdentity(), ManagedIdentity(resource_id=RESOURCE_ID)
    azure.identity.user_assigned = [other, chosen]
    expected = azure.identity.system_assigned if selector is None else chosen
    assert expected is not None
    selected: Dict[str, Any] = {} if selector is None else {selector: getattr(chosen, selector)}
    with start_gateway(settings(resource, identity=config.managed_identity(**selected))) as gateway:
        assert chat(gateway).status_code == 200
    [seen] = resource.requests
    assert seen.token is not None
    assert (seen.token.oid, seen.token.appid) == (expected.object_id, expected.client_id)
    assert seen.token.aud == "https://cognitiveservices.azure.com"
    asked, *_ = azure.identity.requests
    parameters = {name: value for name, value in asked.query
                  if name not in ("api-version", "resource")}
    assert len(asked.query) == 2 + len(parameters)
    assert parameters == ({} if parameter is None else {parameter: selected[str(selector)]})


# Who waits


def test_clients_that_leave_while_they_wait_leave_nothing_behind(
        azure: AzureSim, resource: Resource, start_gateway: Start) -> None:
    gate = closed_gate(azure)
    with start_gateway(settings(resource, token_wait="5m")) as gateway:
        leaving, staying = callers(gateway, 50), callers(gateway, 5)
        for one in [*leaving, *staying]:
            one.send(raw_chat())
        gateway.envoy.wait_for_stat(ACTIVE, 55)
        for one in leaving:
            one.leave()
        gateway.envoy.wait_until(lambda: gateway.envoy.stats()[ACTIVE] == 5, "50 ended requests")
        assert resource.requests == []
        gate.open()
        assert [one.read_response().status for one in staying] == [200] * 5
        assert [one.exchange(raw_chat()).status for one in staying] == [200] * 5
        for one in staying:
            one.close()
        gateway.envoy.wait_until(lambda: gateway.envoy.stats()[ACTIVE] == 0, "all requests ended")
        assert len(resource.requests) == 10
        assert fetched(gateway) == azure.identity.max_concurrent == 1


@pytest.mark.parametrize("deployment", [MODEL, "gpt-4o-2024-11-20"], ids=["as it is", "renamed"])
@pytest.mark.parametrize("known_before", [True, False],
                         ids=["model first", "model after the token"])
def test_a_body_that_trickles_in_around_the_token_arrives_whole(
        azure: AzureSim, resource: Resource, start_gateway: Start, deployment: str,
        known_before: bool) -> None:
    resource.deployments = {deployment: MODEL}
    gate = closed_gate(azure)
    text = '"messages":[{"role":"user","content":"' + "schön " * 500 + '"}]'
    whole = ('{"model" : "%s", %s }' if known_before else '{%s , "model":"%s"}')
    parts = (MODEL, text) if known_before else (text, MODEL)
    body = (whole % parts).encode()
    pieces = [body[start:start + 400] for start in range(0, len(body), 400)]
    before, after = pieces[:4], pieces[4:]
    models = [config.model(MODEL, config.route(resource, deployment=deployment))]
    with start_gateway({**settings(resource, token_wait="5m"), "models": models}) as gateway:
        azure.identity.wait_for_requests(1)
        with gateway.connect() as connection:
            head = request("POST", V1_CHAT, [("api-key", KEY), JSON_TYPE,
                                             ("transfer-encoding", "chunked")])
            connection.send(head, *map(chunk, before))
            sent = len(head) + sum(len(chunk(piece)) for piece in before)
            gateway.envoy.wait_for_stat("http.aoai.downstream_cx_rx_bytes_total", sent)
            assert resource.requests == []
            gate.open()
            gateway.envoy.wait_for_stat(FETCHES + "success")
            for piece in after:
                connection.send(chunk(piece))
                sent += len(chunk(piece))
                gateway.envoy.wait_for_stat("http.aoai.downstream_cx_rx_bytes_total", sent)
            if known_before:
                resource.recorder.wait_until(
                    lambda seen: bool(seen) and seen[0].body_length > 0, "first part of the body")
            connection.send("0\r\n\r\n")
            assert connection.read_response().status == 200
    expected = body.replace(b'"gpt-4o"', f'"{deployment}"'.encode())
    [seen] = resource.requests
    assert seen.complete and seen.body == expected
    assert len(after) > 3 and len(before) > 3


def test_a_body_that_stalls_when_its_token_has_come_is_told_to_come_again(
        azure: AzureSim, resource: Resource, start_gateway: Start) -> None:
    gate = closed_gate(azure)
    with start_gateway(settings(resource, token_wait="2s")) as gateway:
        azure.identity.wait_for_requests(1)
        with gateway.connect() as connection:
            head = request("POST", CHAT, [("api-key", KEY), JSON_TYPE, ("content-length", "99")])
            connection.send(head, "{")
            gateway.envoy.wait_for_stat("http.aoai.downstream_cx_rx_bytes_total", len(head) + 1)
            gate.open()
            answer = connection.read_response()
        assert_refused(answer, 503, "token_unavailable")
        assert answer.head.header("retry-after") == "1"
        assert resource.requests == []
        assert ask(gateway.port).status == 200


def ask(port: int) -> Response:
    """The answer to a request on a connection of its own: Envoy closes one whose request it answers
    before the body is there."""
    with Connection(port) as connection:
        return connection.exchange(raw_chat())


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
