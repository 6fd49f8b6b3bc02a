"""Every refusal that a resource can give: by name, byte for byte, and by its natural cause."""

from __future__ import annotations

import json
from typing import Callable, Dict, List, Optional, Tuple

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from azure_sim import (MISTAKES, TENANT, Access, AzureSim, Delivery, ManagedIdentity, Resource,
                       clouds, errors)

HOST = "contoso-eastus.openai.azure.com"
REGIONAL = "eastus.api.cognitive.microsoft.com"
CHAT = "/openai/deployments/gpt-4o-2024-11-20/chat/completions?api-version=2024-10-21"
OTHER_TENANT = "11111111-0000-4000-8000-000000000011"
SOMEBODY = ManagedIdentity(object_id="22222222-0000-4000-8000-000000000022")

# The table, and the wordings that are known beside it.
BODIES: Dict[str, Tuple[int, str]] = {
    "regional_endpoint": (400, '{"error":{"code":"Request is badly formated","message":"Resource '
                               'Id is badly formed: NA"}}'),
    "regional_endpoint_namespace": (
        400, '{"error":{"code":"Request is badly formated","message":"Resource Id is badly formed '
             'or from wrong namespace: NA"}}'),
    "regional_endpoint_subdomain": (
        400, '{"error":{"code":"BadRequest","message":"Please provide a custom subdomain for token '
             'authentication, otherwise API key is required."}}'),
    "unknown_subdomain": (404, '{"error":{"code":"ResourceNotFound","message":"Subdomain does not '
                               'map to a resource"}}'),
    "token_refused": (
        401, '{"statusCode":401,"message":"Unauthorized. Access token is missing, invalid, '
             'audience is incorrect (https://cognitiveservices.azure.com), or have expired."}'),
    "role_missing": (
        401, '{"error":{"code":"PermissionDenied","message":"The principal '
             '`22222222-0000-4000-8000-000000000022` lacks the required data action `Microsoft.'
             'CognitiveServices/accounts/OpenAI/deployments/chat/completions/action` to perform '
             '`POST /openai/deployments/{deployment-id}/chat/completions` operation."}}'),
    "no_access": (401, '{"error":{"code":"PermissionDenied","message":"Principal does not have '
                       'access to API/Operation."}}'),
    "wrong_tenant": (
        400, '{"error":{"code":"Tenant provided in token does not match resource token","message":'
             '"Token tenant 11111111-0000-4000-8000-000000000011 does not match resource '
             'tenant."}}'),
    "keys_disabled": (403, '{"error":{"code":"AuthenticationTypeDisabled","message":"Key based '
                           'authentication is disabled for this resource."}}'),
    "public_access_disabled": (403, '{"error":{"code":"403","message":"Public access is disabled. '
                                    'Please configure private endpoint."}}'),
    "firewall": (403, '{"error":{"code":"403","message":"Access denied due to Virtual '
                      'Network/Firewall rules."}}'),
    "wrong_key": (
        401, '{"error":{"code":"401","message":"Access denied due to invalid subscription key or '
             'wrong API endpoint. Make sure to provide a valid key for an active subscription and '
             'use a correct regional API endpoint for your resource."}}'),
    "deployment_not_found": (
        404, '{"error":{"code":"DeploymentNotFound","message":"The API deployment for this '
             'resource does not exist. If you created the deployment within the last 5 minutes, '
             'please wait a moment and try again."}}'),
    "resource_not_found": (404, '{"error":{"code":"404","message":"Resource not found"}}'),
    "throttled": (
        429, '{"error":{"code":"429","message":"Requests to the ChatCompletions_Create Operation '
             'under Azure OpenAI API version 2024-10-21 have exceeded token rate limit of your '
             'current OpenAI S0 pricing tier. Please retry after 10 seconds."}}'),
    "content_filter": (
        400, '{"error":{"code":"content_filter","message":"The response was filtered due to the '
             'prompt triggering Azure OpenAI\'s content management policy.","param":"prompt",'
             '"status":400,"innererror":{"code":"ResponsibleAIPolicyViolation",'
             '"content_filter_result":{"violence":{"filtered":true,"severity":"high"}}}}}'),
}


