"""A proxy of the mesh: a real pilot-agent, and the Envoy that it starts."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from e2e.envoy import Envoy, binary
from e2e.rendering import free_port
from istio.control_plane import Istiod

Json = Dict[str, Any]
NAMESPACE = "istio-system"
GATEWAY_LABELS = {"istio": "ingressgateway"}


class Proxy(Envoy):
    """A gateway's proxy, or a workload's sidecar."""

    def __init__(self, istiod: Istiod, *, kind: str = "router", namespace: str = NAMESPACE,
                 labels: Mapping[str, str] = GATEWAY_LABELS, workers: int = 1,
                 override: Optional[str] = None, log_level: str = "info",
                 stats: Sequence[str] = (".*",),
                 environment: Optional[Mapping[str, str]] = None) -> None:
        """`override` is what the annotation sidecar.istio.io/bootstrapOverride leads to, `stats` which of Envoy's it shows
        besides those that Istio always does."""
        self._folder = tempfile.TemporaryDirectory(prefix="aoai-proxy-")
        self._path = Path(self._folder.name)
        self._admin_port = free_port()
        config: Json = {
            "discoveryAddress": istiod.address, "controlPlaneAuthPolicy": "NONE",
            "binaryPath": binary(), "configPath": str(self._path / "proxy"),
            "proxyAdminPort": self._admin_port, "statusPort": free_port(),
            # What a test holds while a listener is replaced must not end by itself.
            "drainDuration": "600s", "terminationDrainDuration": "0s",
            "proxyStatsMatcher": {"inclusionRegexps": stats},
        }
        variables = {
            "PROXY_CONFIG": json.dumps(config), "POD_NAME": "proxy", "POD_NAMESPACE": namespace,
            "INSTANCE_IP": "127.0.0.1", "SERVICE_ACCOUNT": "proxy",
            "ISTIO_META_CLUSTER_ID": "Kubernetes",
            "ISTIO_METAJSON_LABELS": json.dumps(dict(labels)),
            "ENVOY_PROMETHEUS_PORT": str(free_port()), "ENVOY_STATUS_PORT": str(free_port()),
            # Without an authority that issues certificates.
            "FILE_MOUNTED_CERTS": "true",
            "WASM_INSECURE_REGISTRIES": "*",
            **(environment or {}),
        }
        if override is not None:
            path = self._path / "custom_bootstrap.json"
            path.write_text(override)
            variables["ISTIO_BOOTSTRAP_OVERRIDE"] = str(path)
        command: List[str] = [
            os.environ["PILOT_AGENT"], "proxy", kind, "--domain", f"{namespace}.svc.cluster.local",
            "--templateFile", os.environ["ISTIO_BOOTSTRAP"], "--concurrency", str(workers),
            "--proxyLogLevel", f"{log_level},wasm:debug",
        ]
        self._start(command, variables)

    def _working_directory(self) -> Optional[Path]:
        # Sockets and downloaded modules are beside it.
        return self._path

    def _admin_address(self) -> str:
        return f"127.0.0.1:{self._admin_port}"
