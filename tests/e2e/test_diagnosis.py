"""Responses of backends that are not the operator's mistake: a caller's mistake is named in a header,
counted and logged, and in all else they are what the backend has sent, as soon as it has sent it."""

from __future__ import annotations

import gzip
import json
import time
from typing import Callable, Dict, Iterator, List, Tuple

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from azure_sim import HANG_LIMIT, MISTAKES, Answer, AzureSim, Delivery, Gate, Resource, errors
from e2e.diagnosed import (CALLERS, HEADER, HTTP2, KINDS, OPERATORS, OTHERS, POOLED, SINGLE,
                           add_resources, call, counted, dated, document, exchange, forms,
                           in_chunks, lines, model_of, over_http2, theirs, told)
from e2e.edits import OUR_LISTENER, Edit, attempts_held_back, bodies_held_back, put, without_filter
from e2e.gateway import Gateway
from e2e.single import KEY
from e2e.wire import Connection, Response, request

Start = Callable[..., Gateway]
LONGEST_BODY = 4 * 1024
# For how long the head of a response that may tell of a mistake is held, in seconds.
LONGEST_HOLD = 0.5


@pytest.fixture(scope="module")
def resources(azure: AzureSim) -> Dict[str, Resource]:
    add_resources(azure)
    return azure.resources


@pytest.fixture(scope="module")
def gateways(azure: AzureSim, resources: Dict[str, Resource], start_gateway: Start
             ) -> Iterator[Tuple[Gateway, Gateway]]:
    """Envoy with the filter, and without it."""
    with over_http2(HTTP2) as edit:
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
    assert {*OPERATORS, *OTHERS} == set(MISTAKES)


@pytest.mark.parametrize("mistake, kind", [
    (mistake, kind) for mistake in OTHERS for kind in KINDS
    # Another backend responds then.
    if (mistake, kind) != ("throttled", POOLED)])
def test_a_response_is_diagnosed_and_otherwise_unchanged(
        gateways: Tuple[Gateway, Gateway], resources: Dict[str, Resource], mistake: str, kind: str
        ) -> None:
    gateway, slug = gateways[0], OTHERS[mistake]
    before = counted(gateway)
    rows = forms(told(resources[kind], mistake))
    for row in rows:
        response, expected = both(gateways, resources[kind], kind, row)
        unchanged(response, expected)
        assert (response.status, response.body) == (
            row.status, b"".join(row.chunks) if row.chunks else row.content())
        assert response.head.values(HEADER) == ([] if slug is None else [slug])
        assert response.head.values("x-aoai-backend") == [kind]
        assert response.head.header("x-aoai-reason") is None
    after = counted(gateway)
    new = {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key)}
    assert new == ({} if slug is None else {(kind, slug): len(rows)})


QUOTES = "Unrecognized request argument supplied: '%s'"
OTHER_ERRORS: Dict[str, Answer] = {
    "bad parameter": errors.bad_request("'messages' is a required property", "messages"),
    "no body": Answer(401),
    "no JSON": Answer(403, body="<html>Forbidden</html>"),
    "no text": Answer(404, body=b"\xff\x00"),
    "a list": Answer(404, body=[]),
    "half of the JSON": Answer(400, body='{"error":'),
    "another status": Answer(422, body={"error": "x"}),
    # What a caller can have a backend write.
    "quotes a regional endpoint": errors.bad_request(QUOTES % "Resource Id is badly formed: NA"),
    "begins as a wrong tenant": errors.bad_request(
        "Tenant provided in token does not match resource token: no such tool"),
    "a resource that is not there": errors.error(404, "ResourceNotFound", "No file 'file-1'."),
}


@pytest.mark.parametrize("answer", OTHER_ERRORS.values(), ids=OTHER_ERRORS.keys())
def test_another_error_of_a_backend_is_no_mistake(
        gateways: Tuple[Gateway, Gateway], resources: Dict[str, Resource], answer: Answer) -> None:
    before = counted(gateways[0])
    for kind in KINDS:
        response, expected = both(gateways, resources[kind], kind, dated(answer))
        unchanged(response, expected)
        assert response.status == answer.status
        assert response.head.values("x-aoai-backend") == [kind]
        assert response.head.header(HEADER) is None
    assert counted(gateways[0]) == before


# What is not held back


def json_in(*chunks: bytes, status: int = 404, headers: Tuple[Tuple[str, str], ...] = ()
            ) -> Answer:
    """An answer in these chunks. A length among its headers takes the place of HTTP's chunks."""
    return Answer(status, [("content-type", "application/json"), *headers], chunks=chunks)


