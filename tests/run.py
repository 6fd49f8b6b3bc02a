"""What `make run` runs: Envoy with the bootstrap that `aoai render envoy` makes.

Without CONFIG that is of envoy/example.yaml, in front of simulated Azure, whose ports are the system's
choice; with LIMITS its subscription has limits, kept by Envoy or by envoyproxy/ratelimit; with FAULTS its first region
fails and comes back. With CONFIG it is of that document, in front of real Azure. The listener's port is PORT. A row is
shown for each request, from Envoy's access log. Everything ends with Ctrl-C, or when a part of it ends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
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
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests" / "azure-sim"))
EXAMPLE = ROOT / "envoy" / "example.yaml"
LIMITS = {"requests_per_minute": 20, "tokens_per_minute": 300}
QUOTA = {"quota": {"tokens": 1000, "period": "hour"}}
LIMIT_CLUSTER = "aoai-limits"
# How long the first region fails, and serves, in turn.
FAULTS = 15.0
# A row for each request: the access log's fields, and how wide each is.
COLUMNS = (("subscription", 12), ("model", 20), ("backend", 10), ("attempts", 8), ("status", 6),
           ("duration_ms", 7), ("tokens", 7), ("reason", 0))
HEADS = {"duration_ms": "ms", "reason": "why it was refused"}
KEY = "aoai_demo"
LISTENER = "aoai"
ACCESS_LOG = "access.log"
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

{limits}{faults}Each request, as Envoy's access log has it (Ctrl-C ends everything, and sums them up):
"""

FAILING = """\
The region eastus throttles for {seconds:g} s and serves for {seconds:g} s, in turn. Watch gpt-4o move on to sweden, and back:

  while sleep 1; do curl -s -o /dev/null '{url}/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21' \\
    -H 'api-key: {key}' -H 'content-type: application/json' \\
    -d '{{"messages":[{{"role":"user","content":"hello"}}]}}'; done

"""

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
Envoy's log follows, and each request as its access log has it (Ctrl-C ends everything):
"""


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
    azure, ports = stack.enter_context(_simulated_azure(folder, hosts, arguments.faults))
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
    faults = FAILING.format(url=url, key=KEY, seconds=FAULTS) if arguments.faults else ""
    print(CALLS.format(url=url, admin=admin, key=KEY, limits=limits, faults=faults), flush=True)
    stack.callback(_sum_up, folder / ACCESS_LOG)
    with Requests(folder / ACCESS_LOG) as requests:
        while azure.poll() is None and envoy.poll() is None:
            time.sleep(0.2)
            requests.show()
    raise Failed("Envoy ended:\n" + log.read_text() if envoy.poll() is not None
                 else "simulated Azure ended")


class Requests:
    """The access log that Envoy writes, as rows of a table."""

    def __init__(self, path: Path) -> None:
        self._lines = path.open()
        self._unfinished = ""

    def show(self) -> None:
        """Prints what is new."""
        *lines, self._unfinished = (self._unfinished + self._lines.read()).split("\n")
        for line in lines:
            with contextlib.suppress(ValueError):
                print(_row(json.loads(line)), flush=True)

    def __enter__(self) -> "Requests":
        print(_row({name: HEADS.get(name, name) for name, _ in COLUMNS}), flush=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()


def _row(fields: Dict[str, Any]) -> str:
    """Of 100 columns at most, unless a name is longer than most are."""
    values = ((fields.get(name), width) for name, width in COLUMNS)
    texts = (f"{'-' if value is None else value:<{width}}" for value, width in values)
    return " ".join(texts).rstrip()


def _sum_up(access_log: Path) -> None:
    """What `aoai usage` makes of the run."""
    if access_log.exists() and access_log.stat().st_size:
        print(flush=True)
        subprocess.run([os.environ["AOAI"], "usage", str(access_log)], stdin=subprocess.DEVNULL,
                       check=False)


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
    with log.open() as lines, Requests(folder / ACCESS_LOG) as requests:
        while envoy.poll() is None:
            print(lines.read(), end="", flush=True)
            requests.show()
            time.sleep(0.2)
        raise Failed(lines.read() + "Envoy ended")


def _arguments() -> Tuple[argparse.Namespace, List[str]]:
    parser = argparse.ArgumentParser(
        prog="make run", description="Envoy with the module, in front of simulated Azure or of "
        "your own. Other options go to aoai render envoy: --identity, --ca, --resolve.")
    parser.add_argument("--config", default=os.environ.get("CONFIG"),
                        help="a document of your own (default: CONFIG, or the example)")
    parser.add_argument("--port", type=_port, default=os.environ.get("PORT") or None,
                        help="of the listener; 0 chooses one (default: PORT, or the document's)")
    parser.add_argument("--limits", default=os.environ.get("LIMITS") or None, choices=sorted(WHERE),
                        help="limits for the example's subscription, and where they are counted "
                        "(default: LIMITS, or no limits)")
    parser.add_argument("--faults", action="store_true", default=bool(os.environ.get("FAULTS")),
                        help="the example's first region fails and comes back (default: FAULTS)")
    parser.add_argument("--admin-port", type=int,
                        help="of Envoy's admin interface (default: one that is free)")
    arguments, render = parser.parse_known_args()
    if arguments.limits and arguments.limits not in WHERE:
        parser.error(f"LIMITS={arguments.limits}: expected {' or '.join(sorted(WHERE))}")
    if arguments.faults and arguments.config:
        parser.error("FAULTS is for the example: simulated Azure is not there with a document of your own")
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


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"PORT={text}: expected a number from 0 to 65535")
    return int(text)


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
def _simulated_azure(folder: Path, hosts: Dict[str, str], faults: bool) -> Iterator[Any]:
    found = folder / "ports.json"
    command = [sys.executable, str(ROOT / "tests" / "azure-sim"), "--ports-file", str(found), "--quiet"]
    if faults:
        command += ["--faults", str(FAULTS)]
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
    access_log = folder / ACCESS_LOG
    _check_free(yaml.safe_load(bootstrap))
    command = [os.environ["ENVOY"], "-c", str(written), "--use-dynamic-base-id", "--log-path",
               str(log), "--log-level", "warning", "--component-log-level", "wasm:info",
               "--admin-address-path", str(admin_file), "--file-flush-interval-msec", "100"]
    with access_log.open("wb") as written_to, _child(
            command, stdout=written_to, stderr=subprocess.DEVNULL, cwd=ROOT) as process:
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


def _check_free(bootstrap: Dict[str, Any]) -> None:
    """Envoy would share a port with another Envoy that has it, and each would get a part of the requests."""
    for listener in bootstrap["static_resources"]["listeners"]:
        address = listener.get("address", {}).get("socket_address")
        if address is None:
            continue
        family = socket.AF_INET6 if ":" in address["address"] else socket.AF_INET
        with socket.socket(family) as found:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                found.bind((address["address"], address["port_value"]))
            except OSError as error:
                raise Failed(f"{address['address']}:{address['port_value']} cannot be listened at: "
                             f"{error.strerror}. Choose another port: make run PORT=10001") from None


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
