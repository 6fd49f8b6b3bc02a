"""Istio's own tool finds nothing wrong with what the repository shows."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from e2e.rendering import ROOT

RENDERED = sorted((ROOT / "envoy" / "istio").glob("*.istio.yaml"))


def istioctl(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([os.environ["ISTIOCTL"], *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)


@pytest.mark.parametrize("path", RENDERED, ids=[path.stem for path in RENDERED])
def test_istioctl_validates_what_is_rendered(path: Path) -> None:
    done = istioctl("validate", "-f", str(path))
    # What it says of every EnvoyFilter.
    of_all = "EnvoyFilter exposes internal implementation details"
    warnings = [line for line in done.stdout.splitlines() if "* " in line and of_all not in line]
    assert (done.returncode, warnings) == (0, []), done.stdout


@pytest.mark.parametrize("path", RENDERED, ids=[path.stem for path in RENDERED])
def test_istioctl_analyses_what_is_rendered(path: Path) -> None:
    # It knows the pods, services and secrets of a cluster only, which is not here.
    done = istioctl("analyze", "--use-kube=false", "--suppress", "IST0101=*", "--suppress", "IST0127=*", str(path))
    assert done.returncode == 0, done.stdout


def test_istioctl_refuses_a_wrong_one(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(RENDERED[0].read_text().replace("applyTo: CLUSTER", "applyTo: CLUSTERS"))
    assert istioctl("validate", "-f", str(wrong)).returncode != 0