def ask(sim: AzureSim, resource: Resource, *, host: str = HOST, target: str = CHAT,
        token: Optional[str] = None, **headers: str) -> httpx.Response:
    bearer = token or sim.identity.token(identity=SOMEBODY)
    return httpx.post(f"http://127.0.0.1:{resource.port}{target}", json={"messages": []},
                      headers={"host": host, "authorization": f"Bearer {bearer}", **headers},
                      trust_env=False)


def test_every_mistake_has_its_row() -> None:
    assert list(MISTAKES) == list(BODIES)


@pytest.mark.parametrize("slug", BODIES)
def test_a_resource_can_be_broken_by_name_and_mended(sim: AzureSim, east: Resource, slug: str
                                                     ) -> None:
    east.break_with(slug)
    token = sim.identity.token(identity=ManagedIdentity(
        object_id=SOMEBODY.object_id,
        tenant=OTHER_TENANT if slug == "wrong_tenant" else SOMEBODY.tenant))
    answers = [ask(sim, east, token=token) for _ in range(2)]
    status, body = BODIES[slug]
    for answer in answers:
        assert (answer.status_code, answer.text) == (status, body)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-ms-region"] == "eastus"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert answers[0].headers["apim-request-id"] != answers[1].headers["apim-request-id"]
    assert status == MISTAKES[slug].status
    east.mend()
    assert ask(sim, east).status_code == 200


@pytest.mark.parametrize("slug", BODIES)
def test_a_script_can_refuse_one_request(sim: AzureSim, east: Resource, slug: str) -> None:
    east.script.then(east.refusal(slug))
    refused, served = ask(sim, east), ask(sim, east)
    assert (refused.status_code, served.status_code) == (BODIES[slug][0], 200)
    # What the answer says of the request is not known beforehand.
    if slug not in ("role_missing", "wrong_tenant"):
        assert refused.text == BODIES[slug][1]
    assert refused.headers["apim-request-id"] and refused.headers["x-ms-region"] == "eastus"


def regional(sim: AzureSim, east: Resource) -> httpx.Response:
    return ask(sim, east, host=REGIONAL)


def unknown_subdomain(sim: AzureSim, east: Resource) -> httpx.Response:
    return ask(sim, east, host="contoso-new.openai.azure.com")


def wrong_audience(sim: AzureSim, east: Resource) -> httpx.Response:
    return ask(sim, east, token=sim.identity.token(clouds.US_GOVERNMENT.audiences[0]))


def expired(sim: AzureSim, east: Resource) -> httpx.Response:
    return ask(sim, east, token=sim.identity.token(lifetime=-1))


def without_role(sim: AzureSim, east: Resource) -> httpx.Response:
    east.principals = {"99999999-0000-4000-8000-000000000099"}
    return ask(sim, east)


def token_tenant(sim: AzureSim, east: Resource) -> httpx.Response:
    return ask(sim, east, token=sim.identity.token(identity=ManagedIdentity(tenant=OTHER_TENANT)))


def leaked_key(sim: AzureSim, east: Resource) -> httpx.Response:
    return ask(sim, east, **{"api-key": "a-subscription-key"})


def network_rules(sim: AzureSim, east: Resource) -> httpx.Response:
    east.access = Access.NETWORK_DENIED
    return ask(sim, east)


def wrong_key(sim: AzureSim, east: Resource) -> httpx.Response:
    east.keys = {"right"}
    return ask(sim, east, **{"api-key": "wrong"})


def unknown_deployment(sim: AzureSim, east: Resource) -> httpx.Response:
    return ask(sim, east, target=CHAT.replace("gpt-4o-2024-11-20", "gpt-5"))


