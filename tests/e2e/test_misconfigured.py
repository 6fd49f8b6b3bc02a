"""Responses of backends that tell of an operator's mistake: in a pool the request moves on, and where no
backend serves it its caller learns no more than that the gateway is misconfigured. The operator
learns what to correct."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Dict, Iterator, Optional

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from azure_sim import HANG_LIMIT, Access, Answer, AzureSim, Delivery, Gate, Resource, errors, tokens
from e2e import config
from e2e.calls import JSON, MESSAGES, chat, chunked, dated, own_answer, send, unmetered, v1
from e2e.diagnosed import (HEADER, OPERATORS, Json, called_over_http2, counted, forms, in_chunks,
                           lines, over_http2)
from e2e.edits import ROUTES, put
from e2e.gateway import Gateway
from e2e.identity import fetched
from e2e.regions import own_headers
from e2e.single import KEY
from e2e.wire import Connection, Response, request

Start = Callable[..., Gateway]
LOG_INTERVAL = 60.0
TEAM = ("api-key", KEY)
# By which models a mistake shows: on one backend, which is reached over HTTP/1 or HTTP/2, or whose
# caller is; on two, of which the first is misconfigured; and on two that both are.
ALONE, ALONE_HTTP2, CALLED_BY_HTTP2 = "alone", "alone-http2", "called-by-http2"
POOLS = {mistake: f"pool-{mistake.replace('_', '-')}" for mistake in OPERATORS}
POOLS_HTTP2 = ["pool-http2-0", "pool-http2-1"]
OTHER_POOLS = ["early", "late-0", "late-1", "socket", "mixed"]
EXHAUSTED = [f"none-{number}" for number in range(4)]
# One of each status, and so of each way to be recognised.
SOME = ["role_missing", "regional_endpoint", "public_access_disabled", "deployment_not_found"]
SPARE = "spare"
# What tells of an operator's resources, and what a backend must not say in the gateway's name.
TELLING = [("www-authenticate", 'Bearer authorization_uri="https://login.example/a-tenant"'),
           ("x-ms-client-principal", "a-principal"), (HEADER, "forged"), ("x-aoai-reason", "forged"),
           ("x-aoai-retry", "forged")]
KEPT = {"date", "server", "apim-request-id", "x-request-id"}


@pytest.fixture(scope="module")
def resources(azure: AzureSim) -> Dict[str, Resource]:
    pools = [*POOLS.values(), *POOLS_HTTP2, *OTHER_POOLS]
    for name in (ALONE, ALONE_HTTP2, *pools, *EXHAUSTED):
        add(azure, name, name)
    for name in EXHAUSTED:
        add(azure, f"{name}-too", name)
    add(azure, SPARE, *(in_spare(name) for name in pools))
    return azure.resources


def add(azure: AzureSim, name: str, *deployments: str) -> Resource:
    return azure.add_resource(name, host=f"contoso-{name}.openai.azure.com",
                              deployments={one: "gpt-4o" for one in deployments})


def in_spare(model: str) -> str:
    """What the backend calls a model that serves where others are misconfigured."""
    return f"deployed-as-{model}"


@pytest.fixture(scope="module")
def gateway(azure: AzureSim, resources: Dict[str, Resource], start_gateway: Start
            ) -> Iterator[Gateway]:
    """Its cooldowns outlast every test."""
    with over_http2(ALONE_HTTP2, *POOLS_HTTP2, EXHAUSTED[1]) as edit:
        with called_over_http2(CALLED_BY_HTTP2) as another:
            found = start_gateway(config.config(
                subscriptions=[config.subscription("search", key=KEY, operations=["*"])],
                backends=[config.backend(one) for one in resources.values()],
                models=[*(config.model(name, name) for name in (ALONE, ALONE_HTTP2)),
                        *(config.model(name, name, config.route(
                            SPARE, deployment=in_spare(name), priority=1))
                          for name in (*POOLS.values(), *POOLS_HTTP2, *OTHER_POOLS)),
                        *(config.model(name, name, config.route(f"{name}-too", priority=1))
                          for name in EXHAUSTED)],
                failover={"cooldown": "40s"}), edits=[edit, another])
            for name in (ALONE, ALONE_HTTP2):
                with found.connect() as connection:
                    assert connection.exchange(chat(name, TEAM).raw()).status == 200
            yield found


@pytest.fixture
def spare(resources: Dict[str, Resource]) -> Resource:
    return resources[SPARE]


def refusal(resource: Resource, mistake: str) -> Answer:
    """A response that tells of a mistake, and of more."""
    return resource.refusal(mistake).with_headers([*TELLING, ("Content-Type", "application/json")])


def assert_told(response: Response, slug: str, backend: Optional[str],
                attempts: Optional[int] = None) -> None:
    """The caller is told whose mistake it is, and nothing of what a backend says."""
    own_answer(response, "backend_misconfigured", backend=backend, diagnosis=slug,
               hidden=["a-principal", "a-tenant", "contoso", "Microsoft", "forged"])
    names = {name for name, _ in response.head.headers if not name.startswith("x-aoai-")}
    kept = KEPT if backend else {"date", "server"}
    assert names == {*kept, "content-type", "content-length", "x-should-retry"}
    assert own_headers(response).get("x-aoai-attempts") == (str(attempts) if attempts else None)


def served_by_spare(response: Response, attempts: int) -> None:
    assert response.status == 200, response
    assert own_headers(response) == {"x-aoai-backend": SPARE, "x-aoai-attempts": str(attempts)}
    assert json.loads(response.body)["choices"][0]["message"]["content"] == f"answer from {SPARE}"


def misconfigured(gateway: Gateway, backend: str, slug: str) -> Optional[int]:
    """The gauge, of whatever model."""
    name = f"wasmcustom.aoai_misconfigured.backend.{backend}.diagnosis.{slug}.model."
    found = [value for known, value in gateway.envoy.stats().items() if known.startswith(name)]
    assert len(found) <= 1
    return found[0] if found else None


# A model on one backend


@pytest.mark.parametrize("way", [ALONE, ALONE_HTTP2, CALLED_BY_HTTP2])
@pytest.mark.parametrize("mistake, slug", OPERATORS.items(), ids=OPERATORS.keys())
def test_a_caller_is_told_that_the_gateway_is_misconfigured_and_no_more(
        gateway: Gateway, resources: Dict[str, Resource], mistake: str, slug: str, way: str
        ) -> None:
    backend = ALONE_HTTP2 if way == ALONE_HTTP2 else ALONE
    port = gateway.envoy.port(way) if way == CALLED_BY_HTTP2 else gateway.port
    before = counted(gateway).get((backend, slug), 0)
    rows = forms(refusal(resources[backend], mistake))
    with Connection(port) as connection:
        for row in rows:
            resources[backend].script.then(row)
            assert_told(connection.exchange(chat(backend, TEAM).raw()), slug, backend)
            assert misconfigured(gateway, backend, slug) == 1
            # It is asked again at once, as there is no other, on the same connection.
            assert connection.exchange(chat(backend, TEAM).raw()).status == 200
            assert misconfigured(gateway, backend, slug) == 0
    assert counted(gateway)[backend, slug] == before + len(rows)


@pytest.mark.parametrize("backend", [ALONE, ALONE_HTTP2])
def test_requests_in_a_row_on_one_connection_get_one_response_each(
        gateway: Gateway, resources: Dict[str, Resource], backend: str) -> None:
    # Envoy sends the second request on once the first has its response: the order is the script's.
    resource = resources[backend]
    resource.script.then(refusal(resource, "firewall"), in_chunks(refusal(resource, "no_access")),
                         errors.RESOURCE_NOT_FOUND)
    with gateway.connect() as connection:
        connection.send(chat(backend, TEAM).raw() * 4)
        found = [connection.read_response() for _ in range(4)]
    assert [(one.status, one.head.header(HEADER)) for one in found] == [
        (502, "network_denied"), (502, "role_missing"), (404, "unknown_path"), (200, None)]


def test_a_realtime_session_is_told_the_same(
        gateway: Gateway, resources: Dict[str, Resource]) -> None:
    resources[ALONE].break_with("token_refused")
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{gateway.port}/openai/v1/realtime?model={ALONE}",
                additional_headers={"api-key": KEY}, proxy=None, open_timeout=HANG_LIMIT)
    response = refused.value.response
    assert (response.status_code, response.headers.get(HEADER)) == (502, "token_rejected")
    assert json.loads(response.body or b"")["error"]["type"] == "backend_misconfigured"


# A model on several


@pytest.mark.parametrize("mistake", OPERATORS)
def test_a_request_moves_on_from_a_misconfigured_backend(
        gateway: Gateway, resources: Dict[str, Resource], spare: Resource, mistake: str) -> None:
    backend, slug, number = POOLS[mistake], OPERATORS[mistake], list(OPERATORS).index(mistake)
    resources[backend].script.then(forms(refusal(resources[backend], mistake))[number % 4])
    moves_on(gateway, resources[backend], spare, slug, number % 3)


@pytest.mark.parametrize("number", range(len(POOLS_HTTP2)))
def test_a_request_moves_on_from_a_misconfigured_backend_over_http2(
        gateway: Gateway, resources: Dict[str, Resource], spare: Resource, number: int) -> None:
    resource = resources[POOLS_HTTP2[number]]
    # With a length, and in chunks.
    resource.script.then(forms(refusal(resource, "role_missing"))[3 * number])
    moves_on(gateway, resource, spare, "role_missing", number)


def moves_on(gateway: Gateway, first: Resource, spare: Resource, slug: str, number: int) -> None:
    """A request for the model of this resource is served by the other one, and the next one at once;
    both come by the same connection. `number` is how it names the model, and how it is sent."""
    body = b'{"model":"%s","messages":[]}'
    named = body % first.name.encode()
    parts = [[chat(first.name, TEAM).raw()], [v1(named, TEAM).raw()],
             [request("POST", "/openai/v1/chat/completions",
                      [TEAM, JSON, ("transfer-encoding", "chunked")]),
              *chunked(named[:12], named[12:])]][number]
    with gateway.connect() as connection:
        for attempts in (2, 1):
            served_by_spare(connection.exchange(*parts), attempts)
    [asked] = first.requests
    for seen, deployment in ((asked, first.name), (spare.requests[0], in_spare(first.name)),
                             (spare.requests[1], in_spare(first.name))):
        assert seen.complete
        assert (seen.target, unmetered(seen.body)) == (
            (dated(deployment), MESSAGES) if number == 0
            else ("/openai/v1/chat/completions", body % deployment.encode()))
    assert misconfigured(gateway, first.name, slug) == 1
    assert counted(gateway)[first.name, slug] == 1
    name = f"wasmcustom.aoai_attempts_total.backend.{first.name}.result.misconfigured.status."
    assert [value for known, value in gateway.envoy.stats().items() if known.startswith(name)] == [1]
    # What to correct is all that the log says.
    found = [line for line in gateway.envoy.log_text().splitlines()
             if f"backend {first.name} " in line]
    assert found == lines("\n".join(found), first.name, slug) and len(found) == 1


def test_a_realtime_session_begins_on_the_next_backend(
        gateway: Gateway, resources: Dict[str, Resource]) -> None:
    resources["socket"].break_with("role_missing")
    with connect(f"ws://127.0.0.1:{gateway.port}/openai/v1/realtime?model=socket", proxy=None,
                 open_timeout=HANG_LIMIT, additional_headers={"api-key": KEY}, close_timeout=0.1
                 ) as session:
        assert json.loads(session.recv(HANG_LIMIT))["type"] == "session.created"
        session.send("hello")
        assert session.recv(HANG_LIMIT) == "hello"
        assert session.response is not None
        found = [session.response.headers[f"x-aoai-{name}"] for name in ("backend", "attempts")]
    assert found == [SPARE, "2"]


def test_a_backend_that_refuses_before_it_has_the_body_is_passed_over_with_all_of_it(
        gateway: Gateway, resources: Dict[str, Resource], spare: Resource) -> None:
    early = resources["early"]
    early.script.then(refusal(early, "firewall").delivered(Delivery(early=True)))
    body = b'{"model":"%s","messages":[],"user":"' + b"u" * 5000 + b'"}'
    raw = v1(body % b"early", TEAM).raw()
    with gateway.connect() as connection:
        connection.send(raw[:-3000])
        spare.recorder.wait_until(lambda seen: len(seen) == 1, "second attempt")
        connection.send(raw[-3000:-10])
        served_by_spare(connection.exchange(raw[-10:]), 2)
    assert [unmetered(seen.body) for seen in spare.requests] == [body % in_spare("early").encode()]


@pytest.mark.parametrize("number", range(len(EXHAUSTED)))
def test_where_every_backend_is_misconfigured_callers_are_told_so(
        gateway: Gateway, resources: Dict[str, Resource], number: int) -> None:
    name, mistake = EXHAUSTED[number], SOME[number]
    both = [resources[name], resources[f"{name}-too"]]
    for resource in both:
        resource.script.always(forms(refusal(resource, mistake))[number])
    call, slug = chat(name, TEAM), OPERATORS[mistake]
    assert_told(send(gateway, call), slug, both[1].name, 2)
    assert [len(resource.requests) for resource in both] == [1, 1]

    def is_told_without_asking() -> bool:
        """About once a second each is asked all the same."""
        response = send(gateway, call)
        backend = response.head.header("x-aoai-backend")
        assert_told(response, slug, backend, 1 if backend else None)
        return backend is None
    gateway.envoy.wait_until(is_told_without_asking, "local reply")
    asked = sum(len(resource.requests) for resource in both)
    for resource in both:
        resource.script.clear()

    def is_served() -> bool:
        response = send(gateway, call)
        assert response.status in (200, 502)
        return response.status == 200
    gateway.envoy.wait_until(is_served, "response of a backend that is well again")
    assert sum(len(resource.requests) for resource in both) == asked + 1


def test_a_request_that_was_throttled_elsewhere_is_told_that(
        gateway: Gateway, resources: Dict[str, Resource], spare: Resource) -> None:
    resources["mixed"].script.then(errors.throttled(retry_after_ms="7000"))
    spare.script.then(refusal(spare, "deployment_not_found"))
    with gateway.connect() as connection:
        response = connection.exchange(chat("mixed", TEAM).raw())
        own_answer(response, "all_backends_throttled", backend=SPARE, hidden=["forged", "Azure"])
    assert 6000 <= int(response.head.header("retry-after-ms") or "") <= 7700


@pytest.mark.parametrize("told_at_first", [0, 1])
def test_a_response_whose_body_is_late_is_passed_on_and_learned(
        gateway: Gateway, resources: Dict[str, Resource], told_at_first: int) -> None:
    resource, gate = resources[f"late-{told_at_first}"], Gate()
    whole = errors.NO_ACCESS.content()
    chunks = [whole[:20], whole[20:], b" "]
    resource.script.then(Answer(401, [JSON], chunks=chunks, delivery=Delivery(each_chunk=gate)))
    call = chat(resource.name, TEAM).raw()
    with gateway.connect() as connection:
        connection.send(call)
        gate.release(told_at_first)
        # The gate is closed: what comes now does not come with the rest.
        head = connection.read_head()
        assert (head.status, head.values(HEADER)) == (401, [])
        assert head.values("x-aoai-backend") == [resource.name]
        for number, chunk in enumerate(chunks):
            if number >= told_at_first:
                gate.release()
            assert connection.read_chunk_data() == chunk
        assert connection.read_body() == b""
        gateway.envoy.wait_until(
            lambda: misconfigured(gateway, resource.name, "role_missing") == 1, "gauge")
        served_by_spare(connection.exchange(call), 1)


def test_one_request_tries_a_misconfigured_backend_again_and_ends_its_cooldown(
        azure: AzureSim, start_gateway: Start) -> None:
    with start_gateway(config.config(
            subscriptions=[config.subscription("search", key=KEY)],
            backends=[config.backend(natural(azure, name)) for name in ("broken", "whole")],
            models=[config.model("m", config.route("broken", deployment="broken"),
                                 config.route("whole", deployment="whole", priority=1))],
            failover={"cooldown": "1s"})) as gateway, gateway.connect() as connection:
        broken = azure.resources["broken"]
        broken.script.then(refusal(broken, "role_missing"))
        call = chat("m", TEAM).raw()
        assert connection.exchange(call).head.values("x-aoai-backend") == ["whole"]
        assert misconfigured(gateway, "broken", "role_missing") == 1

        def is_back() -> bool:
            response = connection.exchange(call)
            assert response.status == 200
            return response.head.values("x-aoai-backend") == ["broken"]
        gateway.envoy.wait_until(is_back, "end of the cooldown")
        first, second = (seen.received_at for seen in broken.requests)
        assert second - first >= 1.0 - 0.002
        assert misconfigured(gateway, "broken", "role_missing") == 0
        log = gateway.envoy.wait_for_log("backend broken serves model m again")
    assert "in cooldown" not in log and len(lines(log, "broken", "role_missing")) == 1


# What nature gives


def natural(azure: AzureSim, name: str) -> Resource:
    return azure.resources.get(name) or add(azure, name, name)


def alone(azure: AzureSim, *names: str) -> Json:
    """A configuration with a model of the same name for each of these resources."""
    found = [natural(azure, name) for name in names]
    return config.config(
        subscriptions=[config.subscription("search", key=KEY, operations=["*"])],
        backends=[config.backend(one) for one in found],
        models=[config.model(one.name, one) for one in found])


def ask(gateway: Gateway, model: str) -> Response:
    """The response to a request on a connection of its own, so that any worker may get it."""
    with gateway.connect() as connection:
        return connection.exchange(chat(model, TEAM).raw())


def test_what_is_really_wrong_is_named(azure: AzureSim, start_gateway: Start) -> None:
    names = ["tenant", "role", "network", "deployment", "subdomain"]
    with start_gateway(alone(azure, *names)) as gateway:
        resources = azure.resources
        resources["tenant"].tenant = "00000000-0000-4000-8000-0000000000ff"
        resources["role"].principals = set()
        resources["network"].access = Access.NETWORK_DENIED
        resources["deployment"].deployments = {}
        hosts, resources["subdomain"].hosts = resources["subdomain"].hosts, {"another.host"}
        try:
            found = {name: ask(gateway, name).head.values(HEADER) for name in names}
        finally:
            resources["subdomain"].hosts = hosts
        log = gateway.envoy.log_text()
    assert found == {
        "tenant": ["wrong_tenant"], "role": ["role_missing"], "network": ["network_denied"],
        "deployment": ["deployment_not_found"], "subdomain": ["unknown_subdomain"]}
    principal = azure.identity.system_assigned
    assert principal is not None
    [line] = lines(log, "role", "role_missing")
    assert ("data action Microsoft.CognitiveServices/accounts/OpenAI/deployments/chat/completions"
            "/action, ") in line
    assert f"principal {principal.object_id}, application {principal.client_id}" in line
    assert "Assign the role Cognitive Services OpenAI User" in line
    [line] = lines(log, "tenant", "wrong_tenant")
    assert f"tenant {principal.tenant}" in line


def test_a_key_that_something_behind_the_filter_adds_is_found(
        azure: AzureSim, start_gateway: Start) -> None:
    add_key = put(f"{ROUTES}[*].request_headers_to_add",
                  [{"header": {"key": "api-key", "value": "leaked"}}])
    with start_gateway(alone(azure, "leaks"), edits=[add_key]) as gateway:
        assert ask(gateway, "leaks").head.values(HEADER) == ["key_authentication_disabled"]
        azure.resources["leaks"].keys = {"another"}
        assert ask(gateway, "leaks").head.values(HEADER) == ["azure_key_rejected"]


def test_a_token_for_another_audience_is_named_by_what_it_says_itself(
        azure: AzureSim, start_gateway: Start) -> None:
    wrong = "https://cognitiveservices.azure.us"
    azure.identity.script.always(azure.identity.granted(wrong))
    with start_gateway(alone(azure, "audience")) as gateway:
        assert ask(gateway, "audience").head.values(HEADER) == ["token_rejected"]
        [line] = lines(gateway.envoy.log_text(), "audience", "token_rejected")
    assert line.endswith(f"audience {wrong}")
    assert "resource contoso-audience.openai.azure.com, principal " in line


# The log


def test_the_log_has_a_line_a_minute_for_each_backend_and_diagnosis(
        azure: AzureSim, start_gateway: Start, workers: int) -> None:
    begun = time.monotonic()
    with start_gateway(alone(azure, "one", "two")) as gateway:
        def many(model: str, slug: str, count: int) -> None:
            azure.resources[model].break_with(slug)
            with ThreadPoolExecutor(20) as pool:
                found = list(pool.map(lambda _: ask(gateway, model), range(count)))
            assert {one.head.header(HEADER) for one in found} == {OPERATORS[slug]}

        many("one", "token_refused", 100)
        many("two", "token_refused", 60)
        many("one", "role_missing", 60)
        many("one", "firewall", 60)
        many("one", "public_access_disabled", 60)
        most = 1 + int((time.monotonic() - begun) / LOG_INTERVAL)
        log, counters, stats = (
            gateway.envoy.log_text(), counted(gateway), gateway.envoy.stats())
    assert counters == {("one", "token_rejected"): 100, ("two", "token_rejected"): 60,
                        ("one", "role_missing"): 60, ("one", "network_denied"): 120}
    for backend, slug in counters:
        assert 1 <= len(lines(log, backend, slug)) <= most
    machine = azure.identity.system_assigned
    assert machine is not None
    line = lines(log, "two", "token_rejected")[0]
    for part in ("two responded 401, token_rejected: the resource does not accept the token",
                 "Compare the token's audience", "resource contoso-two.openai.azure.com",
                 f"principal {machine.object_id}", f"application {machine.client_id}",
                 f"tenant {machine.tenant}", "audience https://cognitiveservices.azure.com",
                 "identity /subscriptions/"):
        assert part in line
    assert tokens.MARK not in log and KEY not in log
    used = [name for name, value in stats.items()
            if name.startswith("listener.") and name.endswith("downstream_cx_total")
            and ".worker_" in name and ".admin." not in name and value]
    assert len(used) == workers, used


def test_a_rejected_token_that_is_new_is_not_fetched_again(
        azure: AzureSim, start_gateway: Start) -> None:
    begun = time.monotonic()
    with start_gateway(alone(azure, "rejects")) as gateway:
        azure.resources["rejects"].break_with("token_refused")
        with ThreadPoolExecutor(10) as pool:
            found = list(pool.map(lambda _: ask(gateway, "rejects"), range(100)))
        azure.resources["rejects"].mend()
        # Once more, so that a fetch that was begun has had its time.
        assert ask(gateway, "rejects").status == 200
        assert 1 <= fetched(gateway) <= 1 + (time.monotonic() - begun) // 60
    assert {one.head.header(HEADER) for one in found} == {"token_rejected"}
