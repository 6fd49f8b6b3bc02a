"""The refusals of Entra ID's token endpoint, by the number of their AADSTS code.

The words are those of Microsoft's list of codes and of the answers that people have reported.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Dict, Optional

from .answers import Answer


@dataclass(frozen=True)
class Aadsts:
    """A code's status, OAuth 2.0 error and words; `{tenant}` and the like stand for what the
    request said."""

    status: int
    error: str
    words: str


CODES: Dict[int, Aadsts] = {
    90002: Aadsts(400, "invalid_request", "Tenant '{tenant}' not found. Check to make sure you "
                  "have the correct tenant ID and are signing into the correct cloud. Check with "
                  "your subscription administrator, this may happen if there are no active "
                  "subscriptions for the tenant."),
    90013: Aadsts(400, "invalid_request", "Invalid input received from the user."),
    900144: Aadsts(400, "invalid_request", "The request body must contain the following parameter: "
                   "'{parameter}'."),
    70003: Aadsts(400, "unsupported_grant_type", "The app requested an unsupported grant type "
                  "'{parameter}'."),
    70011: Aadsts(400, "invalid_scope", "The provided request must include a 'scope' input "
                  "parameter. The provided value for the input parameter 'scope' is not valid. The "
                  "scope {scope} is not valid."),
    500011: Aadsts(400, "invalid_resource", "The resource principal named {audience} was not found "
                   "in the tenant named {tenant}. This can happen if the application has not been "
                   "installed by the administrator of the tenant or consented to by any user in "
                   "the tenant. You might have sent your authentication request to the wrong "
                   "tenant."),
    700016: Aadsts(400, "unauthorized_client", "Application with identifier '{client_id}' was not "
                   "found in the directory '{tenant}'. This can happen if the application has not "
                   "been installed by the administrator of the tenant or consented to by any user "
                   "in the tenant. You may have sent your authentication request to the wrong "
                   "tenant."),
    7000215: Aadsts(401, "invalid_client", "Invalid client secret provided. Ensure the secret "
                    "being sent in the request is the client secret value, not the client secret "
                    "ID, for a secret added to app '{client_id}'."),
    7000216: Aadsts(401, "invalid_client", "'client_assertion', 'client_secret' or 'request' is "
                    "required for the 'client_credentials' grant type."),
    7000222: Aadsts(401, "invalid_client", "The provided client secret keys for app '{client_id}' "
                    "are expired. Visit the Azure portal to create new keys for your app: "
                    "https://aka.ms/NewClientSecret, or consider using certificate credentials for "
                    "added security: https://aka.ms/certCreds."),
    50027: Aadsts(400, "invalid_request", "Invalid JWT token. The token is malformed."),
    70021: Aadsts(400, "invalid_request", "No matching federated identity record found for "
                  "presented assertion. Assertion Issuer: '{issuer}'. Assertion Subject: "
                  "'{subject}'. Assertion Audience: '{assertion_audience}'. "
                  "https://docs.microsoft.com/en-us/azure/active-directory/develop/"
                  "workload-identity-federation"),
    700213: Aadsts(401, "invalid_client", "No matching federated identity record found for "
                   "presented assertion subject '{subject}'. Check your federated identity "
                   "credential Subject, Audience and Issuer against the presented assertion. "
                   "https://learn.microsoft.com/entra/workload-id/workload-identity-federation"),
    700024: Aadsts(401, "invalid_client", "Client assertion is not within its valid time range. "
                   "Current time: {now}, assertion valid from {not_before}, expiry time of "
                   "assertion {expires_at}. Review the documentation at "
                   "https://learn.microsoft.com/entra/identity-platform/certificate-credentials ."),
}


def refusal(code: int, *, authority: str = "login.microsoftonline.com",
            correlation_id: Optional[str] = None, **said: str) -> Answer:
    """The answer with this code: `refusal(700016, client_id=…, tenant=…)`. What `said` leaves out
    is written `…`."""
    known = CODES[code]
    trace_id = str(uuid.uuid4())
    correlation_id = correlation_id or str(uuid.uuid4())
    timestamp = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())
    words = known.words.format_map(_Said(said))
    return Answer(known.status, [("Content-Type", "application/json; charset=utf-8"),
                                 ("Cache-Control", "no-store, no-cache"),
                                 ("x-ms-request-id", trace_id)], {
        "error": known.error,
        "error_description": f"AADSTS{code}: {words} Trace ID: {trace_id} Correlation ID: "
                             f"{correlation_id} Timestamp: {timestamp}",
        "error_codes": [code],
        "timestamp": timestamp,
        "trace_id": trace_id,
        "correlation_id": correlation_id,
        "error_uri": f"https://{authority}/error?code={code}",
    })


def throttled(seconds: int = 60) -> Answer:
    """Too many requests for tokens: no JSON."""
    return Answer(429, [("Retry-After", str(seconds)), ("Content-Type", "text/plain")],
                  "Too Many Requests")


class _Said(Dict[str, str]):
    def __missing__(self, _name: str) -> str:
        return "…"
