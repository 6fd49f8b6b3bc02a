"""`aoai render envoy` for every kind of identity: what it makes signs in by itself, in a real Envoy, to
simulated Azure."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import httpx
import pytest
import yaml

from azure_sim import (HANG_LIMIT, SECRET_FILE, TOKEN_FILE, AzureSim, ProjectedVolume,
                       RecordedRequest, Resource, assertions)
from azure_sim.endpoint import Endpoint
from azure_sim.managed_identity import ManagedIdentityEndpoint
from e2e import config
from e2e.edits import LISTENERS, OUR_LISTENER, add, forward_to, only
from e2e.envoy import Envoy
from e2e.rendering import (ROOT, at, bootstrap, rendered, resource_at, validated,
                           wasm_module)
from e2e.single import BODY, CHAT, KEY, MODEL, Json, assert_refused, east, settings

Start = Callable[..., Envoy]
EXAMPLES = ["app-service", "workload-identity", "client-secret", "several", "shared-limits"]
# Where the examples have their files.
FOLDERS = ["/var/run/secrets/azure/wi/token", "/etc/aoai/secret", "/etc/aoai/partner",
           "/etc/aoai/government"]
ENDPOINT, ENTRA, PROOF = "azure_identity", "entra_id", "proof"
# For how many seconds a token lasts that is to be refreshed while a test waits.
SHORT = 4


@pytest.fixture(scope="module")
def resource(azure: AzureSim) -> Resource:
    return east(azure)


@pytest.fixture
def volume(azure: AzureSim, tmp_path: Path) -> ProjectedVolume:
    """What kubelet has projected into the pod: a token and a secret that Entra ID takes."""
    files = {TOKEN_FILE: assertions.issue(), SECRET_FILE: azure.entra.secret}
    return ProjectedVolume(tmp_path / "volume", files)


@pytest.mark.parametrize("example", EXAMPLES)
def test_envoy_accepts_each_example(example: str, tmp_path: Path) -> None:
    text = rendered(f"envoy/examples/{example}.yaml")
    for number, folder in enumerate(FOLDERS):
        here = tmp_path / str(number)
        ProjectedVolume(here, {name: "proof" for name in (TOKEN_FILE, SECRET_FILE)})
        text = text.replace(f"filename: {folder}/", f"filename: {here}/")
        text = text.replace(f"watched_directory: {{path: {folder}}}",
                            f"watched_directory: {{path: {here}}}")
    files = re.findall(r"filename: (\S+(?:-token|-secret))$", text, re.MULTILINE)
    assert all(file.startswith(str(tmp_path)) for file in files), files
    done = validated(text, tmp_path)
    assert done.returncode == 0, done.stdout


def test_envoy_does_not_start_without_the_proof(volume: ProjectedVolume, azure: AzureSim,
                                                resource: Resource, tmp_path: Path) -> None:
    document = settings(resource, identity=workload_identity(azure, volume))
    volume.rotate({})
    done = validated(json.dumps(bootstrap(document)), tmp_path)
    assert done.returncode != 0
    assert f"file {volume.path(TOKEN_FILE)} does not exist" in done.stdout


# Each kind signs in.


class Kind(NamedTuple):
    """A document's identity, the options that lead it to simulated Azure, and who it then is."""

    identity: Json
    options: List[str]
    endpoint: Endpoint
    client_id: str
    proved_by: str


def application(azure: AzureSim, **more: Any) -> Json:
    one = azure.entra.application
    return {"tenant": one.tenant, "client_id": one.client_id, "cluster": ENTRA, **more}


def workload_identity(azure: AzureSim, volume: ProjectedVolume, **more: Any) -> Json:
    return {"workload_identity": application(
        azure, token_cluster=PROOF, token_file=str(volume.path(TOKEN_FILE)), **more)}


def client_secret(azure: AzureSim, volume: ProjectedVolume, **more: Any) -> Json:
    return {"client_secret": application(
        azure, secret_cluster=PROOF, secret_file=str(volume.path(SECRET_FILE)), **more)}


def managed(azure: AzureSim, _volume: ProjectedVolume) -> Kind:
    return machine(azure.identity, config.managed_identity(),
                   ["--identity", f"127.0.0.1:{azure.identity.port}"])


def app_service(azure: AzureSim, _volume: ProjectedVolume) -> Kind:
    url = azure.app_service.url
    return machine(azure.app_service, {"app_service": {"cluster": ENDPOINT, "endpoint": url}}, [])


