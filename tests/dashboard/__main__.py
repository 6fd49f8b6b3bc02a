"""A page of the dashboard in envoy/grafana, by the same queries: a real Prometheus, which scrapes a real Envoy in front of
simulated Azure, for a few minutes of traffic. One of three regions throttles for a while, and another lacks a role. Where
Chromium is there, it takes a picture of the page.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "azure-sim")]

from azure_sim import AzureSim, errors  # noqa: E402
from dashboard import page  # noqa: E402
from e2e import config  # noqa: E402
from e2e.calls import send, v1  # noqa: E402
from e2e.gateway import Gateway  # noqa: E402
from e2e.prometheus import Prometheus, filled, panels, rules  # noqa: E402
from e2e.rendering import free_port  # noqa: E402

REGIONS = ("eastus", "sweden", "france")
MODELS = ("gpt-4o", "gpt-4o-mini")
KEYS = {"search-team": "aoai_key-of-the-search-team", "chat-app": "aoai_key-of-the-chat-app",
        "batch": "aoai_key-of-the-batch"}
# How often each asks, in requests a second, and for what.
ASKING = {"search-team": (6.0, "gpt-4o"), "chat-app": (9.0, "gpt-4o-mini"), "batch": (3.0, "gpt-4o")}


def main() -> int:
    arguments = _arguments()
    with AzureSim() as azure:
        for region in REGIONS:
            azure.add_resource(region, host=f"contoso-{region}.openai.azure.com",
                               deployments={model: model for model in MODELS})
        with Gateway(_document(azure), azure, options=["--admin-port", str(free_port())]) as gateway:
            prometheus = Prometheus(f"127.0.0.1:{gateway.envoy.port('aoai-monitoring')}", rules())
            try:
                begin = time.time()
                _ask_for(gateway, azure, arguments.seconds)
                text = _page(prometheus, begin, time.time())
            finally:
                prometheus.close()
    arguments.page.write_text(text)
    print(arguments.page)
    if arguments.picture is not None:
        _take_picture(arguments.page, arguments.picture)
        print(arguments.picture)
    return 0


def _document(azure: AzureSim) -> Dict[str, Any]:
    resources = [azure.resources[region] for region in REGIONS]
    subscriptions = [config.subscription(name, key=key) for name, key in KEYS.items()]
    subscriptions[-1]["limits"] = {"requests_per_minute": 120}
    return config.config(
        subscriptions=subscriptions, backends=[config.backend(one) for one in resources],
        models=[config.model(MODELS[0], *resources), config.model(MODELS[1], *resources[1:])],
        listener={"monitoring": {"address": "127.0.0.1", "port": free_port()}})


def _ask_for(gateway: Gateway, azure: AzureSim, seconds: float) -> None:
    """Traffic. Within it, eastus throttles from a quarter on, and sweden lacks a role for gpt-4o from a half on."""
    end = time.monotonic() + seconds
    clients = [threading.Thread(target=_ask, args=(gateway, name, end)) for name in KEYS]
    for client in clients:
        client.start()
    time.sleep(seconds / 4)
    azure.resources["eastus"].script.then(*(errors.throttled(retry_after_ms="8000") for _ in range(3)))
    time.sleep(seconds / 4)
    azure.resources["sweden"].break_with("role_missing")
    time.sleep(seconds / 8)
    azure.resources["sweden"].mend()
    for client in clients:
        client.join()


def _ask(gateway: Gateway, name: str, end: float) -> None:
    rate, model = ASKING[name]
    chosen = random.Random(name)
    while time.monotonic() < end:
        words = "word " * chosen.randrange(5, 400)
        body = {"model": model, "stream": chosen.random() < 0.5, "messages": [{"role": "user", "content": words}]}
        send(gateway, v1(json.dumps(body).encode(), ("api-key", KEYS[name])))
        time.sleep(chosen.expovariate(rate))


def _page(prometheus: Prometheus, begin: float, end: float) -> str:
    interval, shown = "20s", f"{end - begin:.0f}s"
    series: Dict[int, List[page.Series]] = {}
    tables: Dict[int, List[Tuple[Dict[str, str], float]]] = {}
    for panel in panels():
        for target in panel["targets"]:
            query = filled(target["expr"], interval, shown)
            if panel["type"] == "table":
                # What is over is shown too: at each time of the traffic.
                rows: Dict[Tuple[Tuple[str, str], ...], float] = {}
                for one in prometheus.ask_range(query, begin, end, (end - begin) / 100):
                    rows[tuple(one["metric"].items())] = float(one["values"][-1][1])
                tables[panel["id"]] = [(dict(labels), value) for labels, value in rows.items()]
                continue
            for one in prometheus.ask_range(query, begin, end, (end - begin) / 100):
                points = [(float(at), float(value)) for at, value in one["values"] if value != "NaN"]
                name = page.name_of(target["legendFormat"], one["metric"])
                series.setdefault(panel["id"], []).append((name, points))
    found = {panel["id"]: series.get(panel["id"], []) for panel in panels()}
    return page.page("Azure OpenAI: aoai-filter", "the queries of envoy/grafana/aoai.json, asked of a real Prometheus",
                     panels(), found, tables)


def _take_picture(of: Path, to: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("a picture needs Chromium")
    width = 24 * page.COLUMN + 24
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels()) * page.ROW + 60
    subprocess.run([chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--screenshot={to}",
                    f"--window-size={width},{height}", of.resolve().as_uri()],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make dashboard", description=__doc__)
    parser.add_argument("--seconds", type=float, default=150.0, help="of traffic (default: 150)")
    parser.add_argument("--page", type=Path, default=Path("dist/dashboard.html"), help="where the page is written")
    parser.add_argument("--picture", type=Path, help="where a picture of it is written (PNG)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
