"""What `aoai render envoy` makes of a document, ready to run in front of simulated Azure."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import urlsplit

import yaml

from azure_sim import AzureSim, Resource
from e2e.edits import CLUSTERS, LISTENERS, MANAGER, OUR_LISTENER, Edit, add, only, put, remove

Json = Dict[str, Any]
ROOT = Path(__file__).parents[2]
# What Envoy calls the gateway's listener.
LISTENER = "aoai"
# With the TLS handshake, by a simulation that has little of a busy machine.
CONNECT_TIMEOUT = "60s"
# Connections that may wait to be accepted: as many as a test makes at once, and more.
BACKLOG = 1024
# A port of this machine on which nothing listens, for backends that are not simulated.
NOWHERE = 1
# The same in C, where PyYAML was built with it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def wasm_module() -> str:
    """The module under test, from the environment variable AOAI_WASM."""
    path = os.environ.get("AOAI_WASM", "")
    if not Path(path).is_file():
        raise RuntimeError("AOAI_WASM must name the built module (make wasm)")
    return str(Path(path).resolve())


def rendered(document: str, *options: str, stdin: str = "") -> str:
    """The bootstrap of a file, or of what is given to standard input."""
    defaults = {"--admin-port": "0", "--wasm": wasm_module()}
    missing = [part for name, value in defaults.items() if name not in options
               for part in (name, value)]
    command = [os.environ["AOAI"], "render", "envoy", document, *missing, *options]
    done = subprocess.run(command, cwd=ROOT, input=stdin, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bootstrap(document: Json, *options: str) -> Json:
    """The bootstrap of a document, on a port of Envoy's choice, for a machine that may be busy."""
    text = rendered("-", "--listener-port", "0", *options, stdin=json.dumps(document))
    # What YAML repeats by reference is a copy of its own here: an edit changes one place.
    found: Json = json.loads(json.dumps(yaml.load(text, Loader=_LOADER)))
    put(f"{CLUSTERS}[*].connect_timeout", CONNECT_TIMEOUT)(found)
    put(f"{OUR_LISTENER}.tcp_backlog_size", BACKLOG)(found)
    # A line for each request would hide the rest of a failed test, unless the document asks for it.
    if "access_log" not in document.get("listener", {}):
        remove(f"{MANAGER}.access_log")(found)
    return found


def in_front_of(sim: AzureSim, document: Json, edits: Sequence[Edit] = (),
                options: Sequence[str] = ()) -> Json:
    """The bootstrap of a document, edited, in front of simulated Azure."""
    found = bootstrap(document, *options_for(sim, document), *options)
    for edit in edits:
        edit(found)
    return found


def options_for(sim: AzureSim, document: Json) -> List[str]:
    """The options with which all backends of a document, and the identities that they sign in with,
    are at simulated Azure. A backend's resource is that of its endpoint's host, or of its name."""
    options = {"--ca": str(sim.ca_pem)}
    resolved: Dict[str, str] = {}
    for kind, fields in _sign_ins(document):
        cluster = fields["cluster"]
        if kind == "managed_identity":
            options["--identity"] = f"127.0.0.1:{sim.identity.port}"
        elif kind == "app_service":
            resolved[cluster] = at(cluster, sim.app_service.port)
        else:
            resolved[cluster] = at(cluster, sim.entra_over_tls(), tls=True)
    for backend in document["backends"]:
        name, resource = backend["name"], _resource(sim, backend)
        resolved[name] = (at(name, NOWHERE) if resource is None
                          else at(name, resource.port, tls=resource.tls))
    return [*(f"{name}={value}" for name, value in options.items()), *resolved.values()]


def options_for_both(sim: AzureSim, document: Json, other: Optional[Json]) -> List[str]:
    """The same, and for the backends of another document, where there is one."""
    known = {one["name"] for one in document["backends"]}
    others = [one for one in (other or document)["backends"] if one["name"] not in known]
    return options_for(sim, {**document, "backends": [*document["backends"], *others]})


def resources(kind: str, sim: AzureSim, document: Json, *options: str,
              clusters_of: Optional[Json] = None) -> str:
    """The resources of a document in front of simulated Azure, for a control plane: istio or envoy-gateway."""
    given = [*options_for_both(sim, document, clusters_of), *options]
    with contextlib.ExitStack() as stack:
        if clusters_of is not None:
            file = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".json"))
            json.dump(clusters_of, file)
            file.flush()
            given += ["--clusters-of", file.name]
        command = [os.environ["AOAI"], "render", kind, "-", *given]
        done = subprocess.run(command, input=json.dumps(document), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _sign_ins(document: Json) -> List[Tuple[str, Json]]:
    """Kind and fields of each identity that some backend signs in with."""
    identities = {"default": document.get("identity"), **document.get("identities", {})}
    used = {backend.get("identity", "default") for backend in document["backends"]}
    return [(kind, fields) for name in sorted(used) for kind, fields in identities[name].items()
            if isinstance(fields, dict)]


def _resource(sim: AzureSim, backend: Json) -> Optional[Resource]:
    host = urlsplit(backend["endpoint"]).hostname
    by_host = (one for one in sim.resources.values() if host in one.hosts)
    return next(by_host, sim.resources.get(backend["name"]))


def more_listeners(sim: AzureSim, documents: Mapping[str, Json]) -> Edit:
    """A further listener for each of these documents, by name: several gateways in one Envoy, so that
    what they wait for passes at the same time. They use the clusters that are there."""
    def edit(tree: Json) -> None:
        for name, document in documents.items():
            listener = only(in_front_of(sim, document), OUR_LISTENER)
            add(LISTENERS, {**listener, "name": name})(tree)
    return edit


def at(name: str, port: int, *, tls: bool = False) -> str:
    """The option by which a backend or an identity's cluster is on a port of this machine."""
    return f"--resolve={name}={'https://' if tls else ''}127.0.0.1:{port}"


def free_port() -> int:
    """A port of this machine that is free, for what cannot choose one by itself. No other test gets it: neither
    from here, nor from the system, which chooses others. Two that get one port would not notice: Envoy and
    ratelimit share ports (SO_REUSEPORT)."""
    while True:
        port = next(_PORTS)
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port


def _ports() -> Iterator[int]:
    """Below those that systems choose from; a thousand for each process of a run."""
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    first = 15_000 + process % 15 * 1000
    return itertools.cycle(range(first, first + 1000))


_PORTS = _ports()


def resource_at(resource: Resource) -> str:
    """The option by which a resource's backend leads to it."""
    return at(resource.name, resource.port, tls=resource.tls)


def validated(text: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """What `envoy --mode validate` thinks of a bootstrap."""
    path = folder / "envoy.yaml"
    path.write_text(text)
    return subprocess.run([os.environ["ENVOY"], "--mode", "validate", "-c", str(path)],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
