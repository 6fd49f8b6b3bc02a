"""A resource refuses as Azure does. Source: "What a backend answers when identity is wrong"."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Optional

import httpx
import pytest

from azure_sim import (HANG_LIMIT, Access, Answer, AzureSim, ManagedIdentity, Resource, clouds,
                       errors)

HOST = "contoso-eastus.openai.azure.com"
REGIONAL = "eastus.api.cognitive.microsoft.com"
CHAT = "/openai/deployments/gpt-4o-2024-11-20/chat/completions?api-version=2024-10-21"
V1 = "/openai/v1/chat/completions"
TENANTS_DIFFER = "Tenant provided in token does not match resource token"
BODY: Dict[str, Any] = {"messages": []}
FLAT = {"statusCode": 401, "message": "Unauthorized. Access token is missing, invalid, audience is "
        "incorrect (https://cognitiveservices.azure.com), or have expired."}


def leave(_resource: Resource) -> None:
    pass


def access(how: Access) -> Callable[[Resource], None]:
    def change(resource: Resource) -> None:
        resource.access = how
    return change


def only_somebody_else(resource: Resource) -> None:
    resource.principals = {"00000000-0000-4000-8000-0000000000ff"}


def keys(*allowed: str) -> Callable[[Resource], None]:
    def change(resource: Resource) -> None:
        resource.keys = set(allowed)
    return change


@dataclass
class Row:
    """`token` makes the Authorization header, None leaves it out."""

    status: int
    code: Optional[str] = None
    message: str = ""
    token: Optional[Callable[[AzureSim], str]] = lambda sim: sim.identity.token()
    target: str = CHAT
    host: str = HOST
    headers: Dict[str, str] = field(default_factory=dict)
    body: Dict[str, Any] = field(default_factory=lambda: BODY)
    change: Callable[[Resource], None] = leave


@pytest.mark.parametrize("row", [
    pytest.param(Row(200), id="granted"),
    pytest.param(Row(200, host=HOST.upper() + ":443"), id="host-in-upper-case-with-port"),
    pytest.param(Row(400, "Request is badly formated", "Resource Id is badly formed: NA",
                     host=REGIONAL), id="token-on-a-regional-host"),
    pytest.param(Row(404, "ResourceNotFound", "Subdomain does not map to a resource",
                     host="other.openai.azure.com"), id="unknown-host"),
    pytest.param(Row(401, token=None), id="no-credential"),
    pytest.param(Row(401, token=lambda sim: "garbage"), id="garbage-token"),
    pytest.param(Row(401, token=lambda sim: sim.identity.token(lifetime=-1)), id="expired"),
    pytest.param(Row(401, token=lambda sim: sim.identity.token("https://management.azure.com")),
                 id="wrong-audience"),
    pytest.param(Row(401, "PermissionDenied", "lacks the required data action `Microsoft."
                     "CognitiveServices/accounts/OpenAI/deployments/chat/completions/action`",
                     change=access(Access.ROLE_MISSING)), id="role-missing"),
    pytest.param(Row(401, "PermissionDenied", "to perform `POST /openai/deployments/"
                     "{deployment-id}/chat/completions` operation.", change=only_somebody_else),
                 id="role-of-somebody-else"),
    pytest.param(Row(401, "PermissionDenied", "OpenAI/files/write` to perform `POST /openai/v1/"
                     "files` operation", target="/openai/v1/files", change=only_somebody_else),
                 id="role-missing-for-files"),
    pytest.param(Row(400, TENANTS_DIFFER, "does not match resource tenant",
                     change=access(Access.WRONG_TENANT)), id="wrong-tenant"),
    pytest.param(Row(400, TENANTS_DIFFER, "Token tenant 11111111-0000-4000-8000-000000000011 does "
                     "not match resource tenant.", token=lambda sim: sim.identity.token(
                         identity=ManagedIdentity(tenant="11111111-0000-4000-8000-000000000011"))),
                 id="token-of-another-tenant"),
    pytest.param(Row(401, token=lambda sim: sim.identity.token(clouds.CHINA.audiences[0])),
                 id="audience-of-another-cloud"),
    pytest.param(Row(403, "403", "Public access is disabled. Please configure private endpoint.",
                     change=access(Access.NETWORK_DENIED)), id="network"),
    pytest.param(Row(403, "AuthenticationTypeDisabled", "Key based authentication is disabled",
                     headers={"api-key": "k"}), id="key-in-a-header"),
    pytest.param(Row(403, "AuthenticationTypeDisabled", target=CHAT + "&api-key=k"),
                 id="key-in-the-query"),
    pytest.param(Row(401, "401", "Access denied due to invalid subscription key", token=None,
                     headers={"api-key": "wrong"}, change=keys("right")), id="wrong-key"),
    pytest.param(Row(200, token=None, headers={"api-key": "right"}, host=REGIONAL,
                     change=keys("right")), id="key-on-a-regional-host"),
    pytest.param(Row(404, "DeploymentNotFound", "The API deployment for this resource does not "
                     "exist", target=CHAT.replace("gpt-4o-2024-11-20", "gpt-5")),
                 id="unknown-deployment"),
    pytest.param(Row(404, "DeploymentNotFound", target=V1, body={**BODY, "model": "gpt-4o"}),
                 id="v1-model-is-not-the-deployment"),
    pytest.param(Row(200, target=V1, body={**BODY, "model": "gpt-4o-2024-11-20"}), id="v1"),
    pytest.param(Row(200, target=V1, body={**BODY, "model": "gpt-4o-2024-11-20"},
                     token=lambda sim: sim.identity.token("https://ai.azure.com")),
                 id="v1-audience-of-the-newer-samples"),
    pytest.param(Row(400, "BadRequest", "model", target=V1), id="v1-without-model"),
    pytest.param(Row(404, "404", "Resource not found", target=CHAT.partition("?")[0]),
                 id="no-api-version"),
    pytest.param(Row(404, "404", target=CHAT.replace("2024-10-21", "latest")),
                 id="wrong-api-version"),
    pytest.param(Row(404, "404", target=CHAT.replace("chat/", "chat//")), id="doubled-slash"),
    pytest.param(Row(404, "404", target="/openai/v1/nothing"), id="unknown-path"),
])
def test_what_a_caller_gets(sim: AzureSim, east: Resource, row: Row) -> None:
    row.change(east)
    headers = {"host": row.host, **row.headers}
    if row.token is not None:
        headers["authorization"] = f"Bearer {row.token(sim)}"
    answer = httpx.post(f"http://127.0.0.1:{east.port}{row.target}", headers=headers,
                        json=row.body, timeout=HANG_LIMIT, trust_env=False)
    assert answer.status_code == row.status, answer.text
    if row.status == 401 and row.code is None:
        assert answer.json() == FLAT
    elif row.status != 200:
        assert answer.json()["error"]["code"] == row.code
        assert row.message in answer.json()["error"]["message"]


@pytest.mark.parametrize("scripted, status, code", [
    (errors.REGIONAL_ENDPOINT_OTHER_WORDS, 400, "BadRequest"),
    (errors.CONTENT_FILTERED, 400, "content_filter"),
    (errors.NO_ACCESS, 401, "PermissionDenied"),
], ids=["regional-in-other-words", "content-filter", "no-access"])
def test_the_other_rows_can_be_scripted(http: httpx.Client, east: Resource, scripted: Answer,
                                        status: int, code: str) -> None:
    east.script.then(scripted)
    answer = http.post(CHAT, json=BODY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_throttled_answer_has_exactly_the_hints_chosen(http: httpx.Client, east: Resource
                                                         ) -> None:
    east.script.then(errors.throttled(2, retry_after_ms="1500", retry_after="2"),
                     errors.throttled())
    first, second = http.post(CHAT, json=BODY), http.post(CHAT, json=BODY)
    assert [first.status_code, second.status_code] == [429, 429]
    hints = [{name: value for name, value in one.headers.items() if "retry" in name}
             for one in (first, second)]
    assert hints == [{"retry-after-ms": "1500", "retry-after": "2"}, {}]
    assert "Please retry after 2 seconds" in first.json()["error"]["message"]
