"""Who may use a resource: host, network, credential, tenant, role, in that order."""

from __future__ import annotations

import enum
import re
import time
from typing import TYPE_CHECKING, Optional

from . import errors, tokens
from .answers import Answer
from .records import RecordedRequest

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


def refusal(resource: Resource, request: RecordedRequest, operation: str) -> Optional[Answer]:
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
    return _token_refusal(resource, request, operation)


def _key(request: RecordedRequest) -> Optional[str]:
    """An API key anywhere Azure reads one. It wins over a token: a leaked one is always seen."""
    for name in ("api-key", "ocp-apim-subscription-key"):
        if (value := request.header(name)) is not None:
            return value
    return next((value for name, value in request.query
                 if name.lower() in ("api-key", "subscription-key")), None)


def _token_refusal(resource: Resource, request: RecordedRequest, operation: str
                   ) -> Optional[Answer]:
    if len(request.header_values("authorization")) != 1 or request.token is None:
        return errors.TOKEN_REFUSED
    claims, now = request.token, time.time()
    if claims.aud.rstrip("/") not in resource.audiences or not claims.nbf <= now < claims.exp:
        return errors.TOKEN_REFUSED
    if resource.access is Access.WRONG_TENANT or not claims.iss.startswith(tokens.ISSUER):
        return errors.WRONG_TENANT
    if resource.access is Access.ROLE_MISSING:
        return errors.role_missing(claims.oid, operation, request.method, request.path)
    return None
