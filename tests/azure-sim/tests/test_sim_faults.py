"""The faults of `faults.of`, on every endpoint that issues tokens."""

from __future__ import annotations

import json
import time
from typing import Any, Callable, Dict

import httpx
import pytest

from azure_sim import HANG, RESET, Answer, AzureSim, Delivery, assertions, faults
from azure_sim.endpoint import Endpoint
from azure_sim.tokens import decode

AUDIENCE = "https://cognitiveservices.azure.com"
NAMES = ["404", "410", "429", "429 retry-after", "429 plain text", "500", "503 page", "hanging",
         "reset", "no HTTP", "cut", "empty", "no JSON", "half of the JSON", "oversized",
         "not a header value", "expired"]


def ask_identity(sim: AzureSim, timeout: float = 30.0) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{sim.identity.port}/metadata/identity/oauth2/token",
                     params={"api-version": "2018-02-01", "resource": AUDIENCE}, timeout=timeout,
                     headers={"metadata": "true"}, trust_env=False)


def ask_app_service(sim: AzureSim, timeout: float = 30.0) -> httpx.Response:
    return httpx.get(sim.app_service.url, trust_env=False, timeout=timeout,
                     params={"api-version": "2019-08-01", "resource": AUDIENCE},
                     headers={"x-identity-header": sim.app_service.identity_header})


def ask_entra(sim: AzureSim, timeout: float = 30.0) -> httpx.Response:
    application = sim.entra.application
    url = f"http://127.0.0.1:{sim.entra.port}/{application.tenant}/oauth2/v2.0/token"
    return httpx.post(
        url, headers={"host": "login.microsoftonline.com"}, trust_env=False, timeout=timeout,
        data={"client_id": application.client_id, "scope": f"{AUDIENCE}/.default",
              "grant_type": "client_credentials", "client_assertion": assertions.issue(),
              "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"})


ASK: Dict[str, Callable[..., httpx.Response]] = {
    "identity": ask_identity, "app_service": ask_app_service, "entra": ask_entra}


@pytest.mark.parametrize("endpoint", ASK)
@pytest.mark.parametrize("name", NAMES)
def test_a_fault_happens_once_and_is_what_it_says(sim: AzureSim, endpoint: str, name: str) -> None:
    target: Any = getattr(sim, endpoint)
    fault = faults.of(target)[name]
    target.script.then(fault)
    if isinstance(fault, Delivery) or name == "cut":
        with pytest.raises(httpx.TransportError):
            ASK[endpoint](sim, timeout=0.5 if name == "hanging" else 30.0)
    else:
        assert_useless(ASK[endpoint](sim), fault, name)
    assert ASK[endpoint](sim).status_code == 200
    assert isinstance(target, Endpoint) and len(target.requests) == 2


def assert_useless(answer: httpx.Response, fault: Answer, name: str) -> None:
    assert (answer.status_code, answer.content) == (fault.status, fault.content())
    if answer.status_code == 429:
        assert answer.headers.get("retry-after") == (None if name == "429" else "2")
    if answer.status_code != 200:
        return
    try:
        body = json.loads(answer.content)
    except ValueError:
        assert name in ("empty", "no JSON", "half of the JSON")
        return
    claims = decode(body["access_token"])
    if name == "not a header value":
        assert claims is None and " " in body["access_token"]
    elif name == "expired":
        assert claims is not None and claims.exp < time.time()
        assert int(body.get("expires_in", "-1")) < 0
        assert int(body.get("expires_on", "0")) < time.time()
    else:
        assert name == "oversized" and len(answer.content) > 64 * 1024


def test_the_faults_are_those() -> None:
    with AzureSim() as sim:
        found = faults.of(sim.entra)
    assert list(found) == NAMES
    assert found["hanging"] is HANG and found["reset"] is RESET
