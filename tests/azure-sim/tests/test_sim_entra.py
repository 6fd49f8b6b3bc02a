"""The token endpoint of Entra ID keeps its rules. Source: "Entra ID token endpoint" in the protocol
facts."""

from __future__ import annotations

import re
import ssl
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Tuple
from urllib.parse import urlencode

import httpx
import pytest

from azure_sim import TENANT, AzureSim, FederatedCredential, aadsts, assertions, clouds
from azure_sim.tokens import MARK, decode

AUDIENCE = "https://cognitiveservices.azure.com"
AUTHORITY = "login.microsoftonline.com"
OTHER_TENANT = "11111111-0000-4000-8000-000000000011"
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
FORM = "application/x-www-form-urlencoded"
Pairs = List[Tuple[str, str]]


def grant(sim: AzureSim, **fields: Optional[str]) -> Pairs:
    """The form of a request by secret; `fields` replaces or, with None, removes some."""
    usual = {"client_id": sim.entra.application.client_id, "scope": f"{AUDIENCE}/.default",
             "grant_type": "client_credentials", "client_secret": sim.entra.secret}
    return [(name, value) for name, value in {**usual, **fields}.items() if value is not None]


def assertion_grant(sim: AzureSim, assertion: str, **fields: Optional[str]) -> Pairs:
    return grant(sim, client_secret=None, **{"client_assertion_type": JWT_BEARER,
                                             "client_assertion": assertion, **fields})


def ask(sim: AzureSim, form: Pairs, *, tenant: str = TENANT, host: str = AUTHORITY,
        content_type: str = FORM, **headers: str) -> httpx.Response:
    body = urlencode(form).encode()
    return httpx.post(f"http://127.0.0.1:{sim.entra.port}/{tenant}/oauth2/v2.0/token",
                      content=body, trust_env=False,
                      headers={"host": host, "content-type": content_type, **headers})


