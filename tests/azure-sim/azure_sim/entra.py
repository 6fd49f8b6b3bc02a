"""The token endpoint of Entra ID, for applications that sign in by themselves.

Source of the protocol: Microsoft, "OAuth 2.0 client credentials flow" and "workload identity
federation", and the requests that the official SDKs send.
"""

from __future__ import annotations

import time
import uuid
from typing import Dict, List, Optional, Sequence

from . import aadsts, clouds, discovery, exchange, tokens
from .access import host_name
from .answers import Answer
from .applications import Application, ClientSecret, FederatedCredential
from .clouds import Cloud
from .endpoint import Endpoint
from .managed_identity import TENANT
from .records import RecordedRequest
from .secret import Credential


class Entra(Endpoint):
    """Every cloud's Entra ID at once: the Host header says which one a request means.

    `application` is there from the start; it has a secret and trusts the service account of
    `assertions.issue()`. `tenants` are directories by cloud; `lifetime` and `refresh_in` are in
    seconds; `issued` has every token. `tls_port` is 0 until `AzureSim.entra_over_tls`.
    """

    def __init__(self) -> None:
        super().__init__("entra")
        self.tls_port = 0
        self.issued: List[str] = []
        self.secret: str = Credential(f"sim8Q~{uuid.uuid4().hex}")
        self.application = Application(secrets=[ClientSecret(self.secret)],
                                       federated=[FederatedCredential()])
        self.applications: List[Application] = [self.application]
        self._tenants: Dict[str, Cloud] = {TENANT: clouds.PUBLIC}
        self.reset_settings()

    def reset_settings(self) -> None:
        """Tokens for an hour; the applications stay, with the credentials that they had at first.
        """
        self.lifetime: float = 3600.0
        self.refresh_in: Optional[float] = None
        self.tenants: Dict[str, Cloud] = dict(self._tenants)
        for application in self.applications:
            application.reset()

    def add_application(self, *, tenant: str = TENANT, cloud: Cloud = clouds.PUBLIC,
                        client_id: Optional[str] = None, secrets: Sequence[str] = (),
                        federated: Sequence[FederatedCredential] = (),
                        resource_id: Optional[str] = None) -> Application:
        """One more application, in this tenant, which is a directory of that cloud."""
        application = Application(
            client_id=client_id or str(uuid.uuid4()), tenant=tenant, resource_id=resource_id,
            secrets=[ClientSecret(Credential(one)) for one in secrets], federated=list(federated))
        self.applications.append(application)
        self._tenants.setdefault(tenant, cloud)
        self.tenants.setdefault(tenant, cloud)
        return application

    def token(self, audience: str = clouds.PUBLIC.audiences[0], *,
              application: Optional[Application] = None, lifetime: Optional[float] = None,
              by_secret: bool = False) -> str:
        """A token as the endpoint would issue it, for a test that talks to Azure by itself."""
        bearer = application or self.application
        token = tokens.issue(
            audience=audience, tenant=bearer.tenant, object_id=bearer.object_id,
            client_id=bearer.client_id, resource_id=bearer.resource_id, by_secret=by_secret,
            now=time.time(), lifetime=self.lifetime if lifetime is None else lifetime)
        self.issued.append(Credential(token))
        return token

    def granted(self, audience: str = clouds.PUBLIC.audiences[0], *,
                application: Optional[Application] = None, lifetime: Optional[float] = None,
                token: Optional[str] = None, by_secret: bool = False) -> Answer:
        """The answer with a token: a new one for `lifetime` seconds, which may be negative, or the
        text `token` in place of one."""
        real = self.token(audience, application=application, lifetime=lifetime,
                          by_secret=by_secret)
        seconds = int(self.lifetime if lifetime is None else lifetime)
        body = {"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds,
                "access_token": real if token is None else token}
        if self.refresh_in is not None:
            body["refresh_in"] = int(self.refresh_in)
        return Answer(200, [("Content-Type", "application/json; charset=utf-8"),
                            ("Cache-Control", "no-store, no-cache"), ("Pragma", "no-cache"),
                            ("x-ms-request-id", str(uuid.uuid4()))], body)

    def answer(self, request: RecordedRequest) -> Answer:
        cloud = clouds.of_authority(host_name(request))
        if cloud is None:
            # What is in front of Entra ID knows no other host.
            return Answer(400, [("Content-Type", "text/html; charset=us-ascii")],
                          "<h2>Bad Request - Invalid Hostname</h2>")
        if request.path == discovery.INSTANCE_PATH:
            return discovery.instances(request.host)
        tenant, slash, path = request.path[1:].partition("/")
        answers = {
            "GET /v2.0/.well-known/openid-configuration":
                lambda: discovery.openid_configuration(request.host, tenant),
            "POST /oauth2/v2.0/token":
                lambda: exchange.answer(self, request, tenant.lower(), cloud),
        }
        answer = answers.get(f"{request.method} {slash}{path}")
        if answer is None:
            return Answer(404, [("Content-Type", "text/html")])
        if self.tenants.get(tenant.lower()) is not cloud:
            return aadsts.refusal(90002, authority=cloud.authority, tenant=tenant)
        return answer()
