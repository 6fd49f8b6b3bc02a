"""The command line: simulated Azure for people to look at, one printed line per request."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from . import errors
from .answers import Answer
from .endpoint import Endpoint
from .records import RecordedRequest
from .resource import Resource
from .secret import masked
from .sim import AzureSim

DEPLOYMENTS = {"gpt-4o": "gpt-4o", "gpt-4o-mini": "gpt-4o-mini",
               "text-embedding-3-small": "text-embedding-3-small"}


@dataclass(frozen=True)
class ResourceOption:
    name: str
    host: str
    port: int


def main(arguments: Optional[List[str]] = None) -> int:
    """Run until SIGINT or SIGTERM. Returns the process's exit status."""
    options = _parser().parse_args(arguments)
    deployments = _by_resource(options.deployment)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with AzureSim(identity_port=options.identity_port) as sim:
        endpoints = _endpoints(sim, options)
        for endpoint in endpoints if not options.quiet else []:
            endpoint.recorder.listeners.append(partial(_show, endpoint.name))
        sim.identity.lifetime = options.token_lifetime
        sim.app_service.lifetime = sim.entra.lifetime = options.token_lifetime
        for one in options.resource:
            resource = sim.add_resource(
                one.name, host=one.host, port=one.port, tls=options.tls,
                deployments=deployments.get(one.name, DEPLOYMENTS),
            )
            if not options.quiet:
                resource.recorder.listeners.append(partial(_show, one.name))
        ports = {one.name: one.port for one in [*endpoints, *sim.resources.values()]}
        if options.tls and options.entra is not None:
            ports["entra-tls"] = sim.entra_over_tls()
        for name, port in ports.items():
            _print(f"{name:<12} listens on 127.0.0.1:{port}")
        if options.entra is not None:
            application = sim.entra.application
            _print(f"{'entra':<12} knows client {application.client_id} of tenant "
                   f"{application.tenant}")
        if options.tls:
            _print(f"{'tls':<12} is signed by {sim.ca_pem}")
        if options.ports_file is not None:
            _write_ports(options.ports_file, ports)
        resources = list(sim.resources.values())
        if options.faults is None or not resources:
            stop.wait()
        while options.faults is not None and resources and not stop.wait(options.faults):
            _fail(resources[0], options.faults, stop)
    return 0


def _fail(resource: Resource, seconds: float, stop: threading.Event) -> None:
    """Has a resource throttle all requests for a time, and says so."""
    end = time.monotonic() + seconds

    def throttled(_request: RecordedRequest) -> Answer:
        left = max(end - time.monotonic(), 0.001)
        return errors.throttled(int(left) + 1, retry_after_ms=str(int(left * 1000)))
    resource.script.always(throttled)
    _print(f"{resource.name:<12} throttles for {seconds:g} s: its requests get 429")
    stop.wait(seconds)
    resource.script.clear()
    _print(f"{resource.name:<12} serves again")


def _endpoints(sim: AzureSim, options: argparse.Namespace) -> List[Endpoint]:
    """Those that issue tokens and were asked for."""
    endpoints: List[Endpoint] = [sim.identity]
    if options.app_service is not None:
        sim.app_service.identity_header = options.app_service
        endpoints.append(sim.app_service)
    if options.entra is not None:
        sim.entra.application.add_secret(options.entra)
        endpoints.append(sim.entra)
    return endpoints


def _show(name: str, request: RecordedRequest) -> None:
    """Which backend got what, as whom. Never a token, never a key."""
    line = f"{name:<12} got {request.method} {request.host}{masked(request.target)}"
    if request.token is not None:
        line += f"  token for {request.token.aud} of identity {request.token.oid}"
    elif request.header("authorization") is not None:
        line += "  an Authorization header that is no token"
    if request.header("api-key") is not None:
        line += "  AN API KEY LEAKED THROUGH"
    _print(line)


def _print(line: str) -> None:
    # A line is one line, whatever a client put into its request.
    print("".join(one if one.isprintable() else "?" for one in line), flush=True)


def _write_ports(path: Path, ports: Dict[str, int]) -> None:
    """Whole or not at all: who waits for the file never reads half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(ports) + "\n")
    os.replace(partial, path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="azure-sim", description="Simulated Azure: identity endpoints and Azure OpenAI "
        "resources on 127.0.0.1. Prints one line for each request it gets.")
    parser.add_argument("--identity-port", type=int, default=0, metavar="PORT",
                        help="port of the identity endpoint; 0, the default, chooses one")
    parser.add_argument("--resource", type=_resource, action="append", default=[],
                        metavar="NAME=HOST[:PORT]", help="a resource, its custom subdomain and the "
                        "port it listens on; may be repeated")
    parser.add_argument("--deployment", type=_deployment, action="append", default=[],
                        metavar="RESOURCE/DEPLOYMENT[=MODEL]", help="a deployment of a resource; a "
                        f"resource without any has {', '.join(DEPLOYMENTS)}")
    parser.add_argument("--app-service", metavar="HEADER", help="the identity endpoint of App "
                        "Service too, which wants this X-IDENTITY-HEADER")
    parser.add_argument("--entra", metavar="SECRET", help="the token endpoint of Entra ID too, "
                        "with an application that has this secret; with --tls over TLS besides")
    parser.add_argument("--token-lifetime", type=float, default=3600.0, metavar="SECONDS")
    parser.add_argument("--tls", action="store_true", help="the resources speak TLS, signed by an "
                        "authority made for this run")
    parser.add_argument("--faults", type=float, metavar="SECONDS", help="the first resource throttles "
                        "all requests for so long, and then serves for so long, in turn")
    parser.add_argument("--quiet", action="store_true", help="print no line for each request")
    parser.add_argument("--ports-file", type=Path, metavar="FILE",
                        help="write the ports here as JSON once everything listens")
    return parser


def _resource(text: str) -> ResourceOption:
    name, equals, address = text.partition("=")
    host, _, port = address.partition(":")
    if not (name and equals and host and (port or "0").isdigit()):
        raise argparse.ArgumentTypeError(f'"{text}" is not NAME=HOST or NAME=HOST:PORT')
    return ResourceOption(name, host, int(port or "0"))


def _deployment(text: str) -> Tuple[str, str, str]:
    resource, slash, rest = text.partition("/")
    deployment, _, model = rest.partition("=")
    if not (resource and slash and deployment):
        raise argparse.ArgumentTypeError(f'"{text}" is not RESOURCE/DEPLOYMENT or …=MODEL')
    return resource, deployment, model or deployment


def _by_resource(options: List[Tuple[str, str, str]]) -> Dict[str, Dict[str, str]]:
    result: Dict[str, Dict[str, str]] = {}
    for resource, deployment, model in options:
        result.setdefault(resource, {})[deployment] = model
    return result


if __name__ == "__main__":
    sys.exit(main())