def wrong_path(sim: AzureSim, east: Resource) -> httpx.Response:
    return ask(sim, east, target=CHAT.replace("chat", "talk"))


CAUSES: List[Tuple[str, Callable[[AzureSim, Resource], httpx.Response]]] = [
    ("regional_endpoint", regional), ("unknown_subdomain", unknown_subdomain),
    ("token_refused", wrong_audience), ("token_refused", expired), ("role_missing", without_role),
    ("wrong_tenant", token_tenant), ("keys_disabled", leaked_key),
    ("public_access_disabled", network_rules), ("wrong_key", wrong_key),
    ("deployment_not_found", unknown_deployment), ("resource_not_found", wrong_path),
]


@pytest.mark.parametrize("slug, cause", CAUSES, ids=[cause.__name__ for _, cause in CAUSES])
def test_the_cause_gives_the_same_answer_as_the_name(
        sim: AzureSim, east: Resource, slug: str,
        cause: Callable[[AzureSim, Resource], httpx.Response]) -> None:
    answer = cause(sim, east)
    assert (answer.status_code, answer.text) == BODIES[slug]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-ms-region"] == "eastus"


@pytest.mark.parametrize("slug", BODIES)
def test_the_other_spelling_says_the_same(sim: AzureSim, east: Resource, slug: str) -> None:
    east.break_with(slug)
    compact = ask(sim, east)
    east.break_with(slug, spaced=True)
    spaced = ask(sim, east)
    assert '": ' in spaced.text and spaced.text != compact.text
    assert spaced.json() == compact.json()
    assert spaced.headers["content-type"] == "application/json"


def test_a_delivery_applies_to_a_broken_resource(sim: AzureSim, east: Resource) -> None:
    east.break_with("token_refused")
    east.script.then(Delivery(cut_after=10))
    with pytest.raises(httpx.RemoteProtocolError):
        ask(sim, east)
    assert ask(sim, east).status_code == 401


def test_a_broken_resource_refuses_sessions_too(sim: AzureSim, east: Resource) -> None:
    east.break_with("public_access_disabled")
    with pytest.raises(InvalidStatus) as refused:
        with connect(f"ws://127.0.0.1:{east.port}/openai/v1/realtime?model=gpt-4o-2024-11-20",
                     proxy=None):
            pass
    assert refused.value.response.status_code == 403
    assert refused.value.response.headers["apim-request-id"]


def test_a_reset_mends(sim: AzureSim, east: Resource) -> None:
    east.break_with("no_access")
    east.principals, east.tenant = set(), OTHER_TENANT
    sim.reset()
    assert ask(sim, east).status_code == 200


@pytest.mark.parametrize("cloud", clouds.CLOUDS, ids=lambda cloud: cloud.name)
def test_a_resource_takes_tokens_of_its_own_cloud_and_tenant(cloud: clouds.Cloud) -> None:
    host = f"contoso.openai.{cloud.domain}"
    with AzureSim() as sim:
        resource = sim.add_resource("one", host=host, tenant=OTHER_TENANT,
                                    deployments={"gpt-4o-2024-11-20": "gpt-4o"})
        own = ManagedIdentity(tenant=OTHER_TENANT)
        statuses = {}
        for other in clouds.CLOUDS:
            token = sim.identity.token(other.audiences[0], identity=own)
            answer = ask(sim, resource, host=host, token=token)
            statuses[other.name] = answer.status_code
            if answer.status_code != 200:
                assert f"({cloud.audiences[0]})" in answer.json()["message"]
        assert statuses == {other.name: 200 if other is cloud else 401 for other in clouds.CLOUDS}
        foreign = ask(sim, resource, host=host, token=sim.identity.token(cloud.audiences[0]))
        assert foreign.json() == json.loads(errors.wrong_tenant(TENANT).content())