def app_service_by_name(azure: AzureSim, _volume: ProjectedVolume) -> Kind:
    url = azure.app_service.url.replace("127.0.0.1", "localhost")
    return machine(azure.app_service, {"app_service": {"cluster": ENDPOINT, "endpoint": url}}, [])


def app_service_resolved(azure: AzureSim, _volume: ProjectedVolume) -> Kind:
    return machine(azure.app_service, {"app_service": {"cluster": ENDPOINT}},
                   [at(ENDPOINT, azure.app_service.port)])


def machine(endpoint: ManagedIdentityEndpoint, identity: Json, options: List[str]) -> Kind:
    assert endpoint.system_assigned is not None
    return Kind(identity, options, endpoint, endpoint.system_assigned.client_id, "2")


def federated(azure: AzureSim, volume: ProjectedVolume) -> Kind:
    return Kind(workload_identity(azure, volume), over_tls(azure), azure.entra,
                azure.entra.application.client_id, "2")


def federated_without_tls(azure: AzureSim, volume: ProjectedVolume) -> Kind:
    return federated(azure, volume)._replace(options=[at(ENTRA, azure.entra.port)])


def secret(azure: AzureSim, volume: ProjectedVolume) -> Kind:
    return Kind(client_secret(azure, volume), over_tls(azure), azure.entra,
                azure.entra.application.client_id, "1")


def over_tls(azure: AzureSim) -> List[str]:
    return [at(ENTRA, azure.entra_over_tls(), tls=True), "--ca", str(azure.ca_pem)]


KINDS = [managed, app_service, app_service_by_name, app_service_resolved, federated,
         federated_without_tls, secret]


def chat(envoy: Envoy, model: str = MODEL, key: str = KEY, **headers: str) -> httpx.Response:
    url = f"http://127.0.0.1:{envoy.port()}{CHAT.replace(MODEL, model)}"
    return httpx.post(url, headers={"api-key": key, **headers}, json=BODY, timeout=HANG_LIMIT,
                      trust_env=False)


def environment(azure: AzureSim) -> Dict[str, str]:
    """What the platform gives an app."""
    return {"IDENTITY_HEADER": str(azure.app_service.identity_header)}


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_a_request_leaves_with_a_token_of_its_kind(
        kind: Callable[[AzureSim, ProjectedVolume], Kind], azure: AzureSim, resource: Resource,
        volume: ProjectedVolume, start_envoy: Start) -> None:
    found = kind(azure, volume)
    document = settings(resource, identity=found.identity)
    with start_envoy(bootstrap(document, resource_at(resource), *found.options), workers=2,
                     environment=environment(azure)) as envoy:
        answer = chat(envoy)
        stats = envoy.stats()
    assert answer.status_code == 200, answer.text
    [request] = resource.requests
    assert request.token is not None
    assert (request.token.appid, request.token.appidacr) == (found.client_id, found.proved_by)
    handshakes = stats.get(f"cluster.{ENTRA}.ssl.handshake", 0)
    assert (handshakes > 0) == ("--ca" in found.options)
    endpoints: List[Endpoint] = [azure.identity, azure.app_service, azure.entra]
    assert [one for one in endpoints if one.requests] == [found.endpoint]


def test_who_is_not_entra_id_gets_no_proof(azure: AzureSim, resource: Resource,
                                           volume: ProjectedVolume, start_envoy: Start) -> None:
    # Simulated Entra ID has no certificate of this name.
    identity = client_secret(azure, volume, authority="https://localhost")
    document = settings(resource, identity=identity, token_wait="100ms")
    with start_envoy(bootstrap(document, resource_at(resource), *over_tls(azure))) as envoy:
        envoy.wait_for_stat(f"cluster.{ENTRA}.ssl.fail_verify_san")
        assert_refused(chat(envoy), 503, "token_unavailable")
    assert azure.entra.requests == [] and resource.requests == []


# App Service's header


