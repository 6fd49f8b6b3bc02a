"""A real Prometheus with the configuration and the rules in envoy/prometheus, and the queries of the dashboard."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import httpx
import yaml

from azure_sim import HANG_LIMIT
from e2e.rendering import ROOT, free_port

Json = Dict[str, Any]
FOLDER = ROOT / "envoy" / "prometheus"


class Prometheus:
    """One that scrapes this address at once and often. `rules` are those of the repository, or like them."""

    def __init__(self, target: str, rules: Json) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="aoai-prometheus-")
        folder = Path(self._folder.name)
        config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": "200ms", "scrape_timeout": "200ms",
                            "evaluation_interval": "200ms"}
        [job] = config["scrape_configs"]
        job["static_configs"] = [{"targets": [target]}]
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
        (folder / "prices.yaml").write_text((FOLDER / "prices.yaml").read_text())
        address = f"127.0.0.1:{free_port()}"
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [os.environ["PROMETHEUS"], f"--config.file={folder}/prometheus.yaml",
                 f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self._http = httpx.Client(base_url=f"http://{address}", trust_env=False, timeout=HANG_LIMIT)

    def ask(self, query: str) -> List[Json]:
        """The series of an instant query; none as long as it is not ready."""
        try:
            response = self._http.get("/api/v1/query", params={"query": query})
        except httpx.TransportError:
            return []
        if response.status_code == 503:
            return []
        answer = response.json()
        assert answer["status"] == "success", answer
        found: List[Json] = answer["data"]["result"]
        return found

    def ask_range(self, query: str, start: float, end: float, step: float) -> List[Json]:
        """The series of a range query."""
        at = {"query": query, "start": str(start), "end": str(end), "step": str(step)}
        answer = self._http.get("/api/v1/query_range", params=at).json()
        assert answer["status"] == "success", answer
        found: List[Json] = answer["data"]["result"]
        return found

    def wait_for(self, query: str, wanted: Callable[[Json], bool], what: str) -> Json:
        """The values of a query by their labels, once they are as wanted."""
        deadline = time.monotonic() + HANG_LIMIT
        while True:
            found = {tuple(sorted(one["metric"].items())): float(one["value"][1])
                     for one in self.ask(query)}
            if wanted(found):
                return found
            assert self._process.poll() is None and time.monotonic() < deadline, (
                what, found, self._log.read_text())
            time.sleep(0.1)

    def close(self) -> None:
        self._http.close()
        self._process.terminate()
        self._process.wait(HANG_LIMIT)
        self._folder.cleanup()


def read(name: str) -> Json:
    found: Json = yaml.safe_load((FOLDER / name).read_text())
    return found


def rules() -> Json:
    return read("rules.yaml")


def panels() -> List[Json]:
    """Those of the dashboard."""
    found: List[Json] = json.loads((ROOT / "envoy" / "grafana" / "aoai.json").read_text())["panels"]
    return found


def filled(query: str, interval: str = "10m", time_shown: str = "1h") -> str:
    """A query of the dashboard with what Grafana would put into it."""
    for variable, value in (("$__rate_interval", interval), ("$__range", time_shown),
                            ("$subscription", ".*"), ("$model", ".*")):
        query = query.replace(variable, value)
    return query


def queries() -> Iterator[Tuple[str, str]]:
    """Those of the dashboard, by the panel's title."""
    for panel in panels():
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", filled(target["expr"])
