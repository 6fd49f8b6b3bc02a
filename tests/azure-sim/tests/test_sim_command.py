"""`python tests/azure-sim` as people run it."""

from __future__ import annotations

import contextlib
import json
import re
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


@contextlib.contextmanager
def program(file: Path, *options: str
            ) -> Iterator[Tuple["subprocess.Popen[str]", "dict[str, int]"]]:
    process = subprocess.Popen([sys.executable, PROGRAM, *options, "--ports-file", str(file)],
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


@pytest.fixture()
def running(tmp_path: Path) -> Iterator[Tuple["subprocess.Popen[str]", "dict[str, int]"]]:
    with program(tmp_path / "ports.json", "--resource", "eastus=contoso-eastus.openai.azure.com",
                 "--resource", "sweden=contoso-sweden.openai.azure.com:0",
                 "--deployment", "eastus/gpt-4o-2024-11-20=gpt-4o") as found:
        yield found


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


def test_the_other_endpoints_are_there_when_asked_for(tmp_path: Path) -> None:
    with program(tmp_path / "ports.json", "--app-service", "the-header", "--entra", "the-secret",
                 "--tls") as (process, ports):
        assert sorted(ports) == ["app-service", "entra", "entra-tls", "identity"]
        token = httpx.get(
            f"http://127.0.0.1:{ports['app-service']}/msi/token", trust_env=False,
            params={"api-version": "2019-08-01", "resource": "https://cognitiveservices.azure.com"},
            headers={"x-identity-header": "the-header"})
        assert token.status_code == 200
        assert process.stdout is not None
        lines: List[str] = []
        while not any(" knows client " in line for line in lines):
            lines.append(process.stdout.readline())
            assert lines[-1], "it ended before it told of the application"
        [client, tenant] = re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", lines[-1])
        granted = httpx.post(
            f"http://127.0.0.1:{ports['entra']}/{tenant}/oauth2/v2.0/token", trust_env=False,
            headers={"host": "login.microsoftonline.com"},
            data={"client_id": client, "client_secret": "the-secret",
                  "grant_type": "client_credentials",
                  "scope": "https://cognitiveservices.azure.com/.default"})
        assert granted.status_code == 200
        process.send_signal(signal.SIGTERM)
        text = "".join(lines) + process.stdout.read()
    assert "the-secret" not in text and "the-header" not in text
    assert "app-service  got GET" in text and "entra        got POST" in text
