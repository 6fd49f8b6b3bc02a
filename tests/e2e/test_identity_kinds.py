"""Every kind of identity against its endpoint: who signs in, what is sent, how often."""

from __future__ import annotations

import calendar
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import pytest

from azure_sim import TENANT, Answer, AzureSim, Delivery, ExpiresOn, Gate, clouds
from azure_sim.clouds import Cloud
from azure_sim.witness import fixed_parts, official_request
from e2e.gateway import Gateway
from e2e.identities import KINDS, Identities, SignIn, chat_call
from e2e.wire import Response

OTHER_TENANTS = {"us_government": "11111111-0000-4000-8000-000000000011",
                 "china": "22222222-0000-4000-8000-000000000022"}
ACTIVE = "http.aoai.downstream_rq_active"


# Who signs in


@dataclass(frozen=True)
class Row:
    """An identity to sign in with: by which id a managed one is chosen, in which cloud."""

    kind: str
    selector: Optional[str] = "client_id"
    cloud: Cloud = clouds.PUBLIC

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.selector or 'own'}-{self.cloud.name}"


ROWS = {row.name: row for row in [
    *(Row(kind, selector) for kind in ("managed_identity", "app_service")
      for selector in (None, "client_id", "object_id", "resource_id")),
    *(Row(kind, cloud=cloud) for kind in ("workload_identity", "client_secret")
      for cloud in clouds.CLOUDS),
]}


@dataclass
class Served:
    """A request for each identity, and what came of it."""

    found: Identities
    gateway: Gateway
    answers: Dict[str, Response]


