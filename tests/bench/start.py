"""start: how long Envoy takes to start, and its memory, by the number of backends and
subscriptions.

2 workers, on both cores; 5 models, each on all of the backends. `render` is what `aoai render
envoy` (a debug build) takes to print the bootstrap. `ready` is from the start of the process until
`/ready` says so, and `serving` until 32 new connections have been served after that, so that every
worker has its module. `MB` is resident memory then. Plain Envoy has the same clusters and pools
without the filter, in YAML too; subscriptions are nothing to it. Below the table is what a second
worker takes.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any, Dict, Optional, Union

import yaml

from bench import setups
from bench.load import BODY
from bench.machine import LOAD_CORE, MEASURED_CORE, pin, resident_mb
from bench.session import Session
from bench.setups import HOST, KEY, LISTENER, URL_NAMED
from e2e.envoy import EnvoyFailed
from e2e.wire import Connection, request

Json = Dict[str, Any]
SUBSCRIPTIONS = (10, 1_000, 10_000)
CONNECTIONS = 32
REQUEST = request("POST", URL_NAMED, [("api-key", KEY), ("content-type", "application/json")],
                  BODY, host=HOST)


@dataclass(frozen=True)
class Start:
    """One start: seconds until it was ready and until it had served, and its memory then."""

    ready: float
    serving: float
    megabytes: float

    @classmethod
    def of(cls, bootstrap: str, workers: int) -> "Start":
        begin = time.monotonic()
        with setups.start(bootstrap, workers) as envoy:
            ready = time.monotonic() - begin
            for _ in range(CONNECTIONS):
                with Connection(envoy.port(LISTENER)) as connection:
                    response = connection.exchange(REQUEST)
                    if response.status != 200:
                        raise SystemExit(f"{response}\n{envoy.log_for_people()}")
            return cls(ready, time.monotonic() - begin, resident_mb(envoy.pid))

    def __str__(self) -> str:
        return f"{self.ready:>6.2f} {self.serving:>8.2f} {self.megabytes:>6.0f}"


@dataclass(frozen=True)
class Rendered:
    """A bootstrap, and the seconds that the tool took to print it."""

    text: str
    seconds: Optional[float] = None

    @classmethod
    def of(cls, document: Json, session: Session) -> "Rendered":
        begin = time.monotonic()
        text = setups.gateway(document, session.ports)
        return cls(text, time.monotonic() - begin)

    def __str__(self) -> str:
        seconds = "" if self.seconds is None else f"{self.seconds:.2f}"
        return (f"{seconds:>8} {len(self.text) / 1024:>7,.0f} "
                f"{self.text.count('name: envoy.clusters.aggregate'):>6,}")


def measure(session: Session) -> None:
    # Children inherit where this process may run.
    pin(os.getpid(), MEASURED_CORE, LOAD_CORE)
    print(f"\n{'start and memory, 2 workers':<34} {'render s':>8} {'KiB':>7} {'pools':>6} "
          f"{'ready s':>7} {'serving':>8} {'MB':>6}")
    workers = []
    for backends in session.backends:
        rows = [("plain Envoy", Rendered(_plain(backends, session)))]
        rows += [(f"{count:,} subscriptions", Rendered.of(setups.many(backends, count), session))
                 for count in SUBSCRIPTIONS]
        for name, rendered in rows:
            found = _started(rendered.text, 2)
            print(f"{f'{backends} backends: {name}':<34} {rendered} {found}", flush=True)
            if backends == session.backends[0] and isinstance(found, Start):
                workers.append((name, rendered.text, found))
    print(f"\n{f'memory, {session.backends[0]} backends, MB':<34} {'1 worker':>8} {'2 workers':>9} "
          f"{'a worker':>8}")
    for name, text, two in workers:
        one = Start.of(text, 1)
        print(f"{name:<34} {one.megabytes:>8.0f} {two.megabytes:>9.0f} "
              f"{two.megabytes - one.megabytes:>8.1f}", flush=True)
    pin(os.getpid(), LOAD_CORE)


def _started(bootstrap: str, workers: int) -> Union[Start, str]:
    """What a start took, or why there was none."""
    try:
        return Start.of(bootstrap, workers)
    except EnvoyFailed as failed:
        return "  " + str(failed).partition("\n")[0]


def _plain(backends: int, session: Session) -> str:
    found = setups.plain(setups.many(backends, 10), session.ports)
    return yaml.dump(found, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))
