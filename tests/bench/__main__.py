"""What the module costs: plain Envoy, Envoy with the module, and Envoy with its own filters for the
comparable part, in front of the same upstream, under the same load.

Everything runs side by side in one run: rounds of a few seconds each, in turn, so that whatever else
the machine does falls on all of them. A ratio is that of a round, to plain Envoy in the same round;
the table has the median of the rounds and the least and most of them. Each Envoy that is measured has
one worker and core 0; the load and the upstream (another Envoy, answering by itself) have core 1. CPU
is the Envoy process's own user and system time, from /proc.

Envoy's own filters do less: api_key_auth compares keys that stand in the bootstrap, the credential is
a fixed secret that nobody renews, there are no models, scopes or metrics of them, and a 429 is
forgotten at once, so that every request meets it again.

A hop's figures are of one connection, one request at a time: what a request takes whose first backend
answers 429, without what the two backends' answers take by themselves. The throttled backend asks for
a pause so short that every request meets it again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Sequence

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "azure-sim")]

from azure_sim import AzureSim  # noqa: E402
from bench.hops import Hops, percentile  # noqa: E402
from bench.load import CONNECTIONS, Load, pin, wrk  # noqa: E402
from bench.setups import Ports, Setup, setups, upstream  # noqa: E402
from e2e.bootstrap import wasm_module  # noqa: E402
from e2e.envoy import Envoy  # noqa: E402

MEASURED_CORE, LOAD_CORE = 0, 1


def main() -> int:
    arguments = _arguments()
    if not hasattr(os, "sched_setaffinity") or not {MEASURED_CORE, LOAD_CORE} <= (
            os.sched_getaffinity(0)):
        print("needs two cores and Linux", file=sys.stderr)
        return 2
    _versions()
    found = setups()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aoai-bench-")))
        sim = stack.enter_context(AzureSim())
        answering = stack.enter_context(_quiet(upstream()))
        pin(answering.pid, LOAD_CORE)
        ports = Ports.of(answering)
        loads, hops = [], []
        for setup in found:
            envoy = stack.enter_context(_quiet(setup.bootstrap(sim, ports)))
            pin(envoy.pid, MEASURED_CORE)
            loads.append(Load(setup.name, setup.path, envoy, LOAD_CORE))
            if setup.attempts is not None:
                hops.append(Hops(setup.name, envoy, setup.attempts, ports.throttled))
        pin(os.getpid(), LOAD_CORE)
        for load in loads:
            load.run(folder, 1)
        for number in range(arguments.rounds):
            # There and back again: a machine that slows down is nobody's fault.
            turn = 1 if number % 2 == 0 else -1
            for load in loads[::turn]:
                load.measure(folder, arguments.seconds)
            for one in hops[::turn]:
                one.measure(arguments.hops)
    _report_load(found, loads)
    _report_hops(hops)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__, usage=(
        'make bench [ARGS="[--rounds N] [--seconds N] [--hops N]"]'),
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=_positive, default=7, help="how many (default: 7)")
    parser.add_argument("--seconds", type=_positive, default=4,
                        help="of load on each Envoy in each round (default: 4)")
    parser.add_argument("--hops", type=_positive, default=500,
                        help="in each round, of each Envoy with a pool (default: 500)")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _quiet(bootstrap: Dict[str, Any]) -> Envoy:
    return Envoy(bootstrap, log_level="warning", wasm_log_level="info")


def _versions() -> None:
    envoy = subprocess.run([os.environ["ENVOY"], "--version"], capture_output=True, text=True,
                           check=True).stdout
    # wrk's -v ends as if it had failed.
    load = subprocess.run([wrk(), "-v"], capture_output=True, text=True, check=False)
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    print(f"module  {Path(wasm_module()).stat().st_size:,} bytes")
    print(f"Envoy   {envoy.strip().rpartition('version: ')[2]}")
    print(f"load    {(load.stdout + load.stderr).splitlines()[0].partition(' [')[0]}, "
          f"{CONNECTIONS} connections")
    print(f"CPU     {cpu.group(1) if cpu else 'unknown'}, {os.cpu_count()} cores, "
          f"load average before {os.getloadavg()[0]:.2f}")


def _report_load(found: Sequence[Setup], loads: Sequence[Load]) -> None:
    plain = loads[0]
    print(f"\n{'':<34} {'requests/s':>10} {'ratio':>5}  {'CPU µs/request':>14} {'ratio':>5}"
          f"  {'least–most':<10} aim")
    for setup, load in zip(found, loads):
        costs, rates = _ratios(load.costs, plain.costs), _ratios(load.rates, plain.rates)
        aim = "" if setup.aim is None else f"{setup.aim:.2f}"
        print(f"{load.name:<34} {statistics.median(load.rates):>10,.0f} "
              f"{statistics.median(rates):>5.2f}  {statistics.median(load.costs):>14.1f} "
              f"{statistics.median(costs):>5.2f}  {min(costs):.2f}–{max(costs):.2f}  {aim}".rstrip())


def _ratios(values: Sequence[float], to: Sequence[float]) -> List[float]:
    """For each round, of neighbours in time."""
    return [value / other for value, other in zip(values, to)]


def _report_hops(hops: Sequence[Hops]) -> None:
    print(f"\nA hop over a 429, in ms (p50 / p99 of {len(hops[0].hops):,}; aim: adds at most 1.00 "
          "at p50)")
    print(f"{'':<34} {'with a hop':>13} {'without':>13} {'the 429 itself':>14} {'added':>14}"
          "  p50 of rounds")
    for one in hops:
        columns = [f"{percentile(values, 50) * 1e3:.2f} / {percentile(values, 99) * 1e3:.2f}"
                   for values in (one.hops, one.straight, one.refused, one.added)]
        print(f"{one.name.strip():<34} {columns[0]:>13} {columns[1]:>13} {columns[2]:>14} "
              f"{columns[3]:>14}  {min(one.rounds) * 1e3:.2f}–{max(one.rounds) * 1e3:.2f}")


if __name__ == "__main__":
    sys.exit(main())