@pytest.fixture(scope="module")
def served(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with AzureSim() as sim:
        found = Identities(sim, tmp_path_factory.mktemp("kinds"))
        for name, row in ROWS.items():
            found.add(row.kind, name, selector=row.selector, cloud=row.cloud,
                      tenant=OTHER_TENANTS.get(row.cloud.name, TENANT))
        with found.gateway(workers) as gateway:
            yield Served(found, gateway, {name: found.chat(gateway, name) for name in ROWS})


@pytest.mark.parametrize("name", ROWS)
def test_requests_leave_as_the_configured_identity_for_its_clouds_audience(
        served: Served, name: str) -> None:
    one = served.found.all[name]
    assert served.answers[name].status == 200
    [seen] = served.found.arrived(name)
    assert seen.token is not None
    token = seen.token
    assert (token.oid, token.appid, token.tid) == (
        one.object_id, one.bearer.client_id, one.bearer.tenant)
    assert token.aud == one.cloud.audiences[0]
    assert token.appidacr == ("1" if one.kind == "client_secret" else "2")
    # A busy machine may give up a fetch and make another.
    assert one.fetches(served.gateway, "success") == 1
    assert len(one.requests) <= 1 + one.fetches(served.gateway, "failed")


@pytest.mark.parametrize("name", ROWS)
def test_the_endpoint_is_asked_as_microsofts_own_client_asks(served: Served, name: str) -> None:
    row, one = ROWS[name], served.found.all[name]
    seen = one.requests[-1]
    kind = "imds" if row.kind == "managed_identity" else row.kind
    given: Dict[str, Any] = {"audience": row.cloud.audiences[0]}
    if kind in ("imds", "app_service"):
        given.update({} if row.selector is None else {row.selector: one.chosen})
    else:
        token = served.found.volume.path().read_text()
        given.update(client_id=one.chosen, tenant=one.bearer.tenant, authority=row.cloud.authority,
                     **({"assertion": token} if kind == "workload_identity" else
                        {"secret": served.found.secret}))
    assert fixed_parts(kind, seen) == official_request(kind, **given)
    # Whoever passes a request on says so, and such requests are refused.
    assert seen.header("x-forwarded-for") is None


def test_who_cannot_reach_the_files_leaves_the_fetch_to_others(served: Served) -> None:
    # Envoy's main thread has a root context too, and no internal listeners.
    assert "listener answers 503" not in served.gateway.envoy.log_text()


def test_no_secret_shows_anywhere(served: Served) -> None:
    assert served.found.shown(served.gateway) == []


# How often


def test_a_crowd_at_a_cold_start_costs_one_fetch_of_each_kind(
        workers: int, tmp_path: Path) -> None:
    gate, crowd = Gate(), 25
    with AzureSim() as sim:
        found = Identities(sim, tmp_path)
        ways = [found.add(kind, kind, rule=lambda _: Delivery(before=gate)) for kind in KINDS]
        with found.gateway(workers, found.document(token_wait="5m")) as gateway:
            waiting = [(one, gateway.connect()) for one in ways for _ in range(crowd)]
            for one, connection in waiting:
                connection.send(chat_call(one.name).raw())
            gateway.envoy.wait_for_stat(ACTIVE, len(waiting))
            assert found.nothing_arrived()
            gate.open()
            assert [connection.read_response().status for _, connection in waiting] == (
                [200] * len(waiting))
            for _, connection in waiting:
                connection.close()
            for one in ways:
                arrived = found.arrived(one.name)
                assert len(arrived) == crowd
                assert len({seen.token.jti for seen in arrived if seen.token}) == 1
                failed = one.fetches(gateway, "failed")
                assert one.fetches(gateway, "success") == 1
                assert len(one.requests) <= 1 + failed


def test_a_token_is_renewed_ahead_of_its_expiry_and_serves_while_that_fails(
        workers: int, tmp_path: Path) -> None:
    works = [True]
    with AzureSim() as sim:
        found = Identities(sim, tmp_path)

        def way(kind: str) -> SignIn:
            # The endpoint's hint is the one thing that makes a token of an hour due soon.
            one = found.add(kind, kind, rule=lambda _: (
                one.granted(refresh_in=1) if works[0] else Answer(500)))
            return one

        ways = [way(kind) for kind in KINDS]
        with found.gateway(workers) as gateway:
            def tokens() -> List[str]:
                """Those with which each kind is served now."""
                for one in ways:
                    assert found.chat(gateway, one.name).status == 200
                seen = [found.arrived(one.name)[-1].token for one in ways]
                return [token.jti for token in seen if token]

            def until(result: str, more: int) -> None:
                before = [one.fetches(gateway, result) for one in ways]

                def reached() -> bool:
                    tokens()
                    return all(one.fetches(gateway, result) >= start + more
                               for one, start in zip(ways, before))
                gateway.envoy.wait_until(reached, f"fetches of each kind with {result}")

            def all_new(old: List[str]) -> bool:
                return all(one != other for one, other in zip(tokens(), old))

            first = tokens()
            gateway.envoy.wait_until(lambda: all_new(first), "renewed tokens")
            works[0] = False
            until("failed", 1)
            last = tokens()
            until("failed", 2)
            assert tokens() == last
            works[0] = True
            gateway.envoy.wait_until(lambda: all_new(last), "tokens after the outage")
            for one in ways:
                times = [seen.received_at for seen in one.requests]
                # What the hint says, a tenth earlier at most; after failures it is more.
                assert all(after - before >= 0.9 - 0.002
                           for before, after in zip(times, times[1:])), times
                assert "no token for Azure" in one.log(gateway)[0]
                assert "gives tokens again" in one.log(gateway)[-1]


# When a token of App Service expires


def expiries_to_test() -> Dict[str, Tuple[ExpiresOn, int]]:
    """Each form, at the hours of the day after tomorrow at which clocks of twelve
    hours are odd."""
    day = time.gmtime(time.time() + 48 * 3600)
    return {f"{form.name.lower()}-{hour:02}": (form, calendar.timegm(
        (day.tm_year, day.tm_mon, day.tm_mday, hour, 7, 9)))
        for form in ExpiresOn for hour in (0, 11, 12, 23)}


EXPIRIES = expiries_to_test()


@pytest.fixture(scope="module")
def expiring(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An identity for each of them."""
    with AzureSim() as sim:
        found = Identities(sim, tmp_path_factory.mktemp("expiries"))

        def add(name: str, form: ExpiresOn, at: int) -> None:
            one = found.add("app_service", name, rule=lambda _: one.granted(
                expires_on=form.write(at)))

        for name, (form, at) in EXPIRIES.items():
            add(name, form, at)
        with found.gateway(workers) as gateway:
            yield Served(found, gateway, {name: found.chat(gateway, name) for name in EXPIRIES})


@pytest.mark.parametrize("name", EXPIRIES)
def test_every_form_of_a_date_is_read_to_the_second(expiring: Served, name: str) -> None:
    assert expiring.answers[name].status == 200
    one, (_, at) = expiring.found.all[name], EXPIRIES[name]
    asked = one.requests[0]
    # The gauge is what was left when a worker last looked, in whole seconds.
    gauge = f"wasmcustom.aoai_entra_token_remaining_seconds.identity.{name}"
    left = expiring.gateway.envoy.wait_for_stat(gauge)
    assert at - time.time() - 1 <= left <= at - asked.received_at
