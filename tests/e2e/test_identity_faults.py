"""Identity endpoints in trouble, of every kind: nothing leaves without a token, nobody is asked in
a burst, the log says each thing once, and what is mended is found without anybody's help."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Callable, Dict, Iterator, List, Optional, Tuple

import pytest

from azure_sim import (HANG_LIMIT, TENANT, Answer, AzureSim, ClientSecret, Entra,
                       FederatedCredential, aadsts, clouds, faults)
from azure_sim.script import Step
from e2e import calls
from e2e.gateway import Gateway
from e2e.identities import KINDS, Identities, Rule, SignIn, chat_call
from e2e.wire import Response

# What cannot get better by itself, as far as each protocol says.
PERMANENT = {"app_service": {"410"}, "workload_identity": {"404", "410"},
             "client_secret": {"404", "410"}}


@dataclass
class Trouble:
    """What came of an identity in trouble: `asked` requests for tokens in `seconds` before it was
    mended."""

    asked: int = 0
    seconds: float = 0.0
    refused: Optional[Response] = None
    served: Optional[Response] = None
    log: List[str] = field(default_factory=list)


@dataclass
class Troubles:
    """All of them, in one Envoy at the same time."""

    each: Dict[str, Trouble]
    forwarded: bool = False
    shown: List[str] = field(default_factory=list)


def ask_all(found: Identities, gateway: Gateway) -> Dict[str, Response]:
    """The answer to a request for each model, all of them sent at the same time."""
    asking = {name: gateway.connect() for name in found.all}
    for name, connection in asking.items():
        connection.send(chat_call(name).raw())
    answers = {name: connection.read_response() for name, connection in asking.items()}
    for connection in asking.values():
        connection.close()
    return answers


def watch(found: Identities, gateway: Gateway, began: float, *, result: str, count: int,
          mend: Callable[[], None]) -> Troubles:
    """Lets every identity fail so often, mends all of them and waits until each is well."""
    found.wait_for_fetches(gateway, result, 1)
    troubles = Troubles({name: Trouble(refused=answer)
                         for name, answer in ask_all(found, gateway).items()})
    found.wait_for_fetches(gateway, result, count)
    for name, one in troubles.each.items():
        one.asked = len(found.all[name].requests)
        one.seconds = time.monotonic() - began
    troubles.forwarded = not found.nothing_arrived()
    mend()
    found.wait_for_fetches(gateway, "success", 1, timeout=3 * HANG_LIMIT)
    for name, answer in ask_all(found, gateway).items():
        troubles.each[name].served = answer
        troubles.each[name].log = found.all[name].log(gateway)
    troubles.shown = found.shown(gateway)
    return troubles


# What passes


def slug(fault: str) -> str:
    return fault.lower().replace(" ", "-")


def faults_to_test() -> Dict[str, Tuple[str, str]]:
    with AzureSim() as sim:
        names = list(faults.of(sim.entra))
    return {f"{kind}-{slug(name)}": (kind, name) for kind in KINDS for name in names
            if name not in PERMANENT.get(kind, ())}


FAULTS = faults_to_test()


def while_broken(step: Step, broken: List[bool]) -> Rule:
    """This, as long as the list says so."""
    return lambda _: step if broken[0] else None


@pytest.fixture(scope="module")
def passing(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Troubles]:
    """Each endpoint answers each identity with one fault, twice and more, until all are mended."""
    broken = [True]
    with AzureSim() as sim:
        found = Identities(sim, tmp_path_factory.mktemp("faults"))
        for name, (kind, fault) in FAULTS.items():
            one = found.add(kind, name)
            one.rule = while_broken(faults.of(one.endpoint)[fault], broken)
        began = time.monotonic()
        with found.gateway(workers, found.document(token_wait="300ms")) as gateway:
            yield watch(found, gateway, began, result="failed", count=2,
                        mend=lambda: broken.__setitem__(0, False))


@pytest.mark.parametrize("name", FAULTS)
def test_without_a_token_a_request_is_answered_and_goes_nowhere(passing: Troubles, name: str
                                                                ) -> None:
    refused = passing.each[name].refused
    assert refused is not None
    calls.own_answer(refused, "token_unavailable")
    assert not passing.forwarded


@pytest.mark.parametrize("name", FAULTS)
def test_the_endpoint_is_left_alone_for_longer_after_each_failure(passing: Troubles, name: str
                                                                  ) -> None:
    one = passing.each[name]
    # One second after the first failure, two after the second and so on, whatever the number of
    # workers. A busy machine only makes it less often.
    assert one.asked >= 2 and 2 ** (one.asked - 1) - 1 <= one.seconds
    told = FAULTS[name][1] in ("429 retry-after", "429 plain text")
    assert f"Next attempt in {2 if told else 1} s" in one.log[0]


@pytest.mark.parametrize("name", FAULTS)
def test_it_recovers_by_itself_and_the_log_says_each_thing_once(passing: Troubles, name: str
                                                                ) -> None:
    one = passing.each[name]
    assert one.served is not None and one.served.status == 200
    said = [re.sub(r"Next attempt in \d+ s", "", line) for line in one.log]
    assert "no token for Azure: failed" in said[0]
    assert "gives tokens again" in said[-1]
    # There are two lines, unless a busy machine has let a fetch time out in between.
    assert all(line != after for line, after in zip(said, said[1:])), said


def test_no_secret_shows_in_an_outage(passing: Troubles) -> None:
    assert passing.shown == []


# What does not pass

Mend = Callable[[], None]


@dataclass(frozen=True)
class Refusal:
    """An identity that is refused. `breaks` sets simulated Azure up so and returns how to mend it;
    `slug` and `says` are what the log says of it, where it knows the mistake."""

    kind: str
    breaks: Callable[[Identities, SignIn], Mend]
    slug: str = "The identity's configuration has to be corrected"
    says: str = ""


def no_federated_credential(credential: FederatedCredential) -> Callable[..., Mend]:
    """It trusts somebody else only."""
    def breaks(_found: Identities, one: SignIn) -> Mend:
        one.application.federated[:] = [credential]
        return lambda: one.application.federated.__setitem__(0, FederatedCredential())
    return breaks


def secret(expires_at: float, value: Optional[str] = None) -> Callable[..., Mend]:
    """It has this secret in the place of the shared one, or that one with another end."""
    def breaks(found: Identities, one: SignIn) -> Mend:
        one.application.secrets[:] = [ClientSecret(value or found.secret, expires_at)]
        return lambda: one.application.secrets.append(ClientSecret(found.secret))
    return breaks


def no_application(found: Identities, one: SignIn) -> Mend:
    found.sim.entra.applications.remove(one.application)
    return lambda: found.sim.entra.applications.append(one.application)


def no_tenant(found: Identities, one: SignIn) -> Mend:
    del found.sim.entra.tenants[one.application.tenant]
    return lambda: found.sim.entra.tenants.update({one.application.tenant: clouds.PUBLIC})


def no_identity(_found: Identities, one: SignIn) -> Mend:
    assert not isinstance(one.endpoint, Entra)
    known = one.endpoint.user_assigned
    known.remove(one.managed)
    return lambda: known.append(one.managed)


def answered(step: Callable[[SignIn], Step]) -> Callable[..., Mend]:
    """The endpoint answers so."""
    def breaks(_found: Identities, one: SignIn) -> Mend:
        one.rule = lambda _: step(one)
        return lambda: setattr(one, "rule", None)
    return breaks


def faulty(name: str) -> Callable[..., Mend]:
    """The endpoint answers with this fault."""
    return answered(lambda one: faults.of(one.endpoint)[name])


def scripted(answer: Answer) -> Callable[..., Mend]:
    return answered(lambda _: answer)


BLOCKED = Answer(400, body={"error": "invalid_request",
                            "error_description": "Required metadata header not specified"})
REFUSALS: Dict[str, Refusal] = {
    "70021": Refusal("workload_identity",
                     no_federated_credential(FederatedCredential(issuer="https://other.example/")),
                     "federated_credential_missing", "exactly those of the projected token"),
    "700213": Refusal("workload_identity",
                      no_federated_credential(FederatedCredential(subject="system:other")),
                      "federated_credential_missing", "exactly those of the projected token"),
    "700016": Refusal("workload_identity", no_application, "application_not_found",
                      "Check client_id and tenant"),
    "700016-secret": Refusal("client_secret", no_application, "application_not_found",
                             "Check client_id and tenant"),
    "7000215": Refusal("client_secret", secret(float("inf"), "another secret"),
                       "client_secret_wrong", "not its id"),
    "7000222": Refusal("client_secret", secret(0.0), "client_secret_expired", "replace the file"),
    "90002": Refusal("workload_identity", no_tenant, "tenant_not_found", "Check tenant"),
    "500011": Refusal("client_secret", scripted(aadsts.refusal(500011)), "audience_unknown",
                      "Check audience"),
    "70011": Refusal("client_secret", scripted(aadsts.refusal(70011)), "scope_invalid",
                     "Check audience"),
    "imds-identity": Refusal("managed_identity", no_identity, "identity_not_found",
                             "Assign the identity"),
    "imds-blocked": Refusal("managed_identity", scripted(BLOCKED), "identity_endpoint_blocked",
                            "add or remove headers"),
    "app-service-identity": Refusal("app_service", no_identity, "identity_not_found",
                                    "Assign the identity"),
    "app-service-header": Refusal("app_service", scripted(Answer(403, body={
        "statusCode": 403, "message": "The X-IDENTITY-HEADER header is not valid."}))),
    **{f"{kind.replace('_', '-')}-{fault}": Refusal(kind, faulty(fault))
       for kind, all_of_them in PERMANENT.items() for fault in sorted(all_of_them)},
}
TENANT_OF_ITS_OWN = "33333333-0000-4000-8000-000000000033"


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Troubles]:
    """Each refused once, and mended then. It takes a minute until it is asked again, so that it is
    not done for either number of workers."""
    with AzureSim() as sim:
        found = Identities(sim, tmp_path_factory.mktemp("refusals"))
        mends: List[Mend] = []
        for name, row in REFUSALS.items():
            tenant = TENANT_OF_ITS_OWN if row.breaks is no_tenant else TENANT
            mends.append(row.breaks(found, found.add(row.kind, name, tenant=tenant)))

        def mend_all() -> None:
            for mend in mends:
                mend()

        began = time.monotonic()
        with found.gateway(2) as gateway:
            yield watch(found, gateway, began, result="refused", count=1, mend=mend_all)


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_explained_and_not_asked_for_again_soon(refusals: Troubles, name: str) -> None:
    row, one = REFUSALS[name], refusals.each[name]
    assert one.refused is not None
    calls.own_answer(one.refused, "token_refused")
    assert not refusals.forwarded
    assert 60 * (one.asked - 1) <= one.seconds
    [line] = [line for line in one.log if "no token for Azure: refused" in line]
    assert row.slug in line and row.says in line
    number = name.partition("-")[0]
    assert f"AADSTS{number}: " in line or not number.isdigit()
    assert int(line.partition("Next attempt in ")[2].split()[0]) >= 60


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_that_is_mended_is_found_out_within_its_interval(refusals: Troubles, name: str
                                                                   ) -> None:
    one = refusals.each[name]
    assert one.served is not None and one.served.status == 200
    assert "gives tokens again" in one.log[-1]


def test_no_secret_shows_in_a_refusal(refusals: Troubles) -> None:
    assert refusals.shown == []
