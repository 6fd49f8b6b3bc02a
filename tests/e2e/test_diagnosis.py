"""Answers of backends that tell of a mistake: named in a header, counted and logged, and in all else
what the backend has sent, as soon as it has sent it."""

from __future__ import annotations

import gzip
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Dict, Iterator, List, Tuple

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from azure_sim import HANG_LIMIT, MISTAKES, Access, Answer, AzureSim, Delivery, Gate, Resource
from azure_sim import errors, tokens
from e2e import config
from e2e.diagnosed import (DIAGNOSES, HEADER, HTTP2, KINDS, POOLED, SINGLE, Json, add_resources,
                           call, counted, dated, document, exchange, in_chunks, lines, model_of,
                           over_http2, theirs, told)
from e2e.edits import OUR_LISTENER, ROUTES, bodies_held_back, put, without_filter
from e2e.gateway import Gateway
from e2e.identity import fetched
from e2e.single import KEY
from e2e.wire import Connection, Response, request

Start = Callable[..., Gateway]
LONGEST_BODY = 4 * 1024
# How long the head of an answer that may tell of a mistake is held at most, in seconds.
LONGEST_HOLD = 0.5
LOG_INTERVAL = 60.0


@pytest.fixture(scope="module")
def resources(azure: AzureSim) -> Dict[str, Resource]:
    add_resources(azure)
    return azure.resources


@pytest.fixture(scope="module")
def gateways(azure: AzureSim, resources: Dict[str, Resource], start_gateway: Start
             ) -> Iterator[Tuple[Gateway, Gateway]]:
    """Envoy with the filter, and without it."""
    with over_http2(azure) as edit:
        filtered = start_gateway(document(azure), edits=[edit])
        for kind in KINDS:
            assert exchange(filtered, kind).status == 200
        yield filtered, start_gateway(document(azure), edits=[edit, without_filter])


@pytest.fixture(scope="module")
def gateway(gateways: Tuple[Gateway, Gateway]) -> Gateway:
    return gateways[0]


def both(gateways: Tuple[Gateway, Gateway], resource: Resource, kind: str, answer: Answer
         ) -> Tuple[Response, Response]:
    """The answer as the caller gets it with the filter and without it."""
    resource.script.then(answer, answer)
    with_filter, without = (exchange(one, kind) for one in gateways)
    return with_filter, without


def unchanged(response: Response, expected: Response) -> None:
    assert response.status == expected.status
    assert theirs(response.head) == theirs(expected.head)
    assert response.body == expected.body


# The table


def test_every_mistake_that_is_simulated_has_its_diagnosis() -> None:
    assert set(DIAGNOSES) == set(MISTAKES)


@pytest.mark.parametrize("mistake, kind", [
    (mistake, kind) for mistake in DIAGNOSES for kind in KINDS
    # Another backend answers then.
    if (mistake, kind) != ("throttled", POOLED)])
def test_an_answer_is_diagnosed_and_otherwise_unchanged(
        gateways: Tuple[Gateway, Gateway], resources: Dict[str, Resource], mistake: str, kind: str
        ) -> None:
    gateway, slug = gateways[0], DIAGNOSES[mistake]
    answer = dated(resources[kind].refusal(mistake))
    before = counted(gateway)
    rows = [answer, dated(errors.spaced(answer)), in_chunks(answer), in_chunks(answer, 10_000)]
    for row in rows:
        response, expected = both(gateways, resources[kind], kind, row)
        unchanged(response, expected)
        assert (response.status, response.body) == (
            answer.status, b"".join(row.chunks) if row.chunks else row.content())
        assert response.head.values(HEADER) == ([] if slug is None else [slug])
        assert response.head.values("x-aoai-backend") == [kind]
        assert response.head.header("x-aoai-reason") is None
    after = counted(gateway)
    new = {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key)}
    assert new == ({} if slug is None else {(kind, slug): len(rows)})


def test_other_errors_of_a_backend_are_no_mistakes(
        gateways: Tuple[Gateway, Gateway], resources: Dict[str, Resource]) -> None:
    before = counted(gateways[0])
    rows = [errors.bad_request("'messages' is a required property", "messages"),
            Answer(401), Answer(403, body="<html>Forbidden</html>"), Answer(404, body=b"\xff\x00"),
            Answer(404, body=[]), Answer(400, body='{"error":'), Answer(422, body={"error": "x"})]
    for kind in KINDS:
        for row in rows:
            response, expected = both(gateways, resources[kind], kind, dated(row))
            unchanged(response, expected)
            assert response.head.header(HEADER) is None
    assert counted(gateways[0]) == before


