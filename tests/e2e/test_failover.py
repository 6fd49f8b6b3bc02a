"""A model on several regions survives any of them: who is tried, who is left alone how long, and
what is never tried twice."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from email.utils import formatdate
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import httpx
import openai
import pytest
from websockets.sync.client import connect as websocket

from azure_sim import (HANG, HANG_LIMIT, RESET, Answer, AzureSim, Delivery, Gate,
                       RecordedRequest, Resource, errors)
from azure_sim.script import Step
from e2e.calls import RESERVE, own_answer, unmetered
from e2e.edits import CLUSTERS, MANAGER, put
from e2e.gateway import Gateway
from e2e.pauses import Pauses
from e2e.regions import (
    HOME_MODEL, HOMES, KEY, OTHER_KEY, REGIONS, add_regions, answered_by, calls, chat, deployment,
    document, exhausted, own_headers, served, unused,
)
from e2e.wire import Closed, Connection, Response, request

API_VERSION = "api-version=2024-10-21"
JSON_TYPE = ("content-type", "application/json")
KEY_HEADER = ("api-key", KEY)
UNAVAILABLE = Answer(503, [("x-from", "azure")], {"error": {"code": "503", "message": "busy"}})
# A pause in milliseconds that outlasts every test.
LONG = "600000"
THROTTLED = errors.throttled(retry_after_ms=LONG)
# In seconds: a cooldown where an answer asks for none, how long callers of `hasty` have another
# region tried, how long a probe keeps the others away, how often a region in cooldown is asked all the
# same, and how often the log may have so many lines of a region.
COOLDOWN = 40.0
SOON = 1.0
PROBE = 60.0
TRICKLE = 1.0
LOG_INTERVAL, LOG_LINES = 60.0, 10
_UNUSED: Dict[Any, Iterator[str]] = {}


@pytest.fixture(scope="module")
def regions(azure: AzureSim) -> AzureSim:
    if not azure.resources:
        add_regions(azure)
    return azure


@pytest.fixture(scope="module")
def gateway(regions: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    """Its cooldowns and its patience outlast every test."""
    return warm(start_gateway(document(regions)))


@pytest.fixture(scope="module")
def hasty(regions: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    """Another process, whose callers do not wait long for another region."""
    regions.reset()
    return warm(start_gateway(document(regions, retry_within=f"{SOON:.0f}s")))


@pytest.fixture(scope="module")
def brisk(regions: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    """Another process, with the shortest cooldown there is: a second."""
    regions.reset()
    return warm(start_gateway(document(regions, cooldown="1s")))


@pytest.fixture(scope="module")
def impatient(regions: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    """Another process, whose Envoy ends a request on which nothing happens for a moment."""
    regions.reset()
    return warm(start_gateway(document(regions), edits=[
        put(f"{MANAGER}.stream_idle_timeout", "1s")]))


def warm(gateway: Gateway) -> Gateway:
    """The gateway once it has its token, on every worker that the system chooses."""
    for _ in range(8):
        chat(gateway, "m0").raise_for_status()
    return gateway


@pytest.fixture(autouse=True)
def _served_before(gateway: Gateway, regions: AzureSim) -> None:
    regions.reset()


def fresh(workers: int, prefix: str) -> str:
    # `m0` warms the gateways.
    models = _UNUSED.setdefault((workers, prefix), (one for one in unused(prefix) if one != "m0"))
    return next(models)


@pytest.fixture
def model(workers: int) -> str:
    """A model on aa, then bb, then cc, of which no other test has asked."""
    return fresh(workers, "m")


@pytest.fixture
def dead_model(workers: int) -> str:
    """One on the region that refuses connections, then aa, then bb."""
    return fresh(workers, "d")


@pytest.fixture
def aa(regions: AzureSim) -> Resource:
    return regions.resources["aa"]


@pytest.fixture
def bb(regions: AzureSim) -> Resource:
    return regions.resources["bb"]


@pytest.fixture
def cc(regions: AzureSim) -> Resource:
    return regions.resources["cc"]


def left_clean(seen: RecordedRequest, region: str) -> None:
    """To its own host, as the proxy, with nothing of the filter's own and nothing of the key."""
    assert seen.complete
    assert seen.header_values("host") == [f"contoso-{region}.openai.azure.com"]
    own = [name for name, _ in seen.headers if name.startswith("x-aoai-") or name == "api-key"]
    assert own == []
    assert len(seen.header_values("authorization")) == 1 and seen.token is not None


# Throttled, with each kind of hint

# Headers with values as functions of now, and the seconds that they ask for: at least, and at most.
Hint = Tuple[Dict[str, Callable[[float], str]], float, float]
HINTS: Dict[str, Hint] = {
    "retry-after-ms": ({"retry_after_ms": lambda now: "61500"}, 61.5, 61.5),
    "x-ms-retry-after-ms": ({"x_ms_retry_after_ms": lambda now: "62500"}, 62.5, 62.5),
    "both, in milliseconds first": (
        {"retry_after": lambda now: "90", "retry_after_ms": lambda now: "63500"}, 63.5, 63.5),
    "retry-after in seconds": ({"retry_after": lambda now: "60"}, 60.0, 60.0),
    "retry-after with a fraction": ({"retry_after": lambda now: "60.5"}, 60.5, 60.5),
    "retry-after as a date": (
        {"retry_after": lambda now: formatdate(int(now) + 62, usegmt=True)}, 61.0, 62.0),
    "x-ratelimit-reset-requests": (
        {"x_ratelimit_reset_requests": lambda now: "64400ms"}, 64.4, 64.4),
    "x-ratelimit-reset-tokens": ({"x_ratelimit_reset_tokens": lambda now: "65.5"}, 65.5, 65.5),
    "x-rate-limit-reset-tokens": (
        {"x_rate_limit_reset_tokens": lambda now: str(int(now) + 62)}, 61.0, 62.0),
    "none": ({}, COOLDOWN, COOLDOWN),
    "-1, which is none": ({"retry_after": lambda now: "-1"}, COOLDOWN, COOLDOWN),
}


@pytest.mark.parametrize("hints, least, most", HINTS.values(), ids=HINTS.keys())
def test_a_throttled_region_is_left_alone_for_as_long_as_it_asks(
        gateway: Gateway, regions: AzureSim, aa: Resource, bb: Resource, cc: Resource, model: str,
        hints: Dict[str, Callable[[float], str]], least: float, most: float) -> None:
    now = time.time()
    throttled = errors.throttled(10, **{name: value(now) for name, value in hints.items()})
    aa.script.then(throttled)
    served(chat(gateway, model), "bb", 2)
    for seen, region in ((aa.requests[0], "aa"), (bb.requests[0], "bb")):
        left_clean(seen, region)
        assert seen.path == f"/openai/deployments/{deployment(region, model)}/chat/completions"
    assert aa.requests[0].body == bb.requests[0].body
    served(chat(gateway, model), "bb", 1)
    assert calls(regions) == {"aa": 1, "bb": 2}
    assert_cools(gateway, model, now, least, most, {aa: throttled}, [bb, cc])


