"""`aoai render envoy`: what it makes runs as it stands, with TLS on both sides, in a real Envoy."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Callable

import httpx
import pytest
import trustme

from azure_sim import HANG_LIMIT, AzureSim, Resource
from e2e import config
from e2e.envoy import Envoy
from e2e.rendering import bootstrap, rendered, resource_at, validated
from e2e.single import BODY, CHAT, KEY, MODEL, Json, settings

DOCUMENTS = ["envoy/example.yaml", "tests/golden/regions.yaml", "tests/golden/tls.yaml"]


@pytest.fixture(scope="module")
def callers_ca() -> trustme.CA:
    """The authority that signs the listener's certificate."""
    return trustme.CA()


@pytest.fixture(scope="module")
def listener_tls(callers_ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Json:
    folder = tmp_path_factory.mktemp("tls")
    certificate = callers_ca.issue_cert("gateway.test")
    chain, key = folder / "tls.crt", folder / "tls.key"
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(str(chain), append=True)
    certificate.private_key_pem.write_to_path(str(key))
    return {"certificate": str(chain), "key": str(key)}


@pytest.fixture(scope="module")
def resource(azure: AzureSim) -> Resource:
    """A resource with TLS, where the system's resolver finds it."""
    return azure.add_resource("here", host=["localhost"], deployments={MODEL: MODEL}, tls=True)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_envoy_accepts_what_is_rendered(document: str, listener_tls: Json, tmp_path: Path) -> None:
    text = rendered(document, "--admin-port", "9901")
    for name in ("certificate", "key"):
        in_document = "/etc/aoai/tls." + {"certificate": "crt", "key": "key"}[name]
        text = text.replace(f"filename: {in_document}", f"filename: {listener_tls[name]}")
    done = validated(text, tmp_path)
    assert done.returncode == 0, done.stdout


def test_a_rendered_gateway_serves_with_tls_on_both_sides(
    azure: AzureSim, resource: Resource, callers_ca: trustme.CA, listener_tls: Json,
    start_envoy: Callable[..., Envoy],
) -> None:
    endpoint = f"https://localhost:{resource.port}"
    document = settings(resource, listener={"tls": listener_tls})
    document["backends"] = [{**config.backend(resource), "endpoint": endpoint,
                             "custom_domain": True}]
    envoy = start_envoy(_bootstrap(document, azure, "--ca", str(azure.ca_pem)))
    trust = ssl.create_default_context()
    callers_ca.configure_trust(trust)
    with httpx.Client(base_url=f"https://127.0.0.1:{envoy.port('aoai')}", verify=trust,
                      timeout=HANG_LIMIT, trust_env=False) as http:
        answer = http.post(CHAT, headers={"api-key": KEY}, json=BODY,
                           extensions={"sni_hostname": "gateway.test"})
    assert (answer.status_code, answer.headers["x-aoai-backend"]) == (200, "here"), answer.text
    [request] = resource.requests
    assert request.header("host") == f"localhost:{resource.port}"


def test_a_backend_that_cannot_prove_its_name_gets_nothing(
    azure: AzureSim, start_envoy: Callable[..., Envoy],
) -> None:
    impostor = azure.add_resource("impostor", host="contoso-other.openai.azure.com",
                                  deployments={MODEL: MODEL}, tls=True)
    document = settings(impostor)
    document["backends"] = [{**config.backend(impostor), "custom_domain": True,
                             "endpoint": f"https://localhost:{impostor.port}"}]
    envoy = start_envoy(_bootstrap(document, azure, "--ca", str(azure.ca_pem)))
    url = f"http://127.0.0.1:{envoy.port('aoai')}{CHAT}"
    answer = httpx.post(url, headers={"api-key": KEY}, json=BODY, timeout=HANG_LIMIT,
                        trust_env=False)
    assert answer.status_code == 503, answer.text
    assert envoy.stats()["cluster.aoai_impostor.ssl.fail_verify_san"] == 1
    assert impostor.requests == []


def test_a_resolved_backend_is_on_this_machine_under_its_own_name(
    azure: AzureSim, start_envoy: Callable[..., Envoy],
) -> None:
    host = "contoso-resolved.openai.azure.com"
    plain = azure.add_resource("resolved", host=host, deployments={MODEL: MODEL})
    envoy = start_envoy(_bootstrap(settings(plain), azure, resource_at(plain)))
    url = f"http://127.0.0.1:{envoy.port('aoai')}{CHAT}"
    answer = httpx.post(url, headers={"api-key": KEY}, json=BODY, timeout=HANG_LIMIT,
                        trust_env=False)
    assert answer.status_code == 200, answer.text
    [request] = plain.requests
    assert request.header("host") == host


def test_a_resolved_backend_can_keep_its_tls_and_its_name(
    azure: AzureSim, start_envoy: Callable[..., Envoy],
) -> None:
    host = "contoso-private.openai.azure.com"
    private = azure.add_resource("private", host=host, deployments={MODEL: MODEL}, tls=True)
    envoy = start_envoy(_bootstrap(settings(private), azure, resource_at(private),
                                   "--ca", str(azure.ca_pem)))
    url = f"http://127.0.0.1:{envoy.port('aoai')}{CHAT}"
    answer = httpx.post(url, headers={"api-key": KEY}, json=BODY, timeout=HANG_LIMIT,
                        trust_env=False)
    assert answer.status_code == 200, answer.text
    assert envoy.stats()["cluster.aoai_private.ssl.handshake"] >= 1
    [request] = private.requests
    assert request.header("host") == host


def _bootstrap(document: Json, azure: AzureSim, *options: str) -> Json:
    return bootstrap(document, "--identity", f"127.0.0.1:{azure.identity.port}", *options)
