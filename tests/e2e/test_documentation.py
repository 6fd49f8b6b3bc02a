"""Every example of commands in the documentation runs, and every target of make that it names is there.

`aoai` is the real tool, and Envoy validates what is rendered. What belongs to a cluster or a registry (kubectl, crane, …)
is a stand-in that reads what it gets; make does a dry run. Paths of the machine are in the test's directory, and the
doctor finds simulated Azure."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest
import yaml

from azure_sim import HANG_LIMIT, AzureSim
from e2e.rendering import ROOT

DOCUMENTS = ["README.md", "envoy/README.md", "envoy/clients.md", "envoy/operation.md", "envoy/troubleshooting.md",
             "tests/README.md"]
# What is there on a user's machine, and must not be written to here.
DIRECTORIES = ["/etc/aoai", "/etc/envoy", "/tmp/", "/srv/"]

STAND_INS = {
    "aoai": 'case "$1" in doctor) exec "$AOAI" "$@" $AT_SIMULATED_AZURE;; *) exec "$AOAI" "$@";; esac',
    "envoy": 'exec "$ENVOY" --mode validate --log-level error "$@"',
    "func-e": 'shift; exec "$ENVOY" --mode validate --log-level error "$@"',
    "make": 'exec /usr/bin/env -u MAKEFLAGS "$MAKE" --directory "$ROOT" --dry-run --no-print-directory "$@" >/dev/null',
    # Resources come as YAML.
    "kubectl": """case " $* " in
      *" logs "*) cat "$HERE/access.log";;
      *" -f - "*) "$PYTHON" -c 'import sys, yaml; assert all(one["kind"] for one in yaml.safe_load_all(sys.stdin) if one)';;
      esac""",
    "curl": 'case " $* " in *" https://ai.example.com/"*);; *) exit 1;; esac',
    "pip": 'test -r "$ROOT/$3"',
    "python": 'case "$*" in *" -n auto"*|*pytest*|*--help*);; *) exit 1;; esac',
}

LINE = ('{"time": "2026-11-27T08:00:00.000Z", "subscription": "search-team", "model": "gpt-4o", "operation": '
        '"chat/completions", "backend": "eastus", "attempts": "1", "status": 200, "reason": null, "diagnosis": null, '
        '"tokens": "21", "input_tokens": "9", "output_tokens": "12", "duration_ms": 812, "first_byte_ms": 790, '
        '"request_bytes": 45, "response_bytes": 489, "flags": "-", "caller": "10.1.2.3"}\n')


def blocks(document: str) -> Iterator[Tuple[str, str]]:
    """The examples, each with its language."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", (ROOT / document).read_text(), re.M | re.S):
        yield match[1], match[2]


def commands() -> List[Any]:
    return [pytest.param(text, id=f"{document}-{number}") for document in DOCUMENTS
            for number, (language, text) in enumerate(blocks(document), 1) if language in ("", "sh")]


def example() -> Dict[str, Any]:
    """The README's document, with what else its commands render."""
    [text] = [text for language, text in blocks("README.md")
              if language == "yaml" and text.startswith("identity:") and "subscriptions:" in text]
    return {**yaml.safe_load(text), "limits": {"store": "ratelimit"}, "istio": {"module": "/aoai.wasm"},
            "envoy_gateway": {"module": "/aoai.wasm"}}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with what the examples read."""
    for name in ("gateway.yaml", "old.yaml", "new.yaml"):
        (tmp_path / name).write_text(yaml.safe_dump(example()))
    (tmp_path / "error.txt").write_text("Resource Id is badly formed: NA")
    (tmp_path / "access.log").write_text(LINE)
    (tmp_path / "key").write_text("a-key-of-somebody")
    (tmp_path / "envoy").symlink_to(ROOT / "envoy")
    (tmp_path / "dist").symlink_to(ROOT / "dist")
    for directory in DIRECTORIES:
        (tmp_path / directory.strip("/")).mkdir(parents=True, exist_ok=True)
    (tmp_path / "srv/runtime_data/current/config").mkdir(parents=True)
    for directory in ("etc/envoy", "etc/aoai"):
        shutil.copy(os.environ["AOAI_WASM"], tmp_path / directory / "aoai_filter.wasm")
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    for name, text in STAND_INS.items():
        (stand_ins / name).write_text(f"#!/bin/sh\n{text}\n")
        (stand_ins / name).chmod(stat.S_IRWXU)
    return tmp_path


@pytest.mark.parametrize("text", commands())
def test_an_example_of_commands_runs(azure: AzureSim, here: Path, text: str) -> None:
    resource = azure.add_resource("eastus", host="contoso-eastus.openai.azure.com",
                                  deployments={"gpt-4o-2024-11-20": "gpt-4o"})
    text = re.sub("|".join(DIRECTORIES), lambda directory: f"{here}{directory[0]}", text)
    environment = {
        "PATH": f"{here / 'bin'}:/usr/bin:/bin", "HOME": str(here), "HERE": str(here), "ROOT": str(ROOT),
        "AOAI": os.environ["AOAI"], "ENVOY": os.environ["ENVOY"], "PYTHON": sys.executable,
        "MAKE": shutil.which("make") or "make", "KEY": "a-key", "IDENTITY_ENDPOINT": "http://localhost:1/msi/token",
        "IDENTITY_HEADER": "a-header",
        "AT_SIMULATED_AZURE": f"--resolve=eastus=127.0.0.1:{resource.port} "
                              f"--identity-endpoint=http://127.0.0.1:{azure.identity.port}"}
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=here, env=environment, text=True,
                          capture_output=True, timeout=HANG_LIMIT, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


def test_there_are_examples_of_commands_for_every_reader() -> None:
    assert len(commands()) >= 15
    documents = {param.id.rsplit("-", 1)[0] for param in commands()}
    assert {"README.md", "envoy/README.md", "envoy/operation.md", "tests/README.md"} <= documents


def test_every_target_of_make_that_is_named_is_there() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M))
    named = {name for document in DOCUMENTS for name in re.findall(r"`make ([a-z][\w-]*)", (ROOT / document).read_text())}
    assert len(named) > 10
    assert named <= targets
