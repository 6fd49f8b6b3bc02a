"""The identity endpoint of App Service keeps its rules. Source: "App Service, Functions, Container
Apps" in the protocol facts."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Dict, List, Optional, Tuple

import httpx
import pytest

from azure_sim import AzureSim, ExpiresOn, ManagedIdentity
from azure_sim.tokens import decode

AUDIENCE = "https://cognitiveservices.azure.com"
ASK = [("resource", AUDIENCE), ("api-version", "2019-08-01")]
ONE = ManagedIdentity(resource_id="/subscriptions/s/resourceGroups/g(1)/providers/"
                                  "Microsoft.ManagedIdentity/userAssignedIdentities/one")
TWO = ManagedIdentity()
RIGHT = "the header that the endpoint wants"


def ask(sim: AzureSim, query: Optional[List[Tuple[str, str]]] = None, *, method: str = "GET",
        header: Optional[str] = RIGHT, path: str = "/msi/token") -> httpx.Response:
    value = sim.app_service.identity_header if header == RIGHT else header
    return httpx.request(method, f"http://127.0.0.1:{sim.app_service.port}{path}",
                         params=tuple(ASK if query is None else query), trust_env=False,
                         headers={} if value is None else {"x-identity-header": value})


@dataclass
class Refused:
    status: int
    message: str
    query: List[Tuple[str, str]] = field(default_factory=lambda: list(ASK))
    header: Optional[str] = RIGHT
    method: str = "GET"
    identities: Optional[List[ManagedIdentity]] = None


@pytest.mark.parametrize("row", [
    pytest.param(Refused(401, "missing", header=None), id="no-header"),
    pytest.param(Refused(403, "not valid", header="guess"), id="wrong-header"),
    pytest.param(Refused(400, "api-version", ASK[:1]), id="no-api-version"),
    pytest.param(Refused(400, "api-version", [ASK[0], ("api-version", "2017-09-01")]),
                 id="old-api-version"),
    pytest.param(Refused(400, "more than once", [*ASK, ASK[0]]), id="resource-twice"),
    pytest.param(Refused(400, "more than once", [*ASK, ("client_id", "a"), ("Client_Id", "a")]),
                 id="client-id-twice"),
    pytest.param(Refused(400, "resource", ASK[1:]), id="no-resource"),
    pytest.param(Refused(500, "unexpected error", [("resource", "https://wrong.test"), ASK[1]]),
                 id="unknown-resource"),
    pytest.param(Refused(400, "No User Assigned or Delegated Managed Identity found",
                         [*ASK, ("client_id", TWO.client_id)]), id="unknown-client-id"),
    pytest.param(Refused(400, "No User Assigned", identities=[]), id="no-identity-at-all"),
    pytest.param(Refused(400, "No User Assigned", identities=[ONE, TWO]),
                 id="several-and-none-chosen"),
    pytest.param(Refused(400, "Only one of", [*ASK, ("client_id", ONE.client_id),
                                              ("principal_id", ONE.object_id)], identities=[ONE]),
                 id="chosen-twice"),
    pytest.param(Refused(405, "POST", method="POST"), id="post"),
])
def test_a_request_against_the_rules_is_refused(sim: AzureSim, row: Refused) -> None:
    if row.identities is not None:
        sim.app_service.system_assigned, sim.app_service.user_assigned = None, row.identities
    answer = ask(sim, row.query, method=row.method, header=row.header)
    assert sorted(answer.json()) == ["message", "statusCode"]
    assert (answer.status_code, answer.json()["statusCode"]) == (row.status, row.status)
    assert row.message in answer.json()["message"]


@pytest.mark.parametrize("selector", [
    ("client_id", ONE.client_id), ("principal_id", ONE.object_id.upper()),
    ("object_id", ONE.object_id), ("mi_res_id", ONE.resource_id or ""),
], ids=lambda pair: str(pair[0]))
def test_a_user_assigned_identity_is_chosen_by_each_of_its_ids(
        sim: AzureSim, selector: Tuple[str, str]) -> None:
    sim.app_service.system_assigned, sim.app_service.user_assigned = None, [TWO, ONE]
    claims = decode(ask(sim, [*ASK, selector]).json()["access_token"])
    assert claims is not None
    assert (claims.oid, claims.sub, claims.appid) == (ONE.object_id, ONE.object_id, ONE.client_id)
    assert (claims.xms_mirid, claims.idtyp) == (ONE.resource_id, "app")


def test_any_path_will_do_and_the_answer_has_the_documented_fields(sim: AzureSim) -> None:
    body: Dict[str, Any] = ask(sim, path="/any/path/at/all").json()
    claims = decode(body.pop("access_token"))
    assert claims is not None and claims.aud == AUDIENCE
    assert body == {"client_id": claims.appid, "expires_on": str(claims.exp), "resource": AUDIENCE,
                    "token_type": "Bearer"}


def read(text: str) -> float:
    """Any of the date forms: PM counts only with an hour before noon."""
    if "T" in text:
        return datetime.fromisoformat(re.sub(r"\.\d+", "", text).replace("Z", "+00:00")).timestamp()
    numbers = [int(one) for one in re.findall(r"\d+", text)[:6]]
    month, day, year, hour, minute, second = numbers
    if " PM" in text and hour < 12:
        hour += 12
    if " AM" in text and hour == 12:
        hour = 0
    return datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc).timestamp()


@pytest.mark.parametrize("form", ExpiresOn, ids=lambda form: form.name)
@pytest.mark.parametrize("epoch", [1506484173, 1514808296, 1577836799, 1577836800, 1767355445],
                         ids=str)
def test_every_form_of_expires_on_means_the_same(form: ExpiresOn, epoch: int) -> None:
    written = form.write(epoch)
    assert type(written) is type(form.value)
    assert (int(written) if str(written).isdigit() else read(str(written))) == epoch
    assert form.write(1506484173) == form.value


def test_midnight_and_noon_on_a_12_hour_dial() -> None:
    midnight = 1577836800
    dial = ExpiresOn.TWELVE_HOURS
    assert dial.write(midnight) == "1/1/2020 12:00:00 AM +00:00"
    assert dial.write(midnight + 43200) == "1/1/2020 12:00:00 PM +00:00"
    assert ExpiresOn.BOTH.write(midnight + 46800) == "01/01/2020 13:00:00 PM +00:00"


@pytest.mark.parametrize("form", ExpiresOn, ids=lambda form: form.name)
def test_the_form_can_be_chosen(sim: AzureSim, form: ExpiresOn) -> None:
    sim.app_service.expires_on = form
    body = ask(sim).json()
    claims = decode(body["access_token"])
    assert claims is not None and body["expires_on"] == form.write(claims.exp)
    assert abs(claims.exp - time.time() - 3600) < 60


def test_the_header_rotates_and_is_never_shown(sim: AzureSim) -> None:
    old = sim.app_service.identity_header
    assert ask(sim).status_code == 200
    new = sim.app_service.rotate()
    assert [ask(sim, header=old).status_code, ask(sim, header=new).status_code] == [403, 200]
    seen = sim.app_service.requests
    assert [one.header("x-identity-header") == new for one in seen] == [False, False, True]
    shown = repr([seen, [one.headers for one in seen], old, new])
    assert str.__str__(old) not in shown and str.__str__(new) not in shown
    sim.reset()
    assert ask(sim, header=old).status_code == 200
