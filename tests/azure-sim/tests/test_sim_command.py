"""`python tests/azure-sim` as people run it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator, List, Tuple

import httpx
import pytest

from azure_sim import HANG_LIMIT

PROGRAM = str(Path(__file__).resolve().parents[1])


@pytest.fixture()
def running(tmp_path: Path) -> Iterator[Tuple["subprocess.Popen[str]", "dict[str, int]"]]:
    file = tmp_path / "ports.json"
    process = subprocess.Popen(
        [sys.executable, PROGRAM, "--resource", "eastus=contoso-eastus.openai.azure.com",
         "--resource", "sweden=contoso-sweden.openai.azure.com:0",
         "--deployment", "eastus/gpt-4o-2024-11-20=gpt-4o", "--ports-file", str(file)],
        stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + HANG_LIMIT
        while not file.exists():
            assert process.poll() is None and time.monotonic() < deadline, "no ports file"
            time.sleep(0.02)
        yield process, json.loads(file.read_text())
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_who_got_what_without_credentials_and_ends_cleanly(
        running: Tuple["subprocess.Popen[str]", "dict[str, int]"], number: signal.Signals) -> None:
    process, ports = running
    assert sorted(ports) == ["eastus", "identity", "sweden"]
    token = httpx.get(
        f"http://127.0.0.1:{ports['identity']}/metadata/identity/oauth2/token",
        params={"api-version": "2018-02-01", "resource": "https://cognitiveservices.azure.com"},
        headers={"metadata": "true"}, timeout=HANG_LIMIT, trust_env=False).json()["access_token"]
    answer = httpx.post(
        f"http://127.0.0.1:{ports['eastus']}/openai/v1/chat/completions?api-key=hunter2",
        headers={"host": "contoso-eastus.openai.azure.com", "authorization": f"Bearer {token}"},
        json={"model": "gpt-4o-2024-11-20", "messages": []}, timeout=HANG_LIMIT,
        trust_env=False)
    assert answer.status_code == 403
    lines: List[str] = []
    assert process.stdout is not None
    while not any(" got POST " in line for line in lines):
        lines.append(process.stdout.readline())
        assert lines[-1], "it ended before it told of the request"
    assert lines[-1].startswith("eastus")
    assert "contoso-eastus.openai.azure.com/openai/v1/chat/completions?api-key=***" in lines[-1]
    assert "token for https://cognitiveservices.azure.com of identity" in lines[-1]
    process.send_signal(number)
    rest, _ = process.communicate(timeout=HANG_LIMIT)
    text = "".join(lines) + rest
    assert token not in text and "hunter2" not in text
    assert process.returncode == 0
