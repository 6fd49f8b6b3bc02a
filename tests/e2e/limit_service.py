"""envoyproxy/ratelimit and its Redis, as child processes that a test can kill and start again."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, List, Optional, Tuple, Type

import httpx

from azure_sim import HANG_LIMIT
from e2e.rendering import free_port

Json = Dict[str, Any]


class _Process:
    """A child whose output is shown where it fails to start."""

    def __init__(self, folder: Path, name: str, command: List[str],
                 environment: Optional[Dict[str, str]] = None) -> None:
        self._log = folder / f"{name}.log"
        self._name, self._command, self._environment = name, command, environment or {}
        self._process: Optional["subprocess.Popen[bytes]"] = None

    def start(self, is_ready: Callable[[], bool]) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment})
        deadline = time.monotonic() + HANG_LIMIT
        while not is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._name} did not start:\n{self._log.read_text()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """As a machine that loses power would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class LimitService:
    """The service and its Redis, with what `aoai render ratelimit` prints for a document."""

    def __init__(self, document: Json, tls: Optional[Tuple[Path, Path]] = None) -> None:
        """`tls` are the files of its certificate and key."""
        self._folder = tempfile.TemporaryDirectory(prefix="aoai-limits-")
        folder = Path(self._folder.name)
        self._socket = folder / "redis"
        # Each write is on disk before its answer: what is lost when Redis dies is not Redis's doing.
        self._redis = _Process(folder, "redis", [
            "redis-server", "--port", "0", "--unixsocket", str(self._socket), "--dir", str(folder),
            "--save", "", "--appendonly", "yes", "--appendfsync", "always"])
        self._config = folder / "config" / "aoai.yaml"
        self._config.parent.mkdir()
        self.configure(document)
        secure = {} if tls is None else {
            "GRPC_SERVER_USE_TLS": "true", "GRPC_SERVER_TLS_CERT": str(tls[0]),
            "GRPC_SERVER_TLS_KEY": str(tls[1])}
        self.port, self._http, debug = (free_port() for _ in range(3))
        self._service = _Process(folder, "ratelimit", [os.environ["RATELIMIT"]], {
            "HOST": "127.0.0.1", "PORT": str(self._http), "GRPC_HOST": "127.0.0.1",
            "GRPC_PORT": str(self.port), "DEBUG_HOST": "127.0.0.1", "DEBUG_PORT": str(debug),
            "RUNTIME_ROOT": str(folder), "RUNTIME_SUBDIRECTORY": "", "RUNTIME_WATCH_ROOT": "false",
            "REDIS_SOCKET_TYPE": "unix", "REDIS_URL": str(self._socket), "USE_STATSD": "false",
            "BACKEND_TYPE": "redis", "LOG_LEVEL": "warn", **secure})
        try:
            self.start_redis()
            self.start()
        except BaseException:
            self.stop()
            raise

    def configure(self, document: Json) -> None:
        """Another document's limits, in the place of those before."""
        done = subprocess.run([os.environ["AOAI"], "render", "ratelimit", "-"], text=True,
                              input=json.dumps(document), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        partial = self._config.with_suffix(".partial")
        partial.write_text(done.stdout)
        partial.replace(self._config)

    def start(self) -> None:
        self._service.start(self._is_healthy)

    def kill(self) -> None:
        self._service.kill()

    def start_redis(self) -> None:
        self._redis.start(self._redis_responds)

    def kill_redis(self) -> None:
        self._redis.kill()

    def charged(self, limit: str, counter: str) -> int:
        """What Redis has counted for a limit in all periods."""
        keys = self._ask("KEYS", f"aoai_{limit}_{counter}_*")
        return sum(int(self._ask("GET", one)[0]) for one in keys)

    def _ask(self, *command: str) -> List[str]:
        done = subprocess.run(["redis-cli", "-s", str(self._socket), "--raw", *command],
                              stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.split()

    def stop(self) -> None:
        self.kill()
        self.kill_redis()
        self._folder.cleanup()

    def __enter__(self) -> "LimitService":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.stop()

    def _is_healthy(self) -> bool:
        try:
            url = f"http://127.0.0.1:{self._http}/healthcheck"
            return httpx.get(url, timeout=5, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def _redis_responds(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as redis:
                redis.settimeout(5)
                redis.connect(str(self._socket))
                redis.sendall(b"PING\r\n")
                return redis.recv(64).startswith(b"+PONG")
        except OSError:
            return False
