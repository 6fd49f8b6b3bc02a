"""neighbour: ten quiet tenants call steadily, alone, beside a noisy neighbour, and after it has gone.

The neighbour is one tenant that does everything at once, forever changing: requests larger than any
quota, requests that ask for so much that every region throttles them, prompts that fail everywhere,
uploads that stall or are given up, bodies that are refused, bodies that never name a model, heads that
never end, floods of mistakes, forged headers, responses that nobody reads, and large requests. Of the
three regions one is misconfigured, one is throttled and one is well all the time.

Failures that a region's own state explains are counted apart. What a caller's failure cannot be
explained by is the neighbour. The aim is that there is none beside it, and a p99 of at most 1.5 × that
of the tenants alone, in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections import Counter
from dataclasses import dataclass
from typing import Dict, List, Tuple

from azure_sim import AzureSim
from bench.machine import resident_mb
from bench.tables import percentile
from chaos import neighbour, quiet
from chaos.arrivals import Arrivals
from chaos.attacks import ATTACKS
from chaos.child import Child
from chaos.health import failures
from chaos.quiet import SERVED, WRONG, Outcome
from chaos.scene import MISCONFIGURED, MODELS, QUIET, THROTTLED, Scene, deployment
from e2e.gateway import Gateway

SECONDS = 120
ALONE, BESIDE, AFTER = "alone", "beside it", "afterwards"
# The share of the time that each phase gets.
_SHARES = {ALONE: 0.25, BESIDE: 0.5, AFTER: 0.25}
_AIM = 1.5
_WARM_UP = 2.0
_WORKERS = 2
# Each connection of a tenant has a request every so many seconds.
_INTERVAL = 0.6
_EVERLASTING = 1 << 30
# What a region's own state explains, although a healthy region is there.
_EXPLAINED = {f"401 PermissionDenied from {MISCONFIGURED}", f"429 from {THROTTLED}"}


@dataclass
class Phase:
    """A part of the run, its end by the monotonic clock, and Envoy's memory then."""

    name: str
    start: float
    end: float
    megabytes: float


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all-well", action="store_true",
                        help="no region is misconfigured or throttled: only the neighbour is left")
    parser.add_argument("--only", type=_attacks, default=list(ATTACKS), metavar="ATTACKS",
                        help="of " + ",".join(ATTACKS) + " (default: all)")


def _attacks(text: str) -> List[str]:
    names = text.split(",")
    unknown = sorted(set(names) - set(ATTACKS))
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}")
    return names


def run(options: argparse.Namespace) -> Counter[str]:
    """Runs the scenario and prints its figures. Returns the violations."""
    with contextlib.ExitStack() as stack:
        azure = stack.enter_context(AzureSim())
        scene = Scene(azure)
        scene.prepare(all_well=options.all_well)
        gateway = stack.enter_context(Gateway(scene.document(), azure, workers=_WORKERS))
        arrivals = Arrivals(azure, frozenset(map(deployment, MODELS)))
        tenants = Child(quiet.run, gateway.port, _INTERVAL, _EVERLASTING)
        _wait(_WARM_UP, arrivals, gateway)
        phases: List[Phase] = []
        attacks: neighbour.Outcomes = Counter()
        for name, share in _SHARES.items():
            start = time.monotonic()
            noisy = (Child(neighbour.run, gateway.port, options.seed, options.only)
                     if name == BESIDE else None)
            most = _wait(options.seconds * share, arrivals, gateway)
            phases.append(Phase(name, start, time.monotonic(), most))
            if noisy is not None:
                attacks = noisy.stop()
        outcomes: List[Outcome] = tenants.stop()
        arrivals.sweep()
        found = arrivals.violations + failures(gateway)
    found += Counter(one.verdict for one in outcomes if one.verdict.startswith(WRONG))
    _print_tenants(phases, outcomes)
    _print_attacks(attacks)
    return found


def _wait(seconds: float, arrivals: Arrivals, gateway: Gateway) -> float:
    """Waits, and returns the most memory that Envoy had meanwhile, in MB."""
    end, most = time.monotonic() + seconds, 0.0
    while (left := end - time.monotonic()) > 0 and gateway.envoy.running:
        time.sleep(min(0.5, left))
        arrivals.sweep()
        with contextlib.suppress(OSError):
            most = max(most, resident_mb(gateway.envoy.pid))
    return most


def _print_tenants(phases: List[Phase], outcomes: List[Outcome]) -> None:
    of_phase = {phase.name: [one for one in outcomes if phase.start <= one.due < phase.end]
                for phase in phases}
    verdicts = {name: Counter(one.verdict for one in all_of) for name, all_of in of_phase.items()}

    def row(title: str, cells: List[str]) -> None:
        print(f"{title:<46}" + "".join(f"{cell:>14}" for cell in cells))
    row(f"{len(QUIET)} quiet tenants", list(of_phase))
    row("requests", [f"{len(all_of):,}" for all_of in of_phase.values()])
    row("served", [_share(counts[SERVED], counts) for counts in verdicts.values()])
    kinds = sorted({verdict for counts in verdicts.values() for verdict in counts} - {SERVED})
    explained = [kind for kind in kinds if kind in _EXPLAINED]
    row("failed by a region's own state", [
        _share(sum(counts[kind] for kind in explained), counts) for counts in verdicts.values()])
    for kind in explained:
        row(f"  {kind}", [f"{counts[kind]:,}" for counts in verdicts.values()])
    others = [kind for kind in kinds if kind not in explained]
    row("failed otherwise (aim: none)", [
        _share(sum(counts[kind] for kind in others), counts) for counts in verdicts.values()])
    for kind in others:
        row(f"  {kind}", [f"{counts[kind]:,}" for counts in verdicts.values()])
    times = {name: [one.seconds * 1e3 for one in all_of if one.verdict == SERVED]
             for name, all_of in of_phase.items()}
    for rank in (50, 99):
        found = {name: percentile(all_of, rank) if all_of else float("nan")
                 for name, all_of in times.items()}
        ratio = f", beside it {found[BESIDE] / found[ALONE]:.2f} ×" + (
            f" (aim: {_AIM})" if rank == 99 else "")
        row(f"p{rank} ms{ratio}", [f"{one:.1f}" for one in found.values()])
    row("Envoy's memory at most, MB", [f"{phase.megabytes:.0f}" for phase in phases])


def _share(count: int, counts: Counter[str]) -> str:
    return f"{100 * count / max(sum(counts.values()), 1):.2f} %"


def _print_attacks(attacks: neighbour.Outcomes) -> None:
    print("\nthe noisy neighbour")
    by_attack: Dict[str, List[Tuple[int, str]]] = {}
    for (attack, outcome), times in attacks.items():
        by_attack.setdefault(attack, []).append((times, outcome))
    for attack, found in by_attack.items():
        most = sorted(found, reverse=True)[:6]
        print(f"  {attack:<14} {sum(times for times, _ in found):>6,}: "
              + ", ".join(f"{times:,} {outcome}" for times, outcome in most))