def assert_cools(gateway: Gateway, model: str, since: float, least: float, most: float,
                 region: Dict[Resource, Step], others: List[Resource]) -> None:
    """A cooldown of the region that began at this time or later lasts so many seconds: it is what
    callers are told when the other regions are left alone for longer. Where it is asked meanwhile, it
    does the same again."""
    for one, step in {**region, **dict.fromkeys(others, THROTTLED)}.items():
        one.script.always(step)
    answered_by(chat(gateway, model), others[-1].name, len(others))
    answer = exhausted(gateway, model)
    told, passed = int(answer.headers["retry-after-ms"]) / 1000, time.time() - since
    # Up to a tenth more, so that proxies do not come back in step. Some of it has passed.
    assert least - passed - 0.002 <= told <= most * 1.1 + 0.002


def test_the_log_does_not_grow_with_short_pauses(
        regions: AzureSim, start_gateway: Callable[..., Gateway], aa: Resource, model: str) -> None:
    """A provisioned deployment that is full asks for pauses of milliseconds."""
    regions.reset()
    gateway, begun = warm(start_gateway(document(regions))), time.monotonic()
    for number in range(2 * LOG_LINES):
        aa.script.then(errors.throttled(retry_after_ms="1"))
        served_after = len(aa.requests)

        def back() -> bool:
            answer = chat(gateway, model)
            assert answer.status_code == 200
            return answer.headers["x-aoai-backend"] == "aa"
        gateway.envoy.wait_until(lambda: back() and len(aa.requests) > served_after + 1,
                                 f"answer {number} of the region that was throttled")
    most = LOG_LINES * (1 + int((time.monotonic() - begun) / LOG_INTERVAL))
    log = gateway.envoy.log_text()
    began = log.count(f"backend aa is in cooldown for model {model} for 0.00")
    ended = log.count(f"backend aa serves model {model} again")
    assert LOG_LINES <= began + ended <= most and abs(began - ended) <= most // LOG_LINES


def test_a_region_is_left_alone_until_its_cooldown_ends_and_then_tried_once(
        gateway: Gateway, aa: Resource, bb: Resource, model: str) -> None:
    aa.script.then(errors.throttled(retry_after_ms="700"))
    served(chat(gateway, model), "bb", 2)
    gate = Gate()
    aa.script.then(Delivery(before=gate))
    with ThreadPoolExecutor(1) as pool:
        probe = until_asked(pool, gateway, model, aa, 2)
        throttled, probed = (one.received_at for one in aa.requests)
        # The region notes when a request arrives, and the filter counts from the answer.
        assert probed - throttled >= 0.7 - 0.002
        for _ in range(6):  # while that one is under way
            answer = chat(gateway, model)
            if time.time() < throttled + 0.7 + PROBE:
                served(answer, "bb", 1)
                assert len(aa.requests) == 2
        gate.open()
        served(probe.result(), "aa", 1)
    counts = len(aa.requests), len(bb.requests)
    for _ in range(4):
        served(chat(gateway, model), "aa", 1)
    assert (len(aa.requests), len(bb.requests)) == (counts[0] + 4, counts[1])


def until_asked(pool: ThreadPoolExecutor, gateway: Gateway, model: str, region: Resource,
                count: int) -> "Future[httpx.Response]":
    """Asks again and again until the region has that many requests. The last of them, under way
    still where the region holds it."""
    deadline = time.monotonic() + HANG_LIMIT
    while time.monotonic() < deadline:
        future = pool.submit(chat, gateway, model)
        while not future.done() and len(region.requests) < count:
            time.sleep(0.002)
        if len(region.requests) >= count:
            return future
        assert future.result().status_code == 200
        assert future.result().headers["x-aoai-backend"] != region.name
        time.sleep(0.01)
    raise AssertionError(f"{region.name} was not asked again")


def test_a_probe_that_fails_begins_another_cooldown(
        gateway: Gateway, aa: Resource, model: str) -> None:
    aa.script.then(errors.throttled(retry_after_ms="300"), THROTTLED)
    served(chat(gateway, model), "bb", 2)
    with ThreadPoolExecutor(1) as pool:
        served(until_asked(pool, gateway, model, aa, 2).result(), "bb", 2)
    for _ in range(4):
        served(chat(gateway, model), "bb", 1)
    assert_apart(aa, 0.3)


def assert_apart(region: Resource, *least: float) -> None:
    """The last requests came at least so many seconds after the one before each."""
    times = [one.received_at for one in region.requests][-len(least) - 1:]
    gaps = [after - before for before, after in zip(times, times[1:])]
    assert len(gaps) == len(least), gaps
    # The filter keeps times in milliseconds.
    assert all(gap >= one - 0.002 for gap, one in zip(gaps, least)), gaps


def test_a_cooldown_without_a_hint_grows(brisk: Gateway, aa: Resource, model: str) -> None:
    aa.script.then(errors.throttled(), errors.throttled())
    with ThreadPoolExecutor(1) as pool:
        served(chat(brisk, model), "bb", 2)
        served(until_asked(pool, brisk, model, aa, 2).result(), "bb", 2)
        served(until_asked(pool, brisk, model, aa, 3).result(), "aa", 1)
    assert_apart(aa, 1.0, 2.0)


def test_another_model_on_the_same_region_is_not_concerned(
        gateway: Gateway, aa: Resource, model: str, workers: int) -> None:
    aa.script.then(THROTTLED)
    served(chat(gateway, model), "bb", 2)
    served(chat(gateway, model), "bb", 1)
    served(chat(gateway, fresh(workers, "m")), "aa", 1)


# What each attempt carries

def both_saw(aa: Resource, bb: Resource) -> List[Tuple[str, RecordedRequest]]:
    [first], [second] = aa.requests, bb.requests
    left_clean(first, "aa")
    left_clean(second, "bb")
    return [("aa", first), ("bb", second)]


V1_BODIES: Dict[str, str] = {
    "model first": '{"model": "%s","messages":[ {"role":"user","content":"hi \\u00e4 \u4e16"}]}',
    "model last": '{"messages":[{"role":"user","content":"x"}] , "model"\n:\t"%s" }',
    "a long body behind": '{"model":"%s","messages":[],"user":"' + "u" * 200_000 + '"}',
    "a long body before": '{"messages":[],"user":"' + "u" * 200_000 + '","model":"%s"}',
}


