"""The gateway in trouble: what one tenant can do to others, and what a long run of failures does.

Each scenario runs the rendered bootstrap in a real Envoy with two workers, in front of simulated
Azure, and prints figures. Nothing is asserted about time. A violation ends with status 1: a request
at a region that may not be there, a response that is not the request's, a VM or an Envoy that failed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from random import SystemRandom
from types import ModuleType
from typing import Dict

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "azure-sim")]

from chaos import noisy, soak  # noqa: E402

SCENARIOS: Dict[str, ModuleType] = {"neighbour": noisy, "soak": soak}


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/chaos", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    scenarios = parser.add_subparsers(dest="scenario", required=True)
    for name, scenario in SCENARIOS.items():
        one = scenarios.add_parser(name, description=scenario.__doc__, help=(scenario.__doc__ or "").
                                   partition("\n")[0],
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
        one.add_argument("--seconds", type=_positive, default=scenario.SECONDS,
                         help=f"how long it runs (default: {scenario.SECONDS})")
        one.add_argument("--seed", type=int, default=SystemRandom().randrange(1 << 32),
                         help="of all that is random (default: another one each time)")
        scenario.add_options(one)
    arguments = parser.parse_args()
    print(f"{arguments.scenario}: --seconds {arguments.seconds} --seed {arguments.seed}", flush=True)
    violations = SCENARIOS[arguments.scenario].run(arguments)
    for what, times in violations.most_common():
        print(f"VIOLATION, {times} times: {what}")
    return 1 if violations else 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
