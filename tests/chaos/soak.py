"""soak: a long run at half of what the machine can do, while everything fails or changes at random.

Two of the three regions throttle, fail, reset connections, are slow or misconfigured for some seconds
at a time, by the seed; one is well. The identity endpoint fails every other time, and a token lives for
two minutes. The document is replaced every few seconds: weights, priorities, subscriptions, and now and
then the clusters. Every request gets its response, signed in as the gateway; no VM is reloaded, and
Envoy's memory does not grow after the warm-up.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import time
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any, Dict, List

from azure_sim import AzureSim
from bench.machine import resident_mb
from bench.tables import percentile
from chaos import quiet
from chaos.arrivals import Arrivals
from chaos.child import Child
from chaos.health import failures
from chaos.quiet import CONNECTIONS, LOST, SERVED, WRONG, Outcome
from chaos.scene import BALANCED, MODELS, REGIONS, Scene, deployment
from chaos.weather import LONGEST_COOLDOWN, TOKEN_LIFETIME, TOKEN_REFRESH, Weather
from e2e import config
from e2e.gateway import ALL_CLUSTERS, LISTENER, Gateway

Json = Dict[str, Any]
SECONDS = 600
_WORKERS = 2
# How long the load is measured that the machine can do, of which half is the load.
_MEASURED = 3.0
# Seconds between two documents, and those after which a replaced listener's connections are closed. Callers
# make a new connection sooner than that.
_REPLACED_EVERY, _DRAIN, _CONNECTION_LASTS = 4.0, 15, 5.0
_ORDERS = ((LISTENER,), (ALL_CLUSTERS, LISTENER), (LISTENER, ALL_CLUSTERS))
# The share of the run after which memory is compared.
_WARM_UP = 0.25
_SAMPLES = 20


@dataclass(frozen=True)
class Sample:
    """Envoy's memory in MB, so many seconds after the beginning: resident, and what its allocator has
    given (that of the VMs is not in it)."""

    second: float
    resident: float
    allocated: float


def add_options(_parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace) -> Counter[str]:
    """Runs the scenario and prints its figures. Returns the violations."""
    random = Random(f"{options.seed} documents")
    with contextlib.ExitStack() as stack:
        azure = stack.enter_context(AzureSim())
        scene = Scene(azure)
        scene.prepare(all_well=True)
        azure.identity.lifetime, azure.identity.refresh_in = TOKEN_LIFETIME, TOKEN_REFRESH
        document = {**scene.document(), "failover": {
            "cooldown": "1s", "longest_cooldown": f"{LONGEST_COOLDOWN}s"}}
        gateway = stack.enter_context(
            Gateway(document, azure, workers=_WORKERS, xds=True, drain_seconds=_DRAIN))
        allowed = frozenset(map(deployment, MODELS))
        rate = _half_load(gateway, Arrivals(azure, allowed))
        weather = Weather(options.seed, REGIONS, options.seconds)
        arrivals = Arrivals(azure, allowed, weather.region_fault)
        weather.trouble_identity(azure)
        interval = CONNECTIONS / rate
        tenants = Child(quiet.run, gateway.port, interval, max(int(_CONNECTION_LASTS / interval), 1))
        samples, replaced = _replace_all_the_time(options.seconds, document, random, gateway, arrivals)
        outcomes: List[Outcome] = tenants.stop()
        arrivals.sweep()
        found = arrivals.violations + failures(gateway)
    found += Counter(one.verdict for one in outcomes if one.verdict.startswith((WRONG, LOST)))
    print(f"{rate:,.0f} requests/s, half of what this machine served; document replaced {replaced} times")
    _print_outcomes(outcomes)
    print("what regions did to requests, and the identity endpoint: "
          + ", ".join(f"{times:,} {name}" for name, times in weather.counts.most_common()))
    _print_memory(samples, options.seconds)
    return found


def _half_load(gateway: Gateway, arrivals: Arrivals) -> float:
    """Half of the requests in a second that callers get served who ask without a pause."""
    callers = Child(quiet.run, gateway.port, 0.0, 1 << 30)
    time.sleep(_MEASURED)
    outcomes: List[Outcome] = callers.stop()
    arrivals.sweep()
    seconds = sum(one.verdict == SERVED for one in outcomes) and max(
        one.due + one.seconds for one in outcomes) - min(one.due for one in outcomes)
    return max(len(outcomes) / seconds / 2, 1.0) if seconds else 1.0


def _replace_all_the_time(seconds: float, document: Json, random: Random, gateway: Gateway,
                          arrivals: Arrivals) -> "tuple[List[Sample], int]":
    begin = time.monotonic()
    samples: List[Sample] = []
    replaced = 0
    while (now := time.monotonic() - begin) < seconds and gateway.envoy.running:
        if now >= replaced * _REPLACED_EVERY:
            gateway.reconfigure(_varied(document, random, replaced), order=random.choice(_ORDERS))
            replaced += 1
        if now >= len(samples) * seconds / _SAMPLES:
            samples.append(_sample(now, gateway))
        arrivals.sweep()
        time.sleep(0.1)
    samples.append(_sample(time.monotonic() - begin, gateway))
    return samples, replaced


def _varied(document: Json, random: Random, number: int) -> Json:
    """The document with other weights, other priorities and another subscription."""
    varied: Json = copy.deepcopy(document)
    for model in varied["models"]:
        ranks = random.sample(range(len(REGIONS)), len(REGIONS))
        for route, rank in zip(model["backends"], ranks):
            if model["name"] == BALANCED:
                route["weight"] = random.randint(1, 5)
            else:
                route["priority"] = rank
    varied["subscriptions"].append(config.subscription(f"passing-{number}", key=f"key-of-passing-{number}"))
    return varied


def _sample(second: float, gateway: Gateway) -> Sample:
    return Sample(second, resident_mb(gateway.envoy.pid),
                  gateway.envoy.stats()["server.memory_allocated"] / 1e6)


def _print_outcomes(outcomes: List[Outcome]) -> None:
    verdicts = Counter(one.verdict for one in outcomes)
    print(f"{len(outcomes):,} requests, of which served {100 * verdicts.pop(SERVED, 0) / len(outcomes):.3f} %"
          + "".join(f"; {times:,} {verdict}" for verdict, times in verdicts.most_common()))
    times = [one.seconds * 1e3 for one in outcomes if one.verdict == SERVED]
    print(", ".join(f"p{rank} {percentile(times, rank):.1f} ms" for rank in (50, 99)))


def _print_memory(samples: List[Sample], seconds: float) -> None:
    print(f"\n{'after s':>8} {'resident MB':>12} {'allocated MB':>13}")
    for one in samples:
        print(f"{one.second:>8.0f} {one.resident:>12.1f} {one.allocated:>13.1f}")
    warm = [one for one in samples if one.second >= seconds * _WARM_UP]
    early, late = warm[:len(warm) // 3 or 1], warm[-(len(warm) // 3 or 1):]
    for name in ("resident", "allocated"):
        first, last = (sum(getattr(one, name) for one in part) / len(part) for part in (early, late))
        print(f"{name} after the warm-up: {first:.1f} MB, at the end: {last:.1f} MB "
              f"({100 * (last / first - 1):+.1f} %)")
