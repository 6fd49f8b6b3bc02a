"""A proxy of a real mesh with the gateway in it, in front of simulated Azure: what `aoai render istio` prints, applied to
an istiod. It can be used where the tests of plain Envoy have a `Gateway`."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any, Dict, Mapping, Optional, Sequence, Type

import httpx

from azure_sim import HANG_LIMIT, AzureSim
from e2e.rendering import free_port, resources, wasm_module
from e2e.wire import Connection
from istio.control_plane import Istiod
from istio.proxy import Proxy

Json = Dict[str, Any]
# When a filter's configuration has come by extension config discovery.
RELOADED = "extension_config_discovery.http_filter.aoai.gateway.config_reload"
REFUSED = "extension_config_discovery.http_filter.aoai.gateway.update_rejected"


def resources_for(sim: AzureSim, document: Json, *options: str,
                  clusters_of: Optional[Json] = None) -> str:
    """The resources of a document in front of simulated Azure."""
    return resources("istio", sim, document, *options, clusters_of=clusters_of)


def at_gateway(document: Json, port: int, **more: Any) -> Json:
    """A document whose gateway is that of this port."""
    return {**document, "istio": {"port": port, "module": wasm_module(), **more}}


class Mesh:
    """An istiod and a proxy of its gateway. `more` are fields of the section `istio`; `others` are resources of the
    mesh that are not ours."""

    def __init__(self, document: Json, sim: AzureSim, *, workers: int = 1, options: Sequence[str] = (),
                 others: str = "", environment: Optional[Mapping[str, str]] = None,
                 **more: Any) -> None:
        self._stack = contextlib.ExitStack()
        self._sim, self._options, self._more = sim, options, more
        self.port = free_port()
        try:
            self.istiod = self._stack.enter_context(Istiod())
            if others:
                self.istiod.apply("others", others.replace("PORT", str(self.port)))
            self.apply(document)
            self.envoy = self._stack.enter_context(
                Proxy(self.istiod, workers=workers, environment=environment))
            self.envoy.listens(self.port)
            self.url = f"http://127.0.0.1:{self.port}"
            # No retries, no redirects, no proxies from the environment.
            self.http = self._stack.enter_context(
                httpx.Client(base_url=self.url, timeout=HANG_LIMIT, trust_env=False))
        except BaseException:
            self.stop()
            raise

    def connect(self, timeout: float = HANG_LIMIT) -> Connection:
        """A raw connection to the gateway."""
        return Connection(self.port, timeout=timeout)

    def apply(self, document: Json, *, clusters_of: Optional[Json] = None, **more: Any) -> None:
        """Gives istiod what a document renders to. `more` are fields of the section `istio`."""
        here = at_gateway(document, self.port, **{**self._more, **more})
        self.istiod.apply("aoai", resources_for(self._sim, here, *self._options,
                                                clusters_of=clusters_of))

    def reconfigure(self, document: Json, *, clusters_of: Optional[Json] = None,
                    **more: Any) -> None:
        """The same, and returns once the proxy has it."""
        before = self.envoy.stats().get(RELOADED, 0)
        self.apply(document, clusters_of=clusters_of, **more)
        self.envoy.wait_for_stat(RELOADED, before + 1)

    def stop(self) -> None:
        self._stack.close()

    def __enter__(self) -> "Mesh":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.stop()
