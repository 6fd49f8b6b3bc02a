"""A real Prometheus, with the configuration and the rules in envoy/prometheus, scrapes a real Envoy under traffic."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Set

import pytest
import yaml

from azure_sim import HANG_LIMIT, AzureSim, errors
from e2e.calls import chat, send, v1
from e2e.gateway import Gateway
from e2e.prometheus import Prometheus, panels, queries, read, rules
from e2e.rendering import ROOT, free_port
from e2e.two_regions import KEY, POOL, SINGLE, document_of_two

Json = Dict[str, Any]


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


def test_every_metric_has_the_labels_that_the_documentation_says(gateway: Gateway, azure: AzureSim) -> None:
    """Envoy's tags take all of them out of the names: none is left, and no label is missing."""
    table = (ROOT / "envoy" / "operation.md").read_text().split("| metric | labels | |")[1].split("<!--")[0]
    documented = {name: set(re.findall(r"`(\w+)`", labels))
                  for name, labels in re.findall(r"^\| `(aoai_\w+)` \| (.*?) \|", table, re.MULTILINE)}
    assert len(documented) > 10
    for mistake in ("role_missing", "token_refused"):
        azure.resources["eastus"].break_with(mistake)
        send(gateway, chat(POOL, ("api-key", KEY)))
    azure.resources["eastus"].mend()
    send(gateway, v1(json.dumps({"model": SINGLE, "stream": True, "messages": []}).encode(), ("api-key", KEY)))

    def shown() -> Dict[str, Set[str]]:
        # Envoy 1.37.0 puts the pool's cluster in front.
        lines = re.findall(r"^(?:envoy_cluster_wasmcustom_)?(aoai_\w+?)(?:_bucket|_sum|_count)?\{(.*?)\} ",
                           gateway.envoy.prometheus(), re.MULTILINE)
        return {name: set(re.findall(r'(\w+)="', labels)) - {"le", "envoy_cluster_name"} for name, labels in lines}
    # The services of limits do not fail here, which one of the metrics counts.
    gateway.envoy.wait_until(lambda: len(shown()) >= len(documented) - 1, "all metrics")
    assert shown() == {name: labels for name, labels in documented.items() if name in shown()}


def test_a_page_of_the_dashboard_has_every_panel_with_what_was_counted(tmp_path: Path) -> None:
    page = tmp_path / "dashboard.html"
    subprocess.run([sys.executable, str(ROOT / "tests" / "dashboard"), "--seconds", "14", "--page", str(page)],
                   stdout=subprocess.DEVNULL, timeout=HANG_LIMIT, check=True)
    text = page.read_text()
    parts = {panel["title"]: text.split(f'<h2>{panel["title"]}</h2>')[1].split('<div class="panel"')[0]
             for panel in panels()}
    assert len(parts) == 12
    # Envoy shows histograms every five seconds. A fault that is over may fall between two times at which the page asks.
    empty = {title for title, part in parts.items() if "no data" in part or "<td>" not in part and "<svg" not in part}
    assert empty <= {"Local replies by reason", "Misconfigured backends"}
    assert "search-team gpt-4o" in parts["Requests by subscription and model"]
    assert "chat-app" in parts["Tokens in the time shown"]
    assert "eastus 429" in parts["Attempts by backend and status"]


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
