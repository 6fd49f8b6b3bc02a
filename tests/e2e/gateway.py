"""Envoy with the filter in it, in front of simulated Azure: what most tests talk to."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, Mapping, Optional, Sequence, Type

import httpx

from azure_sim import HANG_LIMIT, AzureSim
from e2e.edits import OUR_LISTENER, Edit, only, take
from e2e.envoy import Envoy
from e2e.rendering import in_front_of
from e2e.wire import Connection

Json = Dict[str, Any]


class Rejected(Exception):
    """Envoy refused a new listener and keeps the old one; the message is Envoy's reason."""


class Gateway:
    """One Envoy with the bootstrap that is rendered for a document, its listener's port, and an HTTP
    client for it.

    `edits` change the bootstrap, and every later one. With `lds` the listener comes from a file and can
    be replaced while Envoy runs; clusters, and so the pools, stay those of the first document.
    """

    def __init__(self, document: Json, sim: AzureSim, *, edits: Sequence[Edit] = (),
                 workers: int = 1, lds: bool = False, drain_seconds: int = 600,
                 environment: Optional[Mapping[str, str]] = None) -> None:
        self._stack = contextlib.ExitStack()
        self._sim, self._edits = sim, edits
        self._lds: Optional[Path] = None
        self._updates = 0
        try:
            bootstrap = in_front_of(sim, document, edits)
            if lds:
                self._lds = Path(self._stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="aoai-lds-")))
                self._write_listener(take(bootstrap, OUR_LISTENER))
                bootstrap["dynamic_resources"] = {"lds_config": from_file(self._lds / "lds.json")}
            self.envoy = self._stack.enter_context(
                Envoy(bootstrap, workers=workers, drain_seconds=drain_seconds,
                      environment=environment))
            self.port = self.envoy.port()
            self.url = f"http://127.0.0.1:{self.port}"
            # No retries, no redirects, no proxies from the environment.
            self.http = self._stack.enter_context(
                httpx.Client(base_url=self.url, timeout=HANG_LIMIT, trust_env=False))
        except BaseException:
            self._stack.close()
            raise

    def connect(self, timeout: float = HANG_LIMIT) -> Connection:
        """A raw connection to the listener."""
        return Connection(self.port, timeout=timeout)

    def reconfigure(self, document: Json, *edits: Edit) -> None:
        """Replace the document atomically while requests flow, with these edits besides those that it
        began with (needs `lds=True`). `Rejected` when Envoy keeps what it has.

        Returns when Envoy has accepted the new listener and every worker has it.
        """
        before = self.envoy.stats()
        bootstrap = in_front_of(self._sim, document, [*self._edits, *edits])
        self._write_listener(only(bootstrap, OUR_LISTENER))
        self.envoy.wait_until(lambda: self._update_seen(before), "listener update")

    def stop(self) -> None:
        self._stack.close()

    def __enter__(self) -> "Gateway":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.stop()

    def _update_seen(self, before: Dict[str, int]) -> bool:
        stats = self.envoy.stats()

        def now(name: str) -> int:
            return stats.get(f"listener_manager.{name}", 0)

        def more(name: str) -> bool:
            return now(name) > before.get(f"listener_manager.{name}", 0)
        if more("lds.update_rejected"):
            raise Rejected(self._rejection())
        # A listener that is what it was is no change, and then no worker is told.
        changes = now("listener_added") + now("listener_modified")
        return (more("lds.update_success") and now("total_listeners_warming") == 0
                and now("listener_create_success") >= changes * stats["server.concurrency"])

    def _rejection(self) -> str:
        for section in self.envoy.config_dump()["configs"]:
            for listener in section.get("dynamic_listeners", []):
                if "error_state" in listener:
                    return str(listener["error_state"].get("details", ""))
        return "no reason in the configuration dump"

    def _write_listener(self, listener: Json) -> None:
        assert self._lds is not None, "the listener can be replaced only with lds=True"
        self._updates += 1
        write_resources(self._lds / "lds.json", "listener.v3.Listener", listener,
                        version=self._updates)


def from_file(path: Path) -> Json:
    """A source of dynamic resources: a file that is read again whenever it is replaced."""
    return {"resource_api_version": "V3", "path_config_source": {
        "path": str(path), "watched_directory": {"path": str(path.parent)}}}


def write_resources(path: Path, kind: str, *resources: Json, version: int = 0) -> None:
    """Writes such a file, atomically."""
    found = [{"@type": f"type.googleapis.com/envoy.config.{kind}", **each} for each in resources]
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps({"version_info": str(version), "resources": found}))
    os.replace(partial, path)