# What nature gives


def natural(azure: AzureSim, name: str) -> Resource:
    if name not in azure.resources:
        azure.add_resource(name, host=f"contoso-{name}.openai.azure.com",
                           deployments={name: "gpt-4o"})
    return azure.resources[name]


def alone(azure: AzureSim, *names: str, **more: str) -> Json:
    """A configuration with a model of the same name for each of these resources. `more` are further
    fields."""
    found = [natural(azure, name) for name in names]
    return config.config(
        subscriptions=[config.subscription("search", key=KEY, operations=["*"])],
        backends=[config.backend(one) for one in found],
        models=[config.model(one.name, one) for one in found], **more)


def ask(gateway: Gateway, model: str, path: str = "chat/completions") -> Response:
    with gateway.connect() as connection:
        return connection.exchange(request(
            "POST", f"/openai/deployments/{model}/{path}?api-version=2024-10-21",
            [("api-key", KEY), ("content-type", "application/json")], b'{"messages":[]}'))


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
            assert {one.head.header(HEADER) for one in found} == {DIAGNOSES[slug]}

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


# What is not held back


def json_in(*chunks: bytes, status: int = 401, headers: Tuple[Tuple[str, str], ...] = ()
            ) -> Answer:
    """An answer in these chunks. A length among its headers takes the place of HTTP's chunks."""
    return Answer(status, [("content-type", "application/json"), *headers], chunks=chunks)


ROLE = errors.NO_ACCESS.content()
HALVES = (ROLE[:20], ROLE[20:])
AT_ONCE: Dict[str, Answer] = {
    "a success": json_in(*HALVES, status=200),
    "a success of another kind": json_in(*HALVES, status=202),
    "a redirection": json_in(*HALVES, status=302, headers=(("location", "/"),)),
    "a conflict": json_in(*HALVES, status=409),
    "throttling": json_in(*HALVES, status=429),
    "an error of the backend's": json_in(*HALVES, status=500),
    "events": Answer(400, [("content-type", "text/event-stream")], chunks=HALVES),
    "compressed": json_in(*HALVES, headers=(("content-encoding", "gzip"),)),
    "long": json_in(ROLE, b" " * LONGEST_BODY,
                    headers=(("content-length", str(len(ROLE) + LONGEST_BODY)),)),
}


@pytest.mark.parametrize("kind", [SINGLE, HTTP2])
@pytest.mark.parametrize("answer", list(AT_ONCE.values()), ids=list(AT_ONCE))
def test_the_head_of_another_answer_goes_on_before_its_body(
        gateway: Gateway, resources: Dict[str, Resource], answer: Answer, kind: str) -> None:
    """It would get the header otherwise, with the rest there in time."""
    gate = Gate()
    resources[kind].script.then(answer.delivered(Delivery(each_chunk=gate)))
    assert answer.chunks is not None
    with gateway.connect() as connection:
        connection.send(call(kind))
        head = connection.read_head()
        assert (head.status, head.values(HEADER)) == (answer.status, [])
        if head.header("content-length") is None:
            for chunk in answer.chunks:
                gate.release()
                assert connection.read_chunk_data() == chunk
        gate.open()
        rest = connection.read_body()
    assert rest == (b"" if head.header("content-length") is None else b"".join(answer.chunks))


def test_compressed_and_long_answers_are_unchanged(
        gateways: Tuple[Gateway, Gateway], resources: Dict[str, Resource]) -> None:
    long = errors.error(401, "PermissionDenied", "x" * LONGEST_BODY)
    zipped = Answer(401, [("content-encoding", "gzip")], gzip.compress(ROLE, mtime=0))
    before = counted(gateways[0])
    for kind in KINDS:
        for answer in (long, zipped, in_chunks(long, 5000), in_chunks(long, 20_000),
                       in_chunks(zipped, 10)):
            response, expected = both(gateways, resources[kind], kind, dated(answer))
            unchanged(response, expected)
            assert response.head.header(HEADER) is None
    assert counted(gateways[0]) == before


