"""The identity endpoint keeps IMDS's rules. Source: "IMDS" in the protocol facts."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Tuple

import httpx
import pytest

from azure_sim import (HANG, HANG_LIMIT, RESET, Answer, AzureSim, Delivery, Gate, Identity,
                       ManagedIdentity)
from azure_sim.tokens import decode
from e2e.wire import Connection, request

AUDIENCE = "https://cognitiveservices.azure.com"
ASK = [("api-version", "2018-02-01"), ("resource", AUDIENCE)]
PATH = "/metadata/identity/oauth2/token"
ONE = ManagedIdentity(resource_id="/subscriptions/s/resourceGroups/g/providers/"
                                  "Microsoft.ManagedIdentity/userAssignedIdentities/one")
TWO = ManagedIdentity()


def ask(sim: AzureSim, query: Optional[List[Tuple[str, str]]] = None,
        headers: Optional[Dict[str, str]] = None, method: str = "GET", path: str = PATH
        ) -> httpx.Response:
    return httpx.request(method, f"http://127.0.0.1:{sim.identity.port}{path}",
                         params=tuple(ASK if query is None else query), timeout=HANG_LIMIT,
                         trust_env=False,
                         headers={"metadata": "true"} if headers is None else headers)


def only_user_assigned(*identities: ManagedIdentity) -> Callable[[Identity], None]:
    def configure(identity: Identity) -> None:
        identity.system_assigned, identity.user_assigned = None, list(identities)
    return configure


def as_it_is(_identity: Identity) -> None:
    pass


@dataclass
class Refused:
    status: int
    error: str
    description: str
    query: Optional[List[Tuple[str, str]]] = None
    headers: Optional[Dict[str, str]] = None
    configure: Callable[[Identity], None] = as_it_is
    method: str = "GET"
    path: str = PATH


@pytest.mark.parametrize("row", [
    pytest.param(Refused(400, "invalid_request", "metadata header", headers={}), id="no-metadata"),
    pytest.param(Refused(400, "invalid_request", "metadata header", headers={"metadata": "True"}),
                 id="metadata-in-upper-case"),
    pytest.param(Refused(400, "invalid_request", "X-Forwarded-For",
                         headers={"metadata": "true", "x-forwarded-for": "10.0.0.1"}),
                 id="x-forwarded-for"),
    pytest.param(Refused(400, "invalid_request", "Duplicate", query=[*ASK, ASK[1]]),
                 id="resource-twice"),
    pytest.param(Refused(400, "invalid_request", "api-version", query=ASK[1:]),
                 id="no-api-version"),
    pytest.param(Refused(400, "invalid_resource", "not found in the tenant", query=ASK[:1]),
                 id="no-resource"),
    pytest.param(Refused(400, "invalid_resource", "https://wrong.test", query=[
        ASK[0], ("resource", "https://wrong.test")]), id="unknown-resource"),
    pytest.param(Refused(400, "invalid_request", "Identity not found",
                         query=[*ASK, ("client_id", TWO.client_id)]), id="unknown-client-id"),
    pytest.param(Refused(400, "invalid_request", "Identity not found",
                         configure=only_user_assigned()), id="no-identity-at-all"),
    pytest.param(Refused(400, "invalid_request", "Multiple user assigned identities exist",
                         configure=only_user_assigned(ONE, TWO)), id="several-and-none-chosen"),
    pytest.param(Refused(400, "invalid_request", "one identity", query=[
        *ASK, ("client_id", ONE.client_id), ("object_id", ONE.object_id)],
        configure=only_user_assigned(ONE)), id="chosen-twice"),
    pytest.param(Refused(405, "method_not_allowed", "GET", method="POST"), id="post"),
    pytest.param(Refused(404, "not_found", "path", path="/metadata/instance"), id="other-path"),
])
def test_a_request_against_the_rules_is_refused(sim: AzureSim, row: Refused) -> None:
    row.configure(sim.identity)
    answer = ask(sim, row.query, row.headers, row.method, row.path)
    assert (answer.status_code, answer.json()["error"]) == (row.status, row.error)
    assert row.description in answer.json()["error_description"]


@pytest.mark.parametrize("selector", [
    ("client_id", ONE.client_id), ("object_id", ONE.object_id.upper()),
    ("msi_res_id", ONE.resource_id or ""),
], ids=lambda pair: str(pair[0]))
def test_a_user_assigned_identity_is_chosen_by_each_of_its_ids(
        sim: AzureSim, selector: Tuple[str, str]) -> None:
    only_user_assigned(ONE, TWO)(sim.identity)
    claims = decode(ask(sim, [*ASK, selector]).json()["access_token"])
    assert claims is not None
    assert (claims.oid, claims.appid, claims.tid) == (ONE.object_id, ONE.client_id, ONE.tenant)


def test_the_answer_has_the_documented_fields_with_numbers_as_strings(sim: AzureSim) -> None:
    sim.identity.lifetime = 3599
    before = int(time.time())
    body: Dict[str, Any] = ask(sim).json()
    claims = decode(body.pop("access_token"))
    assert claims is not None and claims.aud == AUDIENCE
    # Whole seconds: a token lives as long as its answer says, or a part of a second longer.
    assert claims.exp - claims.iat in (3599, 3600)
    assert before <= claims.iat <= time.time()
    assert body == {
        "client_id": claims.appid, "expires_in": "3599", "ext_expires_in": "3599",
        "expires_on": str(claims.exp), "not_before": str(claims.nbf), "resource": AUDIENCE,
        "token_type": "Bearer",
    }


def test_numbers_can_be_numbers_and_refresh_in_can_be_there(sim: AzureSim) -> None:
    sim.identity.numbers, sim.identity.refresh_in = int, 1800
    body = ask(sim).json()
    assert (body["expires_in"], body["refresh_in"]) == (3600, 1800)
    assert isinstance(body["expires_on"], int)


def test_no_two_tokens_are_equal_and_each_is_remembered(sim: AzureSim) -> None:
    issued = [ask(sim).json()["access_token"] for _ in range(2)]
    assert issued[0] != issued[1]
    assert sim.identity.issued[-2:] == issued
    assert issued[0] not in repr(sim.identity.issued)


def test_one_off_answers_come_in_order_and_then_the_usual_one(sim: AzureSim) -> None:
    sim.identity.script.then(
        Answer(429, [("Retry-After", "7")]), Answer(200, body="not json"), Answer(200),
        Answer(410, body={"error": "gone"}))
    answers = [ask(sim) for _ in range(5)]
    assert [one.status_code for one in answers] == [429, 200, 200, 410, 200]
    assert answers[0].headers["retry-after"] == "7"
    assert [answers[1].text, answers[2].content] == ["not json", b""]
    assert answers[4].json()["token_type"] == "Bearer"
    assert sim.identity.script.pending == 0


@pytest.mark.parametrize("how", [
    pytest.param(RESET, id="reset"),
    pytest.param(Delivery(cut_after=10), id="truncated"),
    pytest.param(Delivery(raw=b"\x00\xffnot http\r\n\r\n"), id="garbage"),
])
def test_a_broken_delivery_breaks_the_call_and_nothing_else(sim: AzureSim, how: Delivery) -> None:
    sim.identity.script.then(how)
    with pytest.raises(httpx.RemoteProtocolError if how != RESET else httpx.NetworkError):
        ask(sim)
    assert ask(sim).status_code == 200


def test_a_hanging_answer_hangs_until_the_caller_leaves(sim: AzureSim) -> None:
    sim.identity.script.then(HANG)
    with Connection(sim.identity.port) as connection:
        connection.send(request("GET", PATH, [("metadata", "true")]))
        sim.identity.wait_for_requests(1)
        assert connection.silent_for(0.1)
        connection.leave()
    [seen] = sim.identity.recorder.wait_until(
        lambda seen: any(one.left for one in seen), "caller that left")
    assert seen.complete and sim.identity.recorder.concurrent == 0


def test_the_most_concurrent_requests_are_counted(sim: AzureSim) -> None:
    gate = Gate()
    sim.identity.script.always(Delivery(before=gate))
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(ask, sim) for _ in range(3)]
        sim.identity.wait_for_requests(3)
        assert sim.identity.recorder.concurrent == 3
        gate.open()
        assert [one.result().status_code for one in waiting] == [200, 200, 200]
    assert sim.identity.max_concurrent == 3


def test_a_function_can_answer_or_leave_it_to_the_usual(sim: AzureSim) -> None:
    sim.identity.script.always(
        lambda request: Answer(500) if request.header("x-fail") else None)
    assert ask(sim).status_code == 200
    assert ask(sim, headers={"metadata": "true", "x-fail": "1"}).status_code == 500
