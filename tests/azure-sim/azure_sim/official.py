"""Microsoft's own credentials, pointed at simulated Azure. Needs azure-identity, which the rest of
simulated Azure does not."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Dict, Iterator, Optional
from unittest import mock
from urllib.parse import urlsplit, urlunsplit

import requests
from azure.core.credentials import TokenCredential
from azure.core.pipeline.transport import RequestsTransport
from azure.identity import (ClientSecretCredential, ManagedIdentityCredential,
                            WorkloadIdentityCredential)
from requests.adapters import HTTPAdapter

from . import app_service, clouds
from .managed_identity import TENANT
from .sim import AzureSim

# By these the client decides where it runs, and through what.
_VARIABLES = ("IDENTITY_ENDPOINT", "IDENTITY_HEADER", "IDENTITY_SERVER_THUMBPRINT", "IMDS_ENDPOINT",
              "MSI_ENDPOINT", "MSI_SECRET", "AZURE_POD_IDENTITY_AUTHORITY_HOST", "AZURE_TENANT_ID",
              "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_AUTHORITY_HOST",
              "AZURE_REGIONAL_AUTHORITY_NAME", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY",
              "http_proxy", "https_proxy", "all_proxy")


@contextlib.contextmanager
def imds(sim: AzureSim, **identity: str) -> Iterator[TokenCredential]:
    """A ManagedIdentityCredential on a virtual machine whose IMDS is `sim.identity`; `identity` is
    one of `client_id`, `object_id` and `resource_id`, or nothing."""
    with _environment(AZURE_POD_IDENTITY_AUTHORITY_HOST=f"http://127.0.0.1:{sim.identity.port}"):
        with _managed_identity(identity) as credential:
            yield credential


@contextlib.contextmanager
def on_app_service(sim: AzureSim, *, path: str = app_service.TOKEN_PATH, **identity: str
                   ) -> Iterator[TokenCredential]:
    """A ManagedIdentityCredential on App Service, whose endpoint is `sim.app_service`."""
    with _environment(IDENTITY_ENDPOINT=f"http://127.0.0.1:{sim.app_service.port}{path}",
                      IDENTITY_HEADER=str(sim.app_service.identity_header)):
        with _managed_identity(identity) as credential:
            yield credential


@contextlib.contextmanager
def workload_identity(sim: AzureSim, token_file: Path, *, client_id: Optional[str] = None,
                      tenant: str = TENANT, authority: str = clouds.PUBLIC.authority
                      ) -> Iterator[TokenCredential]:
    """A WorkloadIdentityCredential that exchanges what is in the file at `sim.entra`, over TLS."""
    with _environment(), WorkloadIdentityCredential(
            tenant_id=tenant, client_id=client_id or sim.entra.application.client_id,
            token_file_path=str(token_file), **_over_tls(sim, authority)) as credential:
        yield credential


@contextlib.contextmanager
def client_secret(sim: AzureSim, secret: Optional[str] = None, *, client_id: Optional[str] = None,
                  tenant: str = TENANT, authority: str = clouds.PUBLIC.authority
                  ) -> Iterator[TokenCredential]:
    """A ClientSecretCredential that signs in at `sim.entra`, over TLS."""
    with _environment(), ClientSecretCredential(
            tenant, client_id or sim.entra.application.client_id, secret or str(sim.entra.secret),
            **_over_tls(sim, authority)) as credential:
        yield credential


def _managed_identity(identity: Dict[str, str]) -> ManagedIdentityCredential:
    return ManagedIdentityCredential(identity_config=identity or None, retry_total=0,
                                     retry_status=0)


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    with mock.patch.dict(os.environ, variables):
        for name in set(_VARIABLES) - set(variables):
            os.environ.pop(name, None)
        yield


def _over_tls(sim: AzureSim, authority: str) -> Dict[str, Any]:
    """The options that lead a credential to `sim.entra`: it believes that it talks to the authority
    and verifies the certificate for that name."""
    session = requests.Session()
    session.trust_env = False
    for cloud in clouds.CLOUDS:
        session.mount(f"https://{cloud.authority}",
                      _Loopback(cloud.authority, sim.entra_over_tls()))
    transport: Any = RequestsTransport(session=session, use_env_settings=False,
                                       connection_verify=str(sim.ca_pem))
    return {"authority": authority, "transport": transport, "retry_total": 0, "retry_status": 0}


class _Loopback(HTTPAdapter):
    """Connects to a port of 127.0.0.1 in place of the host, and says and verifies the host's name.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        super().__init__()

    def init_poolmanager(self, *positional: Any, **options: Any) -> None:
        super().init_poolmanager(*positional, **options, server_hostname=self._host,
                                 assert_hostname=self._host)

    def send(self, request: requests.PreparedRequest, *positional: Any, **options: Any
             ) -> requests.Response:
        url = urlsplit(str(request.url))
        request.headers["Host"] = url.netloc
        request.url = urlunsplit(url._replace(netloc=f"127.0.0.1:{self._port}"))
        return super().send(request, *positional, **options)
