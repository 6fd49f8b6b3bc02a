"""What `aoai render envoy` makes of a document, ready to run in front of simulated Azure."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Dict

import yaml

from azure_sim import Resource
from e2e.bootstrap import wasm_module
from e2e.pools import CONNECT_TIMEOUT

Json = Dict[str, Any]
ROOT = Path(__file__).parents[2]
LISTENER = "aoai"


def rendered(document: str, *options: str, stdin: str = "") -> str:
    """The bootstrap of a file, or of what is given to standard input."""
    command = [os.environ["AOAI"], "render", "envoy", document, "--wasm", wasm_module(),
               "--admin-port", "0", *options]
    return subprocess.run(command, cwd=ROOT, input=stdin, stdout=subprocess.PIPE, text=True,
                          check=True).stdout


def bootstrap(document: Json, *options: str) -> Json:
    """The bootstrap of a document, on a port of Envoy's choice."""
    text = rendered("-", "--listener-port", "0", *options, stdin=json.dumps(document))
    found: Json = yaml.safe_load(text)
    for cluster in found["static_resources"]["clusters"]:
        cluster["connect_timeout"] = CONNECT_TIMEOUT
    return found


def at(name: str, port: int, *, tls: bool = False) -> str:
    """The option by which a backend or an identity's cluster is on a port of this machine."""
    return f"--resolve={name}={'https://' if tls else ''}127.0.0.1:{port}"


def resource_at(resource: Resource) -> str:
    """The option by which a resource's backend leads to it."""
    return at(resource.name, resource.port, tls=resource.tls)


def validated(text: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """What `envoy --mode validate` thinks of a bootstrap."""
    path = folder / "envoy.yaml"
    path.write_text(text)
    return subprocess.run([os.environ["ENVOY"], "--mode", "validate", "-c", str(path)],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
