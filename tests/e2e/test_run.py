"""`make run` shows what it says, with limits and without."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Dict, Iterator, List, Sequence

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
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

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

    def wait_for_end(self) -> str:
        """All that it has printed."""
        self._process.wait(HANG_LIMIT)
        self._reader.join(HANG_LIMIT)
        return "".join(self.lines)


@contextlib.contextmanager
def run(*more: str, options: Sequence[str] = ("--port", "0"), **environment: str) -> Iterator[Shown]:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "run.py"), *options, *more], stdin=subprocess.DEVNULL,
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
def test_a_run_shows_a_row_for_each_request_and_sums_them_up(
        limits: str, limited: Dict[str, str]) -> None:
    with run(LIMITS=limits) as shown:
        url = shown.wait_for(r"curl '(http://127\.0\.0\.1:\d+)/openai")[1]
        shown.wait_for(r"subscription +model +backend +attempts +status +ms +tokens +why it was refused\n")
        with httpx.Client(base_url=url, headers={"api-key": "aoai_demo"}, trust_env=False,
                          timeout=HANG_LIMIT) as http:
            answer, again = http.post(CHAT, json=ASK), 0
            # On a busy machine the service of limits, or the token, may come too late at first.
            while answer.status_code == 503 and again < 20:
                answer, again = http.post(CHAT, json=ASK), again + 1
            assert answer.status_code == 200
            assert {name: value for name, value in answer.headers.items()
                    if name.startswith("x-aoai-limit-")} == limited
            shown.wait_for(r"\ndemo +gpt-4o +eastus +1 +200 +\d+ +14 +-\n")
            assert http.post(CHAT.replace("gpt-4o", "nothing"), json=ASK).status_code == 404
            shown.wait_for(r"\ndemo +- +- +- +404 +\d+ +- +unknown_model\n")
            assert http.get("/openai/v1/models", headers={"api-key": "wrong"}).status_code == 401
            shown.wait_for(r"\n- +- +- +- +401 +\d+ +- +unknown_key\n")
    text = shown.wait_for_end()
    assert re.search(rf"\nall +{3 + again} +{2 + again} +11 +3 +14\n", text), text
    assert all(len(line) <= 100 for line in text.splitlines() if re.match(r"demo |- ", line)), text


def test_the_call_of_the_official_client_can_be_pasted() -> None:
    with run() as shown:
        shown.wait_for("why it was refused")
        text = "".join(shown.lines)
        script = text.split("python3 - <<'END'\n")[1].split("\nEND\n")[0]
        environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        done = subprocess.run([sys.executable, "-"], input=script, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False, env=environment)
        assert (done.returncode, done.stdout.splitlines()) == (
            0, ["answer from eastus", "answer from sweden"]), done.stdout


def test_a_region_fails_and_comes_back() -> None:
    with run(FAULTS="1") as shown:
        url = shown.wait_for(r"curl '(http://127\.0\.0\.1:\d+)/openai")[1]
        shown.wait_for(r"\neastus +throttles for 15 s: ")
        with httpx.Client(base_url=url, headers={"api-key": "aoai_demo"}, trust_env=False,
                          timeout=HANG_LIMIT) as http:
            answer = http.post(CHAT, json=ASK)
            assert answer.headers["x-aoai-backend"] == "sweden"
            shown.wait_for(r"\ndemo +gpt-4o +sweden +2 +200 ")
            shown.wait_for(r"\neastus +serves again\n")
            deadline = time.monotonic() + HANG_LIMIT
            while http.post(CHAT, json=ASK).headers["x-aoai-backend"] != "eastus":
                assert time.monotonic() < deadline


def test_a_port_that_is_taken_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with run(options=["--port", str(port)]) as shown:
            text = shown.wait_for_end()
    assert f"127.0.0.1:{port} cannot be listened at: Address already in use." in text
    assert "Traceback" not in text


def test_a_port_that_is_no_number_is_a_sentence() -> None:
    with run(options=[], PORT="abc") as shown:
        text = shown.wait_for_end()
    assert "PORT=abc: expected a number from 0 to 65535" in text and "Traceback" not in text


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
