"""Requests with something in common prefer one region, on every proxy, for the sake of its prompt
cache; they leave it when it cools and come back to it."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

import pytest

from azure_sim import AzureSim, Delivery, Gate, Resource, errors
from e2e import config
from e2e.gateway import Gateway
from e2e.regions import KEY, REGIONS, add_regions, calls, deployment, served
from e2e.wire import Response, request

Json = Dict[str, Any]
Headers = List[Tuple[str, str]]
OTHER_KEY = "aoai_the-other-teams-key-0002"
JSON_TYPE = ("content-type", "application/json")
SESSION = "x-session-id"

# All on aa, bb and cc alike, and told apart by the affinity.
AFFINITIES: Dict[str, Optional[Json]] = {
    "m1": {"body": "prompt_cache_key"},
    "m2": {"body": "user"},
    "m3": {"header": "X-Session-Id"},
    "m4": None,
    "m5": {"body": "user"},
    "m6": {"header": SESSION},
}


def document(azure: AzureSim, regions: Tuple[str, ...] = REGIONS) -> Json:
    def model(name: str, affinity: Optional[Json]) -> Json:
        routes = [config.route(azure.resources[region], deployment=deployment(region, name))
                  for region in regions]
        return config.model(name, *routes, **({} if affinity is None else {"affinity": affinity}))
    return config.config(
        subscriptions=[config.subscription("search", key=KEY, operations=["*"]),
                       config.subscription("other", key=OTHER_KEY)],
        backends=[config.backend(azure.resources[region]) for region in REGIONS],
        models=[model(name, affinity) for name, affinity in AFFINITIES.items()])


@pytest.fixture(scope="module")
def regions(azure: AzureSim) -> AzureSim:
    add_regions(azure)
    return azure


@pytest.fixture(scope="module")
def gateway(regions: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    return warm(start_gateway(document(regions)))


@pytest.fixture(scope="module")
def neighbour(regions: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    """Another process by the same document."""
    return warm(start_gateway(document(regions)))


@pytest.fixture(scope="module")
def smaller(regions: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    """Another process whose models are not on cc."""
    return warm(start_gateway(document(regions, REGIONS[:2])))


def warm(gateway: Gateway) -> Gateway:
    for _ in range(8):
        assert ask(gateway, {"model": "m4", "messages": []}).status == 200
    return gateway


@pytest.fixture(autouse=True)
def _afresh(regions: AzureSim) -> None:
    regions.reset()


def ask(gateway: Gateway, body: Json, headers: Headers = [], *, key: str = KEY) -> Response:
    """A v1 chat request on a connection of its own, so that any worker may get it."""
    with gateway.connect() as connection:
        return connection.exchange(request("POST", "/openai/v1/chat/completions", [
            ("api-key", key), JSON_TYPE, *headers], json.dumps(body).encode()))


def ask_by_url(gateway: Gateway, model: str, body: Json, headers: Headers = []) -> Response:
    target = f"/openai/deployments/{model}/chat/completions?api-version=2024-10-21"
    with gateway.connect() as connection:
        return connection.exchange(request("POST", target, [("api-key", KEY), JSON_TYPE, *headers],
                                           json.dumps(body).encode()))


def region_of(answer: Response) -> str:
    assert answer.status == 200, answer
    return answer.head.header("x-aoai-backend") or ""


def regions_of(answers: List[Response]) -> Set[str]:
    return {region_of(answer) for answer in answers}


def with_key(value: str) -> Json:
    return {"messages": [], "model": "m1", "prompt_cache_key": value, "n": 1}


def by_user(value: Any, model: str = "m2") -> Json:
    return {"user": value, "model": model, "messages": []}


def test_every_proxy_draws_a_value_to_the_same_region(
        gateway: Gateway, neighbour: Gateway) -> None:
    found = {}
    for value in [f"conversation-{number}" for number in range(12)]:
        ways: List[Callable[[Gateway], Response]] = [
            lambda proxy: ask(proxy, with_key(value)),
            lambda proxy: ask(proxy, by_user(value)),
            lambda proxy: ask(proxy, {"model": "m3", "messages": []}, [(SESSION, value)]),
            lambda proxy: ask_by_url(proxy, "m3", {"messages": []}, [(SESSION, value)]),
        ]
        [found[value]] = regions_of([way(proxy) for way in ways
                                     for proxy in (gateway, neighbour, gateway)])
    assert set(found.values()) == set(REGIONS), found


def test_a_region_that_is_taken_out_moves_its_own_share_alone(
        gateway: Gateway, smaller: Gateway) -> None:
    moved = 0
    for number in range(30):
        body = with_key(f"conversation-{number}")
        before, after = region_of(ask(gateway, body)), region_of(ask(smaller, body))
        assert before in (after, "cc")
        moved += before == "cc"
    assert moved


def test_another_subscription_is_drawn_by_values_of_its_own(gateway: Gateway) -> None:
    bodies = [with_key(f"conversation-{number}") for number in range(20)]
    found = [tuple(region_of(ask(gateway, body, key=key)) for key in (KEY, OTHER_KEY))
             for body in bodies]
    assert any(ours != theirs for ours, theirs in found)
    assert any(ours == theirs for ours, theirs in found)


def all_regions(ways: List[Callable[[], Response]]) -> None:
    """Each way of asking goes from region to region, as requests in turn do."""
    for way in ways:
        assert regions_of([way() for _ in range(6)]) == set(REGIONS)


def test_what_has_no_value_is_spread(gateway: Gateway, workers: int) -> None:
    if workers > 1:
        pytest.skip("each worker counts turns by itself")

    def form() -> Response:
        body = (b'--xyz\r\nContent-Disposition: form-data; name="model"\r\n\r\nm2\r\n'
                b'--xyz\r\nContent-Disposition: form-data; name="user"\r\n\r\nu\r\n'
                b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n.'
                b"\r\n--xyz--\r\n")
        with gateway.connect() as connection:
            return connection.exchange(request(
                "POST", "/openai/v1/audio/transcriptions",
                [("api-key", KEY), ("content-type", "multipart/form-data; boundary=xyz")], body))
    all_regions([
        lambda: ask(gateway, {"model": "m2", "messages": []}),
        lambda: ask(gateway, by_user(17)),
        lambda: ask(gateway, by_user("")),
        lambda: ask(gateway, by_user("u" * 600)),
        lambda: ask(gateway, {"model": "m3", "messages": [], "user": "u"}),
        lambda: ask(gateway, {"model": "m3", "messages": []}, [(SESSION, "s" * 513)]),
        lambda: ask(gateway, {"model": "m4", "messages": [], "user": "u"}, [(SESSION, "s")]),
        lambda: ask_by_url(gateway, "m2", by_user("u")),
        form,
    ])


def drawn_to(gateway: Gateway, region: str, model: str) -> Tuple[Json, Headers]:
    """A body and headers that are drawn to a region."""
    for number in range(100):
        value = f"drawn-{number}"
        body, headers = ((by_user(value, model), []) if model == "m5" else
                         ({"model": model, "messages": []}, [(SESSION, value)]))
        if region_of(ask(gateway, body, headers)) == region:
            return body, headers
    raise AssertionError(f"nothing is drawn to {region}")


@pytest.mark.parametrize("model", ["m5", "m6"], ids=["by the body", "by a header"])
def test_who_prefers_a_region_leaves_it_while_it_cools_and_comes_back(
        gateway: Gateway, regions: AzureSim, model: str) -> None:
    body, headers = drawn_to(gateway, "bb", model)
    bb: Resource = regions.resources["bb"]
    bb.recorder.clear()
    bb.script.then(errors.throttled(retry_after_ms="1500"))
    first = ask(gateway, body, headers)
    served(first, region_of(first), 2)
    # Another region, the same one again and again.
    assert len(regions_of([ask(gateway, body, headers) for _ in range(4)]) - {"bb"}) <= 1
    gateway.envoy.wait_until(
        lambda: region_of(ask(gateway, body, headers)) == "bb", "return to the region")
    for _ in range(4):
        served(ask(gateway, body, headers), "bb", 1)
    throttled, probe = bb.requests[:2]
    assert probe.received_at - throttled.received_at >= 1.495


def test_what_draws_a_request_is_passed_on(gateway: Gateway, regions: AzureSim) -> None:
    body = {"model": "m3", "messages": []}
    region = region_of(ask(gateway, body, [("X-Session-ID", "s 1")]))
    [seen] = regions.resources[region].requests
    assert seen.header_values(SESSION) == ["s 1"]
    regions.reset()
    body = with_key("k")
    region = region_of(ask(gateway, body))
    [seen] = regions.resources[region].requests
    assert seen.json() == {**body, "model": deployment(region, "m1")}


def test_a_body_is_held_until_the_field_has_come_and_no_longer(
        gateway: Gateway, regions: AzureSim) -> None:
    start = b'{"model":"m2","messages":[],'
    rest = b'"metadata":{"a":"' + b"x" * 2000 + b'"}}'
    field = b'"user":"u",'
    raw = request("POST", "/openai/v1/chat/completions", [("api-key", KEY), JSON_TYPE],
                  start + field + rest)
    with gateway.connect() as connection:
        connection.send(raw[:-len(field + rest)])
        assert connection.silent_for(0.2) and calls(regions) == {}
        connection.send(raw[-len(field + rest):-len(rest)])
        gateway.envoy.wait_until(lambda: sum(calls(regions).values()) == 1, "request on its way")
        assert connection.exchange(raw[-len(rest):]).status == 200
    regions.reset()
    # Of a model that has none, nothing is held for it.
    raw = raw.replace(b'"m2"', b'"m4"')
    with gateway.connect() as connection:
        connection.send(raw[:-len(field + rest)])
        gateway.envoy.wait_until(lambda: sum(calls(regions).values()) == 1, "request on its way")
        assert connection.exchange(raw[-len(field + rest):]).status == 200


def test_a_second_model_behind_the_field_is_refused_still(
        gateway: Gateway, regions: AzureSim) -> None:
    body = b'{"model":"m2","user":"u","messages":[],"user":"v","model":"m4"}'
    gate = Gate()
    for region in REGIONS:
        regions.resources[region].script.always(Delivery(before=gate))
    with gateway.connect() as connection:
        answer = connection.exchange(request(
            "POST", "/openai/v1/chat/completions", [("api-key", KEY), JSON_TYPE], body))
    assert (answer.status, answer.head.header("x-aoai-reason")) == (400, "missing_model")
    assert not any(seen.complete for region in REGIONS
                   for seen in regions.resources[region].requests)
    gate.open()
