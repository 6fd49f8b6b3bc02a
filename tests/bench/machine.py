"""What the machine tells about a process, and which cores it runs on."""

from __future__ import annotations

import os
import re
from pathlib import Path

MEASURED_CORE, LOAD_CORE = 0, 1


def has_cores() -> bool:
    return (hasattr(os, "sched_setaffinity")
            and {MEASURED_CORE, LOAD_CORE} <= os.sched_getaffinity(0))


def pin(pid: int, *cores: int) -> None:
    """Every thread of a process to these cores."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


def cpu_seconds(pid: int) -> float:
    """The process's user and system time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """The process's resident memory, in MB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found, "VmRSS is missing"
    return int(found.group(1)) * 1024 / 1e6


def cpu_model() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found.group(1) if found else "unknown"
