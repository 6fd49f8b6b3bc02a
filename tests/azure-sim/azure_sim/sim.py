"""Simulated Azure as a whole: the identity endpoints, any number of resources, one thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import (Any, Coroutine, Dict, List, Mapping, Optional, Sequence, Tuple, Type, TypeVar,
                    Union)

import trustme

from . import clouds
from .app_service import AppService
from .endpoint import Endpoint
from .entra import Entra
from .identity import Identity
from .limits import HANG_LIMIT
from .managed_identity import TENANT
from .resource import Resource
from .server import Listener, stop_all
from .service import Service

T = TypeVar("T")


def taken_port(port: int = 0) -> socket.socket:
    """A port of this machine on which nobody listens yet; 0 lets the system choose."""
    taken = socket.socket()
    if port:
        # As every server does, so that it can be used again right after its last connections.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind(("127.0.0.1", port))
    return taken


class AzureSim:
    """Runs on a thread of its own while it is entered; everything listens on 127.0.0.1.

        with AzureSim() as sim:
            east = sim.add_resource("eastus", host="contoso-eastus.openai.azure.com",
                                    deployments={"gpt-4o-2024-11-20": "gpt-4o"})
            ...
            [request] = east.wait_for_requests(1)

    Three endpoints issue tokens, each on a port of its own: `identity` (IMDS), `app_service`, and
    `entra` over plain HTTP, and over TLS too after `entra_over_tls`. They know nothing of each
    other's identities.
    """

    def __init__(self, *, identity_port: Union[int, socket.socket] = 0, app_service_port: int = 0,
                 entra_port: int = 0) -> None:
        """The ports of the endpoints; 0 lets the system choose. A socket from `taken_port` has been
        kept for the identity endpoint, so that nobody else could take the port in the meantime."""
        self.identity = Identity()
        self.app_service = AppService()
        self.entra = Entra()
        self.resources: Dict[str, Resource] = {}
        self._ports: List[Tuple[Endpoint, Union[int, socket.socket]]] = [
            (self.identity, identity_port), (self.app_service, app_service_port),
            (self.entra, entra_port)]
        self._listeners: List[Listener] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="azure-sim", daemon=True)
        self._stack = contextlib.ExitStack()
        self._ca: Optional[trustme.CA] = None
        self._ca_pem: Optional[Path] = None

    def add_resource(self, name: str, *, host: Union[str, Sequence[str]],
                     deployments: Optional[Mapping[str, str]] = None, region: Optional[str] = None,
                     regional_host: Optional[str] = None, tls: bool = False, port: int = 0,
                     tenant: str = TENANT, refuses_connections: bool = False) -> Resource:
        """A resource that listens when this returns. `host` is its custom subdomain, or several;
        `region` defaults to the name; `regional_host` is the shared endpoint where keys only work;
        `tenant` is the one whose tokens it takes. With `refuses_connections` the port is taken and
        nobody listens on it."""
        hosts = [host] if isinstance(host, str) else list(host)
        resource = Resource(
            name, hosts=hosts, deployments=deployments or {}, region=region or name,
            regional_host=regional_host, tls=tls, tenant=tenant,
        )
        if refuses_connections:
            resource.port = self._take_port(port)
        else:
            resource.port = self._listen(resource, port, sorted(resource.hosts) if tls else None)
        self.resources[name] = resource
        return resource

    def entra_over_tls(self, *, port: int = 0) -> int:
        """Let `entra` listen on one more port, with the certificate of every cloud's authority, or
        say where it does. Recorded and scripted with the plain one."""
        if not self.entra.tls_port:
            names = [cloud.authority for cloud in clouds.CLOUDS]
            self.entra.tls_port = self._listen(self.entra, port, names)
        return self.entra.tls_port

    @property
    def ca_pem(self) -> Path:
        """The file with the authority that signs every certificate here."""
        self._authority()
        assert self._ca_pem is not None
        return self._ca_pem

    def reset(self) -> None:
        """Forget what was recorded and scripted, and every changed setting; keep the resources
        and the applications."""
        endpoints: List[Endpoint] = [endpoint for endpoint, _ in self._ports]
        for endpoint in [*endpoints, *self.resources.values()]:
            endpoint.reset()

    def __enter__(self) -> "AzureSim":
        self._thread.start()
        try:
            for endpoint, port in self._ports:
                endpoint.port = self._listen(endpoint, port, None)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self._call(stop_all(self._listeners))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._stack.close()

    def certificate(self, name: str) -> Tuple[Path, Path]:
        """The PEM files of a certificate for this name and of its key, for what else a test starts."""
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="azure-sim-")))
        issued = self._authority().issue_cert(name)
        issued.cert_chain_pems[0].write_to_path(str(folder / "certificate.pem"))
        issued.private_key_pem.write_to_path(str(folder / "key.pem"))
        return folder / "certificate.pem", folder / "key.pem"

    def _listen(self, service: Service, port: Union[int, socket.socket],
                tls_names: Optional[Sequence[str]]) -> int:
        listener = Listener(service)
        self._listeners.append(listener)
        context = self._server_context(tls_names) if tls_names is not None else None
        at = taken_port(port) if isinstance(port, int) else port
        found = int(at.getsockname()[1])
        self._call(listener.start(at, context))
        return found

    def _take_port(self, port: int) -> int:
        return int(self._stack.enter_context(taken_port(port)).getsockname()[1])

    def _server_context(self, names: Sequence[str]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        self._authority().issue_cert(*names).configure_cert(context)
        return context

    def _authority(self) -> trustme.CA:
        if self._ca is None:
            self._ca = trustme.CA()
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="azure-sim-"))
            self._ca_pem = Path(folder) / "ca.pem"
            self._ca.cert_pem.write_to_path(str(self._ca_pem))
        return self._ca

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, work: "Coroutine[Any, Any, T]") -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=HANG_LIMIT)
