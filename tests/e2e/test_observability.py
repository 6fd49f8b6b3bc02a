"""What operators see, and what nobody must see."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from azure_sim import HANG, RESET, Answer, AzureSim, ManagedIdentity, Resource
from azure_sim.records import RecordedRequest
from e2e import config
from e2e.edits import MANAGER, put
from e2e.envoy import Envoy
from e2e.gateway import Gateway
from e2e.identity import closed_gate
from e2e.rendering import in_front_of, more_listeners
from e2e.single import (BODY, CHAT, JSON_TYPE, KEY, MODEL, OTHER_KEY, RAW_BODY, V1_CHAT,
                        assert_refused, chat, east, raw_chat, settings)
from e2e.wire import Connection, request

Start = Callable[..., Gateway]
Labels = Tuple[Tuple[str, str], ...]


@pytest.fixture(scope="module")
def resource(azure: AzureSim) -> Resource:
    return east(azure)


# Metrics


def of_the_module(text: str) -> Dict[Tuple[str, Labels], int]:
    """The module's metrics in Prometheus' format, by name and labels."""
    found = re.finditer(r"^(aoai_\w+)\{(.*)\} (\d+)$", text, re.MULTILINE)
    return {(one[1], tuple(sorted(re.findall(r'(\w+)="([^"]*)"', one[2])))): int(one[3])
            for one in found}


def requests_total(outcome: str, backend: str = "none", subscription: str = "team-1",
                   model: str = MODEL) -> Tuple[str, Labels]:
    return "aoai_requests_total", (("backend", backend), ("model", model), ("outcome", outcome),
                                   ("subscription", subscription))


def fetches_total(result: str) -> Tuple[str, Labels]:
    return "aoai_entra_token_fetches_total", (("identity", "default"), ("result", result))


def tokens_total(kind: str, source: str = "reported") -> Tuple[str, Labels]:
    return "aoai_tokens_total", (("backend", "eastus"), ("model", MODEL), ("source", source),
                                 ("subscription", "team-1"), ("type", kind))


def attempts_total(result: str, status: str, model: str = MODEL, backend: str = "eastus"
                   ) -> Tuple[str, Labels]:
    return "aoai_attempts_total", (("backend", backend), ("model", model), ("result", result),
                                   ("status", status))


def document_taken(found: Dict[Tuple[str, Labels], int]) -> Tuple[str, Labels]:
    """The only version of a document that there was."""
    [taken] = [name for name in found if name[0] == "aoai_document_taken_timestamp_seconds"]
    assert [label for label, _ in taken[1]] == ["version"]
    return taken


REMAINING: Tuple[str, Labels] = ("aoai_entra_token_remaining_seconds", (("identity", "default"),))


def test_requests_are_counted_by_outcome_and_backend(
        azure: AzureSim, resource: Resource, start_gateway: Start) -> None:
    azure.identity.lifetime = 1800
    limited = config.subscription("limited", key=OTHER_KEY, models=[MODEL])
    document = settings(resource)
    document["subscriptions"].append(limited)
    document["backends"].append(
        config.backend("far-away_2", endpoint="https://contoso-far-away.openai.azure.com"))
    document["models"].append(config.model("other", "far-away_2"))
    with start_gateway(document) as gateway:
        gateway.envoy.wait_until(
            lambda: of_the_module(gateway.envoy.prometheus()).get(fetches_total("success")) == 1,
            "counted fetch")
        for _ in range(3):
            assert chat(gateway).status_code == 200
        forbidden = CHAT.replace(MODEL, "other")
        rows = [
            ("missing_key", CHAT, ""), ("unknown_key", CHAT, "wrong"), ("unknown_key", CHAT, "x"),
            ("model_not_allowed", forbidden, OTHER_KEY),
            ("unknown_model", CHAT.replace(MODEL, "nothing"), KEY),
            ("unknown_operation", "/elsewhere", KEY),
            ("operation_not_allowed", "/openai/v1/files", KEY),
            ("missing_model", V1_CHAT, KEY),
        ]
        for reason, target, key in rows:
            headers = {"api-key": key} if key else {}
            answer = gateway.http.post(target, headers=headers, json=BODY)
            assert answer.headers.get("x-aoai-reason") == reason
        # Nobody listens there.
        answer = gateway.http.post(forbidden, headers={"api-key": KEY}, json=BODY)
        assert_refused(answer, 503, "backend_failed")
        resource.script.then(RESET, Answer(500))
        assert_refused(chat(gateway), 503, "backend_failed")
        assert chat(gateway).status_code == 500
        # Callers that leave: while a backend has their request, and before that names its model.
        resource.script.then(HANG)
        begun = request("POST", V1_CHAT, [("api-key", KEY), JSON_TYPE, ("content-length", "9")])
        for raw, backend, model in ((raw_chat(), "eastus", MODEL), (begun + b"{", "none", "none")):
            with gateway.connect() as connection:
                connection.send(raw)
                gateway.envoy.wait_for_stat("http.aoai.downstream_rq_active")
                if backend == "eastus":
                    resource.wait_for_requests(6)
                connection.leave()
            gateway.envoy.wait_for_stat(
                f"wasmcustom.aoai_requests_total.outcome.abandoned.backend.{backend}"
                f".subscription.team-1.model.{model}")
        found = of_the_module(gateway.envoy.prometheus())
        by_name = gateway.envoy.stats()
    remaining = found.pop(REMAINING)
    assert 1000 <= remaining <= 1800
    assert found.pop(document_taken(found)) > 1_700_000_000
    counted = {name: count for name, count in found.items() if count}
    assert counted == {
        requests_total("forwarded", "eastus"): 4,
        requests_total("backend_failed"): 1,
        requests_total("backend_failed", model="other"): 1,
        requests_total("abandoned", "eastus"): 1,
        requests_total("abandoned", model="none"): 1,
        requests_total("missing_key", subscription="none", model="none"): 1,
        requests_total("unknown_key", subscription="none", model="none"): 2,
        requests_total("model_not_allowed", subscription="limited", model="none"): 1,
        **{requests_total(reason, model="none"): 1 for reason in (
            "unknown_model", "unknown_operation", "operation_not_allowed", "missing_model")},
        fetches_total("success"): 1,
        attempts_total("responded", "200"): 3, attempts_total("failed", "500"): 1,
        attempts_total("failed", "none"): 1,
        attempts_total("failed", "none", "other", "far-away_2"): 1,
        # Of simulated Azure's 10 words around the caller's one, and its answer's 3.
        tokens_total("input"): 3 * 11, tokens_total("cached_input"): 3 * 2,
        tokens_total("output"): 3 * 3,
        # Of the request that was complete when its caller left: four bytes are a token.
        tokens_total("input", "estimated"): -(-len(RAW_BODY) // 4),
    }
    # What nobody's request has come to yet is there from the start, for alerts on rates.
    assert {dict(labels)["outcome"] for name, labels in found if name == "aoai_requests_total"} >= {
        "missing_key", "token_unavailable", "token_refused", "body_not_delivered",
        "backend_misconfigured", "all_backends_failed"}
    assert by_name["wasmcustom.aoai_requests_total.outcome.forwarded.backend.eastus"
                   f".subscription.team-1.model.{MODEL}"] == 4
    assert by_name["wasmcustom.aoai_requests_total.outcome.unknown_key.backend.none"
                   ".subscription.none.model.none"] == 2


def test_a_misconfigured_backend_shows_as_long_as_it_is(
        azure: AzureSim, resource: Resource, start_gateway: Start) -> None:
    diagnosed = (("backend", "eastus"), ("diagnosis", "role_missing"))
    shown = (*diagnosed, ("model", MODEL))
    with start_gateway(settings(resource)) as gateway:
        def metrics() -> Dict[Tuple[str, Labels], int]:
            return of_the_module(gateway.envoy.prometheus())

        assert chat(gateway).status_code == 200
        resource.break_with("role_missing")
        assert_refused(chat(gateway), 502, "backend_misconfigured")
        assert metrics()["aoai_misconfigured", shown] == 1
        resource.mend()
        served = 1

        def is_over() -> bool:
            """Another worker than the one that found it learns of it at its next tick."""
            nonlocal served
            served += 1
            assert chat(gateway).status_code == 200
            return metrics()["aoai_misconfigured", shown] == 0
        gateway.envoy.wait_until(is_over, "end of the misconfiguration")
        found = metrics()
    assert found["aoai_diagnoses_total", diagnosed] == 1
    assert found[requests_total("backend_misconfigured")] == 1
    assert found[requests_total("forwarded", "eastus")] == served


def test_token_fetches_are_counted_by_result_and_the_gauge_shows_no_token(
        azure: AzureSim, resource: Resource, start_gateway: Start) -> None:
    azure.identity.system_assigned = None
    gate = closed_gate(azure)
    azure.identity.script.then(Answer(500))
    with start_gateway(settings(resource, token_wait="100ms")) as gateway:
        def metrics() -> Dict[Tuple[str, Labels], int]:
            return of_the_module(gateway.envoy.prometheus())

        gateway.envoy.wait_until(
            lambda: metrics().get(fetches_total("failed")) == 1, "failed fetch")
        assert_refused(chat(gateway), 503, "token_unavailable")
        gate.open()
        gateway.envoy.wait_until(lambda: metrics()[fetches_total("refused")] == 1, "refused fetch")
        assert_refused(chat(gateway), 503, "token_refused")
        found = metrics()
    # One, unless the machine was so busy that a fetch was given up at the gate.
    failed = len(azure.identity.requests) - 1
    del found[document_taken(found)]
    assert {name: count for name, count in found.items() if count} == {
        requests_total("token_unavailable"): 1, requests_total("token_refused"): 1,
        fetches_total("failed"): failed, fetches_total("refused"): 1}
    assert found[REMAINING] == found[fetches_total("success")] == 0


# The log

RECOVERED = "gives tokens again"
SILENT_REPEATS = {
    "the same failure": Answer(500, body={"error": "unknown", "error_description": "first-kind"}),
    "throttling with Retry-After": Answer(429, [("Retry-After", "1")], {
        "error": "throttled", "error_description": "second-kind"}),
}


@pytest.fixture(scope="module")
def log_of_outages(workers: int) -> Iterator[List[str]]:
    """The log of two outages of two failures each, at the same time, and of their ends."""
    identities = {name: ManagedIdentity() for name in SILENT_REPEATS}
    asked = {name: 0 for name in SILENT_REPEATS}
    with AzureSim() as sim:
        def rule(request: RecordedRequest) -> Any:
            for name, identity in identities.items():
                if dict(request.query).get("client_id") == identity.client_id:
                    asked[name] += 1
                    return SILENT_REPEATS[name] if asked[name] <= 2 else None
            return None

        sim.identity.user_assigned = list(identities.values())
        sim.identity.script.always(rule)
        configurations = {
            name: settings(east(sim), identity=config.managed_identity(client_id=one.client_id))
            for name, one in identities.items()}
        with Gateway(settings(east(sim)), sim, workers=workers,
                     edits=[more_listeners(sim, configurations)]) as gateway:
            gateway.envoy.wait_until(lambda: min(asked.values()) >= 3, "third fetches")
            for name in identities:
                port = gateway.envoy.port(name)
                with Connection(port) as connection:
                    assert connection.exchange(raw_chat()).status == 200
            gateway.envoy.wait_until(
                lambda: gateway.envoy.log_text().count(RECOVERED) >= len(identities), "recoveries")
        yield gateway.envoy.log_text().splitlines()


@pytest.mark.parametrize("kind", ["first-kind", "second-kind"], ids=list(SILENT_REPEATS))
def test_an_outage_is_one_warning(log_of_outages: List[str], kind: str) -> None:
    found = [line for line in log_of_outages if kind in line]
    assert len(found) == 1, found
    assert "[warning]" in found[0] and "no token for Azure" in found[0]


def test_a_recovery_is_one_line(log_of_outages: List[str]) -> None:
    found = [line for line in log_of_outages if RECOVERED in line]
    assert len(found) == len(SILENT_REPEATS), found
    assert all("[info]" in line and "after 2 failed fetches" in line for line in found)


def test_a_refusal_is_one_error(azure: AzureSim, resource: Resource, start_gateway: Start) -> None:
    azure.identity.system_assigned = None
    with start_gateway(settings(resource)) as gateway:
        for _ in range(5):
            assert_refused(chat(gateway), 503, "token_refused")
        log = gateway.envoy.wait_for_log("no token for Azure")
        found = [line for line in log.splitlines() if "no token for Azure" in line]
    [line] = found
    assert "[error]" in line and "Identity not found" in line


# Secrets

MARKED = "aoai_MARKED-key-of-a-subscription"
MARKED_SECOND = "aoai_MARKED-second-key"
MARKED_WRONG = "aoai_MARKED-but-wrong"


def secret_calls() -> List[bytes]:
    """Requests with keys in all places, right, wrong, twice, in broken requests."""
    both = [("api-key", MARKED), ("authorization", f"Bearer {MARKED_WRONG}")]
    v1_body = json.dumps({**BODY, "model": MODEL}).encode()
    places: List[Tuple[str, List[Tuple[str, str]]]] = []
    for key in (MARKED, MARKED_SECOND, MARKED_WRONG):
        places += [("", [("api-key", key)]), ("", [("authorization", f"Bearer {key}")]),
                   ("", [("ocp-apim-subscription-key", key)]), (f"&api-key={key}", []),
                   (f"&subscription-key={key}", [])]
    places += [("", both), ("", [("api-key", MARKED), ("api-key", MARKED_SECOND)])]
    targets = [(CHAT, v1_body), (f"{V1_CHAT}?a=b", v1_body), (f"{V1_CHAT}?a=b", b'{"model":'),
               (CHAT.replace(MODEL, "nothing"), b"{}"), ("/openai/v1/files?a=b", b"{}"),
               ("/openai/%zz?a=b", b"{}"), ("/elsewhere?a=b", b"{}")]
    return [request("POST", target + query, [*headers, ("content-type", "application/json")], body)
            for target, body in targets for query, headers in places]


def secrets(azure: AzureSim) -> List[str]:
    """Every key and token, and the parts of tokens that would be as good as the whole."""
    parts = [part for token in azure.identity.issued for part in (token, token.split(".")[1])]
    return [MARKED, MARKED_SECOND, MARKED_WRONG, "MARKED", *(str(part) for part in parts)]


def assert_hidden(text: str, hidden: List[str], where: str) -> None:
    # The assertion must not print what it looks for.
    leaks = [index for index, secret in enumerate(hidden) if secret in text]
    assert leaks == [], f"{where} shows secrets"


def test_keys_and_tokens_show_nowhere(
        azure: AzureSim, resource: Resource, start_envoy: Callable[..., Envoy], workers: int
        ) -> None:
    azure.identity.issued.clear()
    # A token in an answer that the module cannot use, then one in an answer of an error.
    bad = azure.identity.token()
    gate = closed_gate(azure)
    azure.identity.script.then(
        Answer(200, body={"access_token": bad, "token_type": "Bearer"}),
        Answer(500, body={"error": "odd", "access_token": bad}))
    azure.identity.lifetime = 10
    document = settings(resource, keys=(MARKED, MARKED_SECOND), token_wait="50ms")
    envoy = start_envoy(in_front_of(azure, document), workers=workers, wasm_log_level="trace")
    answers: List[str] = []

    def send_all() -> List[int]:
        statuses = []
        for call in secret_calls():
            with Connection(envoy.port()) as connection:
                answer = connection.exchange(call)
            statuses.append(answer.status)
            answers.append(repr(answer.head.headers) + answer.body.decode("latin-1"))
        return statuses

    envoy.wait_until(lambda: len(azure.identity.requests) >= 1, "a fetch")
    assert 503 in send_all()
    gate.open()
    envoy.wait_until(lambda: len(azure.identity.requests) >= 3, "a good fetch")
    envoy.wait_for_stat("wasmcustom.aoai_entra_token_remaining_seconds.identity.default")
    resource.script.then(Answer(500), Answer(401), RESET)
    send_all()
    assert {200, 400, 401, 403, 404} <= set(send_all())
    refreshed = len(azure.identity.requests) + 1
    envoy.wait_until(lambda: len(azure.identity.requests) >= refreshed, "a refresh")
    hidden, digests = secrets(azure), [config.digest(key) for key in (MARKED, MARKED_SECOND)]
    assert len(azure.identity.issued) >= 2
    stats = json.dumps(envoy.stats()) + envoy.prometheus()
    dump = json.dumps(envoy.config_dump())
    for where, text in [("an answer", "\n".join(answers)), ("/stats", stats),
                        ("/config_dump", dump)]:
        assert_hidden(text, hidden, where)
    for where, text in [("an answer", "\n".join(answers)), ("/stats", stats)]:
        assert not any(digest[7:] in text for digest in digests), f"{where} shows digests"
    assert all(digest in dump for digest in digests), "the search finds what is there"
    assert envoy.stop() == 0
    log = envoy.log_text()
    assert_hidden(log, hidden, "the log")
    assert not any(digest[7:] in log for digest in digests), "the log shows digests"
    assert "[trace][wasm]" in log and "no token for Azure" in log


def test_no_key_shows_in_an_access_log(azure: AzureSim, resource: Resource, start_gateway: Start,
                                       tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    gateway = start_gateway(settings(resource), edits=[put(f"{MANAGER}.access_log", [{
        "name": "file", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(log)}}])])
    paths = {
        "served": f"/openai/v1/models?x=1&api-key={KEY}",
        "not granted": f"/openai/v1/files?x=2&api-key={KEY}",
        "unknown key": f"/openai/v1/models?x=3&subscription-key={OTHER_KEY}",
        "no such path": f"/elsewhere?x=4&api%2Dkey={KEY}",
        "no path at all": f"/openai/../%zz?x=5&api-key={KEY}",
    }
    for path in paths.values():
        with gateway.connect() as connection:
            connection.send(request("GET", path))
            connection.read_head()

    def all_logged() -> bool:
        return log.exists() and len(log.read_text().splitlines()) >= len(paths)
    gateway.envoy.wait_until(all_logged, "five lines in the access log")
    text = log.read_text()
    for number in range(1, 6):
        assert f"?x={number} HTTP" in text
    assert KEY not in text and OTHER_KEY not in text
