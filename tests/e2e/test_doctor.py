"""`aoai doctor`: each mistake is found by doing what the proxy would do. Needs no Envoy."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest
import trustme

from azure_sim import (MISTAKES, SECRET_FILE, TENANT, Access, Answer, AzureSim, ManagedIdentity,
                       ProjectedVolume, Resource, aadsts, assertions, clouds, errors, faults,
                       taken_port)
from e2e import config
from e2e.doctor import PATIENT, at, doctor, examined, identity_at, over_tls
from e2e.single import KEY, MODEL, Json, east, settings

CALL = f"backend eastus/deployment {MODEL}"
TOKEN = "identity default/token"
NOTHING_LISTENS = "refuses the connection: nothing listens on this port, or a firewall rejects it"

# What the doctor calls each answer of simulated Azure, and whether the proxy can serve all the same.
DIAGNOSES = {
    "regional_endpoint": ("regional_endpoint", "fail"),
    "regional_endpoint_namespace": ("regional_endpoint", "fail"),
    "regional_endpoint_subdomain": ("regional_endpoint", "fail"),
    "unknown_subdomain": ("unknown_subdomain", "fail"),
    "token_refused": ("token_rejected", "fail"),
    "role_missing": ("role_missing", "fail"),
    "no_access": ("role_missing", "fail"),
    "wrong_tenant": ("wrong_tenant", "fail"),
    "keys_disabled": ("key_authentication_disabled", "fail"),
    "public_access_disabled": ("network_denied", "fail"),
    "firewall": ("network_denied", "fail"),
    "wrong_key": ("azure_key_rejected", "fail"),
    "deployment_not_found": ("deployment_not_found", "fail"),
    "resource_not_found": ("unknown_path", "fail"),
    "throttled": ("throttled", "warn"),
    "content_filter": ("content_filter", "warn"),
}


@pytest.fixture
def resource(azure: AzureSim) -> Resource:
    return east(azure)


def by_imds(azure: AzureSim, resource: Resource, *more: str) -> List[str]:
    """The options for a machine's identity and one resource."""
    return [identity_at(azure.identity.port), *at(resource), *more]


def test_no_problems_are_found_line_by_line(azure: AzureSim, resource: Resource) -> None:
    found = doctor(azure, settings(resource), *PATIENT, *by_imds(azure, resource))
    machine = azure.identity.system_assigned
    assert machine is not None
    [issued] = azure.identity.requests
    words = ["expires in 1h", f"tenant {TENANT}", f"principal {machine.object_id}",
             f"application {machine.client_id}", "for https://cognitiveservices.azure.com"]
    lines = found.stdout.split("\n")
    assert all(word in lines[1] for word in words), found
    lines[1] = lines[1].partition("for https")[0]
    assert (found.status, found.stderr) == (0, "")
    assert lines == [
        "ok    configuration                        1 subscription, 1 backend, 1 model",
        "ok    identity default  token              ",
        "skip  backend eastus    dns                skipped: an option sets the address "
        f"127.0.0.1:{resource.port} for {resource.host}",
        "skip  backend eastus    tls                skipped: an option sets an address without TLS",
        f"ok    backend eastus    deployment {MODEL}  responds with 400 to an empty request, as "
        "expected",
        "",
        "no problems found",
        "",
    ]
    assert issued.header("host") == "169.254.169.254"


def test_the_call_is_the_proxys_and_has_nothing_to_generate(azure: AzureSim, resource: Resource
                                                            ) -> None:
    examined(azure, settings(resource), *by_imds(azure, resource))
    [call] = resource.requests
    machine = azure.identity.system_assigned
    assert machine is not None and call.token is not None
    assert (call.method, call.path, call.query) == (
        "POST", f"/openai/deployments/{MODEL}/chat/completions", [("api-version", "2024-10-21")])
    assert (call.header("host"), call.body) == (resource.host, b"{}")
    assert (call.token.oid, call.token.aud) == (machine.object_id, clouds.PUBLIC.audiences[0])
    assert call.header("api-key") is None