def test_the_header_of_app_service_is_there_once_and_shows_nowhere(
        azure: AzureSim, resource: Resource, start_envoy: Start) -> None:
    azure.app_service.lifetime = SHORT
    identity = {"app_service": {"cluster": ENDPOINT, "endpoint": azure.app_service.url}}
    found = bootstrap(settings(resource, identity=identity), resource_at(resource))
    with_raw_listener(found, to=ENDPOINT)
    value = azure.app_service.identity_header
    with start_envoy(found, environment=environment(azure), wasm_log_level="trace") as envoy:
        assert chat(envoy, **{"x-identity-header": "forged"}).status_code == 200
        azure.app_service.wait_for_requests(2)
        shown = {"/config_dump": json.dumps(envoy.config_dump()), "/stats": str(envoy.stats())}
        raw = httpx.get(f"http://127.0.0.1:{envoy.port('raw')}/raw", trust_env=False,
                        headers={"x-identity-header": "forged"}, timeout=HANG_LIMIT)
    # Forged or not, the answer is about the request, which is none for a token.
    assert raw.status_code == 400, raw.text
    assert "/raw" in [request.path for request in azure.app_service.requests]
    for request in azure.app_service.requests:
        assert request.header_values("x-identity-header") == [value], request
    shown["the log"] = envoy.log_text()
    assert "%ENVIRONMENT(IDENTITY_HEADER)%" in shown["/config_dump"]
    # The assertion must not print what it looks for.
    assert [where for where, text in shown.items() if value in text] == []
    # What a client forges is its own business, as any header that Azure does not know.
    assert resource.requests[0].header_values("x-identity-header") == ["forged"]


def with_raw_listener(found: Json, *, to: str) -> None:
    """A listener without the filter, by which a test reaches this cluster."""
    raw = {**copy.deepcopy(only(found, OUR_LISTENER)), "name": "raw"}
    forward_to(raw, to)
    add(LISTENERS, raw)(found)


# Proofs that change


def by_kubelet(volume: ProjectedVolume, name: str, proof: str) -> None:
    volume.rotate({name: proof})


def by_hand(volume: ProjectedVolume, name: str, proof: str) -> None:
    new = volume.root / "new"
    new.write_text(proof + "\n")
    new.replace(volume.path(name))


@pytest.mark.parametrize("name, replace", [
    (TOKEN_FILE, by_kubelet), (SECRET_FILE, by_kubelet), (SECRET_FILE, by_hand)],
    ids=["token", "secret", "secret-by-hand"])
def test_a_proof_that_is_replaced_reaches_entra_id(
        name: str, replace: Callable[[ProjectedVolume, str, str], None], azure: AzureSim,
        resource: Resource, volume: ProjectedVolume, start_envoy: Start) -> None:
    is_token = name == TOKEN_FILE
    kind, field = ((workload_identity, "client_assertion") if is_token
                   else (client_secret, "client_secret"))
    azure.entra.lifetime = SHORT
    document = settings(resource, identity=kind(azure, volume))
    found = bootstrap(document, resource_at(resource), at(ENTRA, azure.entra.port))
    with start_envoy(found) as envoy:
        assert chat(envoy).status_code == 200
        proofs = [volume.path(name).read_text()]
        for _ in range(2):
            proof = assertions.issue() if is_token else azure.entra.application.add_secret()
            proofs.append(proof)
            replace(volume, name, proof)
            azure.entra.recorder.wait_until(one_has(field, proof), "request with the new proof")
            assert chat(envoy).status_code == 200
        used = [dict(one.form)[field] for one in azure.entra.requests if one.complete]
        shown = {"/config_dump": json.dumps(envoy.config_dump()), "/stats": str(envoy.stats())}
    order = [proofs.index(one) for one in used]
    assert order == sorted(order), "a proof that is gone is not used again"
    shown["the log"] = envoy.log_text()
    assert [where for where, text in shown.items() if any(one in text for one in proofs)] == []


def one_has(field: str, value: str) -> Callable[[List[RecordedRequest]], bool]:
    """Whether a form among the requests has this field."""
    return lambda requests: any((field, value) in request.form for request in requests)


def test_nobody_but_envoy_reaches_the_proof(azure: AzureSim, resource: Resource,
                                            volume: ProjectedVolume, start_envoy: Start) -> None:
    document = settings(resource, identity=client_secret(azure, volume))
    found = bootstrap(document, resource_at(resource), at(ENTRA, azure.entra.port))
    with start_envoy(found) as envoy:
        assert chat(envoy).status_code == 200
        [ours, proof] = envoy.admin.get("/listeners?format=json").json()["listener_statuses"]
        url = f"http://127.0.0.1:{envoy.port()}/"
        answer = httpx.get(url, headers={"api-key": KEY, "x-aoai-cluster": PROOF}, trust_env=False,
                           timeout=HANG_LIMIT)
        served = envoy.stats()["http.aoai_credential.downstream_rq_total"]
        azure.entra.wait_for_requests(1)
    assert "socket_address" in ours["local_address"]
    assert list(proof["local_address"]) == ["envoy_internal_address"]
    assert_refused(answer, 404, "unknown_operation")
    assert azure.entra.secret not in answer.text
    assert served >= 1


