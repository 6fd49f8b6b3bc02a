"""Microsoft's own credentials get tokens here, and what they send is what the protocols fix."""

from __future__ import annotations

from pathlib import Path
from typing import ContextManager, Dict, List, Optional

import pytest
from azure.core.credentials import TokenCredential
from azure.core.exceptions import AzureError, ClientAuthenticationError

from azure_sim import (TENANT, TOKEN_FILE, Answer, AzureSim, ManagedIdentity, ProjectedVolume,
                       RecordedRequest, aadsts, assertions, clouds, official)
from azure_sim.tokens import decode
from azure_sim.witness import KINDS, FixedParts, fixed_parts, official_request

AUDIENCE = "https://cognitiveservices.azure.com"
SCOPE = f"{AUDIENCE}/.default"
CLIENT = "3f0c0000-0000-4000-8000-000000000001"
OTHER_TENANT = "11111111-0000-4000-8000-000000000011"
RESOURCE_ID = ("/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/group(1)"
               "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/gateway")
ONE, TWO = ManagedIdentity(resource_id=RESOURCE_ID), ManagedIdentity()


@pytest.mark.parametrize("kind", ["imds", "on_app_service"])
@pytest.mark.parametrize("selector", [None, "client_id", "object_id", "resource_id"])
def test_a_managed_identity_gets_its_token(sim: AzureSim, kind: str, selector: Optional[str]
                                           ) -> None:
    endpoint = sim.identity if kind == "imds" else sim.app_service
    endpoint.user_assigned = [TWO, ONE]
    expected = endpoint.system_assigned if selector is None else ONE
    assert expected is not None
    chosen = {} if selector is None else {selector: str(getattr(ONE, selector))}
    with getattr(official, kind)(sim, **chosen) as credential:
        token = credential.get_token(SCOPE)
    claims = decode(token.token)
    assert claims is not None and (claims.aud, claims.oid) == (AUDIENCE, expected.object_id)
    assert abs(token.expires_on - claims.exp) <= 2
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("kind", ["imds", "on_app_service"])
def test_an_identity_that_is_not_there_is_reported(sim: AzureSim, kind: str) -> None:
    with getattr(official, kind)(sim, client_id=CLIENT) as credential:
        with pytest.raises(ClientAuthenticationError):
            credential.get_token(SCOPE)


def test_a_rotated_identity_header_is_refused(sim: AzureSim) -> None:
    with official.on_app_service(sim) as credential:
        sim.app_service.rotate()
        with pytest.raises(ClientAuthenticationError):
            credential.get_token(SCOPE)
    assert [one.status for one in sim.app_service.requests] == [403]


def test_workload_identity_exchanges_the_projected_token(sim: AzureSim, tmp_path: Path) -> None:
    volume = ProjectedVolume(tmp_path, {TOKEN_FILE: assertions.issue()})
    for text in (assertions.issue(), assertions.issue()):
        volume.rotate({TOKEN_FILE: text})
        with official.workload_identity(sim, volume.path()) as credential:
            claims = decode(credential.get_token(SCOPE).token)
        assert claims is not None
        assert claims.appid == sim.entra.application.client_id
        assert dict(sim.entra.requests[-1].form)["client_assertion"] == text


@pytest.mark.parametrize("cloud", clouds.CLOUDS, ids=lambda cloud: cloud.name)
def test_a_client_secret_signs_in_to_each_cloud(cloud: clouds.Cloud) -> None:
    with AzureSim() as sim:
        application = sim.entra.add_application(tenant=OTHER_TENANT, cloud=cloud,
                                                secrets=["a secret+with/odd=characters&%"])
        audience = cloud.audiences[0]
        with official.client_secret(sim, application.secrets[0].value, tenant=OTHER_TENANT,
                                    client_id=application.client_id, authority=cloud.authority
                                    ) as credential:
            claims = decode(credential.get_token(f"{audience}/.default").token)
        assert claims is not None and (claims.aud, claims.tid) == (audience, OTHER_TENANT)
        resource = sim.add_resource("one", host=f"contoso.openai.{cloud.domain}",
                                    tenant=OTHER_TENANT)
        assert claims.aud in resource.audiences


@pytest.mark.parametrize("code", [70021, 700213, 700024, 700016, 7000215, 7000222, 90002, 500011,
                                  70011])
def test_it_reports_what_entra_said(sim: AzureSim, tmp_path: Path, code: int) -> None:
    answer = aadsts.refusal(code, tenant=TENANT)
    sim.entra.script.always(lambda request: answer if request.method == "POST" else None)
    (tmp_path / "token").write_text(assertions.issue())
    credentials: List[ContextManager[TokenCredential]] = [
        official.workload_identity(sim, tmp_path / "token"), official.client_secret(sim)]
    for one in credentials:
        with one as credential:
            with pytest.raises(ClientAuthenticationError, match=rf"AADSTS{code}: "):
                credential.get_token(SCOPE)