PATH = errors.RESOURCE_NOT_FOUND.content()
HALVES = (PATH[:20], PATH[20:])
AT_ONCE: Dict[str, Answer] = {
    "a success": json_in(*HALVES, status=200),
    "a success of another kind": json_in(*HALVES, status=202),
    "a redirection": json_in(*HALVES, status=302, headers=(("location", "/"),)),
    "a conflict": json_in(*HALVES, status=409),
    "throttling": json_in(*HALVES, status=429),
    "an error of the backend's": json_in(*HALVES, status=500),
    "events": Answer(400, [("content-type", "text/event-stream")], chunks=HALVES),
    "compressed": json_in(*HALVES, headers=(("content-encoding", "gzip"),)),
    "long": json_in(PATH, b" " * LONGEST_BODY,
                    headers=(("content-length", str(len(PATH) + LONGEST_BODY)),)),
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
    zipped = Answer(404, [("content-encoding", "gzip")], gzip.compress(PATH, mtime=0))
    before = counted(gateways[0])
    for kind in KINDS:
        for answer in (long, zipped, in_chunks(long, 5000), in_chunks(long, 20_000),
                       in_chunks(zipped, 10)):
            response, expected = both(gateways, resources[kind], kind, dated(answer))
            unchanged(response, expected)
            assert response.head.header(HEADER) is None
    assert counted(gateways[0]) == before


def test_a_response_fits_into_what_a_frugal_envoy_buffers(
        azure: AzureSim, resources: Dict[str, Resource], start_gateway: Start) -> None:
    limit = 8 * 1024
    frugal = put(f"{OUR_LISTENER}.per_connection_buffer_limit_bytes", limit)
    with over_http2(HTTP2) as edit, start_gateway(document(azure), edits=[edit, frugal]) as gateway:
        for kind in KINDS:
            for length in (LONGEST_BODY, LONGEST_BODY + 1, limit, 2 * limit):
                body = PATH + b" " * (length - len(PATH))
                resources[kind].script.then(json_in(body, headers=(
                    ("content-length", str(length)),)).delivered(Delivery()))
                found = exchange(gateway, kind)
                assert (found.status, found.body) == (404, body)
                assert (found.head.header(HEADER) is not None) == (length <= LONGEST_BODY)


def test_a_long_answer_without_a_length_goes_on_before_its_end(
        gateway: Gateway, resources: Dict[str, Resource]) -> None:
    """The head and what was held with it, as soon as there is too much of it."""
    gate = Gate()
    chunks = [PATH, b" " * (LONGEST_BODY - len(PATH)), b" ", b" "]
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
            assert exchange(gateway, POOLED).head.header(HEADER) == CALLERS
            events.release()
            assert streaming.read_chunk_data() == chunk
        held.open()
        response = waiting.read_response()
        assert (response.status, response.body) == (404, PATH)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_whose_body_is_late_is_not_held_for_it(
        gateway: Gateway, resources: Dict[str, Resource], kind: str) -> None:
    """It goes on piece by piece then, without the header; and is counted at its end all the same."""
    for told_at_first in (0, 1):
        before, gate = counted(gateway).get((kind, CALLERS), 0), Gate()
        resources[kind].script.then(
            json_in(HALVES[0], HALVES[1], b" ").delivered(Delivery(each_chunk=gate)))
        with gateway.connect() as connection:
            connection.send(call(kind))
            if told_at_first:
                gate.release()
            # The gate is closed: what comes now does not come with the rest.
            head = connection.read_head()
            assert (head.status, head.values(HEADER)) == (404, [])
            for number, chunk in enumerate([*HALVES, b" "]):
                if number >= told_at_first:
                    gate.release()
                assert connection.read_chunk_data() == chunk
            assert connection.read_body() == b""
        gateway.envoy.wait_until(
            lambda: counted(gateway).get((kind, CALLERS), 0) == before + 1, "count")


@pytest.mark.parametrize("kind", [SINGLE, POOLED])
def test_late_bodies_do_not_make_the_filter_give_up(
        gateway: Gateway, resources: Dict[str, Resource], kind: str) -> None:
    """A backend in trouble is something else than an Envoy that keeps bodies back."""
    gates = [Gate() for _ in range(8)]
    resources[kind].script.then(*[
        json_in(*HALVES).delivered(Delivery(each_chunk=gate)) for gate in gates])
    connections = [gateway.connect() for _ in gates]
    for connection in connections:
        connection.send(call(kind))
    for connection in connections:
        assert connection.read_head().status == 404
    for gate in gates:
        gate.open()
    for connection in connections:
        assert connection.read_body() == PATH
        resources[kind].script.then(told(resources[kind]))
        # The same connection: the same worker.
        assert connection.exchange(call(kind)).head.header(HEADER) == CALLERS
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
    raw = (b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\n"
           b"transfer-encoding: chunked\r\ntrailer: x-last\r\n\r\n"
           b"%x\r\n%s\r\n0\r\nx-last: word\r\n\r\n" % (len(PATH), PATH))
    resources[kind].script.then(Delivery(raw=raw))
    with gateway.connect() as connection:
        connection.send(call(kind, ("connection", "close"), ("te", "trailers")))
        head = connection.read_head()
        assert (head.status, head.values(HEADER)) == (404, [CALLERS])
        rest = connection._rest()
    assert rest.startswith(b"%x\r\n%s\r\n0\r\n" % (len(PATH), PATH))
    assert rest.endswith(b"x-last: word\r\n\r\n" if kind == SINGLE else b"\r\n\r\n")


def test_a_websocket_that_a_backend_refuses_is_diagnosed(
        gateway: Gateway, resources: Dict[str, Resource]) -> None:
    resources[SINGLE].break_with("resource_not_found")
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{gateway.port}/openai/v1/realtime?model={model_of(SINGLE)}",
                additional_headers={"api-key": KEY}, proxy=None, open_timeout=HANG_LIMIT)
    answer = refused.value.response
    assert (answer.status_code, answer.headers.get(HEADER)) == (404, CALLERS)
    assert answer.body == PATH