@pytest.mark.parametrize("body", V1_BODIES.values(), ids=V1_BODIES.keys())
def test_a_v1_body_names_each_regions_own_deployment(
        gateway: Gateway, aa: Resource, bb: Resource, model: str, body: str) -> None:
    aa.script.then(THROTTLED)
    with gateway.connect() as connection:
        answer = connection.exchange(request(
            "POST", "/openai/v1/chat/completions", [KEY_HEADER, JSON_TYPE],
            (body % model).encode()))
    served(answer, "bb", 2)
    for region, seen in both_saw(aa, bb):
        expected = (body % deployment(region, model)).encode()
        # Whether a long body is there as a whole when its model is known is a matter of time.
        assert unmetered(seen.body) == expected
        assert seen.header_values("content-length") == [str(len(seen.body))]
        assert seen.target == "/openai/v1/chat/completions"


@pytest.mark.parametrize("size", [7, 1000])
def test_a_chunked_body_names_each_regions_own_deployment(
        gateway: Gateway, aa: Resource, bb: Resource, model: str, size: int) -> None:
    aa.script.then(THROTTLED)
    body = '{"messages":[],"user":"' + "u" * 40 + '","model":"%s","n":1,"x":"' + "v" * 40 + '"}'
    sent = (body % model).encode()
    with gateway.connect() as connection:
        connection.send(request("POST", "/openai/v1/chat/completions",
                                [KEY_HEADER, JSON_TYPE, ("transfer-encoding", "chunked")]))
        for at in range(0, len(sent), size):
            piece = sent[at:at + size]
            connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        answer = connection.exchange(b"0\r\n\r\n")
    served(answer, "bb", 2)
    for region, seen in both_saw(aa, bb):
        assert seen.body == (body % deployment(region, model)).encode()
        assert seen.header("content-length") is None


def test_a_form_names_each_regions_own_deployment(
        gateway: Gateway, aa: Resource, bb: Resource, model: str) -> None:
    aa.script.then(THROTTLED)

    def form(name: str) -> bytes:
        return (b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
                b"Content-Type: audio/wav\r\n\r\n" + bytes(range(256)) * 40 + b"\r\n"
                b'--xyz\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + name.encode()
                + b'\r\n--xyz\r\nContent-Disposition: form-data; name="language"\r\n\r\nde\r\n'
                b"--xyz--\r\n")
    with gateway.connect() as connection:
        answer = connection.exchange(request(
            "POST", "/openai/v1/audio/transcriptions",
            [KEY_HEADER, ("content-type", "multipart/form-data; boundary=xyz")], form(model)))
    served(answer, "bb", 2)
    for region, seen in both_saw(aa, bb):
        expected = form(deployment(region, model))
        assert seen.body == expected
        assert seen.header_values("content-length") == [str(len(expected))]


@pytest.mark.parametrize("target", [
    "/openai/v1/realtime?x=%%41&model=%s", f"/openai/realtime?{API_VERSION}&deployment=%s"])
def test_a_realtime_session_begins_on_the_next_region(
        gateway: Gateway, aa: Resource, bb: Resource, model: str, target: str) -> None:
    aa.script.then(THROTTLED)
    with websocket(f"ws://127.0.0.1:{gateway.port}{target % model}", proxy=None,
                   open_timeout=HANG_LIMIT, additional_headers={"api-key": KEY}, close_timeout=0.1
                   ) as session:
        assert json.loads(session.recv(HANG_LIMIT))["type"] == "session.created"
        session.send("hello")
        assert session.recv(HANG_LIMIT) == "hello"
        assert session.response is not None
        assert session.response.headers["x-aoai-backend"] == "bb"
        assert session.response.headers["x-aoai-attempts"] == "2"
    for region, one in (("aa", aa), ("bb", bb)):
        assert [seen.target for seen in one.requests] == [target % deployment(region, model)]


@pytest.mark.parametrize("is_v1", [False, True], ids=["model in the URL", "model in the body"])
def test_a_body_beyond_the_buffer_is_served_by_the_first_region_and_not_sent_again(
        gateway: Gateway, regions: AzureSim, aa: Resource, model: str, is_v1: bool) -> None:
    rest = b'"messages":[],"user":"' + b"u" * (16 << 20) + b'"}'
    body = (b'{"model":"%s",' % model.encode() if is_v1 else b"{") + rest
    target = ("/openai/v1/chat/completions" if is_v1
              else f"/openai/deployments/{model}/chat/completions?{API_VERSION}")
    aa.script.then(Delivery(), THROTTLED)

    def exchange() -> Response:
        with gateway.connect() as connection:
            return connection.exchange(request("POST", target, [KEY_HEADER, JSON_TYPE], body))
    served(exchange(), "aa", 1)
    [seen] = aa.requests
    renamed = len(deployment("aa", model)) - len(model) if is_v1 else 0
    assert seen.body_length == len(body) + renamed + RESERVE
    answer = exchange()
    # The other regions could serve it, if it came again.
    assert [answer.head.values(name) for name in ("retry-after", "retry-after-ms")] == [
        ["1"], ["1000"]]
    assert answer.status == 429
    answered_by(answer, "aa", 1)
    assert calls(regions) == {"aa": 2}


# The first throttled, the second in trouble

TROUBLES: Dict[str, Step] = {"503": UNAVAILABLE, "500": Answer(500, body="oops"), "reset": RESET,
                             "throttled": THROTTLED}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES.keys())
@pytest.mark.parametrize("is_v1", [False, True], ids=["model in the URL", "model in the body"])
def test_the_third_serves_what_the_first_two_cannot(
        gateway: Gateway, regions: AzureSim, aa: Resource, bb: Resource, cc: Resource, model: str,
        trouble: Step, is_v1: bool) -> None:
    aa.script.then(THROTTLED)
    bb.script.then(trouble)
    target, body = chat_request(model, is_v1)
    with gateway.connect() as connection:
        answer = connection.exchange(request("POST", target, [KEY_HEADER, JSON_TYPE], body))
    served(answer, "cc", 3)
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == "answer from cc"
    assert calls(regions) == {"aa": 1, "bb": 1, "cc": 1}
    for name, one in zip(REGIONS, (aa, bb, cc)):
        left_clean(one.requests[0], name)
        assert (one.requests[0].target, unmetered(one.requests[0].body)) == chat_request(
            deployment(name, model), is_v1)


def chat_request(name: str, is_v1: bool, stream: bool = False) -> Tuple[str, bytes]:
    """Target and body of a chat request for this model or deployment."""
    fields: Dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
    if stream:
        fields["stream"] = True
    if not is_v1:
        return (f"/openai/deployments/{name}/chat/completions?{API_VERSION}",
                json.dumps(fields).encode())
    return "/openai/v1/chat/completions", json.dumps({**fields, "model": name}).encode()


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES.keys())
@pytest.mark.parametrize("is_v1", [False, True], ids=["model in the URL", "model in the body"])
def test_events_of_the_third_arrive_one_by_one(
        gateway: Gateway, regions: AzureSim, aa: Resource, bb: Resource, cc: Resource, model: str,
        trouble: Step, is_v1: bool) -> None:
    aa.script.then(THROTTLED)
    bb.script.then(trouble)
    gate = Gate()
    cc.script.then(Delivery(each_chunk=gate))
    target, body = chat_request(model, is_v1, stream=True)
    with gateway.connect() as connection:
        connection.send(request("POST", target, [KEY_HEADER, JSON_TYPE], body))
        assert streamed(connection, gate, "cc", 3) == "answer from cc"
    assert calls(regions) == {"aa": 1, "bb": 1, "cc": 1}


