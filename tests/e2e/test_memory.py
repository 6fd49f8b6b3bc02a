"""What is remembered of a backend outlives a configuration, and not for ever."""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional

import httpx
import pytest

from azure_sim import Answer, AzureSim, errors
from e2e.gateway import Gateway
from e2e.regions import add_regions, chat, document, served

Json = Dict[str, Any]
MODEL, OTHER = "m1", "m2"
BUSY = Answer(503, body={"error": {"code": "503", "message": "busy"}})


@pytest.fixture(scope="module")
def regions(azure: AzureSim) -> AzureSim:
    add_regions(azure)
    return azure


def without(document: Json, *models: str) -> Json:
    return {**document, "models": [one for one in document["models"] if one["name"] not in models]}


def warm(gateway: Gateway) -> None:
    for _ in range(8):
        chat(gateway, "m0").raise_for_status()


def test_what_cools_is_left_alone_by_the_next_configuration_too(
        regions: AzureSim, start_gateway: Callable[..., Gateway]) -> None:
    complete = document(regions)
    with start_gateway(complete, lds=True) as gateway:
        warm(gateway)
        regions.resources["aa"].script.then(errors.throttled(retry_after_ms="600000"))
        served(chat(gateway, MODEL), "bb", 2)
        gateway.reconfigure(without(complete, MODEL))
        gateway.envoy.wait_until(lambda: chat(gateway, MODEL).status_code == 404, "new document")
        gateway.reconfigure(complete)
        gateway.envoy.wait_until(lambda: chat(gateway, MODEL).status_code == 200, "old document")
        for _ in range(8):
            served(chat(gateway, MODEL), "bb", 1)


@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "left out"])
def test_failures_are_counted_on_as_long_as_a_model_is_there(
        regions: AzureSim, start_gateway: Callable[..., Gateway], keeps: bool) -> None:
    """Three in a row leave a region alone, unless a configuration without the model came between.
    """
    complete = document(regions)
    with start_gateway(complete, lds=True) as gateway:
        warm(gateway)
        aa = regions.resources["aa"]
        aa.script.then(BUSY, BUSY)
        for _ in range(2):
            served(chat(gateway, MODEL), "bb", 2)
        gateway.reconfigure(without(complete, *([OTHER] if keeps else [OTHER, MODEL])))
        gateway.envoy.wait_until(lambda: chat(gateway, OTHER).status_code == 404, "new document")
        gateway.reconfigure(complete)
        gateway.envoy.wait_until(lambda: chat(gateway, OTHER).status_code == 200, "old document")
        aa.script.then(BUSY)
        served(known(gateway), "bb", 2)
        served(known(gateway), *(("bb", 1) if keeps else ("aa", 1)))


def known(gateway: Gateway) -> httpx.Response:
    """The answer of a worker that has the last document: others know no such model."""
    def look() -> Optional[httpx.Response]:
        answer = chat(gateway, MODEL)
        return None if answer.status_code == 404 else answer
    return gateway.envoy.wait_until(look, "worker with the document")
