"""The configuration as Envoy takes it: refused with every problem, or used, and replaced while
requests flow."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple, Union

import httpx
import pytest

from azure_sim import HANG_LIMIT, AzureSim, ManagedIdentity, Resource
from e2e import config
from e2e.edits import PLUGIN, Edit, configured, put
from e2e.envoy import EnvoyFailed
from e2e.gateway import Gateway, Rejected
from e2e.identity import closed_gate, fetched
from e2e.side_by_side import SideBySide
from e2e.single import BODY, CHAT, KEY, MODEL, OTHER_KEY, Json, assert_refused, chat, east, settings

Start = Callable[..., Gateway]
REGIONAL = "https://eastus.api.cognitive.microsoft.com"
DOCUMENT = Union[Json, str]


@pytest.fixture(scope="module")
def resource(azure: AzureSim) -> Resource:
    return east(azure)


# Refused


def regional(good: Json) -> DOCUMENT:
    return {**good, "backends": [{"name": "eastus", "endpoint": REGIONAL}]}


def unknown_field(good: Json) -> DOCUMENT:
    return {**good, "subscription": []}


def two_problems(good: Json) -> DOCUMENT:
    models = [config.model(MODEL, config.route("eastsu"))]
    return {**good, "token_wait": "5", "models": models}


def not_json(_good: Json) -> DOCUMENT:
    return '{"identity":'


def empty(_good: Json) -> DOCUMENT:
    return ""


# What Envoy's log and `aoai check` must say, each in a line of its own.
REFUSALS: Dict[str, Tuple[Callable[[Json], DOCUMENT], List[List[str]]]] = {
    "regional endpoint": (regional, [[
        'backends[0].endpoint: "eastus.api.cognitive.microsoft.com" is a regional endpoint',
        "Resource Id is badly formed: NA", "Keys and Endpoint", "https://NAME.openai.azure.com"]]),
    "unknown field": (unknown_field, [["subscription: ", '"subscriptions"']]),
    "two problems": (two_problems, [['token_wait: found "5"', "500ms, 5s or 2m"],
                                    ["models[0].backends[0].backend: ", '"eastsu"', '"eastus"']]),
    "not JSON": (not_json, [["line 1, column ", "not JSON"]]),
    "empty": (empty, [["document: empty; expected the configuration as JSON"]]),
}
ROWS = pytest.mark.parametrize("document, expected", list(REFUSALS.values()), ids=list(REFUSALS))


def assert_says(text: str, expected: List[List[str]]) -> List[str]:
    """That the text has a line with all parts of each expected one. Returns those lines."""
    found = []
    for parts in expected:
        line = next((one for one in text.splitlines() if all(part in one for part in parts)), None)
        assert line is not None, f"no line with all of {parts} in\n{text}"
        found.append(line)
    return found


def as_text(document: DOCUMENT) -> Edit:
    """Envoy gets the document as it is, as JSON text: `aoai render` refuses a wrong one."""
    return configured(document if isinstance(document, str) else json.dumps(document))


def check(tmp_path: Path, document: DOCUMENT) -> "subprocess.CompletedProcess[str]":
    """`aoai check` of the document."""
    tool = os.environ.get("AOAI")
    assert tool, "AOAI must name the command-line tool (make tools)"
    file = tmp_path / "gateway.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return subprocess.run([tool, "check", str(file)], capture_output=True, text=True,
                          timeout=HANG_LIMIT, check=False)


PLACED = re.compile(r".*/gateway\.json:(?:(?P<line>\d+):(?:(?P<column>\d+):)?)? (?P<problem>.*)")


def problems(found: "subprocess.CompletedProcess[str]") -> List[str]:
    """The lines of `aoai check` as the module has them: it knows no file, and lines of syntax errors only."""
    lines = []
    for line in found.stdout.splitlines():
        placed = PLACED.fullmatch(line)
        assert placed is not None, line
        lines.append(placed["problem"] if placed["column"] is None else
                     f"line {placed['line']}, column {placed['column']}: {placed['problem']}")
    return lines


@ROWS
def test_envoy_does_not_start_with_a_wrong_configuration_and_says_why(
        resource: Resource, start_gateway: Start, document: Callable[[Json], DOCUMENT],
        expected: List[List[str]]) -> None:
    good = settings(resource)
    with pytest.raises(EnvoyFailed, match="Envoy exited with 1") as failure:
        start_gateway(good, edits=[as_text(document(good))])
    assert_says(str(failure.value), expected)


@ROWS
def test_the_tool_says_the_same_as_the_module(
        resource: Resource, start_gateway: Start, tmp_path: Path,
        document: Callable[[Json], DOCUMENT], expected: List[List[str]]) -> None:
    good = settings(resource)
    found = check(tmp_path, document(good))
    assert found.returncode == 1
    lines = problems(found)
    assert assert_says("\n".join(lines), expected) == lines, "each problem once, and nothing else"
    with pytest.raises(EnvoyFailed) as failure:
        start_gateway(good, edits=[as_text(document(good))])
    log = str(failure.value).splitlines()
    assert [line for line in lines if not any(line in one for one in log)] == []


def test_the_tool_accepts_what_the_module_accepts(
        azure: AzureSim, resource: Resource, start_gateway: Start, tmp_path: Path) -> None:
    found = check(tmp_path, settings(resource))
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == "ok: 1 subscription, 1 backend, 1 model\n"
    with start_gateway(settings(resource)) as gateway:
        assert chat(gateway).status_code == 200


@pytest.mark.parametrize("root_id", ["", "Gateway", "something"])
def test_envoy_does_not_start_with_a_root_id_that_names_no_stage(
        resource: Resource, start_gateway: Start, root_id: str) -> None:
    with pytest.raises(EnvoyFailed, match='root_id: .*"gateway" or "backend"'):
        start_gateway(settings(resource), edits=[put(f"{PLUGIN}.root_id", root_id)])


# Taken


def test_a_struct_means_what_the_same_json_text_means(
        azure: AzureSim, resource: Resource, start_gateway: Start) -> None:
    resource.deployments = {"other": MODEL}
    routes = [config.route(resource, deployment="other", priority=0, weight=3)]
    document = {**settings(resource, token_wait="2s"),
                "models": [config.model(MODEL, *routes)]}
    for edits in ([as_text(document)], []):
        with start_gateway(document, edits=edits) as gateway:
            assert chat(gateway).status_code == 200
            assert_refused(chat(gateway, key=OTHER_KEY), 401, "unknown_key")
    assert [one.path for one in resource.requests] == [
        "/openai/deployments/other/chat/completions"] * 2


def test_a_struct_is_refused_with_the_same_lines_as_json_text(
        resource: Resource, start_gateway: Start, tmp_path: Path) -> None:
    routes = [config.route(resource, weight=1.5)]
    document = {**settings(resource), "models": [config.model(MODEL, *routes)], "unknown": 1}
    lines = problems(check(tmp_path, document))
    assert len(lines) == 2
    with pytest.raises(EnvoyFailed) as failure:
        start_gateway(settings(resource), edits=[configured(document)])
    log = str(failure.value).splitlines()
    assert [line for line in lines if not any(line in one for one in log)] == []


# Replaced


class Load(SideBySide[bool]):
    """Requests that flow while it is entered, each on a connection of its own and on kept ones."""

    def __init__(self, gateway: Gateway, key: str) -> None:
        self.results: List[str] = []
        self._gateway, self._key = gateway, key
        super().__init__((True, False))

    def call(self, kept: bool) -> None:
        headers = {"api-key": self._key, **({} if kept else {"connection": "close"})}
        with httpx.Client(base_url=self._gateway.url, timeout=HANG_LIMIT, trust_env=False) as http:
            while not self.stop.wait(0.002):
                try:
                    answer = http.post(CHAT, headers=headers, json=BODY)
                    self.results.append(
                        f"{answer.status_code} {answer.headers.get('x-aoai-reason', '')}".strip())
                except httpx.HTTPError as error:
                    self.results.append(repr(error))

    def grow(self, by: int = 20) -> None:
        """Returns when so many more requests have been answered."""
        enough = len(self.results) + by
        self._gateway.envoy.wait_until(lambda: len(self.results) >= enough, f"{by} more requests")


def test_reloads_under_load_fail_no_request_and_fetch_no_token(
        azure: AzureSim, resource: Resource, start_gateway: Start) -> None:
    new_key = "aoai_a-key-that-comes-by-reload"
    with start_gateway(settings(resource, keys=(KEY, OTHER_KEY)), lds=True) as gateway:
        assert chat(gateway, OTHER_KEY).status_code == 200
        assert_refused(chat(gateway, new_key), 401, "unknown_key")
        with Load(gateway, KEY) as load:
            for number in range(5):
                load.grow()
                keys = (KEY, new_key) if number % 2 == 0 else (KEY, OTHER_KEY)
                gateway.reconfigure(settings(resource, keys=keys))
            load.grow()
            load.grow()
            for _ in range(10):
                assert chat(gateway, new_key).status_code == 200
                assert_refused(chat(gateway, OTHER_KEY), 401, "unknown_key")
        assert set(load.results) == {"200"}
        assert len(load.results) >= 140
        assert fetched(gateway) == 1


def test_requests_that_wait_for_the_token_survive_a_reload(
        azure: AzureSim, resource: Resource, start_gateway: Start) -> None:
    gate = closed_gate(azure)
    answers: List[int] = []
    with start_gateway(settings(resource, token_wait="5m"), lds=True) as gateway:
        waiting = [threading.Thread(target=lambda: answers.append(chat(gateway).status_code))
                   for _ in range(6)]
        for one in waiting[:3]:
            one.start()
        active = "http.aoai.downstream_rq_active"
        gateway.envoy.wait_for_stat(active, 3)
        gateway.reconfigure(settings(resource, keys=(KEY, OTHER_KEY), token_wait="5m"))
        for one in waiting[3:]:
            one.start()
        gateway.envoy.wait_for_stat(active, 6)
        assert resource.requests == []
        gate.open()
        for one in waiting:
            one.join()
        assert answers == [200] * 6
        assert fetched(gateway) == azure.identity.max_concurrent == 1


def test_the_old_configuration_goes_when_its_last_connection_has_and_takes_nothing_along(
        azure: AzureSim, resource: Resource, start_gateway: Start) -> None:
    with start_gateway(settings(resource), lds=True, drain_seconds=1) as gateway:
        assert chat(gateway).status_code == 200
        gateway.reconfigure(settings(resource, keys=(KEY, OTHER_KEY)))
        draining = "listener_manager.total_filter_chains_draining"
        gateway.envoy.wait_until(lambda: gateway.envoy.stats()[draining] == 0, "end of draining")
        for key in (KEY, OTHER_KEY):
            assert chat(gateway, key).status_code == 200
        assert fetched(gateway) == 1


@pytest.mark.parametrize("row", ["regional endpoint", "not JSON"])
def test_a_wrong_replacement_is_refused_and_the_old_configuration_serves_on(
        azure: AzureSim, resource: Resource, start_gateway: Start, row: str) -> None:
    document, expected = REFUSALS[row]
    good = settings(resource)
    with start_gateway(good, lds=True) as gateway:
        assert chat(gateway).status_code == 200
        with Load(gateway, KEY) as load:
            load.grow()
            with pytest.raises(Rejected):
                gateway.reconfigure(good, as_text(document(good)))
            load.grow()
        assert_says(gateway.envoy.log_text(), expected)
        assert set(load.results) == {"200"}
        gateway.reconfigure(settings(resource, keys=(KEY, OTHER_KEY)))
        assert chat(gateway, OTHER_KEY).status_code == 200
        assert fetched(gateway) == 1


def test_another_identity_gets_its_own_token(
        azure: AzureSim, resource: Resource, start_gateway: Start) -> None:
    chosen = ManagedIdentity()
    azure.identity.user_assigned = [chosen]
    machine = azure.identity.system_assigned
    assert machine is not None
    with start_gateway(settings(resource), lds=True) as gateway:
        assert chat(gateway).status_code == 200
        other = config.managed_identity(client_id=chosen.client_id)
        gateway.reconfigure(settings(resource, keys=(KEY, OTHER_KEY), identity=other))
        assert chat(gateway, OTHER_KEY).status_code == 200
    first, last = resource.requests[0], resource.requests[-1]
    assert first.token is not None and first.token.oid == machine.object_id
    assert last.token is not None and last.token.oid == chosen.object_id
    asked = [dict(one.query).get("client_id") for one in azure.identity.requests]
    assert list(dict.fromkeys(asked)) == [None, chosen.client_id]