# Several


def test_each_backend_is_signed_in_to_by_its_own_identity(
        azure: AzureSim, resource: Resource, volume: ProjectedVolume, tmp_path: Path,
        start_envoy: Start) -> None:
    tenant = "00000000-0000-4000-8000-0000000000bb"
    partner = azure.entra.add_application(tenant=tenant, secrets=["partner-secret"])
    theirs = azure.add_resource("theirs", host="partner-sweden.openai.azure.com", tenant=tenant,
                                deployments={MODEL: MODEL})
    plain = azure.add_resource("plain", host="contoso-plain.openai.azure.com",
                               deployments={MODEL: MODEL})
    other = ProjectedVolume(tmp_path / "other", {SECRET_FILE: "partner-secret"})
    document = settings(
        resource, identity=workload_identity(azure, volume),
        identities={
            "partner-1": {"client_secret": {
                "tenant": tenant, "client_id": partner.client_id, "cluster": ENTRA,
                "secret_cluster": "other", "secret_file": str(other.path(SECRET_FILE))}},
            "machine": config.managed_identity(),
            # Nobody signs in with it: it needs no file and no cluster.
            "unused": {"client_secret": application(azure, secret_cluster="unused")},
        })
    by_name = {"theirs": (theirs, "partner-1"), "plain": (plain, "machine")}
    for name, (one, identity) in by_name.items():
        document["backends"].append(config.backend(one, identity=identity))
        document["models"].append(config.model(name, config.route(one, deployment=MODEL)))
    found = bootstrap(document, "--identity", f"127.0.0.1:{azure.identity.port}", *over_tls(azure),
                      *(resource_at(one) for one in (resource, theirs, plain)))
    theirs.break_with("role_missing")
    with start_envoy(found, workers=2) as envoy:
        statuses = {model: chat(envoy, model).status_code for model in (MODEL, *by_name)}
        metrics = envoy.prometheus()
    assert statuses == {MODEL: 200, "theirs": 502, "plain": 200}
    own = azure.identity.system_assigned
    assert own is not None
    signed_in = [one.requests[0].token for one in (resource, theirs, plain)]
    assert [(token.appid, token.tid) for token in signed_in if token is not None] == [
        (azure.entra.application.client_id, azure.entra.application.tenant),
        (partner.client_id, tenant), (own.client_id, own.tenant)]
    for identity in ("default", "partner-1", "machine"):
        assert counted(metrics, "aoai_entra_token_fetches_total",
                       ("identity", identity), ("result", "success")) >= 1
    assert counted(metrics, "aoai_diagnoses_total",
                   ("backend", "theirs"), ("diagnosis", "role_missing")) == 1


def counted(metrics: str, name: str, *labels: Tuple[str, str]) -> int:
    """A metric of the module in Prometheus' format, by all of its labels."""
    rows = re.findall(rf"^{name}\{{(.*)\}} (\d+)$", metrics, re.MULTILINE)
    found = [int(value) for text, value in rows
             if sorted(re.findall(r'(\w+)="([^"]*)"', text)) == sorted(labels)]
    assert len(found) == 1, rows
    return found[0]


# App Service chooses the endpoint's port at each start


def test_an_app_renders_at_its_start_as_the_readme_says(
        azure: AzureSim, resource: Resource, start_envoy: Start, tmp_path: Path) -> None:
    [command] = re.findall(r"^sed .* \| aoai render envoy - ", (ROOT / "README.md").read_text(),
                           re.MULTILINE)
    example = (ROOT / "envoy" / "examples" / "app-service.yaml").read_text()
    (tmp_path / "gateway.yaml").write_text(example)
    assert config.digest("aoai_demo") in example
    command = command.replace("aoai render", '"$AOAI" render') + " ".join(
        ["--wasm", wasm_module(), "--listener-port=0", "--admin-port=0", resource_at(resource)])
    variables = {"IDENTITY_ENDPOINT": azure.app_service.url, **environment(azure)}
    text = subprocess.run(command, shell=True, cwd=tmp_path, env={**os.environ, **variables},
                          stdout=subprocess.PIPE, text=True, check=True).stdout
    with start_envoy(yaml.safe_load(text), environment=variables) as envoy:
        assert chat(envoy, key="aoai_demo").status_code == 200
