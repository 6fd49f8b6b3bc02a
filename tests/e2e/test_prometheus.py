"""A real Prometheus, with the configuration and the rules in envoy/prometheus, scrapes a real Envoy under traffic."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import httpx
import pytest
import yaml

from azure_sim import HANG_LIMIT, AzureSim, errors
from e2e.calls import chat, send, v1
from e2e.gateway import Gateway
from e2e.rendering import ROOT, free_port
from e2e.two_regions import KEY, POOL, SINGLE, document_of_two

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


def queries() -> Iterator[Tuple[str, str]]:
    """Those of the dashboard, by the panel's title, with what Grafana would put into them."""
    dashboard = json.loads((ROOT / "envoy" / "grafana" / "aoai.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            query = target["expr"]
            for variable, value in (("$__rate_interval", "10m"), ("$__range", "1h"),
                                    ("$subscription", ".*"), ("$model", ".*")):
                query = query.replace(variable, value)
            yield f"{panel['title']} {target['refId']}", query


@pytest.fixture(scope="module")
def gateway(azure: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    port = free_port()
    return start_gateway(
        document_of_two(azure, listener={"monitoring": {"address": "127.0.0.1", "port": port}}),
        options=["--admin-port", str(free_port())])


@pytest.fixture(scope="module")
def prometheus(gateway: Gateway) -> Iterator[Prometheus]:
    """Whose alerts do not wait before they fire."""
    hasty = rules()
    for rule in hasty["groups"][0]["rules"]:
        rule.pop("for", None)
    monitoring = gateway.envoy.port("aoai-monitoring")
    prometheus = Prometheus(f"127.0.0.1:{monitoring}", hasty)
    try:
        yield prometheus
    finally:
        prometheus.close()


def test_what_it_counts_is_what_azure_gave_out(
        gateway: Gateway, azure: AzureSim, prometheus: Prometheus) -> None:
    reported: "Counter[str]" = Counter()
    azure.resources["eastus"].script.then(errors.throttled(retry_after_ms="1"))
    for model in (POOL, SINGLE, SINGLE):
        usage = json.loads(send(gateway, chat(model, ("api-key", KEY))).body)["usage"]
        reported.update(input=usage["prompt_tokens"], output=usage["completion_tokens"])
    wanted = {(("subscription", "team"), ("type", kind)): count for kind, count in reported.items()}
    prometheus.wait_for('sum by (subscription, type) (aoai_tokens_total{type=~"input|output"})',
                        lambda found: found == wanted, f"tokens {wanted}")
    statuses = "sum by (backend, model, status) (aoai_attempts_total) > 0"
    prometheus.wait_for(statuses, lambda found: found == {
        (("backend", "eastus"), ("model", POOL), ("status", "429")): 1,
        (("backend", "sweden"), ("model", POOL), ("status", "200")): 1,
        (("backend", "eastus"), ("model", SINGLE), ("status", "200")): 2}, "attempts")
    prometheus.wait_for('sum by (model) (aoai_requests_total{outcome="forwarded"})', lambda found: found == {
        (("model", POOL),): 1, (("model", SINGLE),): 2}, "requests")


def test_an_alert_fires_while_a_backend_is_misconfigured_and_no_longer(
        gateway: Gateway, azure: AzureSim, prometheus: Prometheus) -> None:
    firing = 'ALERTS{alertname="AoaiBackendMisconfigured",alertstate="firing"}'
    assert prometheus.ask(firing) == []
    azure.resources["eastus"].break_with("role_missing")
    assert send(gateway, chat(SINGLE, ("api-key", KEY))).status == 502
    [labels] = prometheus.wait_for(firing, lambda found: len(found) == 1, "alert")
    assert {"backend": "eastus", "diagnosis": "role_missing"}.items() <= dict(labels).items()
    azure.resources["eastus"].mend()
    prometheus.wait_for(firing, lambda found: send(
        gateway, chat(SINGLE, ("api-key", KEY))).status == 200 and not found, "end of the alert")


@pytest.mark.parametrize("rule", rules()["groups"][0]["rules"], ids=lambda rule: rule["alert"])
def test_every_metric_of_an_alert_is_one_that_envoy_shows(
        gateway: Gateway, prometheus: Prometheus, rule: Json) -> None:
    names = {word for word in "".join(one if one.isalnum() or one == "_" else " "
                                      for one in rule["expr"]).split() if word.startswith("aoai_")}
    # Counted once a service of limits fails to answer, which there is none of here.
    for name in names - {"aoai_limits_unchecked_total"}:
        prometheus.wait_for(f"count({name})", bool, name)


@pytest.mark.parametrize("query", [query for _, query in queries()], ids=[name for name, _ in queries()])
def test_every_query_of_the_dashboard_finds_something(
        gateway: Gateway, azure: AzureSim, prometheus: Prometheus, query: str) -> None:
    """Under traffic: streams, a request that moves on, and for one panel a backend that is misconfigured."""
    if "aoai_misconfigured" in query:
        azure.resources["eastus"].break_with("role_missing")
    stream = v1(json.dumps({"model": SINGLE, "stream": True, "messages": []}).encode(), ("api-key", KEY))

    def found(series: Json) -> bool:
        azure.resources["eastus"].script.then(errors.throttled(retry_after_ms="1"))
        for call in (chat(POOL, ("api-key", KEY)), stream, chat("gpt-9", ("api-key", KEY))):
            send(gateway, call)
        return any(value > 0 for value in series.values())
    prometheus.wait_for(query, found, query)
    azure.resources["eastus"].mend()


def test_what_it_costs_is_tokens_by_their_prices(prometheus: Prometheus) -> None:
    """The part of a prompt that comes from a cache has a price of its own."""
    prices = {(one["labels"]["model"], one["labels"]["type"]): float(one["expr"][len("vector("):-1])
              for one in read("prices.yaml")["groups"][0]["rules"]}

    def as_computed(found: Json) -> bool:
        rates = {tuple(one["metric"][name] for name in ("model", "type")): float(one["value"][1])
                 for one in prometheus.ask("sum by (model, type) (rate(aoai_tokens_total[5m]))")}
        for (name, model), in found:
            assert name == "model"
            of = {kind: rates.get((model, kind), 0.0) for kind in ("input", "cached_input", "output")}
            billed = {**of, "input": of["input"] - of["cached_input"]}
            wanted = sum(rate * prices[model, kind] for kind, rate in billed.items()) * 3600 / 1e6
            if found[(name, model),] != pytest.approx(wanted, rel=0.05):
                return False
        return len(found) == 2
    prometheus.wait_for("sum by (model) (aoai_cost_per_hour)", as_computed, "cost")


def test_each_alert_fires_when_it_should_and_no_sooner() -> None:
    done = subprocess.run(
        [os.environ["PROMTOOL"], "test", "rules", str(ROOT / "tests" / "prometheus" / "rules.test.yaml")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    tested = yaml.safe_load((ROOT / "tests" / "prometheus" / "rules.test.yaml").read_text())["tests"]
    alerts = {one["alertname"] for test in tested for one in test["alert_rule_test"] if one["exp_alerts"]}
    assert alerts == {rule["alert"] for rule in rules()["groups"][0]["rules"]}