def test_an_answer_fits_into_what_a_frugal_envoy_buffers(
        azure: AzureSim, start_gateway: Start) -> None:
    limit = 8 * 1024
    frugal = put(f"{OUR_LISTENER}.per_connection_buffer_limit_bytes", limit)
    with start_gateway(alone(azure, "one"), edits=[frugal]) as gateway:
        for length in (LONGEST_BODY, LONGEST_BODY + 1, limit, 2 * limit):
            body = ROLE + b" " * (length - len(ROLE))
            azure.resources["one"].script.then(json_in(body, headers=(
                ("content-length", str(length)),)).delivered(Delivery()))
            found = ask(gateway, "one")
            assert (found.status, found.body) == (401, body)
            assert (found.head.header(HEADER) is not None) == (length <= LONGEST_BODY)


def test_a_long_answer_without_a_length_goes_on_before_its_end(
        gateway: Gateway, resources: Dict[str, Resource]) -> None:
    """The head and what was held with it, as soon as there is too much of it."""
    gate = Gate()
    chunks = [ROLE, b" " * (LONGEST_BODY - len(ROLE)), b" ", b" "]
    for kind in KINDS:
        resources[kind].script.then(json_in(*chunks).delivered(Delivery(each_chunk=gate)))
        with gateway.connect() as connection:
            connection.send(call(kind))
            gate.release(3)
            assert connection.read_head().header(HEADER) is None
            assert read(connection, LONGEST_BODY + 1) == b"".join(chunks[:3])
            gate.release()
            assert connection.read_body() == chunks[3]


def read(connection: Connection, count: int) -> bytes:
    """So many bytes of a chunked body, of which no chunk may go beyond."""
    found = b""
    while len(found) < count:
        found += connection.read_chunk_data()
    assert len(found) == count
    return found


def test_an_event_stream_flows_while_an_answer_is_held(
        gateway: Gateway, resources: Dict[str, Resource]) -> None:
    """The stream's worker is busy with answers that it holds, one after the other."""
    held, events = Gate(), Gate()
    resources[POOLED].script.always(told(resources[POOLED]))
    stream = Answer(200, [("content-type", "text/event-stream")],
                    chunks=[b"data: %d\n\n" % number for number in range(10)])
    resources[SINGLE].script.then(stream.delivered(Delivery(each_chunk=events)))
    with gateway.connect() as streaming, gateway.connect() as waiting:
        streaming.send(call(SINGLE))
        assert streaming.read_head().status == 200
        resources[SINGLE].script.then(json_in(*HALVES).delivered(Delivery(each_chunk=held)))
        waiting.send(call(SINGLE))
        for chunk in stream.chunks or ():
            assert exchange(gateway, POOLED).head.header(HEADER) == "role_missing"
            events.release()
            assert streaming.read_chunk_data() == chunk
        held.open()
        response = waiting.read_response()
        assert (response.status, response.body) == (401, ROLE)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_whose_body_is_late_is_not_held_for_it(
        gateway: Gateway, resources: Dict[str, Resource], kind: str) -> None:
    """It goes on piece by piece then, without the header; and is counted at its end all the same."""
    for told_at_first in (0, 1):
        before, gate = counted(gateway).get((kind, "role_missing"), 0), Gate()
        resources[kind].script.then(
            json_in(HALVES[0], HALVES[1], b" ").delivered(Delivery(each_chunk=gate)))
        with gateway.connect() as connection:
            connection.send(call(kind))
            if told_at_first:
                gate.release()
            # The gate is closed: what comes now does not come with the rest.
            head = connection.read_head()
            assert (head.status, head.values(HEADER)) == (401, [])
            for number, chunk in enumerate([*HALVES, b" "]):
                if number >= told_at_first:
                    gate.release()
                assert connection.read_chunk_data() == chunk
            assert connection.read_body() == b""
        gateway.envoy.wait_until(
            lambda: counted(gateway).get((kind, "role_missing"), 0) == before + 1, "count")


def test_late_bodies_do_not_make_the_filter_give_up(
        gateway: Gateway, resources: Dict[str, Resource]) -> None:
    """A backend in trouble is something else than an Envoy that keeps bodies back."""
    gates = [Gate() for _ in range(8)]
    resources[SINGLE].script.then(*[
        json_in(*HALVES).delivered(Delivery(each_chunk=gate)) for gate in gates])
    connections = [gateway.connect() for _ in gates]
    for connection in connections:
        connection.send(call(SINGLE))
    for connection in connections:
        assert connection.read_head().status == 401
    for gate in gates:
        gate.open()
    for connection in connections:
        assert connection.read_body() == ROLE
        resources[SINGLE].script.then(told(resources[SINGLE]))
        # The same connection: the same worker.
        assert connection.exchange(call(SINGLE)).head.header(HEADER) == "role_missing"
        connection.close()


