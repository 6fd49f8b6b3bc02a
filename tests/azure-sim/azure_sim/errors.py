"""The refusals of an Azure OpenAI resource, word for word as Microsoft's answers and the reports of
people who met them have them. One function or constant per row; `mistakes` has them by name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Optional

from .answers import Answer


def error(status: int, code: str, message: str) -> Answer:
    """The usual shape of a refusal."""
    return Answer(status, body={"error": {"code": code, "message": message}})


def claude(status: int, kind: str, message: str) -> Answer:
    """A refusal of Claude's (Anthropic's API reference, Errors)."""
    return Answer(status, body={"type": "error", "error": {"type": kind, "message": message},
                                "request_id": "req_simulated"})


def spaced(answer: Answer) -> Answer:
    """The same JSON with a space after every colon and comma. The gateways in front of Azure OpenAI
    write some of these answers so, and others not: who reads them must not depend on it."""
    return replace(answer.with_headers([("Content-Type", answer.content_type())]),
                   body=json.dumps(answer.body).encode())


def token_refused(audience: str) -> Answer:
    """A token that is missing, expired, or for another audience than this. Flat: no `error` around
    it."""
    return Answer(401, body={
        "statusCode": 401,
        "message": "Unauthorized. Access token is missing, invalid, audience is incorrect "
                   f"({audience}), or have expired.",
    })


# A token on a regional endpoint. "Request is badly formated" is Azure's spelling.
REGIONAL_ENDPOINT = error(400, "Request is badly formated", "Resource Id is badly formed: NA")
REGIONAL_ENDPOINT_NAMESPACE = error(
    400, "Request is badly formated", "Resource Id is badly formed or from wrong namespace: NA")
REGIONAL_ENDPOINT_OTHER_WORDS = error(
    400, "BadRequest", "Please provide a custom subdomain for token authentication, otherwise API "
    "key is required.")

UNKNOWN_SUBDOMAIN = error(404, "ResourceNotFound", "Subdomain does not map to a resource")
TOKEN_REFUSED = token_refused("https://cognitiveservices.azure.com")
NO_ACCESS = error(401, "PermissionDenied", "Principal does not have access to API/Operation.")
KEYS_DISABLED = error(403, "AuthenticationTypeDisabled",
                      "Key based authentication is disabled for this resource.")
NETWORK_DENIED = error(403, "403", "Public access is disabled. Please configure private endpoint.")
FIREWALL_DENIED = error(403, "403", "Access denied due to Virtual Network/Firewall rules.")
WRONG_KEY = error(
    401, "401", "Access denied due to invalid subscription key or wrong API endpoint. Make sure to "
    "provide a valid key for an active subscription and use a correct regional API endpoint for "
    "your resource.")
DEPLOYMENT_NOT_FOUND = error(
    404, "DeploymentNotFound", "The API deployment for this resource does not exist. If you "
    "created the deployment within the last 5 minutes, please wait a moment and try again.")
RESOURCE_NOT_FOUND = error(404, "404", "Resource not found")
CONTENT_FILTERED = Answer(400, body={"error": {
    "code": "content_filter",
    "message": "The response was filtered due to the prompt triggering Azure OpenAI's content "
               "management policy.",
    "param": "prompt",
    "status": 400,
    "innererror": {
        "code": "ResponsibleAIPolicyViolation",
        "content_filter_result": {"violence": {"filtered": True, "severity": "high"}},
    },
}})


def role_missing(principal: str, action: str, operation: str) -> Answer:
    """The identity has no role that allows the data action, a name below
    `Microsoft.CognitiveServices/accounts/OpenAI/`; `operation` is a method and a path."""
    return error(401, "PermissionDenied", f"The principal `{principal}` lacks the required data "
                 f"action `Microsoft.CognitiveServices/accounts/OpenAI/{action}` to perform "
                 f"`{operation}` operation.")


def wrong_tenant(tenant: str) -> Answer:
    """The token is of another tenant than the resource. The known sentence is the code."""
    return error(400, "Tenant provided in token does not match resource token",
                 f"Token tenant {tenant} does not match resource tenant.")


WRONG_TENANT = wrong_tenant("11111111-0000-4000-8000-000000000011")


def bad_request(message: str, param: Optional[str] = None) -> Answer:
    """The request's content is wrong."""
    return Answer(400, body={"error": {"code": "BadRequest", "message": message, "param": param,
                                       "type": "invalid_request_error"}})


def throttled(seconds: int = 10, **hints: str) -> Answer:
    """A 429 with exactly the hint headers given: `throttled(retry_after_ms="1500")`. Without any
    it carries none, as some of Azure's do; `seconds` is only what its message says."""
    headers = [(name.replace("_", "-"), value) for name, value in hints.items()]
    message = ("Requests to the ChatCompletions_Create Operation under Azure OpenAI API version "
               "2024-10-21 have exceeded token rate limit of your current OpenAI S0 pricing tier. "
               f"Please retry after {seconds} seconds.")
    return error(429, "429", message).with_headers(headers)


def too_large_for_now(seconds: int = 20) -> Answer:
    """A 429 for one request that asks for much, while smaller ones are served."""
    return error(429, "429", "The system is currently experiencing high demand and cannot process "
                 "your request. Your request exceeds the maximum usage size allowed during peak load. "
                 f"Please retry after {seconds} seconds. For improved capacity reliability, consider "
                 "switching to Provisioned Throughput.").with_headers([("retry-after", str(seconds))])


# A prompt fails so wherever it goes.
MODEL_ERROR = Answer(500, body={"error": {
    "message": "The model produced invalid content. Consider modifying your prompt if you are seeing "
               "this error persistently.",
    "type": "model_error", "param": None, "code": None}})
