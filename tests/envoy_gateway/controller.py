"""A real Envoy Gateway in its standalone mode, which starts a real Envoy, in front of simulated Azure: what
`aoai render envoy-gateway` prints, applied as files. It can be used where the tests of plain Envoy have a `Gateway`."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Type

import httpx
import yaml

from azure_sim import HANG_LIMIT, AzureSim
from e2e.envoy import Envoy, binary
from e2e.rendering import free_port, resources, wasm_module
from e2e.wire import Connection

Json = Dict[str, Any]
# The Envoy that Envoy Gateway thinks it starts, and would fetch: the one under test is in its place.
ITS_ENVOY = "1.39.1"
CLASS = """\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: eg}
spec: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}
"""


class Controller(Envoy):
    """Envoy Gateway, and the Envoy that it starts for the Gateway."""

    def __init__(self, write: Callable[[Path], None],
                 environment: Optional[Mapping[str, str]] = None) -> None:
        """`write` writes the resources that are there from the beginning into a directory."""
        self._folder = tempfile.TemporaryDirectory(prefix="aoai-envoy-gateway-")
        self._path = Path(self._folder.name)
        self.resources = self._path / "resources"
        self.resources.mkdir()
        homes = {name: str(self._path / name) for name in
                 ("configHome", "dataHome", "stateHome", "runtimeDir")}
        place = Path(homes["dataHome"]) / "envoy-versions" / ITS_ENVOY / "bin"
        place.mkdir(parents=True)
        (place / "envoy").symlink_to(binary())
        config = self._path / "envoy-gateway.yaml"
        config.write_text(yaml.safe_dump({
            "apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyGateway",
            "gateway": {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller"},
            "provider": {"type": "Custom", "custom": {
                "resource": {"type": "File", "file": {"paths": [str(self.resources)]}},
                "infrastructure": {"type": "Host", "host": homes}}},
            "extensionApis": {"enableEnvoyPatchPolicy": True, "enableBackend": True}}))
        write(self.resources)
        command = [os.environ["ENVOY_GATEWAY"], "certgen", "--local", "--config-home", homes["configHome"]]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              check=False)
        assert done.returncode == 0, done.stdout
        self._start([os.environ["ENVOY_GATEWAY"], "server", "--config-path", str(config)],
                    environment or {})

    def apply(self, name: str, text: str) -> None:
        """Resources, in place of those of this name. Envoy Gateway never sees half of them."""
        unfinished = self._path / name
        unfinished.write_text(text)
        unfinished.rename(self.resources / f"{name}.yaml")


class Attached:
    """An Envoy Gateway whose Gateway has the gateway. `more` are fields of the section `envoy_gateway`; `others` are
    resources that are not ours."""

    def __init__(self, document: Json, sim: AzureSim, *, port: Optional[int] = None,
                 options: Sequence[str] = (), others: str = "", workers: int = 1,
                 edit: Callable[[List[Json]], None] = lambda _: None,
                 environment: Optional[Mapping[str, str]] = None, **more: Any) -> None:
        """`edit` changes the resources before they are applied."""
        self._sim, self._options, self._more, self._workers = sim, options, more, workers
        self.port = port or free_port()
        self._edit = edit

        def write(directory: Path) -> None:
            (directory / "class.yaml").write_text(CLASS)
            if others:
                (directory / "others.yaml").write_text(others.replace("PORT", str(self.port)))
            (directory / "aoai.yaml").write_text(self._resources(document, directory.parent))
        self.envoy = Controller(write, environment)
        try:
            self.envoy.listens(self.port)
            self.url = f"http://127.0.0.1:{self.port}"
            # No retries, no redirects, no proxies from the environment.
            self.http = httpx.Client(base_url=self.url, timeout=HANG_LIMIT, trust_env=False)
        except BaseException:
            self.envoy.stop()
            raise

    def _resources(self, document: Json, folder: Path, clusters_of: Optional[Json] = None,
                   **more: Any) -> str:
        """What a document renders to, for a machine instead of pods."""
        section = {"module": wasm_module(), **self._more, **more}
        if "gateway" not in section:
            section["port"] = self.port
        here = {**document, "envoy_gateway": section}
        text = resources("envoy-gateway", self._sim, here, *self._options, clusters_of=clusters_of)
        found: List[Json] = [one for one in yaml.safe_load_all(text) if one]
        for one in found:
            if one["kind"] == "EnvoyProxy":
                one["spec"]["extraArgs"] = [
                    "--admin-address-path", str(folder / "admin"), "--use-dynamic-base-id"]
                # A line for each request would hide the rest of a failed test.
                one["spec"]["telemetry"] = {"accessLog": {"disable": True}}
                one["spec"]["logging"] = {"level": {"default": "info", "wasm": "debug"}}
                one["spec"]["concurrency"] = self._workers
                # A process of this machine instead of pods.
                one["spec"]["provider"] = {"type": "Host", "host": {"envoyVersion": ITS_ENVOY}}
        self._edit(found)
        return yaml.safe_dump_all(json.loads(json.dumps(found)))

    def apply(self, document: Json, clusters_of: Optional[Json] = None, **more: Any) -> None:
        """Gives Envoy Gateway what a document renders to. `more` are fields of the section `envoy_gateway`."""
        folder = self.envoy.resources.parent
        self.envoy.apply("aoai", self._resources(document, folder, clusters_of, **more))

    def connect(self, timeout: float = HANG_LIMIT) -> Connection:
        """A raw connection to the gateway."""
        return Connection(self.port, timeout=timeout)

    def stop(self) -> None:
        self.http.close()
        self.envoy.stop()

    def __enter__(self) -> "Attached":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.stop()
