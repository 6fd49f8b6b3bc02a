"""The identity endpoint of App Service, Functions and Container Apps.

Source of the protocol: Microsoft, "How to use managed identities for App Service and Azure
Functions", REST endpoint reference (api-version 2019-08-01), and the requests that the official
SDKs send. The reference does not give the statuses of refusals; the official clients read none but
200 and take every other for a failure.
"""

from __future__ import annotations

import uuid
from typing import Any, Dict, List, Optional, Tuple

from . import clouds, tokens
from .answers import Answer
from .expires_on import ExpiresOn
from .managed_identity import ManagedIdentity, ManagedIdentityEndpoint, NotSelected, repeated
from .records import RecordedRequest
from .secret import Credential

TOKEN_PATH = "/msi/token"
API_VERSION = "2019-08-01"
# `object_id` is an alias of `principal_id`, says the reference; some official clients send it.
SELECTORS = {"client_id": "client_id", "principal_id": "object_id", "object_id": "object_id",
             "mi_res_id": "resource_id"}


class AppService(ManagedIdentityEndpoint):
    """The endpoint. It answers on any path, since IDENTITY_ENDPOINT may name any.

    `identity_header` is what X-IDENTITY-HEADER must be, `expires_on` the form of that field. The
    record has the header's value as a `Credential`, which prints as a placeholder.
    """

    def __init__(self) -> None:
        self._first_header = self._new_header()
        super().__init__("app-service")

    def reset_settings(self) -> None:
        super().reset_settings()
        self.identity_header: str = self._first_header
        self.expires_on = ExpiresOn.EPOCH_TEXT

    @property
    def url(self) -> str:
        """What the platform gives a process as IDENTITY_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}{TOKEN_PATH}"

    def rotate(self) -> str:
        """A new IDENTITY_HEADER; the old one is refused from now on. Returns the new one."""
        self.identity_header = self._new_header()
        return self.identity_header

    def answer(self, request: RecordedRequest) -> Answer:
        given = request.header_values("x-identity-header")
        if request.method != "GET":
            return refusal(405, "The requested resource does not support http method "
                           f"'{request.method}'.")
        if not given:
            return refusal(401, "The X-IDENTITY-HEADER header is missing.")
        if given != [self.identity_header]:
            return refusal(403, "The X-IDENTITY-HEADER header is not valid.")
        return self._issue(request.query)

    def granted(self, audience: str = clouds.PUBLIC.audiences[0], *,
                identity: Optional[ManagedIdentity] = None, lifetime: Optional[float] = None,
                token: Optional[str] = None) -> Answer:
        bearer = identity or self.system_assigned or ManagedIdentity()
        real = self.token(audience, identity=bearer, lifetime=lifetime)
        claims = tokens.decode(real)
        assert claims is not None
        body: Dict[str, Any] = {
            "access_token": real if token is None else token,
            "client_id": bearer.client_id,
            "expires_on": self.expires_on.write(claims.exp),
            "resource": audience,
            "token_type": "Bearer",
        }
        return Answer(200, body=body)

    def _issue(self, query: List[Tuple[str, str]]) -> Answer:
        parameters = dict(query)
        if repeated(query):
            return refusal(400, "A query parameter is given more than once.")
        if parameters.get("api-version") != API_VERSION:
            return refusal(400, "The api-version is missing or not supported. Supported versions: "
                           f"{API_VERSION}.")
        resource = parameters.get("resource", "")
        if not resource:
            return refusal(400, "The resource parameter is required.")
        if resource.rstrip("/") not in self.audiences:
            # Vague, as the official clients' authors found it.
            return refusal(500, "An unexpected error occured while fetching the AAD Token.")
        identity = self.selected(parameters, SELECTORS)
        if identity is NotSelected.SEVERAL:
            return refusal(400, "Only one of client_id, principal_id and mi_res_id may be given.")
        if isinstance(identity, NotSelected):
            return refusal(400, "No User Assigned or Delegated Managed Identity found for "
                           "specified ClientId/ResourceId/PrincipalId.")
        return self.granted(resource, identity=identity)

    @staticmethod
    def _new_header() -> str:
        return Credential(str(uuid.uuid4()))


def refusal(status: int, message: str) -> Answer:
    """An error in the shape that this endpoint gives it."""
    return Answer(status, body={"statusCode": status, "message": message})
