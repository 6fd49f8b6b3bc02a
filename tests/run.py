"""What `make run` runs: Envoy with the bootstrap that `aoai render envoy` makes.

Without CONFIG that is of envoy/example.yaml, in front of simulated Azure, whose ports are the system's
choice; with LIMITS its subscription has limits, kept by Envoy or by envoyproxy/ratelimit. With CONFIG it is of that document, in front of real Azure. The listener's port is PORT.
Everything ends with Ctrl-C, or when a part of it ends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests" / "azure-sim"))
EXAMPLE = ROOT / "envoy" / "example.yaml"
LIMITS = {"requests_per_minute": 20, "tokens_per_minute": 300}
QUOTA = {"quota": {"tokens": 1000, "period": "hour"}}
LIMIT_CLUSTER = "aoai-limits"
# Of requests, as people call them; all others are refused. Lists of models are not shown.
OUTCOMES = {"forwarded": "requests", "abandoned": "requests", "models_listed": ""}
KEY = "aoai_demo"
LISTENER = "aoai"
START_DEADLINE = 60.0

CALLS = """\
A chat completion, as Azure's own clients call it:

  curl '{url}/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21' \\
    -H 'api-key: {key}' -H 'content-type: application/json' \\
    -d '{{"messages":[{{"role":"user","content":"hello"}}]}}'

The same by the v1 API, streamed:

  curl -N {url}/openai/v1/chat/completions \\
    -H 'authorization: Bearer {key}' -H 'content-type: application/json' \\
    -d '{{"model":"gpt-4o","stream":true,"messages":[{{"role":"user","content":"hello"}}]}}'

With the official client (pip install openai):

  python3 - <<'END'
  from openai import AzureOpenAI, OpenAI
  hello = [{{"role": "user", "content": "hello"}}]
  azure = AzureOpenAI(azure_endpoint="{url}", api_key="{key}", api_version="2024-10-21")
  print(azure.chat.completions.create(model="gpt-4o", messages=hello).choices[0].message.content)
  v1 = OpenAI(base_url="{url}/openai/v1/", api_key="{key}")
  print(v1.chat.completions.create(model="gpt-4o-mini", messages=hello).choices[0].message.content)
  END

A key that nobody has:

  curl -i {url}/openai/v1/models -H 'api-key: wrong'

Metrics: curl -s {admin}/stats/prometheus | grep aoai_

{limits}What simulated Azure gets, and what each subscription has used so far (Ctrl-C ends everything):"""

LIMITED = """\
The subscription may make 20 requests and use 300 tokens a minute{quota}, {where}:

  for i in $(seq 25); do curl -s -o /dev/null -w '%{{http_code}} %header{{x-aoai-reason}}\\n' \\
    '{url}/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21' -H 'api-key: {key}' \\
    -H 'content-type: application/json' -d '{{"messages":[{{"role":"user","content":"hello"}}]}}'; done

"""

OWN_CALLS = """\
{config} is served at {url}, in front of Azure itself.

  curl {insecure}{url}/openai/v1/models -H "api-key: $KEY"

Metrics: curl -s {admin}/stats/prometheus | grep aoai_
Envoy's log follows (Ctrl-C ends everything):"""


class Failed(Exception):
    """Something did not start; the message says what and shows why."""


