"""What Microsoft's own client sends, as the measure of what others send.

azure-identity signs in to a simulated Azure of its own, and what it sent is reduced to the parts
that the protocol fixes. `fixed_parts` reduces anybody's request likewise:

    [seen] = azure.app_service.requests
    assert fixed_parts("app_service", seen) == official_request("app_service", client_id="…")
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ContextManager, Dict, Mapping, Optional

from azure.core.credentials import TokenCredential

from . import app_service, assertions, clouds, official
from .access import host_name
from .endpoint import Endpoint
from .managed_identity import TENANT
from .records import RecordedRequest
from .secret import Credential
from .sim import AzureSim

IMDS = "imds"
APP_SERVICE = "app_service"
WORKLOAD_IDENTITY = "workload_identity"
CLIENT_SECRET = "client_secret"
KINDS = (IMDS, APP_SERVICE, WORKLOAD_IDENTITY, CLIENT_SECRET)

# Sent for the client's own cache; not a part of the grant.
_OWN_PARAMETERS = {"client_info"}
# Two names of one parameter, says the reference of App Service.
_ALIASES = {APP_SERVICE: {"object_id": "principal_id"}}


@dataclass(frozen=True)
class FixedParts:
    """What the protocol fixes of a request for a token. `headers` has those that must be there,
    once each, with the values that must be; a value that only has to be right is empty. `host` is
    empty where any will do. Values that are credentials print as placeholders."""

    method: str
    host: str
    path: str
    query: Mapping[str, str]
    form: Mapping[str, str]
    headers: Mapping[str, str]


def fixed_parts(kind: str, request: RecordedRequest) -> FixedParts:
    """The fixed parts of a request of this kind. A parameter that is repeated is an error."""
    names = [name for name, _ in [*request.query, *request.form]]
    assert len(set(names)) == len(names), f"repeated parameters: {names}"
    aliases = _ALIASES.get(kind, {})
    return FixedParts(
        method=request.method,
        host=host_name(request) if kind in (WORKLOAD_IDENTITY, CLIENT_SECRET) else "",
        path=request.path,
        query={aliases.get(name, name): value for name, value in request.query},
        form={name: value for name, value in request.form if name not in _OWN_PARAMETERS},
        headers=_fixed_headers(kind, request),
    )


def official_request(kind: str, *, audience: str = clouds.PUBLIC.audiences[0],
                     client_id: Optional[str] = None, object_id: Optional[str] = None,
                     resource_id: Optional[str] = None, tenant: str = TENANT,
                     authority: str = clouds.PUBLIC.authority, secret: str = "any secret",
                     assertion: Optional[str] = None, path: str = app_service.TOKEN_PATH
                     ) -> FixedParts:
    """What azure-identity sends for a token.

    `kind` is `imds` or `app_service`, where one of the three ids may choose an identity and `path`
    is that of IDENTITY_ENDPOINT; or `workload_identity`, where `assertion` is the projected token,
    or `client_secret`, where `secret` is it. Those two need a `client_id`.
    """
    ids = {"client_id": client_id, "object_id": object_id, "resource_id": resource_id}
    chosen = {name: value for name, value in ids.items() if value is not None}
    with AzureSim() as sim, tempfile.TemporaryDirectory() as folder:
        token_file = Path(folder) / "token"
        token_file.write_text(assertion or assertions.issue())
        _grant_everything(sim, audience, tenant, authority)
        credentials: Dict[str, ContextManager[TokenCredential]] = {
            IMDS: official.imds(sim, **chosen),
            APP_SERVICE: official.on_app_service(sim, path=path, **chosen),
            WORKLOAD_IDENTITY: official.workload_identity(
                sim, token_file, client_id=client_id, tenant=tenant, authority=authority),
            CLIENT_SECRET: official.client_secret(
                sim, secret, client_id=client_id, tenant=tenant, authority=authority),
        }
        with credentials[kind] as credential:
            credential.get_token(f"{audience}/.default")
        endpoints: Dict[str, Endpoint] = {IMDS: sim.identity, APP_SERVICE: sim.app_service}
        # Before it asks Entra ID for a token the client may ask where to.
        [sent] = [one for one in endpoints.get(kind, sim.entra).requests
                  if kind in endpoints or one.method == "POST"]
        return fixed_parts(kind, sent)


def _grant_everything(sim: AzureSim, audience: str, tenant: str, authority: str) -> None:
    """Only what is asked matters, not the answer."""
    sim.identity.script.always(sim.identity.granted(audience))
    sim.app_service.script.always(sim.app_service.granted(audience))
    sim.entra.tenants[tenant] = clouds.of_authority(authority) or clouds.PUBLIC
    grant = sim.entra.granted(audience)
    sim.entra.script.always(lambda request: grant if request.method == "POST" else None)


def _fixed_headers(kind: str, request: RecordedRequest) -> Mapping[str, str]:
    name = {IMDS: "metadata", APP_SERVICE: "x-identity-header"}.get(kind, "content-type")
    values = request.header_values(name)
    if len(values) != 1:
        return {}
    return {name: "" if isinstance(values[0], Credential) else values[0]}
