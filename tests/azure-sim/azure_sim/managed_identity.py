"""Managed identities, and what the endpoints that serve them have in common."""

from __future__ import annotations

import enum
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import List, Mapping, Optional, Sequence, Tuple, Union

from . import clouds, tokens
from .answers import Answer
from .clouds import AUDIENCES
from .endpoint import Endpoint
from .secret import Credential

TENANT = "72f988bf-0000-4000-8000-2d7cd011db47"
# The machine that a system-assigned identity belongs to.
MACHINE = ("/subscriptions/00000000-0000-0000-0000-0000000000aa/resourcegroups/gateway"
           "/providers/Microsoft.Compute/virtualMachines/envoy")


def _id() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True)
class ManagedIdentity:
    """One identity of the machine. A user-assigned one has a `resource_id` besides its ids."""

    client_id: str = field(default_factory=_id)
    object_id: str = field(default_factory=_id)
    resource_id: Optional[str] = None
    tenant: str = TENANT

    def matches(self, kind: str, value: str) -> bool:
        """Whether the id of this kind (a field's name) is this one's, whatever its case."""
        own: Optional[str] = getattr(self, kind)
        return own is not None and own.lower() == value.lower()


class NotSelected(enum.Enum):
    """Why no identity could be chosen."""

    UNKNOWN = "no identity has this id, or there is none at all"
    AMBIGUOUS = "there are several and none was chosen"
    SEVERAL = "several were chosen at once"


class ManagedIdentityEndpoint(Endpoint):
    """An endpoint's identities and settings. Attributes may be changed at any time.

    `lifetime` is in seconds; `issued` has every token, so that a test can look for leaks.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.issued: List[str] = []
        self._machine = ManagedIdentity()
        self.reset_settings()

    def reset_settings(self) -> None:
        """A machine with a system-assigned identity and no other, tokens for an hour."""
        self.system_assigned: Optional[ManagedIdentity] = self._machine
        self.user_assigned: List[ManagedIdentity] = []
        self.audiences: Tuple[str, ...] = AUDIENCES
        self.lifetime: float = 3600.0

    def token(self, audience: str = clouds.PUBLIC.audiences[0], *,
              lifetime: Optional[float] = None, identity: Optional[ManagedIdentity] = None) -> str:
        """A token as the endpoint would issue it, for a test that talks to Azure by itself."""
        bearer = identity or self.system_assigned or ManagedIdentity()
        token = tokens.issue(
            audience=audience, tenant=bearer.tenant, object_id=bearer.object_id,
            client_id=bearer.client_id, resource_id=bearer.resource_id or MACHINE,
            now=time.time(), lifetime=self.lifetime if lifetime is None else lifetime,
        )
        self.issued.append(Credential(token))
        return token

    def granted(self, audience: str = clouds.PUBLIC.audiences[0], *,
                identity: Optional[ManagedIdentity] = None, lifetime: Optional[float] = None,
                token: Optional[str] = None) -> Answer:
        """The answer with a token: a new one for `lifetime` seconds, which may be negative, or the
        text `token` in place of one."""
        raise NotImplementedError

    def selected(self, parameters: Mapping[str, str], kinds: Mapping[str, str]
                 ) -> Union[ManagedIdentity, NotSelected]:
        """The identity that the parameters choose; `kinds` says which parameters name which id."""
        given = [(kinds[name], parameters[name]) for name in kinds if name in parameters]
        if len(given) > 1:
            return NotSelected.SEVERAL
        if given:
            # The system-assigned identity can be named by its ids too.
            known = [*self.user_assigned, *filter(None, [self.system_assigned])]
            return next((one for one in known if one.matches(*given[0])), NotSelected.UNKNOWN)
        if self.system_assigned is not None:
            return self.system_assigned
        if len(self.user_assigned) > 1:
            return NotSelected.AMBIGUOUS
        return self.user_assigned[0] if self.user_assigned else NotSelected.UNKNOWN


def repeated(pairs: Sequence[Tuple[str, str]]) -> bool:
    """Whether a parameter is there twice, in whatever case."""
    return max(Counter(name.lower() for name, _ in pairs).values(), default=0) > 1
