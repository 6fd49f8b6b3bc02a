"""Service-account tokens as Kubernetes projects them into a pod, for an exchange at Entra ID.

The claims are those of kubelet's TokenRequest; nobody signed them. Only simulated Azure reads them.
"""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import dataclass
from typing import Optional, Tuple

from . import jwt
from .secret import Credential

ISSUER = "https://eastus.oic.prod-aks.azure.com/00000000-0000-0000-0000-0000000000aa/cluster/"
SUBJECT = "system:serviceaccount:gateway:envoy"
AUDIENCE = "api://AzureADTokenExchange"
_HEADER = {"alg": "RS256", "kid": "simulated-cluster"}
_SIGNATURE = b"no cluster signed this"

# How every assertion ends: search for it where none may be.
MARK = jwt.base64url(_SIGNATURE)


@dataclass(frozen=True)
class Assertion:
    """What a service-account token says. Times are epoch seconds."""

    issuer: str
    subject: str
    audiences: Tuple[str, ...]
    not_before: float
    expires_at: float


def issue(*, issuer: str = ISSUER, subject: str = SUBJECT, audience: str = AUDIENCE,
          lifetime: float = 3600.0, now: Optional[float] = None) -> str:
    """A new token, unlike any other, for the service account that `subject` names."""
    begin = time.time() if now is None else now
    _, _, namespace, account = (subject.split(":") + ["", "", ""])[:4]
    return Credential(jwt.encode(_HEADER, {
        "aud": [audience], "exp": math.ceil(begin + lifetime), "iat": int(begin), "iss": issuer,
        "jti": str(uuid.uuid4()),
        "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account}},
        "nbf": int(begin), "sub": subject,
    }, _SIGNATURE))


def decode(token: str) -> Optional[Assertion]:
    """What the token says, or None when it is none of ours. Says nothing about its expiry."""
    found = jwt.decode(token, _HEADER, _SIGNATURE)
    try:
        return None if found is None else Assertion(
            str(found["iss"]), str(found["sub"]), tuple(found["aud"]), found["nbf"], found["exp"])
    except KeyError:
        return None