def test_an_answer_without_a_body_goes_on_at_once(
        gateways: Tuple[Gateway, Gateway], resources: Dict[str, Resource]) -> None:
    for kind in KINDS:
        for status in (400, 401, 403, 404):
            unchanged(*both(gateways, resources[kind], kind, dated(Answer(status))))
    with gateways[0].connect() as connection:
        connection.send(request("HEAD", "/openai/v1/models", [("api-key", KEY)]))
        assert connection.read_head().header(HEADER) is None


@pytest.mark.parametrize("kind", [SINGLE, POOLED])
def test_an_answer_with_trailers_is_diagnosed(
        gateway: Gateway, resources: Dict[str, Resource], kind: str) -> None:
    raw = (b"HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\n"
           b"transfer-encoding: chunked\r\ntrailer: x-last\r\n\r\n"
           b"%x\r\n%s\r\n0\r\nx-last: word\r\n\r\n" % (len(ROLE), ROLE))
    resources[kind].script.then(Delivery(raw=raw))
    with gateway.connect() as connection:
        connection.send(call(kind, ("connection", "close"), ("te", "trailers")))
        head = connection.read_head()
        assert (head.status, head.values(HEADER)) == (401, ["role_missing"])
        rest = connection._rest()
    assert rest.startswith(b"%x\r\n%s\r\n0\r\n" % (len(ROLE), ROLE))
    assert rest.endswith(b"x-last: word\r\n\r\n" if kind == SINGLE else b"\r\n\r\n")


@pytest.mark.parametrize("mistake", ["token_refused", "deployment_not_found"])
def test_a_websocket_that_a_backend_refuses_is_diagnosed(
        gateway: Gateway, resources: Dict[str, Resource], mistake: str) -> None:
    resources[SINGLE].break_with(mistake)
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{gateway.port}/openai/v1/realtime?model={model_of(SINGLE)}",
                additional_headers={"api-key": KEY}, proxy=None, open_timeout=HANG_LIMIT)
    answer = refused.value.response
    expected = resources[SINGLE].refusal(mistake)
    assert (answer.status_code, answer.headers.get(HEADER)) == (
        expected.status, DIAGNOSES[mistake])
    assert answer.body == expected.content()


def test_an_answer_that_breaks_off_breaks_off_for_the_caller(
        gateway: Gateway, resources: Dict[str, Resource]) -> None:
    for kind in (SINGLE, POOLED):
        whole = told(resources[kind])
        resources[kind].script.then(whole.delivered(Delivery(cut_after=10)))
        with gateway.connect() as connection:
            connection.send(call(kind))
            # Nothing of it has gone, so Envoy can say so in an answer of its own.
            response = connection.read_response()
            assert response.status in (502, 503), response
            assert response.head.header(HEADER) is None
        assert exchange(gateway, kind).status == 200


# Whose header it is


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_filter_writes_the_header(
        gateway: Gateway, resources: Dict[str, Resource], kind: str) -> None:
    forged = ((HEADER, "forged"), ("x-aoai-reason", "forged"), ("X-Aoai-Diagnosis", "again"))
    rows: List[Tuple[Answer, List[str]]] = [
        (json_in(b"{}", status=200, headers=forged), []),
        (json_in(b"{}", status=400, headers=forged), []),
        (json_in(ROLE, status=401, headers=forged), ["role_missing"]),
        (json_in(ROLE, status=401, headers=(*forged, ("content-encoding", "gzip"))), []),
        (Answer(400, [("content-type", "text/event-stream"), *forged], chunks=[ROLE]), []),
        (Answer(404, forged), []),
        (Answer(204, forged), []),
        (Answer(422, forged, ROLE), []),
    ]
    for answer, expected in rows:
        resources[kind].script.then(answer)
        response = exchange(gateway, kind, (HEADER, "sent by the caller"))
        assert response.status == answer.status
        assert response.head.values(HEADER) == expected
        assert "forged" not in repr(response.head.headers)
    for seen in resources[kind].requests:
        assert [name for name, _ in seen.headers if name.startswith("x-aoai-")] == []


# Envoys that keep bodies back


