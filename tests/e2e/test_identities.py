"""Several identities side by side: each backend gets its own token, in a pool too, and one that is
broken is nobody else's trouble."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

import pytest

from azure_sim import Answer, AzureSim, Delivery, Gate, RecordedRequest, clouds, errors
from e2e import calls, config
from e2e.calls import Call
from e2e.edits import BACKEND_PLUGIN, configured
from e2e.gateway import Gateway
from e2e.identities import KEY, Identities, SignIn, chat_call, metric
from e2e.wire import Response

Json = Dict[str, Any]
OTHER_TENANT = "11111111-0000-4000-8000-000000000011"
THIRD_TENANT = "22222222-0000-4000-8000-000000000022"
FOURTH_TENANT = "33333333-0000-4000-8000-000000000033"


def whose(requests: List[RecordedRequest]) -> List[Tuple[str, str, str]]:
    """Principal, tenant and audience of the token of each request."""
    assert all(one.token is not None for one in requests)
    return [(one.token.oid, one.token.tid, one.token.aud) for one in requests if one.token]


def its_own(one: SignIn) -> Tuple[str, str, str]:
    return (one.object_id, one.bearer.tenant, one.cloud.audiences[0])


# Tenants and clouds


def test_each_backend_gets_the_token_of_its_own_tenant_and_cloud(workers: int, tmp_path: Path
                                                                 ) -> None:
    crowd = 20
    with AzureSim() as sim:
        found = Identities(sim, tmp_path)
        ways = [found.add("managed_identity", "home", selector=None),
                found.add("workload_identity", "partner", tenant=OTHER_TENANT),
                found.add("client_secret", "gov", cloud=clouds.US_GOVERNMENT, tenant=THIRD_TENANT),
                found.add("workload_identity", "china", cloud=clouds.CHINA, tenant=FOURTH_TENANT)]
        document = found.document()
        # The first one is the default: `identity`, which its backend does not name.
        document["identity"] = document["identities"].pop("home")
        del document["backends"][0]["identity"]
        with found.gateway(workers, document) as gateway:
            waiting = [(one, gateway.connect()) for _ in range(crowd) for one in ways]
            for one, connection in waiting:
                connection.send(chat_call(one.name).raw())
            for _, connection in waiting:
                assert connection.read_response().status == 200
                connection.close()
            for one in ways:
                assert whose(found.arrived(one.name)) == [its_own(one)] * crowd
            stats = gateway.envoy.stats()
            for name in ("default", "partner", "gov", "china"):
                assert stats[metric(name, "success")] == 1
                assert stats[metric(name, "refused")] == 0
                gauge = f"wasmcustom.aoai_entra_token_remaining_seconds.identity.{name}"
                assert gateway.envoy.wait_for_stat(gauge) <= 3600
            assert metric("home", "success") not in stats


# Pools

FAILOVER = {"cooldown": "40s", "longest_cooldown": "60m", "retry_within": "5m"}
THROTTLED = errors.throttled(retry_after_ms="600000")


def pool_model(found: Identities, name: str, *backends: str) -> Json:
    """A model on these backends, in the order in which they are tried."""
    for one in backends:
        found.resource_of(one).deployments[name] = "gpt-4o"
    return config.model(name, *[config.route(one, priority=rank)
                                for rank, one in enumerate(backends)])


def pooled(found: Identities, workers: int, *models: Json) -> Gateway:
    """An Envoy with these models beside each backend's own."""
    document = found.document(failover=FAILOVER)
    document["models"] += models
    return found.gateway(workers, document)


def all_signed_in(found: Identities, gateway: Gateway, *names: str) -> None:
    """Returns once each of these has its token. What was sent for that is forgotten."""
    for name in names:
        assert found.chat(gateway, name).status == 200
        found.resource_of(name).recorder.clear()


def by_path(model: str) -> Call:
    return chat_call(model)


def by_body(model: str) -> Call:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]})
    return calls.v1(body.encode(), ("api-key", KEY))


