"""A real Envoy as a child process: started, waited for, asked, stopped."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, List, Mapping, Optional, Type, TypeVar, Union

import httpx

from azure_sim import HANG_LIMIT

T = TypeVar("T")
# Envoy begins by listing every extension and header that it knows, indented.
_INVENTORY = re.compile(r"^\[[^\]]*\]\[\d+\]\[info\]\[main\] \[[^\]]*\]   .*\n", re.MULTILINE)
# What a cluster's name stands before.
_MODULES = re.compile(r"^cluster\..*\.wasmcustom\.")
_TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")


class EnvoyFailed(Exception):
    """Envoy did not start, or did not do what was waited for; the message ends with its log."""


class Envoy:
    """One Envoy process, of the binary that the environment variable ENVOY names. Every port is
    Envoy's choice.

    `Envoy.started` lists every instance of this run, so that a failing test can show their logs.
    """

    started: List["Envoy"] = []

    def __init__(self, bootstrap: Union[Dict[str, Any], str], *, workers: int = 1,
                 drain_seconds: int = 600, log_level: str = "info", wasm_log_level: str = "debug",
                 environment: Optional[Mapping[str, str]] = None) -> None:
        """`bootstrap`: a value, or the text of a YAML file.

        `drain_seconds`: how long connections of a replaced listener may go on. Long, for what a
        test holds over a replacement must not end by itself. `environment` adds variables to those
        of this process."""
        self._folder = tempfile.TemporaryDirectory(prefix="aoai-envoy-")
        self._path = Path(self._folder.name)
        if isinstance(bootstrap, str):
            written = self._path / "bootstrap.yaml"
            written.write_text(bootstrap)
        else:
            written = self._path / "bootstrap.json"
            written.write_text(json.dumps(bootstrap, indent=1))
        self._start([
            binary(), "--config-path", str(written),
            "--concurrency", str(workers), "--use-dynamic-base-id",
            "--admin-address-path", str(self._path / "admin"),
            # Without them it takes nothing dynamic, not even from a file.
            "--service-node", "test", "--service-cluster", "test",
            "--log-level", log_level, "--component-log-level", f"wasm:{wasm_log_level}",
            "--drain-time-s", str(drain_seconds),
            "--parent-shutdown-time-s", str(drain_seconds + 1),
            "--file-flush-interval-msec", "100",
        ], environment or {})

    def _start(self, command: List[str], environment: Mapping[str, str]) -> None:
        """Starts the process, in its folder's log, and waits until it is ready."""
        self._log = self._path / "envoy.log"
        self._final_log: Optional[str] = None
        self.log_mark = 0  # where the log of the current test begins
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self._working_directory(), stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, env={**os.environ, **environment})
        Envoy.started.append(self)
        try:
            self.admin = httpx.Client(base_url=f"http://{self._admin_address()}",
                                      timeout=HANG_LIMIT, trust_env=False)
            self.wait_until(self._ready, "readiness")
        except BaseException:
            self._end_process()
            raise

    def _working_directory(self) -> Optional[Path]:
        """Where the process runs; None: where the tests do."""
        return None

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called; a process that crashed has not been stopped."""
        return self._final_log is not None

    @property
    def pid(self) -> int:
        return self._process.pid

    def port(self, listener: str = "aoai") -> int:
        """The port that a listener got. An internal one has none."""
        return self.wait_until(lambda: self._listeners().get(listener), f"listener {listener}")

    def listens(self, port: int) -> None:
        """Returns once a listener has this port."""
        self.wait_until(lambda: port in self._listeners().values(), f"listener at {port}")

    def stats(self) -> Dict[str, int]:
        """Counters and gauges by name. Envoy 1.37 puts before those of the module the cluster for which
        it first loaded that, where there are pools; they are by their own names here."""
        found = self._admin("/stats?format=json&type=All").json()["stats"]
        return {_MODULES.sub("wasmcustom.", one["name"]): one["value"] for one in found
                if "name" in one}

    def prometheus(self) -> str:
        """The metrics as Prometheus reads them."""
        return self._admin("/stats/prometheus").text

    def config_dump(self) -> Dict[str, Any]:
        return dict(self._admin("/config_dump?include_eds").json())

    def log_text(self) -> str:
        """Envoy's log so far; complete once it has been stopped."""
        if self._final_log is not None:
            return self._final_log
        return self._log.read_text("utf-8", "replace")

    def log_for_people(self) -> str:
        """The log of the current test, without Envoy's inventory of itself and without the tokens
        that should not be there."""
        return _TOKEN.sub("<token>", _INVENTORY.sub("", self.log_text()[self.log_mark:]))

    def wait_for_log(self, text: str, timeout: float = HANG_LIMIT) -> str:
        """The log, once it has `text`."""
        return self.wait_until(lambda: self.log_text() if text in self.log_text() else None,
                               f"log line with {text!r}", timeout)

    def wait_for_stat(self, name: str, minimum: int = 1, timeout: float = HANG_LIMIT) -> int:
        """A counter's or gauge's value, once it is at least `minimum`."""
        def value() -> Optional[int]:
            found = self.stats().get(name, 0)
            return found if found >= minimum else None
        return self.wait_until(value, f"{name} of {minimum}", timeout)

    def wait_until(self, look: Callable[[], Optional[T]], what: str,
                   timeout: float = HANG_LIMIT) -> T:
        """What `look` returns as soon as that is true: not None, False, 0 or empty."""
        deadline = time.monotonic() + timeout
        while True:
            found = look()
            if found:
                return found
            if not self.running:
                raise EnvoyFailed(f"Envoy exited with {self._process.returncode} before {what}\n"
                                  + self.log_for_people())
            if time.monotonic() > deadline:
                raise EnvoyFailed(f"no {what} within {timeout} s\n" + self.log_for_people())
            time.sleep(0.02)

    def stop(self) -> int:
        """End the process and remove its files. Returns the exit status; 0 is a clean end."""
        if not self.stopped:
            self._end_process()
        return int(self._process.returncode)

    def __enter__(self) -> "Envoy":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.stop()

    def _end_process(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=HANG_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if hasattr(self, "admin"):
            self.admin.close()
        self._final_log = self._log.read_text("utf-8", "replace")
        self._folder.cleanup()

    def _admin_address(self) -> str:
        path = self._path / "admin"
        # Envoy makes the file before it writes the address.
        return self.wait_until(lambda: path.read_text() or None if path.exists() else None,
                               "admin address")

    def _ready(self) -> bool:
        try:
            return self.admin.get("/ready").status_code == 200
        except httpx.TransportError:
            return False

    def _admin(self, path: str) -> httpx.Response:
        return self.admin.get(path).raise_for_status()

    def _listeners(self) -> Dict[str, int]:
        statuses = self._admin("/listeners?format=json").json().get("listener_statuses", [])
        # One that listens elsewhere, as at a pipe, has none.
        return {one["name"]: one["local_address"]["socket_address"]["port_value"]
                for one in statuses if "socket_address" in one["local_address"]}


def binary() -> str:
    """The path of Envoy."""
    path = os.environ.get("ENVOY")
    if not path:
        raise EnvoyFailed("ENVOY must name an Envoy binary, 1.37 or newer")
    return path
