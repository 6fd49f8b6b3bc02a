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
from e2e.edits import CLUSTERS, OUR_LISTENER, Edit, only, take
from e2e.envoy import Envoy
from e2e.rendering import in_front_of
from e2e.wire import Connection

Json = Dict[str, Any]
# What can be replaced while Envoy runs: the stat of Envoy that counts it, and its type.
LISTENER, ALL_CLUSTERS = "listener", "clusters"
_SUBSCRIPTIONS = {LISTENER: "listener_manager.lds", ALL_CLUSTERS: "cluster_manager.cds"}
_KINDS = {LISTENER: "listener.v3.Listener", ALL_CLUSTERS: "cluster.v3.Cluster"}


class Rejected(Exception):
    """Envoy refused a new listener or cluster and keeps the old one; the message is Envoy's reason."""


class Gateway:
    """One Envoy with the bootstrap that is rendered for a document, its listener's port, and an HTTP
    client for it.

    `options` are of `aoai render envoy`; `edits` change the bootstrap, and every later one. With `lds` the listener comes from a file and can
    be replaced while Envoy runs; clusters, and so the pools, stay those of the first document. With
    `xds` the clusters come from another file.
    """

    def __init__(self, document: Json, sim: AzureSim, *, edits: Sequence[Edit] = (),
                 workers: int = 1, lds: bool = False, xds: bool = False, drain_seconds: int = 600,
                 options: Sequence[str] = (), environment: Optional[Mapping[str, str]] = None) -> None:
        self._stack = contextlib.ExitStack()
        self._sim, self._edits, self._options = sim, edits, options
        self._files: Dict[str, Path] = {}
        self._updates = 0
        try:
            bootstrap = in_front_of(sim, document, edits, options)
            if lds or xds:
                self._from_file(LISTENER, bootstrap, "lds_config")
                take(bootstrap, OUR_LISTENER)
            if xds:
                self._from_file(ALL_CLUSTERS, bootstrap, "cds_config")
                take(bootstrap, CLUSTERS)
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

    def reconfigure(self, document: Json, *edits: Edit, order: Sequence[str] = (LISTENER,),
                    one_by_one: bool = True) -> None:
        """Replace the document while requests flow, with these edits besides those that the gateway
        began with: its listener, atomically (needs `lds` or `xds`), or listener and clusters in this
        order (needs `xds`). `Rejected` when Envoy keeps what it has.

        Returns when Envoy has accepted what is new and every worker has the new listener. Each is waited
        for before the next is written, unless not `one_by_one`.
        """
        bootstrap = in_front_of(self._sim, document, [*self._edits, *edits], self._options)
        for parts in [[part] for part in order] if one_by_one else [order]:
            before = self.envoy.stats()
            for part in parts:
                self._write(part, bootstrap)
            self._wait_for(parts, before)

    def stop(self) -> None:
        self._stack.close()

    def __enter__(self) -> "Gateway":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.stop()

    def _wait_for(self, parts: Sequence[str], before: Dict[str, int]) -> None:
        self.envoy.wait_until(lambda: all(self._update_seen(part, before) for part in parts),
                              f"update of {' and '.join(parts)}")

    def _update_seen(self, part: str, before: Dict[str, int]) -> bool:
        stats = self.envoy.stats()

        def now(name: str) -> int:
            return stats.get(name, 0)

        def more(name: str) -> bool:
            return now(name) > before.get(name, 0)
        if more(f"{_SUBSCRIPTIONS[part]}.update_rejected"):
            raise Rejected(self._rejection())
        if not more(f"{_SUBSCRIPTIONS[part]}.update_success"):
            return False
        if part == ALL_CLUSTERS:
            return now("cluster_manager.warming_clusters") == 0
        # A listener that is what it was is no change, and then no worker is told.
        changes = now("listener_manager.listener_added") + now("listener_manager.listener_modified")
        return (now("listener_manager.total_listeners_warming") == 0
                and now("listener_manager.listener_create_success")
                >= changes * stats["server.concurrency"])

    def _rejection(self) -> str:
        for section in self.envoy.config_dump()["configs"]:
            for one in [*section.get("dynamic_listeners", []),
                        *section.get("dynamic_warming_clusters", []),
                        *section.get("dynamic_active_clusters", [])]:
                if "error_state" in one:
                    return str(one["error_state"].get("details", ""))
        return "no reason in the configuration dump"

    def _from_file(self, part: str, bootstrap: Json, source: str) -> None:
        # A directory of its own: Envoy reads a file again when any in its directory is replaced.
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix=f"aoai-{part}-"))
        self._files[part] = Path(folder) / f"{part}.json"
        self._write(part, bootstrap)
        bootstrap.setdefault("dynamic_resources", {})[source] = from_file(self._files[part])

    def _write(self, part: str, bootstrap: Json) -> None:
        assert part in self._files, f"{part}: can be replaced only with lds or xds"
        self._updates += 1
        resources = [only(bootstrap, OUR_LISTENER)] if part == LISTENER else only(bootstrap, CLUSTERS)
        write_resources(self._files[part], _KINDS[part], *resources, version=self._updates)


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