def served_by(answer: Response, backend: str, attempts: int) -> None:
    assert answer.status == 200, answer
    assert (answer.head.values("x-aoai-backend"), answer.head.values("x-aoai-attempts")) == (
        [backend], [str(attempts)])


def two_of_different_clouds(sim: AzureSim, folder: Path) -> Tuple[Identities, SignIn, SignIn]:
    found = Identities(sim, folder)
    return (found, found.add("managed_identity", "one"),
            found.add("client_secret", "two", cloud=clouds.US_GOVERNMENT, tenant=OTHER_TENANT))


@pytest.mark.parametrize("call", [by_path, by_body])
@pytest.mark.parametrize("order", ["one two", "two one"])
def test_an_attempt_at_another_backend_carries_that_ones_token_and_no_other(
        workers: int, tmp_path: Path, order: str, call: Callable[[str], Call]) -> None:
    first, second = order.split()
    with AzureSim() as sim:
        found, _, _ = two_of_different_clouds(sim, tmp_path)
        with pooled(found, workers, pool_model(found, "both", first, second)) as gateway:
            all_signed_in(found, gateway, first, second)
            served_by(calls.send(gateway, call("both")), first, 1)
            found.resource_of(first).script.then(THROTTLED)
            served_by(calls.send(gateway, call("both")), second, 2)
            # It is left alone now, so that the other one is the first choice.
            served_by(calls.send(gateway, call("both")), second, 1)
            for name in (first, second):
                assert whose(found.resource_of(name).requests) == [its_own(found.all[name])] * 2


def test_a_token_is_not_taken_along_where_the_clusters_know_one_identity_only(
        workers: int, tmp_path: Path) -> None:
    """As they do for a while when a document with several is replaced."""
    with AzureSim() as sim:
        found = Identities(sim, tmp_path)
        one = found.add("managed_identity", "one")
        found.add("client_secret", "two", tenant=OTHER_TENANT)
        document = found.document(failover=FAILOVER)
        document["models"].append(pool_model(found, "both", "two", "one"))
        known = {**document, "identity": one.document}
        del known["identities"]
        known["backends"] = [{name: value for name, value in backend.items() if name != "identity"}
                             for backend in document["backends"]]
        replaced = configured(known, BACKEND_PLUGIN)
        with found.gateway(workers, document, edits=[replaced]) as gateway:
            all_signed_in(found, gateway, "one", "two")
            found.resource_of("two").script.then(THROTTLED)
            served_by(calls.send(gateway, by_path("both")), "one", 2)
            assert whose(found.resource_of("one").requests) == [its_own(one)]


def test_a_crowd_that_fails_over_mixes_up_no_tokens(workers: int, tmp_path: Path) -> None:
    crowd = 40
    with AzureSim() as sim:
        found, one, two = two_of_different_clouds(sim, tmp_path)
        orders = {f"both-{number}": ("one", "two") if number % 2 else ("two", "one")
                  for number in range(crowd)}
        for name in found.all:
            no_quota = {model for model, order in orders.items() if order[0] == name}
            found.resource_of(name).script.always(throttles(no_quota))
        with pooled(found, workers, *[pool_model(found, model, *order)
                                      for model, order in orders.items()]) as gateway:
            all_signed_in(found, gateway, "one", "two")
            asking = {model: gateway.connect() for model in orders}
            for model, connection in asking.items():
                connection.send(chat_call(model).raw())
            for model, connection in asking.items():
                served_by(connection.read_response(), orders[model][1], 2)
                connection.close()
            for way in (one, two):
                assert whose(found.resource_of(way.name).requests) == [its_own(way)] * crowd


def throttles(models: Set[str]) -> Callable[[RecordedRequest], Optional[Answer]]:
    """A rule: there is no quota for these."""
    return lambda request: THROTTLED if request.path.split("/")[3] in models else None


# One that is broken


