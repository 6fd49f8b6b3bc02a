"""Envoy with the filter in it, in front of simulated Azure: what most tests talk to."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, Mapping, Optional, Type, Union

import httpx

from azure_sim import HANG_LIMIT, AzureSim
from e2e.bootstrap import LISTENER, Options, bootstrap, listener
from e2e.envoy import Envoy
from e2e.wire import Connection

Json = Dict[str, Any]


class Rejected(Exception):
    """Envoy refused a new listener and keeps the old one; the message is Envoy's reason."""


class Gateway:
    """One Envoy, its listener's port, and an HTTP client for it."""

    def __init__(self, config: Union[Json, str, None], sim: AzureSim, *, workers: int = 1,
                 lds: bool = False, drain_seconds: int = 600,
                 environment: Optional[Mapping[str, str]] = None, **options: Any) -> None:
        self._stack = contextlib.ExitStack()
        self._options = Options(**options)
        self._updates = 0
        try:
            if lds:
                folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="aoai-lds-"))
                self._options = replace(self._options, lds=Path(folder))
                self._write_listener(config)
            self.envoy = self._stack.enter_context(
                Envoy(bootstrap(config, sim, self._options), workers=workers,
                      drain_seconds=drain_seconds, environment=environment))
            self.port = self.envoy.port(LISTENER)
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

    def reconfigure(self, config: Union[Json, str, None], **options: Any) -> None:
        """Replace the configuration, or other options too, atomically while requests flow (needs
        `lds=True`). `Rejected` when Envoy keeps what it has.

        Returns when Envoy has accepted the new listener and every worker has it.
        """
        before = self.envoy.stats()
        self._options = replace(self._options, **options)
        self._write_listener(config)
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
            for one in section.get("dynamic_listeners", []):
                if "error_state" in one:
                    return str(one["error_state"].get("details", ""))
        return "no reason in the configuration dump"

    def _write_listener(self, config: Union[Json, str, None]) -> None:
        folder = self._options.lds
        assert folder is not None, "the listener can be replaced only with lds=True"
        self._updates += 1
        found = {"@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
                 **listener(config, self._options)}
        partial = folder / "lds.json.partial"
        partial.write_text(json.dumps({"version_info": str(self._updates), "resources": [found]}))
        os.replace(partial, folder / "lds.json")
