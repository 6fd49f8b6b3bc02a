"""Simulated Azure by itself: one resource with everything, and a client that knows its names."""

from __future__ import annotations

from typing import Iterator

import httpx
import pytest

from azure_sim import HANG_LIMIT, AzureSim, Resource

HOST = "contoso-eastus.openai.azure.com"
REGIONAL = "eastus.api.cognitive.microsoft.com"
DEPLOYMENTS = {"gpt-4o-2024-11-20": "gpt-4o", "embed": "text-embedding-3-small",
               "whisper": "whisper", "tts": "tts", "dalle": "dall-e-3"}


@pytest.fixture(scope="session")
def _sim() -> Iterator[AzureSim]:
    with AzureSim() as sim:
        sim.add_resource("eastus", host=HOST, regional_host=REGIONAL, deployments=DEPLOYMENTS)
        yield sim


@pytest.fixture()
def sim(_sim: AzureSim) -> AzureSim:
    """The simulation as it was when it started."""
    _sim.reset()
    return _sim


@pytest.fixture()
def east(sim: AzureSim) -> Resource:
    return sim.resources["eastus"]


@pytest.fixture()
def http(east: Resource, sim: AzureSim) -> Iterator[httpx.Client]:
    """Signed in to the resource by its custom subdomain; a call can override both headers."""
    headers = {"host": HOST, "authorization": f"Bearer {sim.identity.token()}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{east.port}", headers=headers, trust_env=False,
                      timeout=HANG_LIMIT) as client:
        yield client
