"""The projected token and the client secret come from files: wrong ones, and new ones while requests
flow. What is proved here is Envoy's doing as much as the module's: run it on every version.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Set

import pytest

from azure_sim import SECRET_FILE, TOKEN_FILE, AzureSim, ClientSecret, ProjectedVolume, assertions
from azure_sim.secret import Credential
from e2e import calls
from e2e.edits import LISTENERS, remove
from e2e.envoy import EnvoyFailed
from e2e.gateway import Gateway
from e2e.identities import Identities, SignIn
from e2e.side_by_side import SideBySide
from e2e.wire import Response

FILES = {"workload_identity": TOKEN_FILE, "client_secret": SECRET_FILE}
FIELDS = {"workload_identity": "client_assertion", "client_secret": "client_secret"}


def sent(one: SignIn) -> List[str]:
    """The proofs with which it has asked for tokens, in order; repeats in a row once."""
    found: List[str] = []
    for request in one.requests:
        proof = dict(request.form)[FIELDS[one.kind]]
        if found[-1:] != [proof]:
            found.append(proof)
    return found


# Files that are of no use at first


@dataclass(frozen=True)
class First:
    """What a file has at first, and what the log says of it; `goes_out` is whether it looks good
    enough to be sent."""

    kind: str
    content: Callable[[], str]
    says: str
    goes_out: bool = False


FIRST: Dict[str, First] = {
    "token-empty": First("workload_identity", str, "token is empty"),
    "token-blank": First("workload_identity", lambda: " \n\n", "token is empty"),
    "token-words": First("workload_identity", lambda: "not a token", "more than one word"),
    "token-no-jwt": First("workload_identity", lambda: "opaque", "is not a JSON Web Token"),
    "token-expired": First("workload_identity", lambda: assertions.issue(lifetime=-60.0),
                           "has expired, and its file has not been replaced"),
    # By this machine's clock it is good, if not by Entra ID's, which looks at its beginning too.
    "token-not-yet-valid": First(
        "workload_identity", lambda: assertions.issue(now=time.time() + 3600.0),
        "AADSTS700024: ", goes_out=True),
    "secret-empty": First("client_secret", str, "secret is empty"),
    "secret-words": First("client_secret", lambda: "no secret", "more than one word"),
}


@dataclass
class Recovered:
    """What came of an identity whose file was of no use and was replaced."""

    refused: Response
    asked: int
    served: Optional[Response] = None
    proofs: List[str] = field(default_factory=list)
    log: List[str] = field(default_factory=list)


@dataclass
class Recoveries:
    """All of them, and what the new files had."""

    each: Dict[str, Recovered]
    contents: Dict[str, str]
    shown: List[str]


@pytest.fixture(scope="module")
def recoveries(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recoveries]:
    with AzureSim() as sim:
        folder = tmp_path_factory.mktemp("proofs")
        found = Identities(sim, folder)
        volumes: Dict[str, ProjectedVolume] = {}
        for name, row in FIRST.items():
            file = FILES[row.kind]
            volumes[name] = ProjectedVolume(folder / name, {file: row.content()})
            found.add(row.kind, name, proof=found.add_proof(f"of-{name}", volumes[name], file))
        with found.gateway(workers, found.document(token_wait="300ms")) as gateway:
            found.wait_for_fetches(gateway, "failed", 1)
            each = {name: Recovered(found.chat(gateway, name), len(found.all[name].requests))
                    for name in FIRST}
            assert found.nothing_arrived()
            contents = {"workload_identity": assertions.issue(), "client_secret": found.secret}
            for name, row in FIRST.items():
                # Editors end files so.
                volumes[name].rotate({FILES[row.kind]: contents[row.kind] + "\n"})
            found.wait_for_fetches(gateway, "success", 1)
            for name, one in each.items():
                one.served = found.chat(gateway, name)
                one.proofs = sent(found.all[name])
                one.log = found.all[name].log(gateway)
            yield Recoveries(each, contents, found.shown(gateway))


@pytest.mark.parametrize("name", FIRST)
def test_a_file_that_is_of_no_use_is_not_sent_and_the_log_says_why(
        recoveries: Recoveries, name: str) -> None:
    row, one = FIRST[name], recoveries.each[name]
    calls.own_answer(one.refused, "token_unavailable")
    assert (one.asked > 0) == row.goes_out
    assert row.says in one.log[0]
    assert "assertion_expired" in one.log[0] or not row.goes_out


@pytest.mark.parametrize("name", FIRST)
def test_a_file_that_is_replaced_by_a_good_one_ends_the_trouble(
        recoveries: Recoveries, name: str) -> None:
    row, one = FIRST[name], recoveries.each[name]
    assert one.served is not None and one.served.status == 200
    assert one.proofs[-1] == recoveries.contents[row.kind]
    assert len(one.proofs) == (2 if row.goes_out else 1)
    assert "gives tokens again" in one.log[-1]
    assert all(line != after for line, after in zip(one.log, one.log[1:])), one.log


def test_no_proof_shows(recoveries: Recoveries) -> None:
    assert recoveries.shown == []


def test_envoy_does_not_start_without_the_file_and_says_which_one_it_is(tmp_path: Path) -> None:
    with AzureSim() as sim:
        found = Identities(sim, tmp_path)
        missing = found.add_proof("missing", ProjectedVolume(tmp_path / "nothing", {}))
        found.add("workload_identity", "one", proof=missing)
        with pytest.raises(EnvoyFailed, match=f"file .*/nothing/{TOKEN_FILE} does not exist"):
            found.gateway(1)


def test_a_file_that_no_listener_serves_is_a_failure_like_others(workers: int, tmp_path: Path
                                                                 ) -> None:
    with AzureSim() as sim:
        found = Identities(sim, tmp_path)
        found.add("workload_identity", "one",
                  proof=found.add_proof("not-served", ProjectedVolume(tmp_path / "nothing", {})))
        with found.gateway(workers, found.document(token_wait="300ms"),
                           edits=[remove(f"{LISTENERS}[aoai/not-served]")]) as gateway:
            calls.own_answer(found.chat(gateway, "one"), "token_unavailable")
            found.wait_for_fetches(gateway, "failed", 2)
            [line] = found.all["one"].log(gateway)
            assert "projected service account token is not served" in line
            assert found.nothing_arrived() and sim.entra.requests == []


# Files that are replaced while requests flow


class Traffic(SideBySide[int]):
    """Requests for these models without a pause, from some callers at once, while it is entered."""

    def __init__(self, found: Identities, gateway: Gateway, callers: int = 3) -> None:
        self.statuses: List[int] = []
        self._found, self._gateway = found, gateway
        super().__init__(range(callers))

    def call(self, _client: int) -> None:
        while not self.stop.is_set():
            for name in self._found.all:
                try:
                    self.statuses.append(self._found.chat(self._gateway, name).status)
                except Exception:  # whatever it was, a caller got no answer
                    self.statuses.append(0)
                    raise


def tokens_of(found: Identities, name: str) -> Set[str]:
    """Those with which requests for a model have arrived."""
    return {seen.token.jti for seen in found.arrived(name) if seen.token}


def test_a_new_file_is_used_for_the_next_token_and_no_request_notices(
        workers: int, tmp_path: Path) -> None:
    with AzureSim() as sim:
        found = Identities(sim, tmp_path)
        ways = {kind: found.add(kind, kind) for kind in FILES}
        # Tokens are good for an hour, and each is soon followed by another.
        sim.entra.refresh_in = 1.0
        proofs = {kind: [found.volume.path(file).read_text()] for kind, file in FILES.items()}
        with found.gateway(workers) as gateway:
            for kind in FILES:
                assert found.chat(gateway, kind).status == 200
            with Traffic(found, gateway) as traffic:
                for number in range(3):
                    token, secret = assertions.issue(), Credential(f"rotated-secret-{number}")
                    if number == 1:
                        # Everything is gone for a moment; Envoy keeps what it has.
                        found.volume.rotate({})
                    ways["client_secret"].application.secrets.append(ClientSecret(secret))
                    found.volume.rotate({TOKEN_FILE: token, SECRET_FILE: secret})
                    if number == 1:
                        # kubelet renames first and links what is new then: Envoy may have looked
                        # in between.
                        found.volume.rotate({TOKEN_FILE: token, SECRET_FILE: secret})
                    proofs["workload_identity"].append(token)
                    proofs["client_secret"].append(secret)
                    gateway.envoy.wait_until(
                        lambda: all(sent(one)[-1] == proofs[kind][-1]
                                    for kind, one in ways.items()), "exchange of the new proofs")
                    # An old secret is taken away once it is not in use any more.
                    del ways["client_secret"].application.secrets[0]
                gateway.envoy.wait_until(
                    lambda: all(len(tokens_of(found, kind)) >= len(proofs[kind])
                                for kind in FILES), "requests with the new tokens")
            assert set(traffic.statuses) == {200}
            assert {kind: sent(one) for kind, one in ways.items()} == proofs
            # Envoy's main thread fetches tokens too, and cannot reach the files.
            assert not [line for one in ways.values() for line in one.log(gateway)
                        if "refused" in line or "listener answers 503" in line]
            assert found.shown(gateway) == []
            assert "rotated-secret" not in gateway.envoy.log_text()
