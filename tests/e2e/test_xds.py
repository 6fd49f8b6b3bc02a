"""An Envoy follows the files that `aoai render envoy --xds` writes: keys, backends and modules are replaced without a
restart, and without losing a request."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest

from azure_sim import AzureSim
from e2e import config
from e2e.callers import Callers
from e2e.calls import chat, own_answer, send
from e2e.envoy import Envoy
from e2e.modules import like_the_module
from e2e.rendering import options_for_both, rendered
from e2e.wire import Connection

Json = Dict[str, Any]
KEY, NEW_KEY = "aoai_the-search-teams-key-0001", "aoai_a-key-that-comes-00000003"
REGIONS = ("eastus", "sweden", "france")
POOL, SINGLE = "gpt-4o", "gpt-4o-mini"
RELOADED = "extension_config_discovery.http_filter.aoai.gateway.config_reload"
CALLS = [chat(POOL, ("api-key", KEY)), chat(SINGLE, ("api-key", KEY))]
MANY = 1000


class Followed:
    """An Envoy, and the directory that it follows."""

    def __init__(self, azure: AzureSim, folder: Path, document: Json, workers: int) -> None:
        self._azure, self.folder = azure, folder / "xds"
        self._other = folder / "other.json"
        self.write(document)
        self.envoy = Envoy((self.folder / "bootstrap.yaml").read_text(), workers=workers)
        self.port = self.envoy.port()

    def write(self, document: Json, *, clusters_of: Optional[Json] = None,
              module: Optional[str] = None) -> None:
        options: List[str] = []
        if clusters_of is not None:
            self._other.write_text(json.dumps(clusters_of))
            options += ["--clusters-of", str(self._other)]
        if module is not None:
            options += ["--wasm", module]
        options += options_for_both(self._azure, document, clusters_of)
        printed = rendered("-", *options, "--listener-port", "0", "--xds", str(self.folder),
                           stdin=json.dumps(document))
        assert printed == ""

    def reconfigure(self, document: Json, **how: Any) -> None:
        before = self.envoy.stats().get(RELOADED, 0)
        self.write(document, **how)
        self.envoy.wait_for_stat(RELOADED, before + 1)

    def connect(self) -> Connection:
        return Connection(self.port)

    def clusters(self) -> List[str]:
        found = self.envoy.admin.get("/clusters").text
        return sorted(set(re.findall(r"^aoai_(\w+)::default_priority", found, re.MULTILINE)))


def document_of(azure: AzureSim, *regions: str, keys: Any = (KEY,)) -> Json:
    resources = [azure.resources[name] for name in regions]
    return config.config(
        subscriptions=[config.subscription(f"team-{number}", key=key)
                       for number, key in enumerate(keys)],
        backends=[config.backend(resource) for resource in resources],
        models=[config.model(POOL, *(config.route(one, priority=rank)
                                     for rank, one in enumerate(resources))),
                config.model(SINGLE, resources[0])])


@pytest.fixture(scope="module")
def followed(azure: AzureSim, workers: int, tmp_path_factory: pytest.TempPathFactory
             ) -> Iterator[Followed]:
    for name in REGIONS:
        azure.add_resource(name, host=f"contoso-{name}.openai.azure.com",
                           deployments={POOL: POOL, SINGLE: SINGLE})
    found = Followed(azure, tmp_path_factory.mktemp("xds"), document_of(azure, *REGIONS[:2]),
                     workers)
    with found.envoy:
        yield found


def test_a_new_key_is_known_and_the_listener_stays(followed: Followed, azure: AzureSim) -> None:
    own_answer(send(followed, chat(SINGLE, ("api-key", NEW_KEY))), "unknown_key")
    files = {path: path.stat().st_mtime_ns for path in followed.folder.iterdir()}
    followed.reconfigure(document_of(azure, *REGIONS[:2], keys=(KEY, NEW_KEY)))
    assert send(followed, chat(SINGLE, ("api-key", NEW_KEY))).status == 200
    changed = {path.name for path in followed.folder.iterdir()
               if files.get(path) != path.stat().st_mtime_ns}
    assert changed == {"ecds-aoai.gateway.yaml"}
    assert followed.envoy.stats()["listener_manager.listener_modified"] == 0


def test_backends_are_added_and_removed_in_steps_without_losing_a_request(
        followed: Followed, azure: AzureSim) -> None:
    few, many = document_of(azure, *REGIONS[:2]), document_of(azure, *reversed(REGIONS))
    with Callers(followed, CALLS) as callers:
        for old, new in ((few, many), (many, few)):
            followed.write(old, clusters_of=new)
            followed.envoy.wait_until(lambda: followed.clusters() == sorted(REGIONS), "clusters")
            callers.grow(MANY)
            followed.reconfigure(new, clusters_of=old)
            callers.grow(MANY)
            followed.write(new)
            wanted = sorted(one["name"] for one in new["backends"])
            followed.envoy.wait_until(lambda: followed.clusters() == wanted, "clusters")
            callers.grow(MANY)
    callers.served()
    assert azure.resources["france"].requests


def test_the_module_is_replaced_without_losing_a_request(
        followed: Followed, azure: AzureSim, tmp_path: Path) -> None:
    document = document_of(azure, *REGIONS[:2])
    with Callers(followed, CALLS) as callers:
        for module in like_the_module(tmp_path, 2)[::-1]:
            followed.reconfigure(document, module=module)
            callers.grow(MANY)
    callers.served()


def test_a_document_with_a_problem_is_not_taken(followed: Followed, azure: AzureSim) -> None:
    path = followed.folder / "ecds-aoai.gateway.yaml"
    good = path.read_text()
    bad = path.with_suffix(".new")
    bad.write_text(good.replace("- id: team-0\n", "- id: team-0\n" + " " * 12 + "stat: 1\n"))
    before = followed.envoy.stats().get(
        "extension_config_discovery.http_filter.aoai.gateway.config_fail", 0)
    bad.rename(path)
    followed.envoy.wait_for_stat(
        "extension_config_discovery.http_filter.aoai.gateway.config_fail", before + 1)
    assert send(followed, CALLS[0]).status == 200
    followed.reconfigure(document_of(azure, *REGIONS[:2], keys=(KEY, NEW_KEY)))
    assert send(followed, chat(SINGLE, ("api-key", NEW_KEY))).status == 200
