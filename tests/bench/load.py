"""Requests per second and CPU for a request, under the load of wrk."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import List, Tuple

from bench.setups import BODY, KEY
from e2e.envoy import Envoy

CONNECTIONS = 32


@dataclass
class Load:
    """An Envoy under load; one figure for each round."""

    name: str
    path: str
    envoy: Envoy
    core: int
    rates: List[float] = field(default_factory=list)
    costs: List[float] = field(default_factory=list)

    def measure(self, folder: Path, seconds: int) -> None:
        before = cpu_seconds(self.envoy.pid)
        requests, rate = self.run(folder, seconds)
        self.rates.append(rate)
        self.costs.append((cpu_seconds(self.envoy.pid) - before) * 1e6 / requests)

    def run(self, folder: Path, seconds: int) -> Tuple[int, float]:
        """How many requests there were, and how many in a second. Fails if any of them did."""
        script = folder / "request.lua"
        script.write_text(
            f'wrk.method = "POST"\nwrk.body = [==[{BODY}]==]\n'
            f'wrk.headers["content-type"] = "application/json"\n'
            f'wrk.headers["api-key"] = "{KEY}"\n')
        command = ["taskset", "-c", str(self.core), wrk(), "--threads", "1", "--connections",
                   str(CONNECTIONS), "--duration", f"{seconds}s", "--script", str(script),
                   f"http://127.0.0.1:{self.envoy.port()}{self.path}"]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        if "Non-2xx" in text or "Socket errors" in text:
            raise SystemExit(
                f"{self.name}: requests failed\n{text}\n{self.envoy.log_for_people()}")
        found = re.search(r"(\d+) requests in", text)
        rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
        assert found and rate, text
        return int(found.group(1)), float(rate.group(1))


def wrk() -> str:
    path = shutil.which("wrk")
    if path is None:
        raise SystemExit("wrk is missing (make bench installs it)")
    return path


def cpu_seconds(pid: int) -> float:
    """The process's user and system time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pin(pid: int, core: int) -> None:
    """Every thread of a process to one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})