def test_every_deployment_is_called_once(azure: AzureSim, resource: Resource) -> None:
    resource.deployments["small"] = "gpt-4o-mini"
    document = settings(resource)
    document["models"] = [
        config.model(MODEL, resource),
        config.model("cheap", config.route(resource, deployment="small")),
        config.model("cheaper", config.route(resource, deployment="small")),
        config.model("gone", resource),
    ]
    found = examined(azure, document, *by_imds(azure, resource))
    called = {one["deployment"]: (one["result"], one["models"]) for one in found.report["steps"]
              if "deployment" in one}
    assert called == {"small": ("ok", ["cheap", "cheaper"]), "gone": ("fail", ["gone"]),
                      MODEL: ("ok", [MODEL])}
    assert len(resource.requests) == 3
    assert found.step("backend eastus/deployment gone")["diagnosis"] == "deployment_not_found"


def test_what_is_wrong_with_a_backend_is_explained_once(azure: AzureSim, resource: Resource) -> None:
    names = ("first", "second", "third")
    resource.deployments = {name: "gpt-4o" for name in names}
    resource.break_with("role_missing")
    document = settings(resource)
    document["models"] = [config.model(name, resource) for name in names]
    found = doctor(azure, document, *PATIENT, *by_imds(azure, resource))
    lines = [line for line in found.stdout.splitlines() if "deployment " in line]
    assert len(lines) == len(names) and "Cognitive Services OpenAI User" in lines[0]
    assert all(line.endswith("  role_missing, as above") for line in lines[1:]), lines


@pytest.mark.parametrize("spaced", [False, True], ids=["dense", "spaced"])
@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=list(MISTAKES))
def test_every_answer_of_a_resource_is_explained(azure: AzureSim, resource: Resource, mistake: Any,
                                                 spaced: bool) -> None:
    resource.break_with(mistake.slug, spaced=spaced)
    found = examined(azure, settings(resource), *by_imds(azure, resource))
    step = found.step(CALL)
    diagnosis, result = DIAGNOSES[mistake.slug]
    assert (step["result"], step["diagnosis"], step["status"]) == (result, diagnosis,
                                                                   mistake.status)
    assert f"backend eastus responded {mistake.status}, {diagnosis}: " in step["text"]
    assert f"About: resource {resource.host}" in step["text"]


def _other_audience(resource: Resource) -> None:
    resource.audiences = clouds.CHINA.audiences


def _no_role(resource: Resource) -> None:
    resource.principals = set()


def _other_tenant(resource: Resource) -> None:
    resource.tenant = "00000000-0000-4000-8000-0000000000ff"


def _private(resource: Resource) -> None:
    resource.access = Access.NETWORK_DENIED


def _no_deployment(resource: Resource) -> None:
    resource.deployments.clear()


@pytest.mark.parametrize(("cause", "diagnosis"), [
    (_other_audience, "token_rejected"),
    (_no_role, "role_missing"),
    (_other_tenant, "wrong_tenant"),
    (_private, "network_denied"),
    (_no_deployment, "deployment_not_found"),
])
def test_every_mistake_in_azure_is_found_by_its_cause(
    azure: AzureSim, resource: Resource, cause: Callable[[Resource], None], diagnosis: str,
) -> None:
    cause(resource)
    found = examined(azure, settings(resource), *by_imds(azure, resource))
    assert (found.step(CALL)["result"], found.step(CALL)["diagnosis"]) == ("fail", diagnosis)
    assert found.step(TOKEN)["result"] == "ok"


def test_a_name_that_no_resource_has_is_found(azure: AzureSim, resource: Resource) -> None:
    document = settings(resource)
    document["backends"] = [{"name": "eastus", "endpoint": "https://contoso-slip.openai.azure.com"}]
    found = examined(azure, document, *by_imds(azure, resource))
    assert found.step(CALL)["diagnosis"] == "unknown_subdomain"