@pytest.mark.parametrize("by_secret", [True, False], ids=["secret", "assertion"])
def test_a_credential_becomes_a_token(sim: AzureSim, by_secret: bool) -> None:
    sim.entra.lifetime = 3599
    answer = ask(sim, grant(sim) if by_secret else assertion_grant(sim, assertions.issue()))
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store, no-cache"
    body: Dict[str, Any] = answer.json()
    token = body.pop("access_token")
    assert body == {"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599}
    claims, application = decode(token), sim.entra.application
    assert claims is not None and token.endswith(MARK)
    assert (claims.aud, claims.tid, claims.appid, claims.oid, claims.sub) == (
        AUDIENCE, TENANT, application.client_id, application.object_id, application.object_id)
    assert (claims.iss, claims.idtyp, claims.ver) == (f"https://sts.windows.net/{TENANT}/", "app",
                                                      "1.0")
    assert (claims.appidacr, claims.xms_mirid) == ("1" if by_secret else "2", None)
    assert abs(claims.exp - time.time() - 3599) < 60
    assert sim.entra.issued[-1] == token


@dataclass
class Refused:
    """A request that is wrong, and the code, status and error that it gets."""

    code: int
    status: int
    error: str
    form: Callable[[AzureSim], Pairs]
    says: str = ""
    tenant: str = TENANT
    options: Dict[str, str] = field(default_factory=dict)


def expired_secret(sim: AzureSim) -> Pairs:
    return grant(sim, client_secret=sim.entra.application.add_secret(lifetime=-1))


def issued(**changes: Any) -> Callable[[AzureSim], Pairs]:
    return lambda sim: assertion_grant(sim, assertions.issue(**changes))


@pytest.mark.parametrize("row", [
    pytest.param(Refused(90002, 400, "invalid_request", grant, f"Tenant '{OTHER_TENANT}' not found",
                         tenant=OTHER_TENANT), id="unknown-tenant"),
    pytest.param(Refused(90002, 400, "invalid_request", grant, "correct cloud",
                         options={"host": "login.microsoftonline.us"}), id="tenant-elsewhere"),
    pytest.param(Refused(900144, 400, "invalid_request", grant, "'grant_type'",
                         options={"content_type": "application/json"}), id="not-a-form"),
    pytest.param(Refused(900144, 400, "invalid_request", lambda sim: grant(sim, client_id=None),
                         "'client_id'"), id="no-client-id"),
    pytest.param(Refused(900144, 400, "invalid_request", lambda sim: grant(sim, scope=None),
                         "'scope'"), id="no-scope"),
    pytest.param(Refused(70003, 400, "unsupported_grant_type",
                         lambda sim: grant(sim, grant_type="password")), id="another-grant-type"),
    pytest.param(Refused(70011, 400, "invalid_scope", lambda sim: grant(sim, scope=AUDIENCE),
                         f"The scope {AUDIENCE} is not valid."), id="scope-is-the-audience"),
    pytest.param(Refused(90013, 400, "invalid_request",
                         lambda sim: [*grant(sim), ("client_id", "a")]), id="client-id-twice"),
    pytest.param(Refused(90013, 400, "invalid_request", lambda sim: [
        *assertion_grant(sim, assertions.issue()), ("client_secret", "a")]), id="two-credentials"),
    pytest.param(Refused(7000216, 401, "invalid_client",
                         lambda sim: grant(sim, client_secret=None)), id="no-credential"),
    pytest.param(Refused(7000216, 401, "invalid_client", lambda sim: assertion_grant(
        sim, assertions.issue(), client_assertion_type=None)), id="no-assertion-type"),
    pytest.param(Refused(700016, 400, "unauthorized_client",
                         lambda sim: grant(sim, client_id="unknown"),
                         f"'unknown' was not found in the directory '{TENANT}'"), id="unknown-app"),
    pytest.param(Refused(7000215, 401, "invalid_client",
                         lambda sim: grant(sim, client_secret="guess")), id="wrong-secret"),
    pytest.param(Refused(7000222, 401, "invalid_client", expired_secret, "are expired"),
                 id="expired-secret"),
    pytest.param(Refused(50027, 400, "invalid_request", lambda sim: assertion_grant(sim, "no jwt")),
                 id="assertion-is-no-jwt"),
    pytest.param(Refused(70021, 400, "invalid_request", issued(issuer="https://other.test/"),
                         "Assertion Issuer: 'https://other.test/'"), id="other-issuer"),
    pytest.param(Refused(70021, 400, "invalid_request", issued(audience="sts.amazonaws.com"),
                         "Assertion Audience: 'sts.amazonaws.com'"), id="other-audience"),
    pytest.param(Refused(700213, 401, "invalid_client",
                         issued(subject="system:serviceaccount:gateway:other"),
                         "subject 'system:serviceaccount:gateway:other'"), id="other-subject"),
    pytest.param(Refused(700213, 401, "invalid_client", issued(subject=assertions.SUBJECT.upper())),
                 id="subject-in-another-case"),
    pytest.param(Refused(700024, 401, "invalid_client", issued(lifetime=60, now=1767355445),
                         "expiry time of assertion 2026-01-02T12:05:05.0000000Z"),
                 id="assertion-expired"),
    pytest.param(Refused(700024, 401, "invalid_client", issued(now=time.time() + 3600)),
                 id="assertion-not-yet-valid"),
    pytest.param(Refused(500011, 400, "invalid_resource",
                         lambda sim: grant(sim, scope="https://wrong.test/.default"),
                         "principal named https://wrong.test was not found"), id="audience"),
])
def test_a_request_against_the_rules_is_refused(sim: AzureSim, row: Refused) -> None:
    answer = ask(sim, row.form(sim), tenant=row.tenant, **row.options)
    body: Dict[str, Any] = answer.json()
    assert (body["error_codes"], answer.status_code, body["error"]) == (
        [row.code], row.status, row.error)
    found = re.fullmatch(rf"AADSTS{row.code}: (.+) Trace ID: (\S+) Correlation ID: (\S+) "
                         r"Timestamp: (\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ)", body["error_description"])
    assert found is not None and row.says in found[1]
    assert found.groups()[1:] == (body["trace_id"], body["correlation_id"], body["timestamp"])
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    authority = row.options.get("host", AUTHORITY)
    assert body["error_uri"] == f"https://{authority}/error?code={row.code}"


@pytest.mark.parametrize("code", aadsts.CODES)
def test_every_code_can_be_scripted(sim: AzureSim, code: int) -> None:
    sim.entra.script.then(aadsts.refusal(code, tenant=TENANT))
    refused, granted = ask(sim, grant(sim)), ask(sim, grant(sim))
    assert (refused.json()["error_codes"], granted.status_code) == ([code], 200)
    assert "{" not in refused.json()["error_description"]


def test_throttling_is_plain_text(sim: AzureSim) -> None:
    sim.entra.script.then(aadsts.throttled())
    answer = ask(sim, grant(sim))
    assert (answer.status_code, answer.text, answer.headers["retry-after"],
            answer.headers["content-type"]) == (429, "Too Many Requests", "60", "text/plain")


@pytest.mark.parametrize("host", ["127.0.0.1", "entra_cluster", "login.microsoftonline.com.test"])
def test_a_host_that_is_no_authority_is_refused(sim: AzureSim, host: str) -> None:
    answer = ask(sim, grant(sim), host=host)
    assert (answer.status_code, answer.text) == (400, "<h2>Bad Request - Invalid Hostname</h2>")


def test_applications_live_in_their_own_tenant_and_cloud(sim: AzureSim) -> None:
    with AzureSim() as other:
        resource_id = "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/" \
                      "userAssignedIdentities/gateway"
        made = other.entra.add_application(
            tenant=OTHER_TENANT, cloud=clouds.CHINA, secrets=["the secret"],
            federated=[FederatedCredential(subject="system:serviceaccount:a:b")],
            resource_id=resource_id)
        form = grant(other, client_id=made.client_id, client_secret="the secret",
                     scope="https://cognitiveservices.azure.cn/.default")
        where = {"tenant": OTHER_TENANT, "host": "login.partner.microsoftonline.cn"}
        claims = decode(ask(other, form, **where).json()["access_token"])
        assert claims is not None
        assert (claims.iss, claims.aud) == (f"https://sts.chinacloudapi.cn/{OTHER_TENANT}/",
                                            "https://cognitiveservices.azure.cn")
        assert claims.xms_mirid == resource_id
        assert ask(other, form).json()["error_codes"] == [700016]
        subject = assertions.issue(subject="system:serviceaccount:a:b")
        by_assertion = assertion_grant(other, subject, client_id=made.client_id)
        assert ask(other, by_assertion, **where).status_code == 200
        made.federated.clear()
        assert ask(other, by_assertion, **where).json()["error_codes"] == [70021]
        other.reset()
        assert ask(other, by_assertion, **where).status_code == 200


def test_a_secret_is_rotated_by_adding_one_and_removing_the_other(sim: AzureSim) -> None:
    old, application = sim.entra.secret, sim.entra.application
    new = application.add_secret()
    assert [ask(sim, grant(sim, client_secret=one)).status_code for one in (old, new)] == [200, 200]
    application.secrets = [one for one in application.secrets if one.value == new]
    assert ask(sim, grant(sim, client_secret=old)).json()["error_codes"] == [7000215]
    assert str.__str__(new) not in repr(application)


def test_it_speaks_tls_for_every_authority_when_asked(sim: AzureSim) -> None:
    port = sim.entra_over_tls()
    assert sim.entra_over_tls() == sim.entra.tls_port == port
    trust = ssl.create_default_context(cafile=str(sim.ca_pem))
    with httpx.Client(verify=trust, trust_env=False) as client:
        for cloud in clouds.CLOUDS:
            answer = client.get(
                f"https://127.0.0.1:{port}/{TENANT}/v2.0/.well-known/openid-configuration",
                headers={"host": cloud.authority}, extensions={"sni_hostname": cloud.authority})
            assert answer.status_code == (200 if cloud is clouds.PUBLIC else 400)
    with httpx.Client(verify=trust, trust_env=False) as client:
        with pytest.raises(httpx.ConnectError, match=r"login\.test"):
            client.get(f"https://127.0.0.1:{port}/", extensions={"sni_hostname": "login.test"})
    assert [one.host for one in sim.entra.requests] == [cloud.authority for cloud in clouds.CLOUDS]


def test_credentials_are_recorded_and_never_shown(sim: AzureSim) -> None:
    assertion = assertions.issue()
    ask(sim, grant(sim))
    ask(sim, assertion_grant(sim, assertion))
    by_secret, by_assertion = sim.entra.requests
    assert dict(by_secret.form)["client_secret"] == sim.entra.secret
    assert dict(by_assertion.form)["client_assertion"] == assertion
    shown = repr([[one, one.form, one.body] for one in (by_secret, by_assertion)])
    assert str.__str__(sim.entra.secret) not in shown
    assert assertions.MARK not in shown and str.__str__(assertion) not in shown
