"""usage: how long `aoai usage` (a release build) takes for a million lines of an access log. The lines are of 100
subscriptions, 5 models, 5 backends and 30 days.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any, Dict

from bench.session import Session
from e2e.rendering import ROOT

LINES = 1_000_000
# As many different lines as are written again and again.
DIFFERENT = 3_000


def measure(session: Session) -> None:
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", "--bin", "aoai"], cwd=ROOT, check=True)
    log = session.folder / "access.log"
    _write(log)
    print(f"\n{'aoai usage':<38} {'lines':>10} {'MB':>5} {'seconds':>8} {'lines/s':>10}")
    for by in ("day,subscription,model", "subscription"):
        table = session.folder / "usage.csv"
        begin = time.monotonic()
        with table.open("w") as output:
            subprocess.run([str(ROOT / "target" / "release" / "aoai"), "usage", str(log), "--by", by,
                            "--format", "csv"], stdout=output, check=True)
        seconds = time.monotonic() - begin
        counted = sum(int(line.split(",")[by.count(",") + 1]) for line in table.read_text().splitlines()[1:])
        if counted != LINES:
            raise SystemExit(f"aoai usage counted {counted} of {LINES} lines")
        print(f"{'--by ' + by:<38} {LINES:>10,} {log.stat().st_size / 1e6:>5.0f} {seconds:>8.2f} "
              f"{LINES / seconds:>10,.0f}")


def _write(log: Path) -> None:
    lines = [json.dumps(_line(number)) + "\n" for number in range(DIFFERENT)]
    with log.open("w") as file:
        for begin in range(0, LINES, DIFFERENT):
            file.writelines(lines[:LINES - begin])


def _line(number: int) -> Dict[str, Any]:
    """A line as `aoai render envoy` has Envoy write it."""
    return {"time": f"2026-11-{number % 30 + 1:02}T08:00:00.000Z", "subscription": f"team-{number % 100}",
            "model": f"gpt-{number % 5}", "operation": "chat/completions", "backend": f"region-{number % 5}",
            "attempts": "1", "status": 200, "reason": None, "diagnosis": None, "tokens": "21", "input_tokens": "9",
            "output_tokens": "12", "duration_ms": 812, "first_byte_ms": 790, "request_bytes": 45,
            "response_bytes": 489, "flags": "-", "caller": "10.1.2.3"}