@pytest.mark.parametrize(("answer", "result", "text"), [
    (errors.bad_request("Something new"), "warn", "and an unknown error (BadRequest: Some"),
    (errors.error(401, "401", "Something new"), "fail", "not a known response of an Azure OpenAI resource"),
    (Answer(302, [("Location", "https://login.example/")]), "fail", "responds with 302"),
    (Answer(200, body="<html>welcome</html>"), "ok", "responds with 200"),
    (Answer(404, body="<html>nothing</html>"), "fail", "Another service may respond in its place"),
    (Answer(503), "fail", "has a problem"),
    (Answer(429, [("Retry-After", "1")]), "warn", "throttled at the moment"),
    (errors.error(400, "OperationNotSupported", "The chatCompletion operation does not work with the "
                  "specified model, text-embedding-3-small."), "ok", "as expected"),
    (faults.padded(errors.error(403, "403", "no"), 1 << 20), "fail", "responds with 403"),
])
def test_other_answers_are_judged_as_far_as_they_go(azure: AzureSim, resource: Resource,
                                                    answer: Answer, result: str, text: str) -> None:
    resource.script.then(answer)
    step = examined(azure, settings(resource), *by_imds(azure, resource)).step(CALL)
    assert (step["result"], step["status"]) == (result, answer.status)
    assert text in step["text"]
    assert len(resource.requests) == 1


# --- the way to a backend ---


