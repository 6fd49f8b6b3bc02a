"""What `make run` runs: simulated Azure, and Envoy with envoy/envoy.yaml in front of it.

Envoy gets that file with other ports: simulated Azure's are the system's choice, and the listener's
is PORT. Everything ends with Ctrl-C, or when either of the two ends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Dict, Iterator, List

import yaml

ROOT = Path(__file__).resolve().parent.parent
BOOTSTRAP = ROOT / "envoy" / "envoy.yaml"
KEY = "aoai_demo"
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
"""


class Failed(Exception):
    """Something did not start; the message says what and shows why."""


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aoai-run-")))
            bootstrap = yaml.safe_load(BOOTSTRAP.read_text())
            azure, ports = stack.enter_context(_simulated_azure(folder, _hosts(bootstrap)))
            _set_ports(bootstrap, arguments.port, arguments.admin_port, ports)
            log = folder / "envoy.log"
            envoy, admin = stack.enter_context(_envoy(folder, bootstrap, log))
            port = _listener_port(admin)
            url = f"http://127.0.0.1:{port}"
            print(CALLS.format(url=url, admin=admin, key=KEY))
            print("What simulated Azure gets (Ctrl-C ends everything):", flush=True)
            while azure.poll() is None and envoy.poll() is None:
                time.sleep(0.2)
            raise Failed("Envoy ended:\n" + log.read_text() if envoy.poll() is not None
                         else "simulated Azure ended")
    except Failed as failed:
        print(failed, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
        return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make run", description="Simulated Azure, and Envoy with "
                                     "the module in front of it.")
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT") or 10000),
                        help="of the listener; 0 chooses one (default: PORT, or 10000)")
    parser.add_argument("--admin-port", type=int, default=0,
                        help="of Envoy's admin interface; 0, the default, chooses one")
    return parser.parse_args()


def _hosts(bootstrap: Dict[str, Any]) -> Dict[str, str]:
    """The backends of the plugin's configuration: name and host."""
    http = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    plugin = http["typed_config"]["http_filters"][0]["typed_config"]["config"]
    backends: List[Dict[str, str]] = plugin["configuration"]["value"]["backends"]
    return {one["name"]: one["endpoint"].removeprefix("https://") for one in backends}


def _set_ports(bootstrap: Dict[str, Any], port: int, admin: int, azure: Dict[str, int]) -> None:
    resources = bootstrap["static_resources"]
    resources["listeners"][0]["address"]["socket_address"]["port_value"] = port
    bootstrap["admin"]["address"]["socket_address"]["port_value"] = admin
    by_cluster = {"azure_identity": azure["identity"],
                  **{f"aoai_{name}": one for name, one in azure.items() if name != "identity"}}
    for cluster in resources["clusters"]:
        [locality] = cluster["load_assignment"]["endpoints"]
        [endpoint] = locality["lb_endpoints"]
        address = endpoint["endpoint"]["address"]["socket_address"]
        address["port_value"] = by_cluster[cluster["name"]]


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
def _envoy(folder: Path, bootstrap: Dict[str, Any], log: Path) -> Iterator[Any]:
    written = folder / "envoy.json"
    written.write_text(json.dumps(bootstrap))
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


def _listener_port(admin: str) -> int:
    [listener] = json.loads(_fetch(f"{admin}/listeners?format=json"))["listener_statuses"]
    return int(listener["local_address"]["socket_address"]["port_value"])


def _fetch(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as answer:
        return bytes(answer.read())


if __name__ == "__main__":
    sys.exit(main())
