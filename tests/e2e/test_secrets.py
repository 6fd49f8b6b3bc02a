"""Secrets show nowhere: every kind of identity, in order and in trouble, good and bad requests, answers
that tell of mistakes and repeat what they were sent, pools; and then a search for every mark.

What cannot be hidden from here, and is not searched: Envoy's own log below `info` prints all headers of
all requests (so the last test looks at the module's lines alone), and a body that a backend sends
reaches its caller as it is, unless it tells of an operator's mistake.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import pytest

from azure_sim import (RESET, Answer, AzureSim, RecordedRequest, aadsts, assertions, errors, faults,
                       tokens)
from azure_sim.script import Step
from e2e import config
from e2e.gateway import Gateway
from e2e.identities import KINDS, Identities, metric
from e2e.wire import Closed, request

KEYS = ("aoai_MARKED-key-of-a-subscription", "aoai_MARKED-second-key")
WRONG_KEY = "aoai_MARKED-but-wrong"
FAULTS = ("500", "429 plain text", "reset", "half of the JSON", "oversized", "not a header value",
          "expired")
POOL = ("ok-managed-identity", "ok-client-secret")
POOLED = "pooled"


@dataclass
class Seen:
    """What could be seen of a run, and what must not be in it."""

    secrets: Dict[str, str] = field(default_factory=dict)
    answers: List[str] = field(default_factory=list)
    statuses: List[int] = field(default_factory=list)
    reasons: List[str] = field(default_factory=list)
    diagnoses: List[str] = field(default_factory=list)
    log: str = ""
    log_at_trace: str = ""
    stats: str = ""
    dump: str = ""


def identities(sim: AzureSim, folder: Any) -> Identities:
    """One of each kind that works, one for each fault, and one that its endpoint refuses."""
    found = Identities(sim, folder)
    for kind in KINDS:
        word = kind.replace("_", "-")
        found.add(kind, f"ok-{word}")
        found.add(kind, f"unknown-{word}", known=False)
        for number, fault in enumerate(FAULTS):
            one = found.add(kind, f"bad-{word}-{number}")
            step = faults.of(one.endpoint)[fault]
            one.rule = lambda _count, step=step: step  # type: ignore[misc]
        # An error that is none of the protocol's, with a token beside what the log repeats.
        odd = found.add(kind, f"odd-{word}")
        body = {"error": "odd", "access_token": odd.granted().body["access_token"]}  # type: ignore
        odd.rule = lambda _count, body=body: Answer(500, body=body)  # type: ignore[misc]
    expired = found.add("client_secret", "refused")
    expired.rule = lambda _count: aadsts.refusal(7000222)
    return found


def ending(name: str) -> str:
    """How the fetches of an identity of this name end."""
    return {"ok": "success", "un": "refused", "re": "refused"}.get(name[:2], "failed")


def document(found: Identities) -> config.Json:
    result = found.document(token_wait="100ms")
    result["subscriptions"] = [config.subscription("search", key=KEYS, operations=["*"])]
    result["models"].append(config.model(POOLED, *(
        config.route(name, priority=rank) for rank, name in enumerate(POOL))))
    return result


def placed(key: str) -> Iterator[Tuple[str, List[Tuple[str, str]]]]:
    """A key in each place where one may be: the end of a query, and headers."""
    yield "", [("api-key", key)]
    yield "", [("authorization", f"Bearer {key}")]
    yield "", [("ocp-apim-subscription-key", key)]
    yield f"&api-key={key}", []
    yield f"&subscription%2Dkey={key}", []


def calls(models: Sequence[str]) -> Iterator[bytes]:
    """Requests of all kinds, with keys right, wrong, twice, and in what cannot be read."""
    rows = [*placed(KEYS[0]), *placed(KEYS[1]), *placed(WRONG_KEY),
            ("", [("api-key", KEYS[0]), ("authorization", f"Bearer {WRONG_KEY}")]),
            (f"&api-key={KEYS[0]}&api-key={KEYS[1]}", [])]
    chat = "/openai/deployments/{}/chat/completions?api-version=2024-10-21"
    targets = [
        (chat.format(POOL[0]), b"{}"), (chat.format(POOLED), b"{}"), (chat.format("none"), b"{}"),
        ("/openai/v1/chat/completions?a=b", b'{"model":"%s","messages":[]}' % POOL[1].encode()),
        ("/openai/v1/chat/completions?a=b", b'{"model":'), ("/openai/%zz?a=b", b"{}"),
        ("/openai/v1/files?a=b", b""), ("/elsewhere?a=b", b"{}")]
    kind = ("content-type", "application/json")
    for target, body in targets:
        for query, headers in rows:
            yield request("POST", target + query, [*headers, kind], body)
    for model in models:
        yield request("POST", chat.format(model), [("api-key", KEYS[0]), kind], b"{}")


def send(gateway: Gateway, seen: Seen, call: bytes) -> None:
    with gateway.connect() as connection:
        try:
            answer = connection.exchange(call)
        except Closed:
            return
    seen.statuses.append(answer.status)
    seen.reasons += answer.head.values("x-aoai-reason")
    seen.diagnoses += answer.head.values("x-aoai-diagnosis")
    seen.answers.append(repr(answer.head.headers) + answer.body.decode("latin-1"))


def repeating(seen: RecordedRequest) -> Answer:
    """A refusal that says what it refuses, where the log looks for a name."""
    token = seen.header("authorization") or ""
    return errors.error(401, "PermissionDenied", f"The principal `{token[7:]}` lacks the required data "
                        f"action `{token}` to perform `{seen.target}`: {token}")


@pytest.fixture(scope="module")
def seen(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    with AzureSim() as sim:
        found, seen = identities(sim, tmp_path_factory.mktemp("secrets")), Seen()
        with found.gateway(workers, document(found)) as gateway:
            gateway.envoy.admin.post("/logging?wasm=trace").raise_for_status()
            fill(seen, found, gateway)
            seen.secrets = secrets(found)
            seen.stats = json.dumps(gateway.envoy.stats()) + gateway.envoy.prometheus()
            seen.dump = json.dumps(gateway.envoy.config_dump())
            seen.log = gateway.envoy.log_text()
            at_trace(seen, found, gateway)
            seen.secrets = secrets(found)
        yield seen


def fill(seen: Seen, found: Identities, gateway: Gateway) -> None:
    def have_ended() -> bool:
        stats = gateway.envoy.stats()
        return all(stats.get(metric(name, ending(name))) for name in found.all)

    gateway.envoy.wait_until(have_ended, "fetches of all")
    for call in calls(list(found.all)):
        send(gateway, seen, call)
    resource = found.resource_of(POOL[0])

    def meet(model: str, *steps: Step) -> None:
        for step in steps:
            resource.script.then(step)
            send(gateway, seen, request(
                "POST", f"/openai/deployments/{model}/chat/completions?api-version=2024-10-21",
                [("api-key", KEYS[0]), ("content-type", "application/json")], b"{}"))
    refusals = [*map(resource.refusal, (
        "token_refused", "role_missing", "wrong_tenant", "keys_disabled", "firewall"))]
    meet(POOL[0], *refusals, resource.refusal("resource_not_found"))
    meet(POOLED, Answer(500), RESET, errors.throttled(1), *refusals)
    # A key that Azure is said to have been sent, in a body of Azure's.
    resource.script.always(repeating)
    for model in (*POOL, POOLED):
        target = f"/openai/deployments/{model}/chat/completions?api-version=2024-10-21"
        for query, headers in placed(KEYS[0]):
            send(gateway, seen, request("POST", target + query, headers, b"{}"))
    resource.script.clear()


def at_trace(seen: Seen, found: Identities, gateway: Gateway) -> None:
    """Once more, with all that Envoy can say."""
    gateway.envoy.admin.post("/logging?level=trace").raise_for_status()
    before = len(gateway.envoy.log_text())
    endpoints = (found.sim.identity, found.sim.app_service, found.sim.entra)
    asked = [len(endpoint.requests) for endpoint in endpoints]
    for call in calls(POOL):
        send(gateway, seen, call)
    # The broken ones are asked for again.
    gateway.envoy.wait_until(
        lambda: all(len(endpoint.requests) > count for endpoint, count in zip(endpoints, asked)),
        "more fetches")
    gateway.envoy.admin.post("/logging?level=info").raise_for_status()
    seen.log_at_trace = gateway.envoy.log_text()[before:]


def secrets(found: Identities) -> Dict[str, str]:
    """Every secret there is by what it is, and what of a token is as good as all of it."""
    sim = found.sim
    issued = [*sim.identity.issued, *sim.app_service.issued, *sim.entra.issued]
    return {
        "a key": "MARKED", "a token": tokens.MARK, "an assertion": assertions.MARK,
        "the client secret": found.secret, "what is no token": faults.NOT_A_TOKEN,
        "X-IDENTITY-HEADER": str(sim.app_service.identity_header),
        **{f"the claims of token {number}": token.split(".")[1]
           for number, token in enumerate(issued)},
    }


def shown(seen: Seen, text: str) -> List[str]:
    """What shows, by name: an assertion must not print what it looks for."""
    return [name for name, secret in seen.secrets.items() if secret in text]


def test_the_run_has_met_everything(seen: Seen) -> None:
    assert {200, 400, 401, 404, 500, 502, 503} <= set(seen.statuses)
    assert {"missing_model", "unknown_key", "conflicting_keys", "unknown_model", "unknown_operation",
            "token_unavailable", "token_refused", "backend_misconfigured"} <= set(seen.reasons)
    assert {"token_rejected", "role_missing", "wrong_tenant", "key_authentication_disabled",
            "network_denied", "unknown_path"} <= set(seen.diagnoses)
    assert "[trace][wasm]" in seen.log and len(seen.secrets) > 10
    for mark in ("client_secret_expired", "application_not_found", "identity_not_found",
                 "cannot be sent in a header", "role_missing"):
        assert mark in seen.log


def test_no_secret_is_in_an_answer(seen: Seen) -> None:
    assert shown(seen, "\n".join(seen.answers)) == []


def test_no_secret_is_in_the_metrics(seen: Seen) -> None:
    assert shown(seen, seen.stats) == []


def test_no_secret_is_in_the_configuration(seen: Seen) -> None:
    assert config.digest(KEYS[0]) in seen.dump, "the search finds what is there"
    assert shown(seen, seen.dump) == []


def test_no_secret_and_no_digest_is_in_the_log(seen: Seen) -> None:
    assert shown(seen, seen.log) == []
    assert not any(config.digest(key)[7:] in seen.log for key in KEYS)


def test_what_the_module_logs_has_no_secret_however_much_envoy_says(seen: Seen) -> None:
    lines = seen.log_at_trace.splitlines()
    ours = "\n".join(line for line in lines if "][wasm]" in line)
    assert ours and shown(seen, ours) == []
    assert shown(seen, seen.log_at_trace), "Envoy's own lines do: the search finds what is there"
