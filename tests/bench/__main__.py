"""What the module costs: Envoy with what `aoai render envoy` prints, and plain Envoy, which is the
same without the filter and with one plain route, in front of the same upstream, under the same
load.

Everything runs side by side in one run: rounds of a few seconds each, in turn, so that whatever
else the machine does falls on all of them. A ratio is that of a round, to plain Envoy in the same
round. Each Envoy that is measured has one worker and core 0; the load and the upstream have core 1.
CPU is the Envoy process's own user and system time, from /proc. `aim` is the most that a figure may
be.

Sections, in the order in which they run:
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Dict, List

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "azure-sim")]

from azure_sim import AzureSim  # noqa: E402
from bench import bodies, hop, latency, load, setups, sse, start, usage  # noqa: E402
from bench.machine import LOAD_CORE, cpu_model, has_cores, pin  # noqa: E402
from bench.session import Session  # noqa: E402
from bench.upstream import upstream  # noqa: E402

SECTIONS: Dict[str, ModuleType] = {
    "load": load, "bodies": bodies, "sse": sse, "hop": hop, "latency": latency, "start": start,
    "usage": usage}


def main() -> int:
    arguments = _arguments()
    if not has_cores():
        print("needs two cores and Linux", file=sys.stderr)
        return 2
    _print_versions()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aoai-bench-")))
        sim = stack.enter_context(AzureSim())
        answering = stack.enter_context(setups.start(upstream()))
        pin(answering.pid, LOAD_CORE)
        pin(os.getpid(), LOAD_CORE)
        ports = setups.Ports(sim.identity.port, answering.port("serving"),
                             answering.port("throttled"))
        session = Session(ports, folder, arguments.rounds, arguments.seconds, arguments.hops,
                          arguments.rate, arguments.backends, arguments.before)
        for name, section in SECTIONS.items():
            if name in arguments.only:
                section.measure(session)
                sys.stdout.flush()
    return 0


def _arguments() -> argparse.Namespace:
    sections = "\n".join(str(section.__doc__) for section in SECTIONS.values())
    parser = argparse.ArgumentParser(
        prog="make bench", description=f"{__doc__}\n{sections}",
        usage='make bench [ARGS="[--only SECTIONS] [--rounds N] [--seconds N] [--hops N] '
              '[--rate N] [--backends LIST] [--before MODULE]"]',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=_sections, default=list(SECTIONS), metavar="SECTIONS",
                        help="of " + ",".join(SECTIONS) + " (default: all)")
    parser.add_argument("--rounds", type=_positive, default=5, help="how many (default: 5)")
    parser.add_argument("--seconds", type=_positive, default=2,
                        help="of load on each Envoy in each round (default: 2)")
    parser.add_argument("--hops", type=_positive, default=400,
                        help="in each round, of each Envoy with a pool (default: 400)")
    parser.add_argument("--rate", type=_positive, default=1000,
                        help="requests per second, for latency (default: 1000)")
    parser.add_argument("--backends", type=_numbers, default=[3, 10, 30], metavar="LIST",
                        help="how many, for start (default: 3,10,30)")
    parser.add_argument("--before", metavar="MODULE",
                        help="another module, such as of the previous version, to compare load with")
    return parser.parse_args()


def _sections(text: str) -> List[str]:
    names = text.split(",")
    unknown = sorted(set(names) - set(SECTIONS))
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}")
    return names


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _numbers(text: str) -> List[int]:
    return [_positive(one) for one in text.split(",")]


def _print_versions() -> None:
    envoy = subprocess.run([os.environ["ENVOY"], "--version"], capture_output=True, text=True,
                           check=True).stdout
    # wrk's -v ends as if it had failed.
    tool = subprocess.run([load.wrk(), "-v"], capture_output=True, text=True, check=False)
    print(f"module  {Path(os.environ['AOAI_WASM']).stat().st_size:,} bytes")
    print(f"Envoy   {envoy.strip().rpartition('version: ')[2]}")
    print(f"load    {(tool.stdout + tool.stderr).splitlines()[0].partition(' [')[0]}")
    print(f"CPU     {cpu_model()}, {os.cpu_count()} cores, "
          f"load average before {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    sys.exit(main())
