"""Who may use a resource: host, network, credential, tenant, role, in that order."""

from __future__ import annotations

import enum
import re
import time
from typing import TYPE_CHECKING, Optional

from . import clouds, errors
from .answers import Answer
from .records import RecordedRequest
from .routes import Route

if TYPE_CHECKING:
    from .resource import Resource

# Keys only: a token here is answered with `errors.REGIONAL_ENDPOINT`.
REGIONAL = re.compile(
    r"([a-z0-9-]+\.)?api\.cognitive\.(microsoft\.(com|us)|azure\.(cn|us))\.?", re.IGNORECASE)


class Access(enum.Enum):
    """How Azure's side is set up for the callers' identity."""

    GRANTED = "granted"
    ROLE_MISSING = "role missing"
    WRONG_TENANT = "wrong tenant"
    NETWORK_DENIED = "network denied"


def host_name(request: RecordedRequest) -> str:
    """The Host header without its port, in lower case."""
    return request.host.rpartition(":")[0].lower() if ":" in request.host else request.host.lower()


def refusal(resource: Resource, request: RecordedRequest, found: Optional[Route]
            ) -> Optional[Answer]:
    """The answer to a caller that may not do this; None when it may."""
    host = host_name(request)
    if host not in resource.hosts:
        return errors.UNKNOWN_SUBDOMAIN
    if resource.access is Access.NETWORK_DENIED:
        return errors.NETWORK_DENIED
    if (key := _key(request)) is not None:
        if not resource.keys:
            return errors.KEYS_DISABLED
        return None if key in resource.keys else errors.WRONG_KEY
    if request.header("authorization") is not None and REGIONAL.fullmatch(host):
        return errors.REGIONAL_ENDPOINT
    return _token_refusal(resource, request, found)


def role_missing(resource: Resource, request: RecordedRequest, found: Optional[Route]) -> Answer:
    """The refusal of a principal that has no role for this operation."""
    principal = request.token.oid if request.token is not None else "…"
    path = request.path
    if found is not None and not found.v1 and found.inference:
        path = f"/openai/deployments/{{deployment-id}}/{found.operation}"
    return errors.role_missing(principal, _data_action(request, found), f"{request.method} {path}")


def _data_action(request: RecordedRequest, found: Optional[Route]) -> str:
    operation = found.operation if found is not None else "unknown"
    if found is None or found.inference or operation == "realtime":
        return f"deployments/{operation}/action"
    verbs = {"GET": "read", "DELETE": "delete"}
    return f"{operation}/{verbs.get(request.method, 'write')}"


def _key(request: RecordedRequest) -> Optional[str]:
    """An API key anywhere Azure reads one. It wins over a token: a leaked one is always seen."""
    for name in ("api-key", "ocp-apim-subscription-key", "x-api-key"):
        if (value := request.header(name)) is not None:
            return value
    return next((value for name, value in request.query
                 if name.lower() in ("api-key", "subscription-key")), None)


def _token_refusal(resource: Resource, request: RecordedRequest, found: Optional[Route]
                   ) -> Optional[Answer]:
    refused = errors.token_refused(resource.audiences[0])
    if len(request.header_values("authorization")) != 1 or request.token is None:
        return refused
    claims, now = request.token, time.time()
    if claims.aud.rstrip("/") not in resource.audiences or not claims.nbf <= now < claims.exp:
        return refused
    if claims.iss not in [f"{cloud.issuer}{claims.tid}/" for cloud in clouds.CLOUDS]:
        return refused
    if resource.access is Access.WRONG_TENANT or claims.tid != resource.tenant:
        return errors.wrong_tenant(claims.tid)
    if resource.access is Access.ROLE_MISSING or (
            resource.principals is not None and claims.oid not in resource.principals):
        return role_missing(resource, request, found)
    return None
