"""Access tokens shaped like the ones Entra ID issues to applications and managed identities.

The claims are those of a v1 access token, plus a unique `jti`, so that two tokens are never equal.
Only simulated Azure issues and reads them.
"""

from __future__ import annotations

import math
import uuid
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Optional

from . import clouds, jwt

_HEADER = {"typ": "JWT", "alg": "none", "kid": "simulated"}
_SIGNATURE = b"nobody signed this"

# How every token ends: search for it where no token may be.
MARK = jwt.base64url(_SIGNATURE)


@dataclass(frozen=True)
class Claims:
    """What a token says. Times are epoch seconds. `oid` and `sub` are the principal, `appid` its
    client id, `xms_mirid` the resource that a managed identity belongs to or is; `appidacr` is how
    it proved who it is: "1" by a secret, "2" by a certificate or an assertion."""

    aud: str
    iss: str
    tid: str
    oid: str
    appid: str
    iat: int
    nbf: int
    exp: int
    jti: str
    sub: str = ""
    idtyp: str = "app"
    appidacr: str = "2"
    ver: str = "1.0"
    xms_mirid: Optional[str] = None


def issue(*, audience: str, tenant: str, object_id: str, client_id: str, now: float,
          lifetime: float, resource_id: Optional[str] = None, by_secret: bool = False) -> str:
    """A new token for one principal and audience, valid for `lifetime` seconds from `now`, of the
    cloud to which the audience belongs."""
    claims = Claims(
        aud=audience, iss=f"{clouds.of_audience(audience).issuer}{tenant}/", tid=tenant,
        oid=object_id, sub=object_id, appid=client_id, iat=int(now), nbf=int(now),
        exp=math.ceil(now + lifetime), jti=uuid.uuid4().hex, appidacr="1" if by_secret else "2",
        xms_mirid=resource_id,
    )
    said = {name: value for name, value in asdict(claims).items() if value is not None}
    return jwt.encode(_HEADER, said, _SIGNATURE)


def decode(token: str) -> Optional[Claims]:
    """The claims, or None when it is no token of ours. Says nothing about audience or expiry."""
    found = jwt.decode(token, _HEADER, _SIGNATURE)
    known = fields(Claims)
    if found is None or any(one.default is MISSING and one.name not in found for one in known):
        return None
    return Claims(**{one.name: found[one.name] for one in known if one.name in found})


def bearer(authorization: Optional[str]) -> Optional[str]:
    """The token of an `Authorization: Bearer` header's value."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None