def test_a_response_that_breaks_off_while_it_is_held_is_none(
        gateway: Gateway, resources: Dict[str, Resource]) -> None:
    """Nothing of it has gone on. In a pool another backend is asked; else Envoy says so in a reply of its
    own, which no filter sees."""
    for kind in (SINGLE, POOLED):
        whole = told(resources[kind])
        resources[kind].script.then(whole.delivered(Delivery(cut_after=10)))
        response = exchange(gateway, kind)
        if kind == SINGLE:
            assert response.status in (502, 503), response
            assert response.head.header(HEADER) is None
        else:
            found = [response.head.header(f"x-aoai-{name}") for name in ("backend", "attempts")]
            assert (response.status, found) == (200, ["spare", "2"]), response
        assert exchange(gateway, kind).head.values("x-aoai-backend") == [kind]


# Whose header it is


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_filter_writes_the_header(
        gateway: Gateway, resources: Dict[str, Resource], kind: str) -> None:
    forged = ((HEADER, "forged"), ("x-aoai-reason", "forged"), ("X-Aoai-Diagnosis", "again"))
    rows: List[Tuple[Answer, List[str]]] = [
        (json_in(b"{}", status=200, headers=forged), []),
        (json_in(b"{}", status=400, headers=forged), []),
        (json_in(PATH, headers=forged), [CALLERS]),
        (json_in(PATH, headers=(*forged, ("content-encoding", "gzip"))), []),
        (Answer(400, [("content-type", "text/event-stream"), *forged], chunks=[PATH]), []),
        (Answer(404, forged), []),
        (Answer(204, forged), []),
        (Answer(422, forged, PATH), []),
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


@pytest.mark.parametrize("kind, edit", [
    (SINGLE, bodies_held_back), (POOLED, attempts_held_back)], ids=[SINGLE, POOLED])
def test_without_the_flag_responses_arrive_and_log_and_metric_tell(
        azure: AzureSim, resources: Dict[str, Resource], start_gateway: Start, kind: str, edit: Edit
        ) -> None:
    with start_gateway(document(azure), edits=[edit]) as gateway:
        resources[kind].script.always(told(resources[kind]))
        expected = (404, told(resources[kind]).content())

        def is_quick() -> bool:
            begun = time.monotonic()
            response = exchange(gateway, kind)
            took = time.monotonic() - begun
            assert (response.status, response.body) == expected
            # Sooner than any response that is held.
            return took < LONGEST_HOLD

        asked = 0
        quick = 0
        # Each worker has to learn it.
        while quick < 20:
            asked += 1
            quick = quick + 1 if is_quick() else 0
            assert asked < 200, "responses are held on and on"
        resources[kind].script.always(in_chunks(told(resources[kind])))
        response = exchange(gateway, kind)
        assert (response.status, response.body) == expected
        gateway.envoy.wait_until(
            lambda: counted(gateway) == {(kind, CALLERS): asked + 1}, "counts")
        assert lines(gateway.envoy.log_text(), kind, CALLERS)
        # An operator's mistake is shown then, and is known all the same: a pool has others.
        refused = told(resources[kind], "role_missing")
        resources[kind].script.always(refused)
        response = exchange(gateway, kind)
        assert (response.status, response.body) == (401, refused.content())
        gateway.envoy.wait_for_stat(
            f"wasmcustom.aoai_misconfigured.backend.{kind}.diagnosis.role_missing.model.{model_of(kind)}")
        if kind == POOLED:
            assert exchange(gateway, kind).head.values("x-aoai-backend") == ["spare"]


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
    assert exchange(gateway, kind).head.header(HEADER) == CALLERS
    assert exchange(gateway, kind).status == 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_goes_on_after_a_diagnosis(
        gateway: Gateway, resources: Dict[str, Resource], kind: str) -> None:
    resource = resources[kind]
    rows = [(told(resource), 404, CALLERS), (None, 200, None),
            (in_chunks(told(resource)), 404, CALLERS), (errors.CONTENT_FILTERED, 400, None),
            (None, 200, None)]
    with gateway.connect() as connection:
        for answer, status, slug in rows:
            if answer is not None:
                resource.script.then(answer)
            response = connection.exchange(call(kind))
            assert (response.status, response.head.header(HEADER)) == (status, slug)
    # Envoy sends the second request on once the first is answered: the order is the script's.
    resource.script.then(errors.CONTENT_FILTERED, told(resource))
    with gateway.connect() as connection:
        connection.send(call(kind) * 3)
        found = [connection.read_response() for _ in range(3)]
    assert [(one.status, one.head.header(HEADER)) for one in found] == [
        (400, None), (404, CALLERS), (200, None)]


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
            assert head.status in (400, 404)
        assert exchange(gateway, kind).status == 200
    gate.open()
