"""What the module costs: plain Envoy and Envoy with the module, the same upstream, the same load.

All variants run side by side in one run: rounds of a few seconds each, in turn, so that whatever
else the machine does falls on all of them. The Envoy that is measured has one worker and one core;
the load (wrk) and the upstream (another Envoy, answering by itself) have the other. CPU is the
process's own user and system time, from /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "azure-sim")]

from azure_sim import AzureSim  # noqa: E402
from e2e.bootstrap import Options, bootstrap, cluster, wasm_module  # noqa: E402
from e2e.config import backend, config, model, subscription  # noqa: E402
from e2e.envoy import Envoy  # noqa: E402

Json = Dict[str, Any]
QUIET = {"log_level": "warning", "wasm_log_level": "info"}
KEY = "aoai_bench_key"
HOST = "contoso-eastus.openai.azure.com"
URL_NAMED = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
BODY_NAMED = "/openai/v1/chat/completions"
# About what a short chat request is.
BODY = json.dumps({"messages": [{"role": "user", "content": "word " * 200}], "model": "gpt-4o"})
ANSWER = json.dumps({"object": "chat.completion", "choices": [{"message": {"content": "x" * 800}}]})


@dataclass
class Variant:
    """One thing that is measured."""

    name: str
    path: str
    config: Optional[Json]
    envoy: Optional[Envoy] = None
    requests: int = 0
    rates: List[float] = field(default_factory=list)
    costs: List[float] = field(default_factory=list)


def main() -> int:
    arguments = _arguments()
    if os.cpu_count() == 1 or not hasattr(os, "sched_setaffinity"):
        print("needs two cores and Linux", file=sys.stderr)
        return 2
    variants = [
        Variant("plain Envoy", URL_NAMED, None),
        Variant("model in the URL, 10 subscriptions", URL_NAMED, _config(10)),
        Variant("model in the URL, 10,000 subscriptions", URL_NAMED, _config(10_000)),
        Variant("model in the body, 10 subscriptions", BODY_NAMED, _config(10)),
    ]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aoai-bench-")))
        sim = stack.enter_context(AzureSim())
        upstream = stack.enter_context(Envoy(_upstream(), **QUIET))
        _pin(upstream.pid, 1)
        for variant in variants:
            variant.envoy = stack.enter_context(
                Envoy(_measured(variant, sim, upstream.port("up")), **QUIET))
            _pin(variant.envoy.pid, 0)
        for path in {variant.path for variant in variants}:
            (folder / _script(path)).write_text(_lua(path))
        for variant in variants:
            _load(variant, folder, 1)
        for _ in range(arguments.rounds):
            for variant in variants:
                _measure(variant, folder, arguments.seconds)
    _report(variants)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=4, help="of each variant in each round")
    return parser.parse_args()


def _config(subscriptions: int) -> Json:
    others = [subscription(f"team-{index}", key=f"key-{index}") for index in range(subscriptions - 1)]
    middle = len(others) // 2
    return config(
        subscriptions=[*others[:middle], subscription("bench", key=KEY), *others[middle:]],
        backends=[backend("eastus")], models=[model("gpt-4o", "eastus")])


def _upstream() -> Json:
    """An Envoy that answers every request by itself."""
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
                 "HttpConnectionManager",
        "stat_prefix": "up",
        "route_config": {"virtual_hosts": [{"name": "up", "domains": ["*"], "routes": [{
            "match": {"prefix": "/"},
            "direct_response": {"status": 200, "body": {"inline_string": ANSWER}},
        }]}]},
        # An answer before the request's last byte would cost the connection.
        "http_filters": [
            {"name": "envoy.filters.http.buffer", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer",
                "max_request_bytes": 1 << 20}},
            {"name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}},
        ],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    listener = {"name": "up", "address": address, "filter_chains": [{"filters": [
        {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}
    return {"node": {"id": "up", "cluster": "up"}, "admin": {"address": address},
            "static_resources": {"listeners": [listener]}}


def _measured(variant: Variant, sim: AzureSim, upstream: int) -> Json:
    def plain_route(listener: Json) -> None:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        [route] = manager["route_config"]["virtual_hosts"][0]["routes"]
        route["route"] = {"cluster": "aoai_eastus", "host_rewrite_literal": HOST, "timeout": "0s"}

    edit = plain_route if variant.config is None else None
    result = bootstrap(variant.config, sim, Options(edit_listener=edit))
    result["static_resources"]["clusters"].append(cluster("aoai_eastus", upstream))
    return result


def _script(path: str) -> str:
    return ("url" if path == URL_NAMED else "body") + ".lua"


def _lua(path: str) -> str:
    return (f'wrk.method = "POST"\nwrk.path = "{path}"\nwrk.body = [==[{BODY}]==]\n'
            f'wrk.headers["content-type"] = "application/json"\n'
            f'wrk.headers["api-key"] = "{KEY}"\n')


def _load(variant: Variant, folder: Path, seconds: int) -> float:
    """Requests per second under load; fails if any request does."""
    assert variant.envoy is not None
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("wrk is missing (make bench installs it)")
    url = f"http://127.0.0.1:{variant.envoy.port()}{variant.path}"
    command = ["taskset", "-c", "1", wrk, "--threads", "1", "--connections", "32", "--duration",
               f"{seconds}s", "--script", str(folder / _script(variant.path)), url]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(f"{variant.name}: requests failed\n{text}\n{variant.envoy.log_for_people()}")
    found = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert found and rate, text
    variant.requests = int(found.group(1))
    return float(rate.group(1))


def _measure(variant: Variant, folder: Path, seconds: int) -> None:
    assert variant.envoy is not None
    before = _cpu_seconds(variant.envoy.pid)
    variant.rates.append(_load(variant, folder, seconds))
    spent = _cpu_seconds(variant.envoy.pid) - before
    variant.costs.append(spent * 1e6 / variant.requests)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _pin(pid: int, core: int) -> None:
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def _report(variants: List[Variant]) -> None:
    plain = variants[0]
    print(f"module: {Path(wasm_module()).stat().st_size} bytes")
    print(f"{'':<40} {'requests/s':>12} {'ratio':>6}  {'CPU µs/request':>14} {'ratio':>6}  spread")
    for variant in variants:
        # A ratio for each round, of neighbours in time; then the median of them.
        ratios = [a / b for a, b in zip(variant.costs, plain.costs)]
        rates = [a / b for a, b in zip(variant.rates, plain.rates)]
        print(f"{variant.name:<40} {statistics.median(variant.rates):>12,.0f} "
              f"{statistics.median(rates):>6.2f}  {statistics.median(variant.costs):>14.1f} "
              f"{statistics.median(ratios):>6.2f}  {min(ratios):.2f}–{max(ratios):.2f}")
    few, many = variants[1], variants[2]
    ratio = statistics.median(a / b for a, b in zip(many.costs, few.costs))
    print(f"CPU with 10,000 subscriptions over 10: {ratio:.3f}")


if __name__ == "__main__":
    sys.exit(main())