@pytest.mark.parametrize("pooled", [False, True], ids=["single", "pooled"])
def test_without_the_flag_answers_arrive_and_log_and_metric_tell(
        azure: AzureSim, resources: Dict[str, Resource], start_gateway: Start, pooled: bool
        ) -> None:
    kind = POOLED if pooled else SINGLE
    with start_gateway(document(azure), edits=[bodies_held_back]) as gateway:
        resources[kind].script.always(told(resources[kind]))
        expected = (401, told(resources[kind]).content())

        def is_quick() -> bool:
            begun = time.monotonic()
            response = exchange(gateway, kind)
            took = time.monotonic() - begun
            assert (response.status, response.body) == expected
            # Sooner than any answer that is held.
            return took < LONGEST_HOLD

        asked = 0
        quick = 0
        # Each worker has to learn it.
        while quick < 20:
            asked += 1
            quick = quick + 1 if is_quick() else 0
            assert asked < 200, "answers are held on and on"
        resources[kind].script.always(in_chunks(told(resources[kind])))
        response = exchange(gateway, kind)
        assert (response.status, response.body) == expected
        gateway.envoy.wait_until(
            lambda: counted(gateway) == {(kind, "role_missing"): asked + 1}, "counts")
        assert lines(gateway.envoy.log_text(), kind, "role_missing")


# Callers


@pytest.mark.parametrize("kind", KINDS)
def test_callers_that_leave_while_their_answer_is_held_leave_nothing(
        gateway: Gateway, resources: Dict[str, Resource], kind: str) -> None:
    gate = Gate()
    answer = json_in(*HALVES).delivered(Delivery(each_chunk=gate))
    resources[kind].script.then(*[answer] * 10)
    for _ in range(10):
        with gateway.connect() as connection:
            arrived = f"cluster.aoai_{kind}.upstream_cx_rx_bytes_total"
            before = gateway.envoy.stats().get(arrived, 0)
            connection.send(call(kind))
            gateway.envoy.wait_for_stat(arrived, before + 1)
            connection.leave()
    gateway.envoy.wait_until(
        lambda: gateway.envoy.stats()["http.aoai.downstream_rq_active"] == 0, "ended requests")
    gate.open()
    resources[kind].script.then(told(resources[kind]))
    assert exchange(gateway, kind).head.header(HEADER) == "role_missing"
    assert exchange(gateway, kind).status == 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_goes_on_after_a_diagnosis(
        gateway: Gateway, resources: Dict[str, Resource], kind: str) -> None:
    resource = resources[kind]
    rows = [(told(resource), 401, "role_missing"), (None, 200, None),
            (in_chunks(told(resource, "firewall")), 403, "network_denied"),
            (told(resource, "deployment_not_found"), 404, "deployment_not_found"),
            (None, 200, None)]
    with gateway.connect() as connection:
        for answer, status, slug in rows:
            if answer is not None:
                resource.script.then(answer)
            response = connection.exchange(call(kind))
            assert (response.status, response.head.header(HEADER)) == (status, slug)
    # Envoy sends the second request on once the first is answered: the order is the script's.
    resource.script.then(*[told(resource, slug) for slug in ("firewall", "role_missing")])
    with gateway.connect() as connection:
        connection.send(call(kind) * 3)
        found = [connection.read_response() for _ in range(3)]
    assert [(one.status, one.head.header(HEADER)) for one in found] == [
        (403, "network_denied"), (401, "role_missing"), (200, None)]


def test_a_request_that_turns_out_wrong_while_its_answer_is_held_gets_one_answer(
        gateway: Gateway, resources: Dict[str, Resource]) -> None:
    """A backend may answer before it has the whole body, and the body name a second model then."""
    gate = Gate()
    early = json_in(*HALVES).delivered(Delivery(early=True, each_chunk=gate))
    for kind in (SINGLE, POOLED):
        resources[kind].script.then(early)
        model = json.dumps(model_of(kind)).encode()
        body = b'{"model":' + model + b',"messages":[],"model":' + model + b"}"
        whole = request("POST", "/openai/v1/chat/completions",
                        [("api-key", KEY), ("content-type", "application/json")], body)
        cut = len(whole) - 20
        before = gateway.envoy.stats().get(f"cluster.aoai_{kind}.upstream_cx_rx_bytes_total", 0)
        with gateway.connect() as connection:
            connection.send(whole[:cut])
            gateway.envoy.wait_for_stat(
                f"cluster.aoai_{kind}.upstream_cx_rx_bytes_total", before + 1)
            connection.send(whole[cut:])
            head = connection.read_head()
            # The filter's own, or the backend's that had waited long enough.
            assert head.status in (400, 401)
        assert exchange(gateway, kind).status == 200
    gate.open()
