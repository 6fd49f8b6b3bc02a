"""Who waits for a token chooses its region when the token comes: what has been learnt meanwhile
counts, and a crowd that has waited is not let loose on one region."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Iterator, List, Optional, Sequence, Set

import pytest

from azure_sim import HANG_LIMIT, AzureSim, Delivery, Gate, ManagedIdentity, errors
from azure_sim.records import RecordedRequest
from azure_sim.script import Step
from e2e import config
from e2e.calls import unmetered
from e2e.gateway import Gateway
from e2e.identity import FETCHES
from e2e.regions import KEY, add_regions, calls, chat, deployment, document, own_headers, served
from e2e.rendering import more_listeners
from e2e.wire import Connection, request

Start = Callable[..., Gateway]
MODEL = "m1"
CROWD = 40
ACTIVE = "http.aoai.downstream_rq_active"


@pytest.fixture(scope="module")
def regions(azure: AzureSim) -> AzureSim:
    add_regions(azure)
    return azure


@dataclass
class Late:
    """A gateway that has its token, and beside it a listener for the same models whose identities'
    endpoint answers once the test says so: aa has an identity of its own, if one is told from the
    other."""

    gateway: Gateway
    client_id: str
    token: Gate
    others_token: Gate
    others_id: str

    def crowd(self) -> List[Connection]:
        """Callers of that listener, all of whom wait; every other one names its model in the body.
        """
        rest = b'"messages":[{"role":"user","content":"hi"}]}'
        headers = [("api-key", KEY), ("content-type", "application/json")]
        deployment = f"/openai/deployments/{MODEL}/chat/completions?api-version=2024-10-21"
        raw = [request("POST", deployment, headers, b"{" + rest),
               request("POST", "/openai/v1/chat/completions", headers,
                       b'{"model":"%s",' % MODEL.encode() + rest)]
        port = self.gateway.envoy.port("late")
        found = [Connection(port, timeout=40.0) for _ in range(CROWD)]
        for number, one in enumerate(found):
            one.send(raw[number % 2])
        self.gateway.envoy.wait_for_stat(ACTIVE, CROWD)
        return found


@pytest.fixture
def late(regions: AzureSim, start_gateway: Start) -> Iterator[Late]:
    with _late(regions, start_gateway) as found:
        yield found


@pytest.fixture
def late_by_two_identities(regions: AzureSim, start_gateway: Start) -> Iterator[Late]:
    with _late(regions, start_gateway, others=["bb", "cc"]) as found:
        yield found


@contextmanager
def _late(regions: AzureSim, start_gateway: Start, others: Sequence[str] = ()) -> Iterator[Late]:
    identity, other = ManagedIdentity(), ManagedIdentity()
    token, others_token = Gate(), Gate()
    gates = {identity.client_id: token, other.client_id: others_token}

    def rule(seen: RecordedRequest) -> Optional[Step]:
        gate = gates.get(dict(seen.query).get("client_id", ""))
        return None if gate is None else Delivery(before=gate)
    regions.identity.user_assigned = [identity, other]
    regions.identity.script.always(rule)
    waiting = document(regions)
    waiting.update(identity=config.managed_identity(client_id=identity.client_id),
                   token_wait="60s")
    if others:
        waiting["identities"] = {"others": config.managed_identity(client_id=other.client_id)}
        waiting["backends"] = [{**one, **({"identity": "others"} if one["name"] in others else {})}
                               for one in waiting["backends"]]
    beside = more_listeners(regions, {"late": waiting})
    with start_gateway(document(regions), edits=[beside]) as gateway:
        for _ in range(8):
            chat(gateway, "m0").raise_for_status()
        for resource in regions.resources.values():
            resource.recorder.clear()
        yield Late(gateway, identity.client_id, token, others_token, other.client_id)
    for gate in gates.values():
        gate.open()


def test_a_crowd_that_has_waited_leaves_alone_what_cools(late: Late, regions: AzureSim) -> None:
    crowd = late.crowd()
    assert calls(regions) == {}
    regions.resources["aa"].script.then(errors.throttled(retry_after_ms="600000"))
    served(chat(late.gateway, MODEL), "bb", 2)
    late.token.open()
    for one in crowd:
        served(one.read_response(), "bb", 1)
        one.close()
    assert calls(regions) == {"aa": 1, "bb": 1 + CROWD}


def test_one_of_a_crowd_that_has_waited_tries_what_has_cooled(
        late: Late, regions: AzureSim) -> None:
    aa = regions.resources["aa"]
    aa.script.then(errors.throttled(retry_after_ms="300"))
    served(chat(late.gateway, MODEL), "bb", 2)
    time.sleep(0.4)  # the cooldown has a tenth more at the most
    crowd = late.crowd()
    gate = Gate()
    aa.script.always(Delivery(before=gate))
    late.token.open()
    with ThreadPoolExecutor(CROWD) as pool:
        left = {pool.submit(one.read_response) for one in crowd}
        done: Set[Any] = set()
        while len(left) > 1:
            some, left = wait(left, timeout=40.0, return_when=FIRST_COMPLETED)
            assert some
            done |= some
        gate.open()
        for future in done:
            served(future.result(), "bb", 1)
        [probe] = left
        served(probe.result(), "aa", 1)
    for one in crowd:
        one.close()
    assert calls(regions) == {"aa": 2, "bb": CROWD}


def test_a_crowd_that_has_waited_is_told_when_everything_cools(
        late: Late, regions: AzureSim) -> None:
    crowd = late.crowd()
    for name, pause in (("aa", "600000"), ("bb", "60000"), ("cc", "600000")):
        regions.resources[name].script.always(errors.throttled(retry_after_ms=pause))
    assert chat(late.gateway, MODEL).status_code == 429
    late.token.open()
    told = 0
    for one in crowd:
        answer = one.read_response()
        assert answer.status == 429
        assert 0 < int(answer.head.header("retry-after-ms") or 0) <= 66_000
        told += own_headers(answer) == {"x-aoai-reason": "all_backends_throttled"}
        one.close()
    # About once a second each region is asked all the same.
    assert told > 0 and sum(calls(regions).values()) == 3 + CROWD - told


def test_a_crowd_that_changes_regions_waits_for_the_new_ones_token(
        late_by_two_identities: Late, regions: AzureSim) -> None:
    late = late_by_two_identities
    crowd = late.crowd()
    regions.resources["aa"].script.then(errors.throttled(retry_after_ms="600000"))
    served(chat(late.gateway, MODEL), "bb", 2)
    late.token.open()
    regions.identity.recorder.wait_until(
        lambda seen: any(one.status == 200 and ("client_id", late.client_id) in one.query
                         for one in seen), "token for aa")
    assert all(one.silent_for(0.01) for one in crowd)
    late.others_token.open()
    for one in crowd:
        served(one.read_response(), "bb", 1)
        one.close()
    seen = regions.resources["bb"].requests[1:]
    assert {one.token and one.token.appid for one in seen} == {late.others_id}


@pytest.mark.parametrize("named_by", ["url", "body"])
@pytest.mark.parametrize("retried", [False, True], ids=["first region", "second region"])
def test_a_body_that_comes_around_its_token_reaches_a_pool_whole_and_once(
        late: Late, regions: AzureSim, retried: bool, named_by: str) -> None:
    if retried:
        regions.resources["aa"].script.then(errors.throttled(60))
    text = '"messages":[{"role":"user","content":"%s"}]}' % ("schön " * 4000)
    target, body = {
        "url": (f"/openai/deployments/{MODEL}/chat/completions?api-version=2024-10-21", "{" + text),
        "body": ("/openai/v1/chat/completions", '{"model":"%s",' % MODEL + text),
    }[named_by]
    whole = body.encode()
    pieces = [whole[start:start + 4000] for start in range(0, len(whole), 4000)]
    received = "http.aoai.downstream_cx_rx_bytes_total"
    with Connection(late.gateway.envoy.port("late"), timeout=HANG_LIMIT) as connection:
        head = request("POST", target, [("api-key", KEY), ("content-type", "application/json"),
                                        ("content-length", str(len(whole)))])
        sent = late.gateway.envoy.stats()[received] + len(head) + sum(map(len, pieces[:2]))
        connection.send(head, *pieces[:2])
        late.gateway.envoy.wait_for_stat(received, sent)
        late.token.open()
        late.gateway.envoy.wait_for_stat(FETCHES + "success", 2)
        for piece in pieces[2:]:
            connection.send(piece)
            sent += len(piece)
            late.gateway.envoy.wait_for_stat(received, sent)
        answer = connection.read_response()
    region = "bb" if retried else "aa"
    served(answer, region, 2 if retried else 1)
    name = deployment(region, MODEL).encode()
    expected = whole.replace(b'"model":"%s"' % MODEL.encode(), b'"model":"%s"' % name)
    [seen] = regions.resources[region].requests
    assert seen.complete and unmetered(seen.body) == expected
    assert calls(regions) == ({"aa": 1, "bb": 1} if retried else {"aa": 1})