def streamed(connection: Connection, gate: Gate, region: str, attempts: int) -> str:
    """The text of a gated stream whose every event arrives before the next one is let go."""
    head = connection.read_head()
    assert (head.status, head.values("x-aoai-backend"), head.values("x-aoai-attempts")) == (
        200, [region], [str(attempts)])
    text = ""
    while True:
        gate.release()
        event = connection.read_event()
        assert event is not None
        if event.data == b"data: [DONE]":
            assert connection.read_event() is None
            return text
        [choice] = json.loads(event.data[6:])["choices"]
        text += choice["delta"].get("content", "")
        if choice["finish_reason"]:
            gate.release()  # the usage, for which this caller has not asked


def test_a_region_that_refuses_connections_is_passed_over(
        gateway: Gateway, regions: AzureSim, aa: Resource, bb: Resource, dead_model: str) -> None:
    served(chat(gateway, dead_model), "aa", 2)
    aa.script.then(THROTTLED)
    gate = Gate()
    bb.script.then(Delivery(each_chunk=gate))
    target, body = chat_request(dead_model, True, stream=True)
    with gateway.connect() as connection:
        connection.send(request("POST", target, [KEY_HEADER, JSON_TYPE], body))
        assert streamed(connection, gate, "bb", 3) == "answer from bb"
    assert [unmetered(seen.body) for seen in bb.requests] == [
        chat_request(deployment("bb", dead_model), True, stream=True)[1]]


# What is passed on

CLIENT_ERRORS: Dict[str, Answer] = {
    "content filter": errors.CONTENT_FILTERED,
    "400": errors.bad_request("no", "messages"),
    "401": errors.error(401, "Unauthorized", "Not for this file."),
    "403": errors.error(403, "Forbidden", "Not for this tool."),
    "404": errors.RESOURCE_NOT_FOUND,
    "408": errors.error(408, "Timeout", "The operation was timeout."),
    "with our own header": errors.CONTENT_FILTERED.with_headers([
        ("x-aoai-retry", "1"), ("x-aoai-reason", "spoofed"), ("x-aoai-backend", "zz")]),
}


@pytest.mark.parametrize("answer", CLIENT_ERRORS.values(), ids=CLIENT_ERRORS.keys())
def test_a_clients_error_is_passed_on_and_cools_nobody(
        gateway: Gateway, regions: AzureSim, aa: Resource, model: str, answer: Answer) -> None:
    aa.script.then(*[answer] * 4)
    for _ in range(4):
        found = chat(gateway, model)
        assert (found.status_code, found.content) == (answer.status, answer.content())
        answered_by(found, "aa", 1)
    served(chat(gateway, model), "aa", 1)
    assert calls(regions) == {"aa": 5}


def test_a_stream_that_breaks_is_passed_on_broken(
        gateway: Gateway, regions: AzureSim, aa: Resource, model: str) -> None:
    aa.script.then(Delivery(cut_after=2))
    target, body = chat_request(model, True, stream=True)
    with gateway.connect() as connection:
        connection.send(request("POST", target, [KEY_HEADER, JSON_TYPE], body))
        assert connection.read_head().status == 200
        for _ in range(2):
            assert connection.read_event() is not None
        with pytest.raises(Closed):
            while connection.read_event() is not None:
                pass
    assert calls(regions) == {"aa": 1}
    served(chat(gateway, model), "aa", 1)


# Exhaustion

