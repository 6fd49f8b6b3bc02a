"""Forms that arrive name to other readers the one model that the gateway has authorised."""

from __future__ import annotations

from random import Random
from typing import Any, Callable, Dict

import pytest

from azure_sim import AzureSim
from e2e import config
from e2e.calls import Call, chat, send, warm
from e2e.forms import CONTENT_TYPE, READERS, nearly_right
from e2e.gateway import Gateway

KEY = "key-of-the-team"
TEAM = ("api-key", KEY)
FORMS = 400
DEPLOYMENTS = {"same": b"same", "longer": b"a-deployment-with-a-longer-name"}


def document(azure: AzureSim) -> Dict[str, Any]:
    east = azure.resources["eastus"]
    return config.config(
        subscriptions=[config.subscription("team", key=KEY, models=[*DEPLOYMENTS])],
        backends=[config.backend(east)],
        models=[config.model(name, config.route(east, deployment=deployment.decode()))
                for name, deployment in DEPLOYMENTS.items()] + [config.model("secret", east)])


@pytest.fixture(scope="module")
def gateway(azure: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    if "eastus" not in azure.resources:
        azure.add_resource("eastus", host="contoso-eastus.openai.azure.com",
                           deployments={name.decode(): "gpt-4o" for name in DEPLOYMENTS.values()})
    return warm(start_gateway(document(azure)), chat("same", TEAM))


@pytest.mark.parametrize("seed", range(3))
def test_a_form_that_arrives_names_one_allowed_model_to_every_reader(
        gateway: Gateway, azure: AzureSim, seed: int) -> None:
    random = Random(seed)
    for _ in range(FORMS):
        form = nearly_right(random)
        send(gateway, Call("/openai/v1/audio/transcriptions", [TEAM, ("content-type", CONTENT_TYPE)],
                           form))
    arrived = [seen.body for seen in azure.resources["eastus"].requests if seen.complete]
    assert len(arrived) > FORMS // 10, "most of what is right arrives"
    for body in arrived:
        for name, read in READERS.items():
            models = read(body)
            assert len(models) == 1 and models[0] in DEPLOYMENTS.values(), (name, models, body)
