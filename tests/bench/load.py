"""load: requests per second, and CPU for a request, of a short chat request (about 1 KiB).

32 connections without a pause, so that core 0 is busy all the time. `ratio` is to plain Envoy in
the same round, the median of the rounds; `least–most` are the rounds' ratios of CPU. Envoy's own
filters do less: api_key_auth compares keys that stand in the bootstrap, the credential is a fixed
secret that nobody renews, there are no models, scopes or metrics of them, and a 429 is forgotten at
once.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Tuple

from bench import setups, tables
from bench.machine import LOAD_CORE, MEASURED_CORE, cpu_seconds, pin
from bench.session import Session
from bench.setups import BODY_NAMED, KEY, LISTENER, URL_NAMED, Ports
from e2e.envoy import Envoy
from e2e.limit_service import LimitService
from e2e.rendering import at

CONNECTIONS = 32
# About what a short chat request is.
BODY = json.dumps({"messages": [{"role": "user", "content": "word " * 200}],
                   "model": "gpt-4o"}).encode()


@dataclass(frozen=True)
class Row:
    """An Envoy that is measured. `aim` is the most that its CPU for a request may be, as a multiple
    of plain Envoy's."""

    name: str
    start: Callable[[Ports], Envoy]
    path: str = URL_NAMED
    aim: Optional[float] = None


def rows(before: Optional[str], limits: LimitService) -> List[Row]:
    """All of them, plain Envoy first. `before` is a module to compare with."""
    service = at("aoai-limits", limits.port)
    return [
        Row("plain Envoy", lambda ports: setups.start(setups.plain(setups.one_backend(), ports))),
        *_before(before),
        Row("gateway: URL names the model", _gateway(10), aim=1.62),
        Row("  with the grant for data_sources", _gateway(10, operations=["*"]), aim=1.62),
        Row("  of 10,000 subscriptions", _gateway(10_000), aim=1.62),
        Row("  body names the model", _gateway(10), path=BODY_NAMED, aim=1.77),
        Row("and limits: URL names the model", _limited(), aim=1.62),
        Row("  body names the model", _limited(), path=BODY_NAMED, aim=1.77),
        Row("  kept by a service", _limited(service, store="ratelimit")),
        Row("both stages: pool of 3",
            lambda ports: setups.start(setups.gateway(setups.pool_of_three(), ports)), aim=2.22),
        Row("Envoy's filters: key, credential",
            lambda ports: setups.start(setups.own_filters(ports))),
        Row("  and a pool of 3 with retries",
            lambda ports: setups.start(setups.own_filters_and_retries(ports))),
    ]


def _gateway(subscriptions: int, **granted: Any) -> Callable[[Ports], Envoy]:
    document = setups.one_backend(subscriptions)
    for one in document["subscriptions"]:
        one.update(granted)
    return lambda ports: setups.start(setups.gateway(document, ports))


def _limited(*options: str, **where: Any) -> Callable[[Ports], Envoy]:
    document = setups.limited(setups.one_backend(), **where)
    return lambda ports: setups.start(setups.gateway(document, ports, *options))


def _before(module: Optional[str]) -> List[Row]:
    if module is None:
        return []

    def start(ports: Ports) -> Envoy:
        return setups.start(setups.of_module(setups.gateway(setups.one_backend(), ports), module))
    return [Row("module before: URL names the model", start),
            Row("  body names the model", start, path=BODY_NAMED)]


@dataclass
class Load:
    """An Envoy under load; one figure for each round."""

    name: str
    envoy: Envoy
    path: str
    body: bytes = BODY
    connections: int = CONNECTIONS
    rates: List[float] = field(default_factory=list)
    costs: List[float] = field(default_factory=list)

    def measure(self, folder: Path, seconds: int) -> None:
        before = cpu_seconds(self.envoy.pid)
        requests, rate = self.run(folder, seconds)
        self.rates.append(rate)
        self.costs.append((cpu_seconds(self.envoy.pid) - before) * 1e6 / requests)

    def run(self, folder: Path, seconds: int) -> Tuple[int, float]:
        """How many requests there were, and how many in a second. Fails if any of them did."""
        body, script = folder / "body.json", folder / "request.lua"
        body.write_bytes(self.body)
        script.write_text(
            f'wrk.method = "POST"\nwrk.body = io.open("{body}", "rb"):read("*a")\n'
            f'wrk.headers["content-type"] = "application/json"\n'
            f'wrk.headers["api-key"] = "{KEY}"\n')
        command = ["taskset", "-c", str(LOAD_CORE), wrk(), "--threads", "1", "--connections",
                   str(self.connections), "--duration", f"{seconds}s", "--script", str(script),
                   f"http://127.0.0.1:{self.envoy.port(LISTENER)}{self.path}"]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        if "Non-2xx" in text or "Socket errors" in text:
            raise SystemExit(
                f"{self.name}: requests failed\n{text}\n{self.envoy.log_for_people()}")
        found = re.search(r"(\d+) requests in", text)
        rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
        assert found and rate, text
        return int(found.group(1)), float(rate.group(1))


def run_in_turn(loads: Sequence[Load], session: Session) -> None:
    """Each of them once to warm up, and then in each round."""
    for load in loads:
        pin(load.envoy.pid, MEASURED_CORE)
        load.run(session.folder, 1)
    for turn in session.turns():
        for load in loads[::turn]:
            load.measure(session.folder, session.seconds)


def measure(session: Session) -> None:
    with contextlib.ExitStack() as stack:
        limits = stack.enter_context(LimitService(
            setups.limited(setups.one_backend(), store="ratelimit")))
        found = rows(session.before, limits)
        loads = [Load(row.name, stack.enter_context(row.start(session.ports)), row.path)
                 for row in found]
        run_in_turn(loads, session)
    plain = loads[0]
    print(f"\n{'load':<34} {'requests/s':>10} {'ratio':>5}  {'CPU µs/request':>14} {'ratio':>5}"
          f"  {'least–most':<10} aim")
    for row, load in zip(found, loads):
        rate = statistics.median(tables.ratios(load.rates, plain.rates))
        costs = tables.ratios(load.costs, plain.costs)
        print(f"{load.name:<34} {statistics.median(load.rates):>10,.0f} {rate:>5.2f}  "
              f"{statistics.median(load.costs):>14.1f} {tables.spread(costs)}  "
              f"{tables.aim(row.aim)}".rstrip())


def wrk() -> str:
    path = shutil.which("wrk")
    if path is None:
        raise SystemExit("wrk is missing (make bench installs it)")
    return path
