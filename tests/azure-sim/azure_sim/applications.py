"""Applications (and user-assigned identities) in Entra ID that sign in by themselves."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import List, Optional

from . import assertions
from .assertions import Assertion
from .managed_identity import TENANT
from .secret import Credential


@dataclass(frozen=True)
class ClientSecret:
    """A secret of an application; `expires_at` is epoch seconds."""

    value: str
    expires_at: float = float("inf")

    @property
    def expired(self) -> bool:
        return time.time() >= self.expires_at

    def __repr__(self) -> str:
        return f"ClientSecret({Credential(self.value)!r}, expires_at={self.expires_at})"


@dataclass(frozen=True)
class FederatedCredential:
    """Whose service-account tokens stand for the application. Entra ID compares all three exactly,
    case included."""

    issuer: str = assertions.ISSUER
    subject: str = assertions.SUBJECT
    audience: str = assertions.AUDIENCE


def _id() -> str:
    return str(uuid.uuid4())


@dataclass
class Application:
    """One that is in the directory of `tenant`. `object_id` is its service principal's, which is
    who its tokens are about. Secrets and federated credentials may be changed at any time.
    `resource_id` makes it a user-assigned managed identity with federated credentials."""

    client_id: str = field(default_factory=_id)
    tenant: str = TENANT
    object_id: str = field(default_factory=_id)
    secrets: List[ClientSecret] = field(default_factory=list)
    federated: List[FederatedCredential] = field(default_factory=list)
    resource_id: Optional[str] = None

    def __post_init__(self) -> None:
        self._first = (list(self.secrets), list(self.federated))

    def add_secret(self, value: Optional[str] = None, *, lifetime: float = float("inf")) -> str:
        """One more secret, which may have expired already. Returns its value."""
        found = Credential(_id() if value is None else value)
        self.secrets.append(ClientSecret(found, time.time() + lifetime))
        return found

    def reset(self) -> None:
        """The credentials as they were at first."""
        self.secrets, self.federated = list(self._first[0]), list(self._first[1])

    def trusts(self, assertion: Assertion, *, whatever_subject: bool = False) -> bool:
        """Whether a federated credential fits the assertion, its time aside."""
        return any(one.issuer == assertion.issuer and one.audience in assertion.audiences
                   and (whatever_subject or one.subject == assertion.subject)
                   for one in self.federated)
