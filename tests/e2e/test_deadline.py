"""One deadline for all attempts of a request together: each may be quick and the caller still have
waited too long for another one."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

import httpx
import pytest

from azure_sim import RESET, Answer, AzureSim, Delivery, Gate, Resource
from azure_sim.script import Step
from e2e.gateway import Gateway
from e2e.regions import (
    KEY, add_regions, answered_by, calls, chat, deployment, document, served,
)
from e2e.wire import request

# How long after the request another attempt may start. The second attempt ends behind that, and by
# itself would be no slow one.
WITHIN = 4.0
BUSY = Answer(503, body={"error": {"code": "503", "message": "busy"}})


@pytest.fixture(scope="module")
def regions(azure: AzureSim) -> AzureSim:
    add_regions(azure)
    return azure


@pytest.fixture(scope="module")
def gateway(regions: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    found = start_gateway(document(regions, retry_within=f"{int(WITHIN)}s"))
    for _ in range(8):
        chat(found, "m0").raise_for_status()
    return found


def held(step: Step, gate: Gate) -> Step:
    """The same trouble once the gate is open."""
    if isinstance(step, Answer):
        return step.delivered(Delivery(before=gate))
    return Delivery(before=gate, reset=True)


@pytest.mark.parametrize("trouble, model", [(BUSY, "m1"), (RESET, "m2")], ids=["503", "reset"])
def test_no_attempt_starts_after_the_deadline_of_all(
        gateway: Gateway, regions: AzureSim, trouble: Step, model: str) -> None:
    regions.reset()
    gates = {"aa": Gate(), "bb": Gate()}
    for name, gate in gates.items():
        regions.resources[name].script.then(held(trouble, gate))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(chat, gateway, model)
        [first] = regions.resources["aa"].recorder.wait_for_requests(1)
        until(first.received_at + WITHIN / 4)
        gates["aa"].open()
        [second] = regions.resources["bb"].recorder.wait_for_requests(1)
        until(first.received_at + WITHIN + 0.1)
        gates["bb"].open()
        found = answer.result()
    assert found.status_code == 503
    if isinstance(trouble, Answer):
        assert found.content == trouble.content()
        answered_by(found, "bb", 2)
    else:
        assert found.headers["x-aoai-reason"] == "backend_failed"
    assert calls(regions) == {"aa": 1, "bb": 1}


def until(moment: float) -> None:
    """Returns when the clock of the records shows that."""
    while time.time() < moment:
        time.sleep(0.01)


def test_in_time_there_are_as_many_attempts_as_regions(
        gateway: Gateway, regions: AzureSim) -> None:
    regions.reset()
    for name in ("aa", "bb"):
        regions.resources[name].script.then(BUSY)
    served(chat(gateway, "m3"), "cc", 3)


def test_the_deadline_begins_with_the_requests_last_byte(
        gateway: Gateway, regions: AzureSim) -> None:
    """The first region refuses before it has the body, and the second gets a caller that takes its
    time with the rest."""
    regions.reset()
    aa, bb = regions.resources["aa"], regions.resources["bb"]
    early = Delivery(early=True)
    aa.script.then(BUSY.delivered(early))
    bb.script.then(BUSY)
    body = b'{"model":"m4","messages":[],"user":"' + b"u" * 5000 + b'"}'
    raw = request("POST", "/openai/v1/chat/completions",
                  [("api-key", KEY), ("content-type", "application/json")], body)
    with gateway.connect() as connection:
        began = time.time()
        connection.send(raw[:-3000])
        bb.recorder.wait_until(lambda seen: len(seen) == 1, "second attempt")
        until(began + WITHIN + 0.1)
        served(connection.exchange(raw[-3000:]), "cc", 3)
    assert [seen.json() for seen in regions.resources["cc"].requests] == [
        {"model": deployment("cc", "m4"), "messages": [], "user": "u" * 5000}]