def test_throttling_in_plain_text_is_no_token(sim: AzureSim, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(assertions.issue())
    sim.entra.script.then(aadsts.throttled())
    with official.workload_identity(sim, tmp_path / "token") as credential:
        with pytest.raises(AzureError):
            credential.get_token(SCOPE)
    assert [one.status for one in sim.entra.requests] == [429]


# The witness

EXPECTED: Dict[str, FixedParts] = {
    "imds": FixedParts("GET", "", "/metadata/identity/oauth2/token",
                       {"api-version": "2018-02-01", "resource": AUDIENCE, "client_id": CLIENT},
                       {}, {"metadata": "true"}),
    "app_service": FixedParts("GET", "", "/msi/token",
                              {"api-version": "2019-08-01", "resource": AUDIENCE,
                               "client_id": CLIENT}, {}, {"x-identity-header": ""}),
    "workload_identity": FixedParts(
        "POST", "login.microsoftonline.com", f"/{TENANT}/oauth2/v2.0/token", {},
        {"client_id": CLIENT, "scope": SCOPE, "grant_type": "client_credentials",
         "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
         "client_assertion": "the projected token"},
        {"content-type": "application/x-www-form-urlencoded"}),
    "client_secret": FixedParts(
        "POST", "login.microsoftonline.com", f"/{TENANT}/oauth2/v2.0/token", {},
        {"client_id": CLIENT, "scope": SCOPE, "grant_type": "client_credentials",
         "client_secret": "the secret"},
        {"content-type": "application/x-www-form-urlencoded"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_official_request_is_what_the_protocol_says(kind: str) -> None:
    found = official_request(kind, client_id=CLIENT, secret="the secret",
                             assertion="the projected token")
    assert found == EXPECTED[kind]
    assert "the secret" not in repr(found) and "the projected token" not in repr(found)


@pytest.mark.parametrize("kind, given, parameter", [
    ("imds", "object_id", "object_id"), ("imds", "resource_id", "msi_res_id"),
    ("app_service", "object_id", "principal_id"), ("app_service", "resource_id", "mi_res_id"),
])
def test_an_identity_is_chosen_by_the_parameter_of_the_protocol(kind: str, given: str,
                                                                parameter: str) -> None:
    chosen = {given: RESOURCE_ID if given == "resource_id" else CLIENT}
    found = official_request(kind, **chosen)
    assert set(found.query) == {"api-version", "resource", parameter}
    assert found.query[parameter] == chosen[given]


@pytest.mark.parametrize("cloud", clouds.CLOUDS, ids=lambda cloud: cloud.name)
def test_the_authority_and_the_scope_are_the_clouds(cloud: clouds.Cloud) -> None:
    found = official_request("client_secret", client_id=CLIENT, authority=cloud.authority,
                             tenant=OTHER_TENANT, audience=cloud.audiences[0])
    assert (found.host, found.path) == (cloud.authority, f"/{OTHER_TENANT}/oauth2/v2.0/token")
    assert found.form["scope"] == f"{cloud.audiences[0]}/.default"


def imds_request(target: str = "?api-version=2018-02-01&resource=https%3A%2F%2Fcognitiveservices."
                               "azure.com", **headers: str) -> RecordedRequest:
    return RecordedRequest("GET", "/metadata/identity/oauth2/token" + target,
                           [(name, value) for name, value in headers.items()])


@pytest.mark.parametrize("request_, same", [
    (imds_request(metadata="true", host="169.254.169.254", accept="*/*"), True),
    (imds_request(metadata="True"), False),
    (imds_request(), False),
    (imds_request("?api-version=2018-02-01&resource=https://ai.azure.com", metadata="true"), False),
    (imds_request("?api-version=2018-02-01", metadata="true"), False),
], ids=["same", "other-value", "no-header", "other-audience", "no-audience"])
def test_a_request_is_compared_by_what_is_fixed(request_: RecordedRequest, same: bool) -> None:
    assert (fixed_parts("imds", request_) == official_request("imds")) is same


def test_a_repeated_parameter_is_an_error() -> None:
    with pytest.raises(AssertionError, match="repeated"):
        fixed_parts("imds", imds_request("?resource=a&resource=a", metadata="true"))


def test_an_answer_of_another_kind_is_no_token(sim: AzureSim) -> None:
    sim.app_service.script.then(Answer(200, body={"access_token": "a"}))
    with official.on_app_service(sim) as credential:
        with pytest.raises(ClientAuthenticationError):
            credential.get_token(SCOPE)
