"""Tokens shaped like the ones Entra ID issues: a JWT nobody signed.

The claims are those a v1 access token of a managed identity has, plus a unique `jti`, so that two
tokens are never equal. Only simulated Azure issues and reads them.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import uuid
from dataclasses import asdict, dataclass, fields
from typing import Any, Mapping, Optional

ISSUER = "https://sts.windows.net/"
_HEADER = {"typ": "JWT", "alg": "none", "kid": "simulated"}
_SIGNATURE = b"nobody signed this"


@dataclass(frozen=True)
class Claims:
    """What a token says. Times are epoch seconds."""

    aud: str
    iss: str
    tid: str
    oid: str
    appid: str
    iat: int
    nbf: int
    exp: int
    jti: str


def issue(*, audience: str, tenant: str, object_id: str, client_id: str, now: float,
          lifetime: float) -> str:
    """A new token for one identity and audience, valid for `lifetime` seconds from `now`."""
    claims = Claims(
        aud=audience, iss=f"{ISSUER}{tenant}/", tid=tenant, oid=object_id, appid=client_id,
        iat=int(now), nbf=int(now), exp=math.ceil(now + lifetime), jti=uuid.uuid4().hex,
    )
    parts = (_json(_HEADER), _json(asdict(claims)), _SIGNATURE)
    return ".".join(_base64url(part) for part in parts)


def decode(token: str) -> Optional[Claims]:
    """The claims, or None when it is no token of ours. Says nothing about audience or expiry."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        header, payload, signature = (_unbase64url(part) for part in parts)
        claims = json.loads(payload)
    except (ValueError, binascii.Error):
        return None
    if header != _json(_HEADER) or signature != _SIGNATURE or not isinstance(claims, dict):
        return None
    return _claims(claims)


def bearer(authorization: Optional[str]) -> Optional[str]:
    """The token of an `Authorization: Bearer` header's value."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _claims(found: Mapping[str, Any]) -> Optional[Claims]:
    try:
        return Claims(**{field.name: found[field.name] for field in fields(Claims)})
    except KeyError:
        return None


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _unbase64url(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