@contextlib.contextmanager
def tls_server(certificate: Optional[trustme.LeafCert]) -> Iterator[int]:
    """A port where TLS is spoken with this certificate, and nothing after the handshake; without
    one every connection is closed at once."""
    listening = socket.create_server(("127.0.0.1", 0))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if certificate is not None:
        certificate.configure_cert(context)

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                if certificate is not None:
                    context.wrap_socket(connection, server_side=True).recv(1)
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield int(listening.getsockname()[1])
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join()


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(ca: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return f"--ca={path}"


def _day(days: int) -> datetime:
    return datetime.now(timezone.utc) + timedelta(days=days)


@pytest.mark.parametrize(("certificate", "text"), [
    (lambda ca: ca.issue_cert("contoso-other.openai.azure.com"),
     "a certificate for another name (contoso-other.openai.azure.com): DNS returns a wrong"),
    (lambda ca: ca.issue_cert("localhost", not_before=_day(-9), not_after=_day(-2)),
     "a certificate that has expired, according to the clock of this machine"),
    (lambda ca: ca.issue_cert("localhost", not_before=_day(2), not_after=_day(9)),
     "a certificate that is not valid yet, according to the clock of this machine"),
    (lambda ca: trustme.CA().issue_cert("localhost"), "a certificate of an authority that is not in"),
    (lambda ca: None, "closes the connection without a response"),
], ids=["name", "expired", "not yet", "authority", "closed"])
def test_what_is_wrong_with_tls_is_told_apart(
    azure: AzureSim, resource: Resource, ca: trustme.CA, trusted: str, text: str,
    certificate: Callable[[trustme.CA], Optional[trustme.LeafCert]],
) -> None:
    with tls_server(certificate(ca)) as port:
        document = settings(resource)
        document["backends"] = [over_tls(resource, port=port)]
        found = examined(azure, document, identity_at(azure.identity.port), trusted)
    assert found.results[2:] == [
        ("ok", "backend eastus", "dns"), ("fail", "backend eastus", "tls"),
        ("skip", "backend eastus", f"deployment {MODEL}")]
    assert text in found.step("backend eastus/tls")["text"]
    assert found.step(CALL)["text"] == "skipped: no connection"


def test_a_port_that_speaks_no_tls_is_told(azure: AzureSim, resource: Resource) -> None:
    document = settings(resource)
    document["backends"] = [over_tls(resource)]
    found = examined(azure, document, identity_at(azure.identity.port), f"--ca={azure.ca_pem}")
    assert "does not use TLS" in found.step("backend eastus/tls")["text"]


def test_a_closed_port_is_told(azure: AzureSim, resource: Resource) -> None:
    with taken_port() as taken:
        document = settings(resource)
        document["backends"] = [over_tls(resource, port=taken.getsockname()[1])]
        found = examined(azure, document, identity_at(azure.identity.port), f"--ca={azure.ca_pem}")
    assert NOTHING_LISTENS in found.step("backend eastus/tls")["text"]


def test_a_port_that_never_answers_is_given_up(azure: AzureSim, resource: Resource) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        document = settings(resource)
        document["backends"] = [over_tls(resource, port=silent.getsockname()[1])]
        found = doctor(azure, document, "--json", "--timeout=300ms", f"--ca={azure.ca_pem}",
                       identity_at(azure.identity.port))
    assert found.status == 1
    assert "does not respond within 300ms" in found.step("backend eastus/tls")["text"]


def test_a_name_that_does_not_resolve_is_told_and_the_rest_is_done(azure: AzureSim,
                                                                   resource: Resource) -> None:
    document = settings(resource)
    document["backends"].insert(0, {"name": "gone", "endpoint": "https://contoso.invalid",
                                    "custom_domain": True})
    document["models"][0]["backends"].append(config.route("gone"))
    found = examined(azure, document, *by_imds(azure, resource))
    assert found.results[2:] == [
        ("fail", "backend gone", "dns"),
        ("skip", "backend gone", "tls"),
        ("skip", "backend gone", f"deployment {MODEL}"),
        ("skip", "backend eastus", "dns"),
        ("skip", "backend eastus", "tls"),
        ("ok", "backend eastus", f"deployment {MODEL}"),
    ]
    assert "contoso.invalid does not resolve: " in found.step("backend gone/dns")["text"]


def test_a_backend_with_tls_is_called_over_it(azure: AzureSim) -> None:
    host = "contoso-here.openai.azure.com"
    here = azure.add_resource("here", host=[host, "localhost"], deployments={MODEL: MODEL},
                              tls=True)
    document = settings(here)
    document["backends"] = [over_tls(here)]
    found = examined(azure, document, identity_at(azure.identity.port), f"--ca={azure.ca_pem}")
    assert found.status == 0, found
    assert found.step("backend here/tls")["text"] == "TLS 1.3, with a certificate for localhost"
    # The same under its own name, by an option.
    document["backends"] = [config.backend(here)]
    found = examined(azure, document, identity_at(azure.identity.port), f"--ca={azure.ca_pem}",
                     f"--resolve=here=https://127.0.0.1:{here.port}")
    assert found.status == 0, found
    assert found.step("backend here/tls")["text"] == f"TLS 1.3, with a certificate for {host}"


def test_authorities_that_cannot_be_read_are_told(azure: AzureSim, resource: Resource,
                                                  tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    document = settings(resource)
    document["backends"] = [over_tls(resource)]
    for path, why in [(tmp_path / "absent", "No such file"), (empty, "it contains no certificate")]:
        found = examined(azure, document, identity_at(azure.identity.port), f"--ca={path}")
        assert why in found.step("backend eastus/tls")["text"]


# --- the machine's identity ---


def _unknown_identity(azure: AzureSim) -> Json:
    return config.managed_identity(client_id="00000000-0000-4000-8000-00000000000f")


def _several_identities(azure: AzureSim) -> Json:
    azure.identity.system_assigned = None
    azure.identity.user_assigned = [ManagedIdentity(), ManagedIdentity()]
    return config.managed_identity()


def _unknown_audience(azure: AzureSim) -> Json:
    return {**config.managed_identity(), "audience": "https://slip.example"}


@pytest.mark.parametrize(("cause", "diagnosis"), [
    (_unknown_identity, "identity_not_found"),
    (_several_identities, "identity_ambiguous"),
    (_unknown_audience, "audience_unknown"),
])
def test_every_refusal_of_the_machines_endpoint_is_explained(
    azure: AzureSim, resource: Resource, cause: Callable[[AzureSim], Json], diagnosis: str,
) -> None:
    document = settings(resource, identity=cause(azure))
    found = examined(azure, document, *by_imds(azure, resource))
    step = found.step(TOKEN)
    assert (step["result"], step["diagnosis"], step["status"]) == ("fail", diagnosis, 400)
    assert f". {diagnosis}: " in step["text"]
    assert found.step(CALL)["text"] == "skipped: no token"
    assert resource.requests == []


@pytest.mark.parametrize(("fault", "text"), [
    ("404", "failed with status 404: no explanation. Check that this machine is in Azure"),
    ("429 plain text", "failed with status 429"),
    ("500", "failed with status 500: server_error: internal$"),
    ("503 page", "failed with status 503: no explanation"),
    ("reset", "closes the connection"),
    ("no HTTP", "sends a response that is not HTTP"),
    ("cut", "closes the connection"),
    ("empty", "the response is not a JSON object"),
    ("no JSON", "the response is not a JSON object"),
    ("oversized", "the response is not a JSON object"),
    ("not a header value", "the access_token cannot be sent in a header"),
    ("expired", "the token's expiry is not plausible$"),
])
def test_an_endpoint_in_trouble_is_told(azure: AzureSim, resource: Resource, fault: str, text: str
                                        ) -> None:
    azure.identity.script.always(faults.of(azure.identity)[fault])
    found = examined(azure, settings(resource), *by_imds(azure, resource))
    assert found.step(TOKEN)["result"] == "fail"
    assert text in found.step(TOKEN)["text"] + "$"
    assert found.step(CALL)["result"] == "skip"


def test_an_endpoint_that_hangs_is_given_up(azure: AzureSim, resource: Resource) -> None:
    azure.identity.script.always(faults.of(azure.identity)["hanging"])
    found = doctor(azure, settings(resource), "--json", "--timeout=300ms", *by_imds(azure, resource))
    assert found.status == 1
    assert "does not respond within 300ms" in found.step(TOKEN)["text"]


def test_an_endpoint_where_nothing_listens_is_told(azure: AzureSim, resource: Resource) -> None:
    with taken_port() as taken:
        found = examined(azure, settings(resource), identity_at(taken.getsockname()[1]),
                         *at(resource))
    assert NOTHING_LISTENS in found.step(TOKEN)["text"]


def test_a_token_for_somebody_else_is_a_warning(azure: AzureSim, resource: Resource) -> None:
    azure.identity.script.always(azure.identity.granted("https://management.azure.com"))
    found = examined(azure, settings(resource), *by_imds(azure, resource))
    step = found.step(TOKEN)
    assert (step["result"], step["audience"]) == ("warn", "https://management.azure.com")
    assert "the requested audience is https://cognitiveservices.azure.com" in step["text"]
    assert found.step(CALL)["diagnosis"] == "token_rejected"


def test_a_token_whose_claims_cannot_be_read_is_used(azure: AzureSim, resource: Resource) -> None:
    azure.identity.script.always(azure.identity.granted(token="opaque"))
    found = examined(azure, settings(resource), *by_imds(azure, resource))
    step = found.step(TOKEN)
    assert (step["result"], step.get("audience")) == ("ok", None)
    assert step["text"].endswith("; its claims cannot be read")
    # Simulated Azure knows only its own.
    assert found.step(CALL)["diagnosis"] == "token_rejected"
    assert [one.header("authorization") for one in resource.requests] == ["Bearer opaque"]


def test_an_identity_of_nobody_is_not_asked(azure: AzureSim, resource: Resource) -> None:
    document = settings(resource, identities={"spare": config.managed_identity()})
    found = examined(azure, document, *by_imds(azure, resource))
    assert found.step("identity spare/token")["result"] == "skip"
    assert len(azure.identity.requests) == 1


# --- App Service ---


def app_service(azure: AzureSim, **more: str) -> Json:
    return {"app_service": {"cluster": "platform", "endpoint": azure.app_service.url, **more}}


def test_an_app_signs_in_with_its_platforms_header(azure: AzureSim, resource: Resource) -> None:
    header = azure.app_service.identity_header
    document = settings(resource, identity=app_service(azure))
    found = examined(azure, document, *at(resource), env={"IDENTITY_HEADER": header})
    assert (found.status, found.step(TOKEN)["result"]) == (0, "ok"), found
    found = examined(azure, document, *at(resource))
    assert found.step("identity default/header")["text"].startswith("IDENTITY_HEADER is not set")
    assert (found.step(TOKEN)["result"], found.step(CALL)["result"]) == ("skip", "skip")
    old = {"IDENTITY_HEADER": header}
    azure.app_service.rotate()
    found = examined(azure, document, *at(resource), env=old)
    assert "IDENTITY_ENDPOINT and IDENTITY_HEADER must be" in found.step(TOKEN)["text"]
    assert header not in found.stdout


def test_an_app_whose_endpoint_has_moved_is_told(azure: AzureSim, resource: Resource) -> None:
    env = {"IDENTITY_HEADER": azure.app_service.identity_header,
           "IDENTITY_ENDPOINT": "http://localhost:1/msi/token"}
    document = settings(resource, identity=app_service(azure))
    found = examined(azure, document, *at(resource), env=env)
    step = found.step("identity default/endpoint")
    assert step["result"] == "warn" and "of the platform leads to localhost:1" in step["text"]


def test_an_unknown_identity_of_an_app_is_explained(azure: AzureSim, resource: Resource) -> None:
    identity = app_service(azure, client_id="00000000-0000-4000-8000-00000000000f")
    found = examined(azure, settings(resource, identity=identity), *at(resource),
                     env={"IDENTITY_HEADER": azure.app_service.identity_header})
    assert found.step(TOKEN)["diagnosis"] == "identity_not_found"


# --- applications of Entra ID ---


def application(azure: AzureSim, kind: str, **more: str) -> Json:
    clusters = {"workload_identity": "token_cluster", "client_secret": "secret_cluster"}
    return {kind: {"tenant": TENANT, "client_id": azure.entra.application.client_id,
                   "cluster": "entra", clusters[kind]: "proof", **more}}


@pytest.fixture
def projected(azure: AzureSim, tmp_path: Path) -> ProjectedVolume:
    return ProjectedVolume(tmp_path / "tokens", {
        "azure-identity-token": assertions.issue(), SECRET_FILE: azure.entra.secret + "\n"})


def by_entra(azure: AzureSim, resource: Resource) -> List[str]:
    return [identity_at(azure.entra.port), *at(resource)]


def by_file(azure: AzureSim, kind: str, projected: ProjectedVolume) -> Json:
    if kind == "client_secret":
        return application(azure, kind, secret_file=str(projected.path(SECRET_FILE)))
    return application(azure, kind, token_file=str(projected.path()))


@pytest.mark.parametrize("kind", ["workload_identity", "client_secret"])
def test_an_application_signs_in_over_tls(azure: AzureSim, resource: Resource, kind: str,
                                          projected: ProjectedVolume) -> None:
    port = azure.entra_over_tls()
    document = settings(resource, identity=by_file(azure, kind, projected))
    found = examined(azure, document, identity_at(port, "https"), f"--ca={azure.ca_pem}",
                     *at(resource))
    proof = {"workload_identity": "projected token", "client_secret": "client secret"}[kind]
    assert found.results[1:5] == [
        ("skip", "identity default", "dns"), ("ok", "identity default", "tls"),
        ("ok", "identity default", proof), ("ok", "identity default", "token")]
    assert found.status == 0, found
    assert found.step(TOKEN)["application"] == azure.entra.application.client_id
    if kind == "workload_identity":
        text = found.step("identity default/projected token")["text"]
        for fact in (assertions.ISSUER, assertions.SUBJECT, assertions.AUDIENCE, "expires in "):
            assert fact in text
    # Entra ID has to prove its name too.
    found = examined(azure, document, identity_at(port, "https"), *at(resource))
    assert "of an authority that is not in" in found.step("identity default/tls")["text"]
    assert found.step(TOKEN)["result"] == "skip"


def test_the_projected_token_is_found_where_aks_says(azure: AzureSim, resource: Resource,
                                                     projected: ProjectedVolume) -> None:
    document = settings(resource, identity=application(azure, "workload_identity"))
    env = {"AZURE_FEDERATED_TOKEN_FILE": str(projected.path())}
    assert examined(azure, document, *by_entra(azure, resource), env=env).status == 0
    found = examined(azure, document, *by_entra(azure, resource))
    text = found.step("identity default/projected token")["text"]
    assert text.startswith("cannot read /var/run/secrets/azure/wi/token/azure-identity-token: ")


@pytest.mark.parametrize(("content", "text"), [
    (lambda: assertions.issue(lifetime=-60.0), "has expired, and its file has not been replaced"),
    (lambda: "word", "is not a JSON Web Token"),
    (lambda: "", "is empty, or no text"),
    (lambda: None, "cannot read "),
], ids=["expired", "no JWT", "empty", "missing"])
def test_a_projected_token_that_cannot_work_is_told(
    azure: AzureSim, resource: Resource, projected: ProjectedVolume, text: str,
    content: Callable[[], Optional[str]],
) -> None:
    found_content = content()
    projected.rotate({} if found_content is None else {"azure-identity-token": found_content})
    document = settings(resource, identity=by_file(azure, "workload_identity", projected))
    found = examined(azure, document, *by_entra(azure, resource))
    step = found.step("identity default/projected token")
    assert step["result"] == "fail" and text in step["text"]
    assert found.step(TOKEN)["text"] == "skipped: a previous step failed"
    assert azure.entra.requests == []


REFUSALS: Dict[int, str] = {
    70021: "federated_credential_missing", 700213: "federated_credential_missing",
    700024: "assertion_expired", 700016: "application_not_found", 7000215: "client_secret_wrong",
    7000222: "client_secret_expired", 90002: "tenant_not_found", 500011: "audience_unknown",
    70011: "scope_invalid",
}


@pytest.mark.parametrize(("code", "diagnosis"), REFUSALS.items())
def test_every_refusal_of_entra_id_is_explained(azure: AzureSim, resource: Resource, code: int,
                                                diagnosis: str, projected: ProjectedVolume) -> None:
    azure.entra.script.then(aadsts.refusal(code))
    document = settings(resource, identity=by_file(azure, "workload_identity", projected))
    found = examined(azure, document, *by_entra(azure, resource))
    step = found.step(TOKEN)
    assert (step["result"], step["diagnosis"]) == ("fail", diagnosis)
    assert f"AADSTS{code}: " in step["text"]


def test_a_secret_is_wrong_has_expired_or_is_not_there(azure: AzureSim, resource: Resource,
                                                       projected: ProjectedVolume) -> None:
    document = settings(resource, identity=by_file(azure, "client_secret", projected))
    wrong = "not~the-secret-of-this-application"
    projected.rotate({SECRET_FILE: wrong})
    found = examined(azure, document, *by_entra(azure, resource))
    assert found.step(TOKEN)["diagnosis"] == "client_secret_wrong"
    assert wrong not in found.stdout
    projected.rotate({SECRET_FILE: azure.entra.application.add_secret(lifetime=-1)})
    found = examined(azure, document, *by_entra(azure, resource))
    assert found.step(TOKEN)["diagnosis"] == "client_secret_expired"
    projected.rotate({})
    found = examined(azure, document, *by_entra(azure, resource))
    assert found.step("identity default/client secret")["text"].startswith("cannot read ")


def test_what_an_endpoint_repeats_is_not_shown(azure: AzureSim, resource: Resource,
                                               projected: ProjectedVolume) -> None:
    said = {"error": "invalid_request", "error_description": f"{azure.entra.secret} it was"}
    azure.entra.script.then(Answer(400, body=said))
    document = settings(resource, identity=by_file(azure, "client_secret", projected))
    found = examined(azure, document, *by_entra(azure, resource))
    assert "invalid_request: … it was" in found.step(TOKEN)["text"]
    # As it was sent, in a form.
    projected.rotate({SECRET_FILE: "another~secret"})
    sent = "another%7Esecret"
    azure.entra.script.then(Answer(400, body={"error": "invalid_request",
                                              "error_description": f"client_secret={sent} it was"}))
    found = examined(azure, document, *by_entra(azure, resource))
    assert "client_secret=… it was" in found.step(TOKEN)["text"]
    token = azure.identity.token()
    azure.identity.script.then(azure.identity.granted(token=token))
    resource.script.then(errors.error(418, "teapot", f"Bearer {token} it was"))
    found = examined(azure, settings(resource), *by_imds(azure, resource))
    assert "(teapot: Bearer … it was)" in found.step(CALL)["text"]


@pytest.mark.parametrize("kind", ["workload_identity", "client_secret"])
def test_a_client_assertion_or_secret_does_not_go_to_a_neighbour_in_clear_text(
        azure: AzureSim, resource: Resource, kind: str, projected: ProjectedVolume) -> None:
    document = settings(resource, identity=by_file(azure, kind, projected))
    found = doctor(azure, document, "--identity-endpoint", "http://169.254.169.254:80",
                   "--timeout", "1s")
    assert (found.status, found.stdout) == (2, "")
    assert "would go to 169.254.169.254:80 in clear text" in found.stderr


def test_each_backend_is_called_with_its_own_identity(azure: AzureSim, resource: Resource,
                                                      projected: ProjectedVolume) -> None:
    theirs = azure.resources.get("theirs") or azure.add_resource(
        "theirs", host="contoso-theirs.openai.azure.com", deployments={MODEL: MODEL})
    theirs.principals = {azure.entra.application.object_id}
    document = settings(resource, identities={
        "pod": by_file(azure, "workload_identity", projected)})
    document["backends"].append(config.backend(theirs, identity="pod"))
    document["models"][0]["backends"].append(config.route(theirs))
    # Each by its cluster, as `aoai render envoy` has it.
    found = examined(azure, document, *at(resource, theirs),
                     f"--resolve={config.IDENTITY_CLUSTER}=127.0.0.1:{azure.identity.port}",
                     f"--resolve=entra=127.0.0.1:{azure.entra.port}")
    assert found.status == 0, found
    machine = azure.identity.system_assigned
    assert machine is not None
    who = [[one.token.oid for one in seen.requests if one.token] for seen in (resource, theirs)]
    assert who == [[machine.object_id], [azure.entra.application.object_id]]
    # The trouble of one is not that of the other.
    azure.identity.script.then(Answer(503))
    found = examined(azure, document, identity_at(azure.entra.port), *at(resource, theirs),
                     f"--resolve={config.IDENTITY_CLUSTER}=127.0.0.1:{azure.identity.port}")
    calls = [(result, subject) for result, subject, step in found.results
             if step.startswith("deployment ")]
    assert calls == [("skip", "backend eastus"), ("ok", "backend theirs")]


# --- the document ---


def test_a_document_with_problems_is_not_tried(azure: AzureSim, resource: Resource) -> None:
    document = settings(resource, token_wait=5)
    document["subscriptions"][0]["models"] = ["gpt-4"]
    found = examined(azure, document, *by_imds(azure, resource))
    assert [result for result, _, _ in found.results] == ["fail", "fail", "skip"]
    paths = [one.get("path") for one in found.report["steps"]]
    assert sorted(paths[:2]) == ["subscriptions[0].models[0]", "token_wait"]
    found = doctor(azure, document, *by_imds(azure, resource))
    assert found.status == 1 and found.stdout.startswith(
        "FAIL  configuration    line 1: token_wait: ")
    assert azure.identity.requests == []


def test_a_backend_without_a_model_is_a_warning(azure: AzureSim, resource: Resource) -> None:
    document = settings(resource)
    document["backends"].append({"name": "spare", "endpoint": "https://spare.openai.azure.com"})
    found = examined(azure, document, *by_imds(azure, resource), "--resolve=spare=127.0.0.1:1")
    assert found.step("backend spare/deployments")["result"] == "warn"
    assert found.status == 0


def test_the_key_of_a_caller_is_no_part_of_it(azure: AzureSim, resource: Resource) -> None:
    found = doctor(azure, settings(resource), *PATIENT, *by_imds(azure, resource))
    assert config.digest(KEY) not in found.stdout
