"""`make run` shows what it says, with limits and without."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Dict, Iterator, List

import httpx
import pytest

from azure_sim import HANG_LIMIT
from e2e.rendering import NOWHERE, ROOT, at, free_port

CHAT = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
ASK = {"messages": [{"role": "user", "content": "hello"}]}


class Shown:
    """What a run has printed so far."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.lines: List[str] = []
        self._process = process
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)

    def wait_for(self, pattern: str) -> "re.Match[str]":
        deadline = time.monotonic() + HANG_LIMIT
        while True:
            found = re.search(pattern, "".join(self.lines))
            if found:
                return found
            assert self._process.poll() is None and time.monotonic() < deadline, "".join(self.lines)
            time.sleep(0.05)


@contextlib.contextmanager
def run(*options: str, **environment: str) -> Iterator[Shown]:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "run.py"), "--port", "0", *options], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "CONFIG": "", **environment})
    try:
        yield Shown(process)
    finally:
        process.terminate()
        process.wait(timeout=HANG_LIMIT)


@pytest.mark.parametrize("limits, limited", [
    ("", {}), ("local", {"x-aoai-limit-requests": "20", "x-aoai-limit-tokens": "300"}),
    ("ratelimit", {"x-aoai-limit-requests": "20", "x-aoai-limit-tokens": "300"})])
def test_a_run_shows_usage_by_subscription_as_it_grows(limits: str, limited: Dict[str, str]) -> None:
    with run(LIMITS=limits) as shown:
        url = shown.wait_for(r"curl '(http://127\.0\.0\.1:\d+)/openai")[1]
        shown.wait_for("What simulated Azure gets")
        with httpx.Client(base_url=url, headers={"api-key": "aoai_demo"}, trust_env=False,
                          timeout=HANG_LIMIT) as http:
            answer = http.post(CHAT, json=ASK)
            assert answer.status_code == 200
            assert {name: value for name, value in answer.headers.items()
                    if name.startswith("x-aoai-limit-")} == limited
            shown.wait_for(r"used +demo +gpt-4o +requests 1, input 11, cached input 2, output 3\n")
            assert http.post(CHAT.replace("gpt-4o", "nothing"), json=ASK).status_code == 404
            shown.wait_for(r"used +demo +none +refused 1\n")


def test_a_document_of_ones_own_may_have_a_monitoring_listener(tmp_path: Path) -> None:
    document = tmp_path / "gateway.yaml"
    port = free_port()
    document.write_text((ROOT / "envoy" / "example.yaml").read_text() + f"""
listener: {{monitoring: {{address: 127.0.0.1, port: {port}}}}}
""")
    # Where nothing listens, so that no token is fetched from elsewhere.
    away = [f"--identity=127.0.0.1:{NOWHERE}", *(at(name, NOWHERE) for name in ("eastus", "sweden"))]
    with run(*away, "--admin-port", str(free_port()), CONFIG=str(document)) as shown:
        url = shown.wait_for(r"gateway\.yaml is served at (http://127\.0\.0\.1:\d+), ")[1]
        assert httpx.get(f"{url}/", trust_env=False).status_code == 401
        ready = httpx.get(f"http://127.0.0.1:{port}/ready", trust_env=False)
        assert ready.text == "LIVE\n"


def test_unknown_limits_are_a_sentence() -> None:
    with run(LIMITS="redis") as shown:
        shown.wait_for("LIMITS=redis: expected local or ratelimit")
