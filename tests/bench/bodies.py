"""bodies: CPU for a MiB of a request's body that is read, as a multiple of what plain Envoy takes
for the same body.

The bodies are chat requests as openai-python sends them: `messages` first, `model` behind them, so
that the whole body waits until its last bytes are there. Where the URL names the model, the body is
read as it passes, because the subscription has no grant for `data_sources`. Their text is words; that of `code` has
quotes and line breaks too, which JSON escapes. 10 MiB need a larger `listener.body_limit` than the
default; plain Envoy has the same one. Each is measured for half of the seconds of `load`.
"""

from __future__ import annotations

import contextlib
import json
import statistics
from dataclasses import dataclass, replace
from typing import List, Optional, Tuple

from bench import setups, tables
from bench.load import Load, run_in_turn
from bench.session import Session
from bench.setups import BODY_NAMED, URL_NAMED

MIB = 1 << 20
CONNECTIONS = 4
WORDS = "as far as I know these are words and nothing else " * 80
CODE = 'print("as far as I know, \\"this\\" is code")\n' * 90


@dataclass(frozen=True)
class Kind:
    """A size, a text, and the most that a MiB may cost, as a multiple of plain Envoy's: where the
    URL names the model, on one backend and in a pool."""

    name: str
    size: int
    text: str = WORDS
    aims: Tuple[Optional[float], Optional[float], Optional[float]] = (None, None, None)

    def body(self) -> bytes:
        """A chat request of this many bytes, in messages of about 4 KiB and one for the rest."""
        message = {"role": "user", "content": self.text}
        messages = [message] * (self.size // (len(json.dumps(message)) + 2) - 1)
        last = {"role": "user", "content": ""}
        frame = {"messages": [*messages, last], "model": "gpt-4o"}
        last["content"] = "x" * (self.size - len(json.dumps(frame)))
        return json.dumps(frame).encode()


# Those that the default of `listener.body_limit` holds, and those for which it is raised.
SMALL = [Kind("64 KiB", 64 << 10), Kind("1 MiB", MIB, aims=(1.6, 1.6, 2.0)),
         Kind("1 MiB of code", MIB, CODE)]
LARGE = [Kind("10 MiB", 10 * MIB)]
RAISED = {"listener": {"body_limit": "16MiB"}}


def measure(session: Session) -> None:
    session = replace(session, seconds=max(session.seconds // 2, 1))
    print(f"\n{'bodies that are read':<38} {'CPU µs/request':>14} {'µs/MiB':>8} "
          f"{'ratio':>5}  {'least–most':<10} aim")
    for kinds, more in ((SMALL, {}), (LARGE, RAISED)):
        with contextlib.ExitStack() as stack:
            envoys = [(name, stack.enter_context(setups.start(found))) for name, found in (
                ("plain Envoy", setups.plain(setups.one_backend(**more), session.ports)),
                ("gateway", setups.gateway(setups.one_backend(**more), session.ports)),
                ("both stages: pool of 3",
                 setups.gateway(setups.pool_of_three(**more), session.ports)))]
            for kind in kinds:
                body = kind.body()
                loads = [Load(name, envoy, BODY_NAMED, body, CONNECTIONS)
                         for name, envoy in envoys]
                loads.insert(1, Load("gateway, by URL", envoys[1][1], URL_NAMED, body, CONNECTIONS))
                run_in_turn(loads, session)
                _report(kind, loads)


def _report(kind: Kind, loads: List[Load]) -> None:
    for load, aim in zip(loads, (None, *kind.aims)):
        cost = statistics.median(load.costs)
        print(f"{f'{kind.name}: {load.name}':<38} {cost:>14,.1f} {cost * MIB / kind.size:>8,.1f} "
              f"{tables.spread(tables.ratios(load.costs, loads[0].costs))}  "
              f"{tables.aim(aim)}".rstrip(), flush=True)
