"""The identity endpoint: IMDS, or anything that speaks its protocol.

Source of the protocol: Microsoft, "How to use managed identities on an Azure VM to acquire an
access token" (api-version 2018-02-01) and the requests that the official SDKs send.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple, Union

from . import tokens
from .answers import Answer
from .limits import HANG_LIMIT
from .recorder import Recorder
from .records import RecordedRequest
from .script import Script
from .secret import Credential

TOKEN_PATH = "/metadata/identity/oauth2/token"
API_VERSION = "2018-02-01"
TENANT = "72f988bf-0000-4000-8000-2d7cd011db47"
AUDIENCES = (
    "https://cognitiveservices.azure.com",
    "https://cognitiveservices.azure.us",
    "https://cognitiveservices.azure.cn",
    "https://ai.azure.com",
)
SELECTORS = ("client_id", "object_id", "msi_res_id")


def _id() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True)
class ManagedIdentity:
    """One identity of the machine. A user-assigned one has a `resource_id` besides its ids."""

    client_id: str = field(default_factory=_id)
    object_id: str = field(default_factory=_id)
    resource_id: Optional[str] = None
    tenant: str = TENANT

    def matches(self, selector: str, value: str) -> bool:
        """Whether a selecting parameter names this identity; ids compare without regard to case."""
        own = {"client_id": self.client_id, "object_id": self.object_id,
               "msi_res_id": self.resource_id}[selector]
        return own is not None and own.lower() == value.lower()


class Identity:
    """The endpoint, its identities and its settings. Attributes may be changed at any time.

    `lifetime` and `refresh_in` are seconds; `numbers` is the JSON type of the numbers in an answer,
    `str` as IMDS sends them or `int` as some of its relatives do.
    """

    def __init__(self) -> None:
        self.recorder = Recorder("identity")
        self.script = Script()
        self.port = 0
        self.issued: List[str] = []  # every token, so that a test can look for leaks
        self._machine = ManagedIdentity()
        self.reset_settings()

    def reset_settings(self) -> None:
        """A machine with a system-assigned identity and no other, tokens for an hour."""
        self.system_assigned: Optional[ManagedIdentity] = self._machine
        self.user_assigned: List[ManagedIdentity] = []
        self.audiences: Tuple[str, ...] = AUDIENCES
        self.lifetime: float = 3600.0
        self.refresh_in: Optional[float] = None
        self.numbers: Union[type[str], type[int]] = str

    @property
    def requests(self) -> List[RecordedRequest]:
        return self.recorder.requests

    @property
    def max_concurrent(self) -> int:
        return self.recorder.max_concurrent

    def wait_for_requests(self, count: int, timeout: float = HANG_LIMIT) -> List[RecordedRequest]:
        return self.recorder.wait_for_requests(count, timeout)

    def token(self, audience: str = AUDIENCES[0], *, lifetime: Optional[float] = None,
              identity: Optional[ManagedIdentity] = None) -> str:
        """A token as the endpoint would issue it, for a test that talks to Azure by itself."""
        bearer = identity or self.system_assigned or ManagedIdentity()
        token = tokens.issue(
            audience=audience, tenant=bearer.tenant, object_id=bearer.object_id,
            client_id=bearer.client_id, now=time.time(),
            lifetime=self.lifetime if lifetime is None else lifetime,
        )
        self.issued.append(Credential(token))
        return token

    def answer(self, request: RecordedRequest) -> Answer:
        """The protocol's answer; its checks in the order in which IMDS makes them."""
        if request.path != TOKEN_PATH:
            return _refusal(404, "not_found", "No such path")
        if request.method != "GET":
            return _refusal(405, "method_not_allowed", "Only GET is supported")
        if request.header("x-forwarded-for") is not None:
            return _refusal(400, "invalid_request", "X-Forwarded-For must not be set")
        if request.header_values("metadata") != ["true"]:
            return _refusal(400, "invalid_request", "Required metadata header not specified")
        return self._issue(request.query)

    def greeting(self, request: RecordedRequest) -> Union[Answer, str]:
        return self.answer(request)

    def _issue(self, query: List[Tuple[str, str]]) -> Answer:
        parameters = dict(query)
        if max(Counter(name.lower() for name, _ in query).values(), default=0) > 1:
            return _refusal(400, "invalid_request", "Duplicate query parameters are not allowed")
        if parameters.get("api-version") != API_VERSION:
            return _refusal(400, "invalid_request", "Required query variable 'api-version' is "
                            "missing or not supported")
        resource = parameters.get("resource", "")
        if resource.rstrip("/") not in self.audiences:
            return _refusal(400, "invalid_resource", f"AADSTS500011: The resource principal named "
                            f"{resource} was not found in the tenant named {TENANT}")
        identity = self._selected(parameters)
        return identity if isinstance(identity, Answer) else self._token(identity, resource)

    def _selected(self, parameters: Dict[str, str]) -> Union[ManagedIdentity, Answer]:
        given = [(name, parameters[name]) for name in SELECTORS if name in parameters]
        not_found = _refusal(400, "invalid_request", "Identity not found")
        if len(given) > 1:
            return _refusal(400, "invalid_request", "Specify one identity, by one parameter")
        if given:
            # The system-assigned identity can be named by its ids too.
            known = [*self.user_assigned, *filter(None, [self.system_assigned])]
            return next((one for one in known if one.matches(*given[0])), not_found)
        if self.system_assigned is not None:
            return self.system_assigned
        if len(self.user_assigned) > 1:
            return _refusal(400, "invalid_request", "Multiple user assigned identities exist, "
                            "please specify the clientId / resourceId of the identity in the "
                            "token request")
        return self.user_assigned[0] if self.user_assigned else not_found

    def _token(self, identity: ManagedIdentity, resource: str) -> Answer:
        token = self.token(resource, identity=identity)
        claims = tokens.decode(token)
        assert claims is not None
        body: Dict[str, Any] = {
            "access_token": token,
            "client_id": identity.client_id,
            "expires_in": self.numbers(int(self.lifetime)),
            "expires_on": self.numbers(claims.exp),
            "ext_expires_in": self.numbers(int(self.lifetime)),
            "not_before": self.numbers(claims.nbf),
            "resource": resource,
            "token_type": "Bearer",
        }
        if self.refresh_in is not None:
            body["refresh_in"] = self.numbers(int(self.refresh_in))
        return Answer(200, body=body)


def _refusal(status: int, error: str, description: str) -> Answer:
    return Answer(status, body={"error": error, "error_description": description})