def test_all_throttled(gateway: Gateway, regions: AzureSim, aa: Resource, bb: Resource,
                       cc: Resource, model: str) -> None:
    began, last = time.time(), errors.throttled(600, retry_after="600")
    for region, step in ((aa, THROTTLED), (bb, errors.throttled(retry_after_ms="90500")), (cc, last)):
        region.script.always(step)

    def assert_wait(found: httpx.Response) -> None:
        """The time of the first region that may be asked again, be that the one that responded."""
        wait = int(found.headers["retry-after-ms"])
        assert 90_500 - (time.time() - began) * 1000 - 2 <= wait <= 99_550
        assert int(found.headers["retry-after"]) == -(-wait // 1000)
    found = chat(gateway, model)
    assert (found.status_code, found.content) == (429, last.content())
    answered_by(found, "cc", 3)
    assert_wait(found)
    for _ in range(4):
        answer = exhausted(gateway, model)
        assert answer.status_code == 429
        assert answer.json()["error"]["type"] == "all_backends_throttled"
        assert_wait(answer)
    assert_trickles(regions, began)


def assert_trickles(regions: AzureSim, began: float) -> None:
    """The regions have been asked once, and then about once a second."""
    most = 1 + int((time.time() - began) / TRICKLE)
    counted = calls(regions)
    assert set(counted) == set(REGIONS) and max(counted.values()) <= most, counted


def test_after_all_were_throttled_the_first_that_may_be_asked_again_is(
        gateway: Gateway, regions: AzureSim, aa: Resource, bb: Resource, cc: Resource, model: str
        ) -> None:
    for region in (aa, cc):
        region.script.always(THROTTLED)
    bb.script.then(errors.throttled(retry_after_ms="700"))
    assert chat(gateway, model).status_code == 429
    deadline = time.monotonic() + HANG_LIMIT
    while (answer := chat(gateway, model)).status_code == 429 and time.monotonic() < deadline:
        wait = int(answer.headers["retry-after-ms"])
        assert int(answer.headers["retry-after"]) == max(1, -(-wait // 1000))
        time.sleep(0.01)
    served(answer, "bb", 1)
    assert_apart(bb, 0.7)


def test_while_all_are_in_cooldown_a_good_response_ends_it(
        gateway: Gateway, regions: AzureSim, aa: Resource, model: str) -> None:
    for name in REGIONS:
        regions.resources[name].script.then(THROTTLED)
    assert chat(gateway, model).status_code == 429
    while (answer := chat(gateway, model)).status_code == 429:
        assert own_headers(answer) == {"x-aoai-reason": "all_backends_throttled"}
    served(answer, "aa", 1)
    assert_apart(aa, TRICKLE)
    served(chat(gateway, model), "aa", 1)


def test_callers_are_told_of_no_longer_pause_than_they_obey(
        gateway: Gateway, regions: AzureSim, model: str) -> None:
    for name in REGIONS:
        regions.resources[name].script.always(errors.throttled(retry_after="3599"))
    for answer in (chat(gateway, model), exhausted(gateway, model)):
        assert answer.status_code == 429
        assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("120", "120000")


def test_what_one_subscription_was_told_does_not_bind_another(
        gateway: Gateway, regions: AzureSim, model: str) -> None:
    for name in REGIONS:
        regions.resources[name].script.then(THROTTLED)
    assert chat(gateway, model).status_code == 429
    served(chat(gateway, model, key=OTHER_KEY), "aa", 1)
    # What it was served is known to all.
    served(chat(gateway, model), "aa", 1)


# Failures in a row

FAILURES = pytest.mark.parametrize("failure", [UNAVAILABLE, RESET], ids=["503", "reset"])


@FAILURES
def test_three_failures_in_a_row_cool_a_region(
        gateway: Gateway, aa: Resource, bb: Resource, cc: Resource, model: str, failure: Step
) -> None:
    aa.script.then(failure, failure, Delivery(), failure, failure, failure)
    for region, attempts in (("bb", 2), ("bb", 2), ("aa", 1), ("bb", 2), ("bb", 2)):
        served(chat(gateway, model), region, attempts)
    began = time.time()
    served(chat(gateway, model), "bb", 2)
    for _ in range(4):
        served(chat(gateway, model), "bb", 1)
    assert len(aa.requests) == 6
    assert_cools(gateway, model, began, COOLDOWN, COOLDOWN, {aa: failure}, [bb, cc])


@FAILURES
def test_a_region_that_failed_is_tried_again(brisk: Gateway, aa: Resource, model: str,
                                             failure: Step) -> None:
    aa.script.then(failure, failure, failure)
    for _ in range(3):
        served(chat(brisk, model), "bb", 2)
    with ThreadPoolExecutor(1) as pool:
        served(until_asked(pool, brisk, model, aa, 4).result(), "aa", 1)
    assert_apart(aa, 1.0)
    served(chat(brisk, model), "aa", 1)


def test_refused_connections_cool_a_region(gateway: Gateway, dead_model: str) -> None:
    for attempts in (2, 2, 2, 1, 1):
        served(chat(gateway, dead_model), "aa", attempts)


def test_a_region_that_refused_connections_is_tried_again(
        brisk: Gateway, dead_model: str) -> None:
    for _ in range(2):
        served(chat(brisk, dead_model), "aa", 2)
    began = time.time()
    served(chat(brisk, dead_model), "aa", 2)
    served(until_attempts(brisk, dead_model, 2), "aa", 2)  # the probe
    assert time.time() - began >= 1.0 - 0.002


def until_attempts(gateway: Gateway, model: str, attempts: int) -> httpx.Response:
    """The first answer that took so many attempts."""
    deadline = time.monotonic() + HANG_LIMIT
    while time.monotonic() < deadline:
        answer = chat(gateway, model)
        if answer.headers.get("x-aoai-attempts") == str(attempts):
            return answer
        time.sleep(0.01)
    raise AssertionError(f"no answer took {attempts} attempts")


def test_the_last_answer_is_passed_on_when_all_fail(
        gateway: Gateway, regions: AzureSim, model: str) -> None:
    for name in REGIONS:
        regions.resources[name].script.then(UNAVAILABLE)
    found = chat(gateway, model)
    assert (found.status_code, found.content) == (503, UNAVAILABLE.content())
    assert found.headers["x-from"] == "azure"
    answered_by(found, "cc", 3)
    assert calls(regions) == {"aa": 1, "bb": 1, "cc": 1}


def test_nobody_is_asked_twice_when_all_reset(
        gateway: Gateway, regions: AzureSim, model: str) -> None:
    for name in REGIONS:
        regions.resources[name].script.then(RESET, RESET)
    with gateway.connect() as connection:
        target, body = chat_request(model, True)
        raw = request("POST", target, [KEY_HEADER, JSON_TYPE], body)
        found = connection.exchange(raw)
        # In place of Envoy's own words.
        own_answer(found, "backend_failed", backend="cc", waits=True)
        assert found.head.values("x-aoai-attempts") == ["3"]
        assert calls(regions) == {"aa": 1, "bb": 1, "cc": 1}
        for name in REGIONS:
            regions.resources[name].script.clear()
        served(connection.exchange(raw), "aa", 1)


def test_an_outage_is_not_called_throttling(
        gateway: Gateway, regions: AzureSim, model: str) -> None:
    """Failures that two subscriptions meet are the regions'."""
    for name in REGIONS:
        regions.resources[name].script.always(UNAVAILABLE)
    for key in (KEY, OTHER_KEY) * 2:
        answered_by(chat(gateway, model, key=key), "cc", 3)
    answer = exhausted(gateway, model, "all_backends_failed")
    assert answer.status_code == 503
    assert 0 < int(answer.headers["retry-after-ms"]) <= COOLDOWN * 1100
    assert answer.json()["error"]["type"] == "all_backends_failed"


def test_a_region_that_accepts_requests_and_never_responds_is_learned(
        impatient: Gateway, aa: Resource, model: str) -> None:
    aa.script.always(HANG)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(chat, impatient, model, key=key) for key in (KEY, OTHER_KEY) * 2]
        for answer in [one.result() for one in asked]:
            assert answer.status_code == 504
            assert answer.json()["error"]["type"] == "backend_timeout"
            own = {"x-aoai-backend": "aa", "x-aoai-attempts": "1", "x-aoai-reason": "backend_timeout"}
            assert own_headers(answer) == own
    for key in (KEY, OTHER_KEY):
        served(chat(impatient, model, key=key), "bb", 1)


def test_a_caller_that_does_not_send_its_body_makes_no_region_fail(
        impatient: Gateway, aa: Resource, model: str) -> None:
    """Envoy ends such a request as it ends one of a region that does not respond."""
    target, body = chat_request(model, False)
    connections = [impatient.connect() for _ in range(4)]
    for key, connection in zip((KEY, OTHER_KEY) * 2, connections):
        connection.send(request("POST", target, [("api-key", key), JSON_TYPE], body)[:-1])
    for connection in connections:
        assert connection.read_head().status == 408
        connection.close()
    served(chat(impatient, model), "aa", 1)


# Late failures

def test_a_late_503_is_passed_on(hasty: Gateway, regions: AzureSim, aa: Resource, model: str
                                 ) -> None:
    aa.script.then(UNAVAILABLE.delivered(Delivery(delay=SOON + 0.1)))
    found = chat(hasty, model)
    assert (found.status_code, found.content) == (503, UNAVAILABLE.content())
    answered_by(found, "aa", 1)
    assert calls(regions) == {"aa": 1}


def test_after_a_late_reset_nobody_else_is_asked(
        hasty: Gateway, regions: AzureSim, aa: Resource, model: str) -> None:
    aa.script.then(Delivery(delay=SOON + 0.1, reset=True))
    found = chat(hasty, model)
    assert (found.status_code, found.headers.get("x-aoai-reason")) == (503, "backend_failed")
    assert found.json()["error"]["type"] == "backend_failed"
    assert "x-aoai-retry" not in found.headers
    assert calls(regions) == {"aa": 1}


def test_an_early_failure_is_still_tried_elsewhere(
        hasty: Gateway, regions: AzureSim, aa: Resource, model: str) -> None:
    aa.script.then(UNAVAILABLE)
    began = time.monotonic()
    answer = chat(hasty, model)
    if time.monotonic() - began < SOON:  # a busy machine can be late
        served(answer, "bb", 2)


# State stays home

def home_key(home: str) -> Dict[str, str]:
    return {"api-key": f"aoai_key-of-{home}"}


def create(gateway: Gateway, home: str, **more: Any) -> httpx.Response:
    with httpx.Client(base_url=gateway.url, timeout=HANG_LIMIT, trust_env=False) as http:
        headers = {**home_key(home), **more.pop("headers", {})}
        return http.post("/openai/v1/responses", headers=headers,
                         json={"model": HOME_MODEL, "input": "hi", **more})


def get(gateway: Gateway, home: str, path: str) -> httpx.Response:
    with httpx.Client(base_url=gateway.url, timeout=HANG_LIMIT, trust_env=False) as http:
        return http.get(path, headers=home_key(home))


def test_what_is_stored_stays_on_one_region_for_every_proxy(
        gateway: Gateway, hasty: Gateway, regions: AzureSim) -> None:
    at = {}
    for home in HOMES:
        made = create(gateway, home)
        assert made.status_code == 200, made.text
        at[home] = made.headers["x-aoai-backend"]
        path = f"/openai/v1/responses/{made.json()['id']}"
        for proxy in (gateway, hasty, gateway, hasty):
            found = get(proxy, home, path)
            assert (found.status_code, found.headers["x-aoai-backend"]) == (200, at[home])
            next_one = create(proxy, home, previous_response_id=made.json()["id"])
            assert (next_one.status_code, next_one.headers["x-aoai-backend"]) == (200, at[home])
            assert next_one.json()["model"] == "gpt-4o"
            files = get(proxy, home, "/openai/v1/files")
            assert (files.status_code, files.headers["x-aoai-backend"]) == (200, at[home])
    assert len(set(at.values())) > 1, at


STAYS: Dict[str, Callable[[Gateway, str], httpx.Response]] = {
    "create a response": create,
    "list files": lambda gateway, home: get(gateway, home, "/openai/v1/files"),
}


@pytest.mark.parametrize("call", STAYS.values(), ids=STAYS.keys())
@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES.keys())
def test_what_stays_home_is_never_tried_elsewhere(
        gateway: Gateway, regions: AzureSim, call: Callable[[Gateway, str], httpx.Response],
        trouble: Step) -> None:
    for name in REGIONS:
        regions.resources[name].script.always(trouble)
    for home in HOMES[:3]:
        before = sum(calls(regions).values())
        found = call(gateway, home)
        if isinstance(trouble, Answer):
            assert (found.status_code, found.content) == (trouble.status, trouble.content())
        else:
            assert found.status_code == 503
        assert "x-aoai-retry" not in found.headers
        assert sum(calls(regions).values()) == before + 1
    for name in REGIONS:
        regions.resources[name].script.clear()
    for home in HOMES[:3]:
        assert call(gateway, home).status_code == 200  # and nothing is left alone


# A backend without an address

@pytest.fixture(scope="module")
def unresolved(regions: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    """To which the name of aa does not resolve: Envoy skips a pool's member without an address."""
    regions.reset()
    return warm(start_gateway(document(regions), edits=[
        put(f"{CLUSTERS}[aoai_aa].load_assignment.endpoints", []),
        put(f"{CLUSTERS}[aoai_aa].type", "STATIC")]))


def test_a_region_without_an_address_costs_no_attempt(
        unresolved: Gateway, regions: AzureSim, bb: Resource, model: str) -> None:
    served(chat(unresolved, model), "bb", 1)
    bb.script.then(THROTTLED)
    served(chat(unresolved, model), "cc", 2)
    assert calls(regions) == {"bb": 2, "cc": 1}


# Spoofing

@pytest.fixture(scope="module")
def trusting(regions: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    """Another process, to which its callers' addresses are internal: Envoy's router does what the
    `x-envoy-…` headers of their requests say."""
    regions.reset()
    return warm(start_gateway(document(regions), edits=[put(
        f"{MANAGER}.internal_address_config",
        {"cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]})]))


SPOOFED = {"x-aoai-retry": "1", "x-envoy-max-retries": "5",
           "x-envoy-retry-on": "5xx,reset,retriable-4xx,retriable-status-codes",
           "x-envoy-retriable-status-codes": "400,404,409,429,503",
           "x-envoy-retriable-header-names": "content-type"}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES.keys())
def test_a_caller_cannot_have_tried_again_what_stays_home(
        trusting: Gateway, regions: AzureSim, trouble: Step) -> None:
    for name in REGIONS:
        regions.resources[name].script.always(trouble)
    found = create(trusting, HOMES[0], headers=SPOOFED)
    assert found.status_code == (trouble.status if isinstance(trouble, Answer) else 503)
    assert sum(calls(regions).values()) == 1


def test_a_caller_cannot_have_a_refusal_tried_elsewhere(
        trusting: Gateway, regions: AzureSim, aa: Resource, model: str) -> None:
    for status in (400, 409, 200):
        regions.reset()
        aa.script.then(Answer(status, body={"error": {"code": "x"}}))
        found = chat(trusting, model, **SPOOFED)
        assert found.status_code == status
        answered_by(found, "aa", 1)
        assert calls(regions) == {"aa": 1}


@pytest.mark.parametrize("spoofed", [
    SPOOFED, {"x-envoy-max-retries": "0"}, {"x-aoai-cluster": "aoai/aa"},
    {"x-envoy-upstream-rq-per-try-timeout-ms": "1"},
], ids=["more", "fewer", "cluster", "timeout"])
def test_a_caller_cannot_change_what_is_tried(
        trusting: Gateway, regions: AzureSim, aa: Resource, model: str, spoofed: Dict[str, str]
) -> None:
    aa.script.then(THROTTLED)
    served(chat(trusting, model, **spoofed), "bb", 2)
    served(chat(trusting, model, **spoofed), "bb", 1)
    assert calls(regions) == {"aa": 1, "bb": 2}


# Many at once

def test_a_storm_reaches_throttled_regions_only_before_that_is_known(
        gateway: Gateway, regions: AzureSim, aa: Resource, bb: Resource, cc: Resource, model: str
) -> None:
    gate = Gate()
    throttled = THROTTLED
    aa.script.always(throttled.delivered(Delivery(before=gate)))
    bb.script.always(throttled)
    target, body = chat_request(model, True)
    raw = request("POST", target, [KEY_HEADER, JSON_TYPE], body)
    early = [gateway.connect() for _ in range(150)]
    late = [gateway.connect() for _ in range(150)]
    for connection in early:
        connection.send(raw)
    aa.wait_for_requests(150)
    gate.release()
    bb.wait_for_requests(1)
    cc.wait_for_requests(1)
    # Now each worker can know of both.
    for connection in late:
        connection.send(raw)
    for connection in late:
        served(connection.read_response(), "cc", 1)
    assert calls(regions) == {"aa": 150, "bb": 1, "cc": 151}
    gate.open()
    # Their pools go on to bb, which is known to be in cooldown: it is not asked again.
    for connection in early:
        answer = connection.read_response()
        if answer.status == 429:
            answered_by(answer, "aa", 1)
            # The third is ready.
            assert answer.head.header("retry-after-ms") == "1000"
        else:
            served(answer, "cc", 3)
    counted = calls(regions)
    assert (counted["aa"], counted["bb"]) == (150, 1)
    for connection in early + late:
        served(connection.exchange(raw), "cc", 1)
        connection.close()
    assert calls(regions) == {**counted, "cc": counted["cc"] + 300}


def test_in_a_storm_every_caller_gets_a_response_of_a_backend(gateway: Gateway, regions: AzureSim, aa: Resource, bb: Resource,
                              model: str) -> None:
    throttled = THROTTLED
    aa.script.always(throttled)
    bb.script.always(throttled)
    target, body = chat_request(model, False)
    raw = request("POST", target, [KEY_HEADER, JSON_TYPE], body)
    connections = [gateway.connect() for _ in range(300)]
    for connection in connections:
        connection.send(raw)
    for connection in connections:
        answer = connection.read_response()
        backend = answer.head.header("x-aoai-backend")
        # One whose next backend is in cooldown by then gets the 429; the third one is ready.
        assert (answer.status, backend) in ((200, "cc"), (429, "aa"), (429, "bb")), answer
        assert answer.status == 200 or answer.head.header("retry-after-ms") == "1000"
    assert len(aa.requests) <= 300 and len(bb.requests) <= 300
    before = {name: count for name, count in calls(regions).items() if name != "cc"}
    for connection in connections:
        connection.send(raw)
    for connection in connections:
        served(connection.read_response(), "cc", 1)
        connection.close()
    assert {name: count for name, count in calls(regions).items() if name != "cc"} == before


def test_one_probe_in_a_storm(gateway: Gateway, aa: Resource, model: str) -> None:
    """Many ask at the moment when a cooldown ends."""
    aa.script.then(errors.throttled(retry_after_ms="300"))
    served(chat(gateway, model), "bb", 2)
    gate = Gate()
    aa.script.always(Delivery(before=gate))
    raw = request("POST", chat_request(model, False)[0], [KEY_HEADER, JSON_TYPE],
                  chat_request(model, False)[1])
    answers: List[Response] = []

    def ask() -> int:
        with gateway.connect() as connection:
            asked = 0
            while len(aa.requests) < 2:
                asked += 1
                answers.append(connection.exchange(raw))
            return asked
    with ThreadPoolExecutor(16) as pool:
        asking = [pool.submit(ask) for _ in range(16)]
        # All have their answers, but those whose requests the region holds.
        gateway.envoy.wait_until(
            lambda: sum(one.done() for one in asking) + len(aa.requests) - 1 >= len(asking),
            "answers to all others")
        probes, ended = len(aa.requests) - 1, time.time()
        gate.open()
    if ended < aa.requests[0].received_at + 0.3 + PROBE:  # on a busy machine others may follow
        assert probes == 1
        assert [answer.head.header("x-aoai-backend") for answer in answers].count("aa") == probes
    assert len(answers) == sum(one.result() for one in asking)
    assert {answer.status for answer in answers} == {200}


def test_weights_are_kept(gateway: Gateway, regions: AzureSim, workers: int) -> None:
    model = fresh(workers, "w")
    raw = request("POST", chat_request(model, False)[0], [KEY_HEADER, JSON_TYPE],
                  chat_request(model, False)[1])
    if workers == 1:
        pytest.skip("the harder case is two workers")
    failed: List[Any] = []

    def ask(count: int) -> None:
        with gateway.connect() as connection:
            for _ in range(count):
                answer = connection.exchange(raw)
                if answer.status != 200:
                    failed.append(answer)
    threads = [threading.Thread(target=ask, args=(500,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    found = calls(regions)
    assert sum(found.values()) == 4000
    assert set(found) == {"aa", "bb"} and abs(found["aa"] - 3000) <= 30, found


# The official client

@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy",
                 "all_proxy"):
        monkeypatch.delenv(name, raising=False)


CLIENTS: Dict[str, Callable[..., openai.OpenAI]] = {
    "AzureOpenAI": lambda gateway, **more: openai.AzureOpenAI(
        azure_endpoint=gateway.url, api_key=KEY, api_version="2024-10-21", **more),
    "OpenAI-v1": lambda gateway, **more: openai.OpenAI(
        base_url=f"{gateway.url}/openai/v1/", api_key=KEY, **more),
}
ANY_CLIENT = pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS.keys())


def ask(client: openai.OpenAI, model: str) -> Optional[str]:
    messages: Any = [{"role": "user", "content": "hi"}]
    answer = client.chat.completions.create(model=model, messages=messages)
    return answer.choices[0].message.content


@ANY_CLIENT
def test_a_client_that_does_not_retry_sees_one_answer(
        gateway: Gateway, aa: Resource, bb: Resource, model: str,
        client: Callable[..., openai.OpenAI]) -> None:
    with client(gateway, max_retries=0) as made:
        assert ask(made, model) == "answer from aa"
        aa.script.then(THROTTLED)
        assert ask(made, model) == "answer from bb"
        bb.script.then(RESET)
        messages: Any = [{"role": "user", "content": "hi"}]
        chunks = list(made.chat.completions.create(model=model, messages=messages, stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == "answer from cc"
        bb.script.then(errors.CONTENT_FILTERED)
        with pytest.raises(openai.BadRequestError) as refused:
            ask(made, model)
        assert refused.value.code == "content_filter"


@ANY_CLIENT
def test_a_client_waits_as_it_is_told_when_all_are_throttled(
        gateway: Gateway, regions: AzureSim, model: str, client: Callable[..., openai.OpenAI]
) -> None:
    for name in ("aa", "cc"):
        regions.resources[name].script.always(THROTTLED)
    regions.resources["bb"].script.then(errors.throttled(retry_after_ms="1200"))
    assert chat(gateway, model).status_code == 429
    pauses = Pauses()
    with client(gateway, http_client=pauses.client()) as made:
        assert ask(made, model) == "answer from bb"
    pauses.assert_obeyed()
    assert_apart(regions.resources["bb"], 1.2)


# What is on its way when a cooldown begins

@pytest.mark.parametrize("late", [Answer(200, body={}), errors.CONTENT_FILTERED],
                         ids=["success", "client error"])
def test_an_answer_from_before_the_cooldown_does_not_end_it(
        gateway: Gateway, aa: Resource, model: str, late: Answer) -> None:
    gate = Gate()
    aa.script.then(late.delivered(Delivery(before=gate)), THROTTLED)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(chat, gateway, model)
        aa.wait_for_requests(1)
        served(chat(gateway, model), "bb", 2)
        gate.open()
        assert slow.result().status_code == late.status
        answered_by(slow.result(), "aa", 1)
    for _ in range(4):
        served(chat(gateway, model), "bb", 1)
    assert len(aa.requests) == 2


@pytest.mark.parametrize("failure", [UNAVAILABLE, errors.throttled()],
                         ids=["503", "throttled without a hint"])
def test_many_failures_at_once_are_one_reason_to_pause(
        gateway: Gateway, aa: Resource, bb: Resource, cc: Resource, model: str, failure: Answer
) -> None:
    gate = Gate()
    aa.script.then(*[failure.delivered(Delivery(before=gate))] * 16)
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(chat, gateway, model) for _ in range(16)]
        aa.wait_for_requests(16)
        began = time.time()
        gate.open()
        for one in asked:
            served(one.result(), "bb", 2)
    assert_cools(gateway, model, began, COOLDOWN, COOLDOWN, {aa: failure}, [bb, cc])


@pytest.mark.parametrize("is_v1", [False, True], ids=["before the answer", "by a second model"])
def test_a_probe_that_is_given_up_leaves_room_for_another(
        gateway: Gateway, aa: Resource, model: str, is_v1: bool) -> None:
    """The caller leaves while its request tries a region, or its body is refused then."""
    aa.script.then(errors.throttled(retry_after_ms="300"))
    served(chat(gateway, model), "bb", 2)
    aa.script.then(Delivery(early=is_v1, hang=True))
    target, body = chat_request(model, is_v1)
    head = request("POST", target, [KEY_HEADER, JSON_TYPE, (
        "content-length", str(1000 if is_v1 else len(body)))])
    deadline = time.monotonic() + HANG_LIMIT
    while len(aa.requests) < 2 and time.monotonic() < deadline:
        with gateway.connect() as connection:
            if is_v1:
                connection.send(head, b'{"model":"%s",' % model.encode())
                until = time.monotonic() + 0.1
                while len(aa.requests) < 2 and time.monotonic() < until:
                    time.sleep(0.002)
                connection.send(b'"model":"x",')
                assert connection.read_head().status == 400
            else:
                connection.send(head, body)
                while len(aa.requests) < 2 and connection.silent_for(0.01):
                    pass
    aa.recorder.wait_until(lambda seen: len(seen) == 2 and seen[1].left, "end of the probe")
    with ThreadPoolExecutor(1) as pool:
        served(until_asked(pool, gateway, model, aa, 3).result(), "aa", 1)


# Ends of pools

def test_a_pool_of_what_is_left_is_not_begun_again(
        gateway: Gateway, regions: AzureSim, model: str) -> None:
    """The route allows for more attempts than such a pool has members."""
    for name in REGIONS[:2]:
        regions.resources[name].script.then(THROTTLED)
    served(chat(gateway, model), "cc", 3)
    cc = regions.resources["cc"]
    cc.script.then(RESET)
    found = chat(gateway, model)
    assert (found.status_code, found.headers.get("x-aoai-reason")) == (503, "backend_failed")
    assert "x-aoai-retry" not in found.headers
    assert len(cc.requests) == 2
    cc.script.then(UNAVAILABLE)
    found = chat(gateway, model)
    assert (found.status_code, found.content) == (503, UNAVAILABLE.content())
    answered_by(found, "cc", 1)
    cc.script.then(RESET)  # the third in a row, but of one subscription alone
    assert chat(gateway, model).status_code == 503
    served(chat(gateway, model), "cc", 1)
    assert calls(regions) == {"aa": 1, "bb": 1, "cc": 5}


def test_a_request_that_is_larger_than_the_quota_puts_no_region_in_cooldown(
        gateway: Gateway, regions: AzureSim, aa: Resource, model: str) -> None:
    aa.script.then(errors.throttled(retry_after="86400"))
    found = chat(gateway, model)
    assert (found.status_code, found.headers["retry-after"]) == (429, "86400")
    answered_by(found, "aa", 1)
    served(chat(gateway, model), "aa", 1)
    assert calls(regions) == {"aa": 2}


def test_requests_of_one_subscription_that_fail_everywhere_put_no_region_in_cooldown(
        gateway: Gateway, regions: AzureSim, model: str) -> None:
    for _ in range(5):
        for name in REGIONS:
            regions.resources[name].script.then(UNAVAILABLE)
        answered_by(chat(gateway, model), "cc", 3)
    served(chat(gateway, model), "aa", 1)


@pytest.mark.parametrize("is_v1", [False, True], ids=["model in the URL", "model in the body"])
def test_a_429_before_the_whole_body_is_there_moves_on_with_all_of_it(
        gateway: Gateway, aa: Resource, bb: Resource, model: str, is_v1: bool) -> None:
    aa.script.then(THROTTLED.delivered(Delivery(early=True)))
    rest = b'"messages":[],"user":"' + b"u" * 5000 + b'"}'

    def body(name: str) -> bytes:
        return (b'{"model":"%s",' % name.encode() if is_v1 else b"{") + rest
    raw = request("POST", chat_request(model, is_v1)[0], [KEY_HEADER, JSON_TYPE], body(model))
    with gateway.connect() as connection:
        connection.send(raw[:-3000])
        bb.recorder.wait_until(lambda seen: len(seen) == 1, "second attempt")
        connection.send(raw[-3000:-10])
        served(connection.exchange(raw[-10:]), "bb", 2)
    [seen] = bb.requests
    assert unmetered(seen.body) == body(deployment("bb", model) if is_v1 else model)
    served(chat(gateway, model), "bb", 1)


def test_the_time_that_a_caller_takes_to_send_is_no_slow_failure(
        hasty: Gateway, aa: Resource, bb: Resource, model: str) -> None:
    aa.script.then(THROTTLED)
    target, body = chat_request(model, True)
    raw = request("POST", target, [KEY_HEADER, JSON_TYPE], body)
    with hasty.connect() as connection:
        connection.send(raw[:-10])
        assert connection.silent_for(SOON + 0.1)
        began = time.monotonic()
        answer = connection.exchange(raw[-10:])
        if time.monotonic() - began < SOON:  # a busy machine can be late
            served(answer, "bb", 2)