def test_an_identity_that_is_refused_stops_its_own_backend_only(workers: int, tmp_path: Path
                                                                ) -> None:
    with AzureSim() as sim:
        found = Identities(sim, tmp_path)
        broken = found.add("managed_identity", "broken", known=False)
        nobody = found.add("workload_identity", "nobody", known=False)
        well = found.add("client_secret", "well", cloud=clouds.US_GOVERNMENT, tenant=OTHER_TENANT)
        models = [pool_model(found, "broken-first", "broken", "well"),
                  pool_model(found, "well-first", "well", "broken"),
                  pool_model(found, "neither", "broken", "nobody")]
        with pooled(found, workers, *models) as gateway:
            found.wait_for_fetches(gateway, "refused", 1, names=["broken", "nobody"])
            all_signed_in(found, gateway, "well")
            for _ in range(3):
                calls.own_answer(found.chat(gateway, "broken"), "token_refused")
                calls.own_answer(found.chat(gateway, "neither"), "token_refused")
                assert found.chat(gateway, "well").status == 200
                served_by(found.chat(gateway, "broken-first"), "well", 1)
                served_by(found.chat(gateway, "well-first"), "well", 1)
            assert found.resource_of("broken").requests == []
            assert set(whose(found.resource_of("well").requests)) == {its_own(well)}

            # A backend without a token is no other one to go on to.
            found.resource_of("well").script.always(THROTTLED)
            answer = found.chat(gateway, "well-first")
            assert (answer.status, answer.head.values("x-aoai-backend")) == (429, ["well"])
            assert answer.head.values("x-aoai-attempts") == ["1"]

            def is_told() -> bool:
                """About once a second it is asked all the same."""
                answer = found.chat(gateway, "well-first")
                assert answer.status == 429
                return answer.head.values("x-aoai-reason") == ["all_backends_throttled"]
            gateway.envoy.wait_until(is_told, "local reply")
            assert found.resource_of("broken").requests == []
            # The trouble of one is logged as its own, once.
            for one in (broken, nobody):
                [line] = [line for line in one.log(gateway) if "refused" in line]
                assert line.endswith(f"(identity {one.name})")
            assert not [line for line in well.log(gateway) if "refused" in line]


def test_a_pool_goes_back_to_a_backend_whose_identity_is_well_again(workers: int, tmp_path: Path
                                                                    ) -> None:
    broken = [True]
    with AzureSim() as sim:
        found = Identities(sim, tmp_path)
        late = found.add("app_service", "late", rule=lambda _: Answer(500) if broken[0] else None)
        well = found.add("client_secret", "well", cloud=clouds.US_GOVERNMENT, tenant=OTHER_TENANT)
        with pooled(found, workers, pool_model(found, "both", "late", "well")) as gateway:
            all_signed_in(found, gateway, "well")
            for _ in range(3):
                served_by(found.chat(gateway, "both"), "well", 1)
            assert found.resource_of("late").requests == []
            broken[0] = False

            def is_back() -> bool:
                answer = found.chat(gateway, "both")
                assert answer.status == 200
                return answer.head.values("x-aoai-backend") == ["late"]
            gateway.envoy.wait_until(is_back, "request to the first backend")
            for way in (late, well):
                assert set(whose(found.resource_of(way.name).requests)) == {its_own(way)}


def test_a_request_that_waits_goes_to_whichever_identity_has_its_token_first(
        workers: int, tmp_path: Path) -> None:
    never, gate = Gate(), Gate()
    with AzureSim() as sim:
        found = Identities(sim, tmp_path)
        found.add("managed_identity", "slow", rule=lambda _: Delivery(before=never))
        found.add("client_secret", "quick", cloud=clouds.US_GOVERNMENT, tenant=OTHER_TENANT,
                  rule=lambda _: Delivery(before=gate))
        with pooled(found, workers, pool_model(found, "both", "slow", "quick")) as gateway:
            with gateway.connect() as connection:
                connection.send(chat_call("both").raw())
                gateway.envoy.wait_for_stat("http.aoai.downstream_rq_active")
                assert found.nothing_arrived()
                gate.open()
                served_by(connection.read_response(), "quick", 1)
            assert whose(found.resource_of("quick").requests) == [its_own(found.all["quick"])]
            assert found.resource_of("slow").requests == []
