"""What a gateway does wherever it is attached: tests for the control planes, each of which has each class once, with a
fixture `gateway` that serves the two models of `two_regions` and a subscription with a limit."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, Dict, Tuple

import openai
import pytest
from websockets.sync.client import connect as websocket

from azure_sim import HANG_LIMIT, AzureSim, errors
from e2e import config
from e2e.calls import (API_VERSION, MESSAGES, arrived_at, at_host, chat, own_answer, refused, send,
                       v1)
from e2e.identities import KINDS, Identities
from e2e.limit_service import LimitService
from e2e.two_regions import KEY, LIMITED, POOL, SINGLE, document_of_two

BY_URL_AND_BODY = {
    "model in the URL": chat(SINGLE, ("api-key", KEY)),
    "model in the body": v1(b'{"model":"%s",' % SINGLE.encode() + MESSAGES[1:], ("api-key", KEY)),
    "of a pool, in the URL": chat(POOL, ("api-key", KEY)),
    "of a pool, in the body": v1(b'{"model":"%s",' % POOL.encode() + MESSAGES[1:],
                                 ("api-key", KEY)),
}
# What a caller and Envoy send to a backend, besides what the control plane adds.
EXPECTED = {"host", "authorization", "content-type", "content-length", "x-forwarded-proto", "accept",
            "user-agent", "transfer-encoding"}


def tokens(gateway: Any) -> "Counter[str]":
    """How many tokens of the subscription without limits are counted, by their type."""
    found: "Counter[str]" = Counter()
    for name, count in gateway.envoy.stats().items():
        matched = re.match(r"wasmcustom\.aoai_tokens_total\.backend\.[\w-]+\.type\.(\w+)\..*"
                           r"\.subscription\.team\.", name)
        if matched:
            found[matched[1]] += count
    return found


# A host that something else than the gateway has on the same listener.
HOST = "ai.example.test"


def document_with_a_quota(azure: AzureSim) -> Dict[str, Any]:
    """Limits in a service, and a subscription whose quota its first request uses up."""
    return document_of_two(azure, limits={"store": "ratelimit"}, subscriptions=[
        config.subscription("team", key=KEY),
        config.subscription("limited", key=LIMITED, limits={
            "quota": {"tokens": 1, "period": "year"}})])


class ServesBesideOthers:
    """The tests of a gateway at `HOST`, where the listener serves other hosts as well. `limits` is the service of the
    document's limits."""

    @pytest.mark.parametrize("host", [HOST, f"{HOST}:8443"])
    @pytest.mark.parametrize("model", [POOL, SINGLE])
    def test_its_host_is_the_gateway(self, gateway: Any, model: str, host: str) -> None:
        answer = at_host(gateway, chat(model, ("api-key", KEY)), host)
        assert (answer.status, answer.head.values("x-aoai-backend")) == (200, ["eastus"])
        own_answer(at_host(gateway, chat(model, ("api-key", "wrong")), host), "unknown_key",
                   hidden=["wrong"])

    def test_a_throttled_request_moves_on(self, gateway: Any, azure: AzureSim) -> None:
        azure.resources["eastus"].script.then(errors.throttled(retry_after_ms="1"))
        answer = at_host(gateway, chat(POOL, ("api-key", KEY)), HOST)
        assert [answer.head.values(f"x-aoai-{name}") for name in ("backend", "attempts")] == [
            ["sweden"], ["2"]]

    def test_a_quota_of_the_service_of_limits_binds(
            self, gateway: Any, limits: LimitService) -> None:
        call = chat(SINGLE, ("api-key", LIMITED))
        at_host(gateway, call, HOST)
        gateway.envoy.wait_until(lambda: limits.charged("quota", "limited") > 1, "charge")
        own_answer(at_host(gateway, call, HOST), "quota_exhausted")


class SignsIn:
    """The test of a gateway that signs in with identities of every kind: `found` has both."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_an_identity_of_every_kind_signs_in(
            self, found: Tuple[Identities, Any], kind: str) -> None:
        identities, gateway = found
        assert identities.chat(gateway, kind).status == 200
        assert [seen.token.oid for seen in identities.arrived(kind) if seen.token] == [
            identities.all[kind].object_id]


class Serves:
    """The tests. `gateway` is a Gateway of plain Envoy, or what can be used in its place."""

    @pytest.mark.parametrize("kind", BY_URL_AND_BODY)
    def test_a_request_is_served_and_reaches_azure_without_what_the_control_plane_adds(
            self, gateway: Any, azure: AzureSim, kind: str) -> None:
        answer = send(gateway, BY_URL_AND_BODY[kind])
        assert (answer.status, answer.head.values("x-aoai-backend")) == (200, ["eastus"])
        assert {name for name, _ in arrived_at(azure, "eastus").headers} <= EXPECTED

    @pytest.mark.parametrize(("call", "reason"), [
        (chat(SINGLE), "missing_key"),
        (chat(SINGLE, ("api-key", "wrong")), "unknown_key"),
        (chat("gpt-9", ("api-key", KEY)), "unknown_model"),
    ])
    def test_a_request_that_may_not_be_served_is_refused(
            self, gateway: Any, azure: AzureSim, call: Any, reason: str) -> None:
        refused(gateway, azure, call, reason, hidden=["wrong"])

    def test_a_throttled_request_moves_on_to_the_next_region(
            self, gateway: Any, azure: AzureSim) -> None:
        azure.resources["eastus"].script.then(errors.throttled(retry_after_ms="1"))
        answer = send(gateway, chat(POOL, ("api-key", KEY)))
        assert [answer.head.values(f"x-aoai-{name}") for name in ("backend", "attempts")] == [
            ["sweden"], ["2"]]

    def test_the_official_client_streams(self, gateway: Any) -> None:
        with openai.OpenAI(base_url=f"{gateway.url}/openai/v1/", api_key=KEY,
                           max_retries=0) as client:
            chunks = list(client.chat.completions.create(
                model=SINGLE, messages=[{"role": "user", "content": "hi"}], stream=True))
        text = "".join(one.choices[0].delta.content or "" for one in chunks)
        assert text == "answer from eastus"

    def test_a_realtime_session_is_a_websocket(self, gateway: Any) -> None:
        target = f"/openai/realtime?{API_VERSION}&deployment={SINGLE}"
        with websocket(f"ws://127.0.0.1:{gateway.port}{target}", proxy=None,
                       open_timeout=HANG_LIMIT, additional_headers={"api-key": KEY},
                       close_timeout=0.1) as session:
            assert json.loads(session.recv(HANG_LIMIT))["type"] == "session.created"
            session.send("hello")
            assert session.recv(HANG_LIMIT) == "hello"

    def test_the_tokens_that_azure_reports_are_counted(self, gateway: Any) -> None:
        before = tokens(gateway)
        reported: "Counter[str]" = Counter()
        for call in BY_URL_AND_BODY.values():
            usage = json.loads(send(gateway, call).body)["usage"]
            reported.update(input=usage["prompt_tokens"], output=usage["completion_tokens"])
        gateway.envoy.wait_until(
            lambda: {kind: tokens(gateway)[kind] - before[kind] for kind in reported} == reported,
            f"{dict(reported)} tokens")

    def test_a_subscriptions_limit_binds_it(self, gateway: Any) -> None:
        answers = [send(gateway, chat(SINGLE, ("api-key", LIMITED))) for _ in range(3)]
        own_answer(answers[-1], "request_limit_reached")
