"""A real istiod as a child process, with its configuration in files."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Optional, Type

import httpx

from azure_sim import HANG_LIMIT
from e2e.rendering import free_port
from istio.kubernetes import Kubernetes


class Istiod:
    """One istiod, which serves what is applied. It can be killed and started again."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="aoai-istiod-")
        self._path = Path(self._folder.name)
        self._log = self._path / "istiod.log"
        self._config = self._path / "config"
        self._config.mkdir()
        self._kubernetes = Kubernetes()
        self.address = f"127.0.0.1:{free_port()}"
        self._http, self._https, self._monitoring = (f"127.0.0.1:{free_port()}" for _ in range(3))
        self._process: Optional["subprocess.Popen[bytes]"] = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def apply(self, name: str, text: str) -> None:
        """Resources, in place of those of this name. istiod never sees half of them."""
        unfinished = self._path / name
        unfinished.write_text(text)
        unfinished.rename(self._config / f"{name}.yaml")

    def start(self) -> None:
        """Returns once it serves."""
        command = [
            os.environ["PILOT_DISCOVERY"], "discovery", "--registries=Kubernetes",
            f"--kubeconfig={self._kubernetes.kubeconfig(self._path)}",
            f"--configDir={self._config}", f"--grpcAddr={self.address}", "--secureGRPCAddr=",
            f"--httpAddr={self._http}", f"--httpsAddr={self._https}",
            f"--monitoringAddr={self._monitoring}",
        ]
        environment = {
            # Without certificates, and without the filters that are in Istio's own Envoy only.
            "ENABLE_CA_SERVER": "false", "INJECT_ENABLED": "false",
            "PILOT_ENABLE_ALPN_FILTER": "false", "PILOT_ENABLE_METADATA_EXCHANGE": "false",
            "POD_NAMESPACE": "istio-system",
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._path, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, env={**os.environ, **environment})
        deadline = time.monotonic() + HANG_LIMIT
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"istiod did not start:\n{self.log_text()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """As a machine that loses power would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log_text(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def close(self) -> None:
        self.kill()
        self._kubernetes.close()
        self._folder.cleanup()

    def __enter__(self) -> "Istiod":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

    def _ready(self) -> bool:
        try:
            return httpx.get(f"http://{self._http}/ready", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False
