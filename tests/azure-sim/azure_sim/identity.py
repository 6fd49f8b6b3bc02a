"""The identity endpoint: IMDS, or anything that speaks its protocol.

Source of the protocol: Microsoft, "How to use managed identities on an Azure VM to acquire an
access token" (api-version 2018-02-01) and the requests that the official SDKs send.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple, Union

from . import clouds, tokens
from .answers import Answer
from .managed_identity import (TENANT, ManagedIdentity, ManagedIdentityEndpoint, NotSelected,
                               repeated)
from .records import RecordedRequest

TOKEN_PATH = "/metadata/identity/oauth2/token"
API_VERSION = "2018-02-01"
SELECTORS = {"client_id": "client_id", "object_id": "object_id", "msi_res_id": "resource_id"}


class Identity(ManagedIdentityEndpoint):
    """The endpoint. Beside what all have in common, `refresh_in` is seconds, and `numbers` is the
    JSON type of the numbers in an answer: `str` as IMDS sends them, or `int` as some of its
    relatives do."""

    def __init__(self) -> None:
        super().__init__("identity")

    def reset_settings(self) -> None:
        super().reset_settings()
        self.refresh_in: Optional[float] = None
        self.numbers: Union[type[str], type[int]] = str

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

    def granted(self, audience: str = clouds.PUBLIC.audiences[0], *,
                identity: Optional[ManagedIdentity] = None, lifetime: Optional[float] = None,
                token: Optional[str] = None) -> Answer:
        bearer = identity or self.system_assigned or ManagedIdentity()
        seconds = self.lifetime if lifetime is None else lifetime
        real = self.token(audience, identity=bearer, lifetime=seconds)
        claims = tokens.decode(real)
        assert claims is not None
        body: Dict[str, Any] = {
            "access_token": real if token is None else token,
            "client_id": bearer.client_id,
            "expires_in": self.numbers(int(seconds)),
            "expires_on": self.numbers(claims.exp),
            "ext_expires_in": self.numbers(int(seconds)),
            "not_before": self.numbers(claims.nbf),
            "resource": audience,
            "token_type": "Bearer",
        }
        if self.refresh_in is not None:
            body["refresh_in"] = self.numbers(int(self.refresh_in))
        return Answer(200, body=body)

    def _issue(self, query: List[Tuple[str, str]]) -> Answer:
        parameters = dict(query)
        if repeated(query):
            return _refusal(400, "invalid_request", "Duplicate query parameters are not allowed")
        if parameters.get("api-version") != API_VERSION:
            return _refusal(400, "invalid_request", "Required query variable 'api-version' is "
                            "missing or not supported")
        resource = parameters.get("resource", "")
        if resource.rstrip("/") not in self.audiences:
            return _refusal(400, "invalid_resource", f"AADSTS500011: The resource principal named "
                            f"{resource} was not found in the tenant named {TENANT}")
        identity = self.selected(parameters, SELECTORS)
        if isinstance(identity, NotSelected):
            return _refusal(400, "invalid_request", _NOT_SELECTED[identity])
        return self.granted(resource, identity=identity)


_NOT_SELECTED = {
    NotSelected.UNKNOWN: "Identity not found",
    NotSelected.AMBIGUOUS: "Multiple user assigned identities exist, please specify the clientId "
                           "/ resourceId of the identity in the token request",
    NotSelected.SEVERAL: "Specify one identity, by one parameter",
}


def _refusal(status: int, error: str, description: str) -> Answer:
    return Answer(status, body={"error": error, "error_description": description})
