"""The mistake that this project began with: a regional endpoint behind a gateway that signs in with
tokens. Azure's answer to it says nothing about its cause."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Callable

import httpx
import pytest

from azure_sim import HANG_LIMIT, AzureSim, Resource
from e2e.edits import configured
from e2e.envoy import EnvoyFailed
from e2e.gateway import Gateway
from e2e.single import BODY, CHAT, HOST, MODEL, Json, chat, settings

REGIONAL_HOST = "eastus.api.cognitive.microsoft.com"
THE_ERROR = {"error": {"code": "Request is badly formated",
                       "message": "Resource Id is badly formed: NA"}}
NAMED = f'backends[0].endpoint: "{REGIONAL_HOST}" is a regional endpoint'


@pytest.fixture(scope="module")
def resource(azure: AzureSim) -> Resource:
    """A resource with a custom subdomain, which its region's shared host serves too."""
    return azure.add_resource("eastus", host=HOST, regional_host=REGIONAL_HOST,
                              deployments={MODEL: MODEL})


def with_endpoint(resource: Resource, host: str) -> Json:
    document = settings(resource)
    document["backends"][0]["endpoint"] = f"https://{host}"
    return document


def ask_azure(resource: Resource, host: str, token: str) -> httpx.Response:
    """What a plain proxy would send."""
    headers = {"host": host, "authorization": f"Bearer {token}"}
    return httpx.post(f"http://127.0.0.1:{resource.port}{CHAT}", headers=headers, json=BODY,
                      timeout=HANG_LIMIT, trust_env=False)


def test_1_azure_answers_a_token_on_a_regional_host_with_a_riddle(
        azure: AzureSim, resource: Resource) -> None:
    answer = ask_azure(resource, REGIONAL_HOST, azure.identity.token())
    assert answer.status_code == 400
    assert answer.json() == THE_ERROR


def test_2_the_tool_refuses_the_regional_endpoint_before_it_is_deployed(
        resource: Resource, tmp_path: Path) -> None:
    file = tmp_path / "gateway.json"
    file.write_text(json.dumps(with_endpoint(resource, REGIONAL_HOST)))
    tool = os.environ.get("AOAI")
    assert tool, "AOAI must name the command-line tool (make tools)"
    found = subprocess.run([tool, "check", str(file)], capture_output=True, text=True,
                           timeout=HANG_LIMIT, check=False)
    assert found.returncode == 1
    [line] = found.stdout.splitlines()
    assert line.startswith(f"{file}:1: {NAMED}")
    assert THE_ERROR["error"]["message"] in line and "Keys and Endpoint" in line


def test_2_envoy_refuses_the_regional_endpoint_when_it_is_deployed(
        resource: Resource, start_gateway: Callable[..., Gateway]) -> None:
    with pytest.raises(EnvoyFailed) as failure:
        start_gateway(settings(resource),
                      edits=[configured(with_endpoint(resource, REGIONAL_HOST))])
    [line] = [one for one in str(failure.value).splitlines() if NAMED in one]
    assert THE_ERROR["error"]["message"] in line and "Keys and Endpoint" in line
    assert resource.requests == []


def test_3_with_the_custom_subdomain_the_same_call_works(
        azure: AzureSim, resource: Resource, start_gateway: Callable[..., Gateway]) -> None:
    with start_gateway(with_endpoint(resource, HOST)) as gateway:
        answer = chat(gateway)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "answer from eastus"
    [seen] = resource.requests
    assert seen.host == HOST and seen.token is not None
