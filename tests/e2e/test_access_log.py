"""The access log that a rendered bootstrap writes, and what `aoai usage` makes of it."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from typing import Any, Callable, Dict, List

import pytest

from azure_sim import AzureSim, errors
from e2e import config
from e2e.calls import Call, chat, send, v1
from e2e.gateway import Gateway
from e2e.two_regions import KEY, POOL, SINGLE, document_of_two

Json = Dict[str, Any]
FIELDS = {"time", "subscription", "model", "operation", "backend", "attempts", "status", "reason",
          "diagnosis", "tokens", "input_tokens", "output_tokens", "duration_ms", "first_byte_ms",
          "request_bytes", "response_bytes", "flags", "caller"}
# Bytes of which JSON, a terminal or a parser of lines could make something else.
ODD = ['"', "\\", "\x01", "\x1b[31m", "\x7f", "\xff\xfe", "{\"a\":1}", "%REQ(api-key)%", "\u2028"]


@pytest.fixture(scope="module")
def gateway(azure: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    return start_gateway(document_of_two(azure, listener={"access_log": "json"}))


def lines(gateway: Gateway) -> List[Json]:
    """The access log so far: what is no line of Envoy's own log."""
    return [json.loads(line) for line in gateway.envoy.log_text().splitlines()
            if line.startswith("{")]


def logged(gateway: Gateway, count: int) -> List[Json]:
    """What is written after so many lines, once there is something."""
    return gateway.envoy.wait_until(lambda: lines(gateway)[count:] or None, "line of the access log")


def test_a_line_has_what_is_known_of_a_request(gateway: Gateway, azure: AzureSim) -> None:
    before = len(lines(gateway))
    azure.resources["eastus"].script.then(errors.throttled(retry_after_ms="1"))
    usage = json.loads(send(gateway, chat(POOL, ("api-key", KEY))).body)["usage"]
    [line] = logged(gateway, before)
    assert set(line) == FIELDS
    known = {"subscription": "team", "model": POOL, "operation": "chat/completions",
             "backend": "sweden", "attempts": "2", "status": 200,
             "input_tokens": str(usage["prompt_tokens"]),
             "output_tokens": str(usage["completion_tokens"]), "tokens": str(usage["total_tokens"])}
    assert {name: line[name] for name in known} == known
    assert line["reason"] in (None, "-") and line["duration_ms"] >= line["first_byte_ms"] >= 0
    assert line["caller"] == "127.0.0.1" and line["time"].endswith("Z")


def test_a_refused_request_has_its_reason(gateway: Gateway) -> None:
    before = len(lines(gateway))
    assert send(gateway, chat("gpt-9", ("api-key", KEY))).status == 404
    [line] = logged(gateway, before)
    assert (line["status"], line["reason"], line["subscription"]) == (404, "unknown_model", "team")


def test_whatever_bytes_callers_send_each_request_has_one_line_of_valid_json_without_them(
        gateway: Gateway) -> None:
    before, sent = len(lines(gateway)), 0
    for odd in ODD:
        for call in (chat(SINGLE, ("api-key", KEY), ("user-agent", odd), ("x-request-id", odd),
                          ("x-forwarded-for", odd)),
                     chat(SINGLE, ("api-key", f"secret-{odd}")),
                     v1(json.dumps({"model": odd, "messages": []}).encode(), ("api-key", KEY)),
                     Call(f"/openai/deployments/{odd}/chat/completions?a={odd}", [("api-key", KEY)]),
                     Call(f"/{odd}", [("api-key", KEY)], method="GET")):
            try:
                send(gateway, call)
            except Exception:  # Envoy closes where it cannot read a request at all
                continue
            sent += 1
    found = gateway.envoy.wait_until(
        lambda: lines(gateway)[before:] if len(lines(gateway)) >= before + sent else None, "lines")
    assert len(found) >= sent > len(ODD)
    text = gateway.envoy.log_text()
    assert "secret-" not in text and KEY not in text
    for line in found:
        assert set(line) <= FIELDS and line["operation"] in (None, "-", "chat/completions", "other")


def test_the_sums_of_the_log_are_what_azure_reports(gateway: Gateway, tmp_path: Any) -> None:
    before = len(lines(gateway))
    reported: "Counter[str]" = Counter()
    calls = [chat(model, ("api-key", KEY)) for model in (POOL, SINGLE) for _ in range(3)]
    for call in calls:
        usage = json.loads(send(gateway, call).body)["usage"]
        reported.update(input_tokens=usage["prompt_tokens"], output_tokens=usage["completion_tokens"],
                        tokens=usage["total_tokens"])
    send(gateway, chat(SINGLE, ("api-key", "wrong")))
    gateway.envoy.wait_until(lambda: len(lines(gateway)) >= before + len(calls) + 1, "lines")
    log = tmp_path / "access.log"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines(gateway)[before:]))
    done = subprocess.run([os.environ["AOAI"], "usage", str(log), "--by", "subscription",
                           "--format", "json"], stdout=subprocess.PIPE, text=True, check=True)
    none, team = json.loads(done.stdout)
    assert team == {"subscription": "team", "requests": len(calls), "refused": 0, **reported}
    assert (none["subscription"], none["requests"], none["refused"]) == ("none", 1, 1)


def test_a_document_without_an_access_log_writes_none(
        azure: AzureSim, start_gateway: Callable[..., Gateway]) -> None:
    quiet = start_gateway(config.config(
        subscriptions=[config.subscription("team", key=KEY)],
        backends=[config.backend(azure.resources["eastus"])],
        models=[config.model(SINGLE, azure.resources["eastus"])], listener={"access_log": "none"}))
    assert send(quiet, chat(SINGLE, ("api-key", KEY))).status == 200
    quiet.stop()
    assert not [line for line in quiet.envoy.log_text().splitlines() if line.startswith("{")]