def main() -> int:
    arguments, render = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aoai-run-")))
            if arguments.config:
                _run_own(stack, folder, arguments, render)
            else:
                _run_example(stack, folder, arguments, render)
    except Failed as failed:
        print(failed, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
    return 0


def _run_example(stack: contextlib.ExitStack, folder: Path, arguments: argparse.Namespace,
                 render: List[str]) -> None:
    document = yaml.safe_load(EXAMPLE.read_text())
    hosts = {one["name"]: one["endpoint"].removeprefix("https://") for one in document["backends"]}
    azure, ports = stack.enter_context(_simulated_azure(folder, hosts))
    identity = ports.pop("identity")
    options = [*_listening(arguments), "--identity", f"127.0.0.1:{identity}"]
    for name, port in ports.items():
        options += ["--resolve", f"{name}=127.0.0.1:{port}"]
    log = folder / "envoy.log"
    source = EXAMPLE
    if arguments.limits:
        source = folder / "gateway.json"
        options += _limit(stack, document, arguments.limits)
        source.write_text(json.dumps(document))
    bootstrap = _rendered(source, arguments, [*options, *render])
    envoy, admin = stack.enter_context(_envoy(folder, bootstrap, log))
    url = _listener(admin)
    limits = LIMITED.format(url=url, key=KEY, **WHERE[arguments.limits]) if arguments.limits else ""
    print(CALLS.format(url=url, admin=admin, key=KEY, limits=limits), flush=True)
    usage: Dict[str, str] = {}
    while azure.poll() is None and envoy.poll() is None:
        time.sleep(0.5)
        with contextlib.suppress(OSError):
            usage = _show_changes(usage, _usage(_fetch(f"{admin}/stats/prometheus").decode()))
    raise Failed("Envoy ended:\n" + log.read_text() if envoy.poll() is not None
                 else "simulated Azure ended")


WHERE = {
    "local": {"quota": "", "where": "counted by this Envoy"},
    "ratelimit": {"quota": ", and 1000 tokens an hour",
                  "where": "counted by envoyproxy/ratelimit in Redis for all proxies together"},
}


def _limit(stack: contextlib.ExitStack, document: Dict[str, Any], store: str) -> List[str]:
    """Gives the document's subscription limits, and what keeps them. Options of the renderer."""
    limits = dict(LIMITS)
    document["subscriptions"][0]["limits"] = limits
    document["limits"] = {"store": store}
    if store == "local":
        return []
    from e2e.limit_service import LimitService
    limits.update(QUOTA)
    service = stack.enter_context(LimitService(document))
    return ["--resolve", f"{LIMIT_CLUSTER}=127.0.0.1:{service.port}"]


def _usage(metrics: str) -> Dict[str, str]:
    """What each subscription has used, by subscription and model, from Envoy's metrics."""
    found: Dict[Tuple[str, str], Dict[str, int]] = {}
    for name, labels, count in re.findall(r"^\w*?(aoai_(?:requests|tokens)_total)\{(.*)\} (\d+)$", metrics,
                                          re.MULTILINE):
        of = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        kind = of.get("type") or OUTCOMES.get(of["outcome"], "refused")
        sums = found.setdefault((of["subscription"], of["model"]), {})
        sums[kind] = sums.get(kind, 0) + int(count)
    return {f"{subscription:<12} {model:<22}": ", ".join(
        f"{kind.replace('_', ' ')} {sums[kind]}" for kind in
        ("requests", "refused", "input", "cached_input", "output", "reasoning") if sums.get(kind))
        for (subscription, model), sums in found.items()}


def _show_changes(before: Dict[str, str], now: Dict[str, str]) -> Dict[str, str]:
    for whose, used in now.items():
        if used and used != before.get(whose):
            print(f"{'used':<12} {whose} {used}", flush=True)
    return now


def _run_own(stack: contextlib.ExitStack, folder: Path, arguments: argparse.Namespace,
             render: List[str]) -> None:
    options = _listening(arguments)
    authorities = ssl.get_default_verify_paths().cafile
    if authorities:
        options += ["--ca", authorities]
    bootstrap = _rendered(Path(arguments.config), arguments, [*options, *render])
    log = folder / "envoy.log"
    envoy, admin = stack.enter_context(_envoy(folder, bootstrap, log))
    url = _listener(admin)
    insecure = "--insecure " if url.startswith("https:") else ""
    print(OWN_CALLS.format(config=arguments.config, url=url, admin=admin, insecure=insecure),
          flush=True)
    with log.open() as lines:
        while envoy.poll() is None:
            print(lines.read(), end="", flush=True)
            time.sleep(0.2)
        raise Failed(lines.read() + "Envoy ended")


def _arguments() -> Tuple[argparse.Namespace, List[str]]:
    parser = argparse.ArgumentParser(
        prog="make run", description="Envoy with the module, in front of simulated Azure or of "
        "your own. Other options go to aoai render envoy: --identity, --ca, --resolve.")
    parser.add_argument("--config", default=os.environ.get("CONFIG"),
                        help="a document of your own (default: CONFIG, or the example)")
    parser.add_argument("--port", type=int, default=_port(),
                        help="of the listener; 0 chooses one (default: PORT, or the document's)")
    parser.add_argument("--limits", default=os.environ.get("LIMITS") or None, choices=sorted(WHERE),
                        help="limits for the example's subscription, and where they are counted "
                        "(default: LIMITS, or no limits)")
    parser.add_argument("--admin-port", type=int,
                        help="of Envoy's admin interface (default: one that is free)")
    arguments, render = parser.parse_known_args()
    if arguments.limits and arguments.limits not in WHERE:
        parser.error(f"LIMITS={arguments.limits}: expected {' or '.join(sorted(WHERE))}")
    if arguments.limits and arguments.config:
        parser.error("LIMITS is for the example: a document of your own says what its limits are")
    if arguments.admin_port is None:
        # Envoy chooses one, unless a document's monitoring listener has to know it.
        arguments.admin_port = _free_port() if arguments.config else 0
    return arguments, render


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _port() -> Optional[int]:
    return int(os.environ["PORT"]) if os.environ.get("PORT") else None


def _listening(arguments: argparse.Namespace) -> List[str]:
    return [] if arguments.port is None else ["--listener-port", str(arguments.port)]


def _rendered(document: Path, arguments: argparse.Namespace, options: Sequence[str]) -> str:
    """The bootstrap. What is wrong with the document is told by the tool."""
    command = [os.environ["AOAI"], "render", "envoy", str(document), "--wasm",
               os.environ["AOAI_WASM"], "--admin-port", str(arguments.admin_port), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        return done.stdout
    raise Failed(done.stdout.rstrip() or "the document cannot be rendered")


@contextlib.contextmanager
def _simulated_azure(folder: Path, hosts: Dict[str, str]) -> Iterator[Any]:
    found = folder / "ports.json"
    command = [sys.executable, str(ROOT / "tests" / "azure-sim"), "--ports-file", str(found)]
    for name, host in hosts.items():
        command += ["--resource", f"{name}={host}"]
    with _child(command) as process:
        _wait_until(process, found.exists, "simulated Azure did not start")
        yield process, json.loads(found.read_text())


@contextlib.contextmanager
def _envoy(folder: Path, bootstrap: str, log: Path) -> Iterator[Any]:
    written = folder / "envoy.yaml"
    written.write_text(bootstrap)
    admin_file = folder / "admin"
    command = [os.environ["ENVOY"], "-c", str(written), "--use-dynamic-base-id", "--log-path",
               str(log), "--log-level", "warning", "--component-log-level", "wasm:info",
               "--admin-address-path", str(admin_file)]
    with _child(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT) as process:
        def ready() -> bool:
            if not admin_file.exists():
                return False
            with contextlib.suppress(urllib.error.URLError, OSError):
                return bool(_fetch(f"http://{admin_file.read_text()}/ready"))
            return False
        try:
            _wait_until(process, ready, "Envoy did not start")
        except Failed as failed:
            text = log.read_text() if log.exists() else ""
            raise Failed(f"{failed}. Its log:\n{text}") from None
        yield process, f"http://{admin_file.read_text()}"


@contextlib.contextmanager
def _child(command: List[str], **how: Any) -> Iterator["subprocess.Popen[bytes]"]:
    # A session of its own, so that Ctrl-C comes here first and the children end in order.
    process = subprocess.Popen(command, start_new_session=True, **how)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until(process: "subprocess.Popen[bytes]", condition: Any, otherwise: str) -> None:
    deadline = time.monotonic() + START_DEADLINE
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise Failed(otherwise)
        time.sleep(0.05)


def _listener(admin: str) -> str:
    """Where this machine reaches the listener."""
    listeners = json.loads(_fetch(f"{admin}/listeners?format=json"))["listener_statuses"]
    [address] = [one["local_address"]["socket_address"] for one in listeners
                 if one["name"] == LISTENER]
    host = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(address["address"], address["address"])
    host = f"[{host}]" if ":" in host else host
    filters = json.loads(_fetch(f"{admin}/config_dump?resource=static_listeners"))
    tls = any("transport_socket" in chain for one in filters["configs"]
              if one["listener"]["name"] == LISTENER for chain in one["listener"]["filter_chains"])
    return f"http{'s' if tls else ''}://{host}:{address['port_value']}"


def _fetch(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as answer:
        return bytes(answer.read())


if __name__ == "__main__":
    sys.exit(main())
