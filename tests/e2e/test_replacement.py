"""The document and the module are replaced while requests are under way, and none is lost."""

from __future__ import annotations

import re
from itertools import cycle
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import pytest

from azure_sim import AzureSim
from e2e.calls import own_answer
from e2e.edits import CLUSTERS, Edit, module_at, put
from e2e.gateway import ALL_CLUSTERS, LISTENER, Gateway
from e2e.load import KEY, ONCE, PAIR, THROTTLED, TWICE, Load, Regions, Sent, deployment
from e2e.modules import like_the_module

Json = Dict[str, Any]
Start = Callable[..., Gateway]
NEW_KEY, OTHER_KEY = "aoai_a-key-that-comes-0003", "aoai_a-key-that-goes-0002"
RENAMED = "-renamed"


@pytest.fixture
def regions(azure: AzureSim) -> Regions:
    found = Regions(azure)
    found.prepare()
    return found


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> List[str]:
    """The module, and two that only Envoy takes for others."""
    return like_the_module(tmp_path_factory.mktemp("modules"), 2)


def assert_no_failure(gateway: Gateway) -> None:
    """No VM has failed, and nothing was answered by Envoy or by the filter instead of a region."""
    log = gateway.envoy.log_text()
    assert not [line for line in log.splitlines() if "[error]" in line or "[critical]" in line
                or "panicked" in line]
    stats = gateway.envoy.stats()
    assert stats["http.aoai.downstream_rq_5xx"] == 0
    assert stats.get("http.aoai.no_cluster", 0) == 0
    assert not {name: value for name, value in stats.items() if value and "vm_reload" in name}


def test_the_document_is_replaced_under_load(regions: Regions, start_gateway: Start) -> None:
    """Keys, deployments and weights, and all clusters with them; either first, or both at once."""
    regions.prepare(("", RENAMED))
    versions: List[Json] = [
        {"keys": [OTHER_KEY]},
        {"keys": [OTHER_KEY, NEW_KEY], "weights": (1, 1, 1)},
        {"keys": [OTHER_KEY, NEW_KEY], "suffixes": {"aa": RENAMED}, "weights": (1, 2, 3)},
        {"keys": [NEW_KEY], "suffixes": {"aa": RENAMED, "cc": RENAMED}},
        {"keys": [NEW_KEY], "suffixes": {"bb": RENAMED}},
    ]
    orders = [(ALL_CLUSTERS, LISTENER), (LISTENER, ALL_CLUSTERS)]
    with start_gateway(regions.document(**versions[0]), xds=True) as gateway:
        with Load(gateway, regions) as load:
            for number, version in enumerate(versions[1:]):
                load.grow()
                held = load.hold()
                gateway.reconfigure(
                    regions.document(**version), all_clusters_change(number),
                    order=orders[number % 2], one_by_one=number < 2)
                load.replaced()
                load.grow()
                held.finish()
            load.grow(1000)
            assert key_is_known(load, NEW_KEY) and not key_is_known(load, OTHER_KEY)

        def names(sent: Sent, region: str) -> List[str]:
            # The connection may have been made while the next version came.
            possible = versions[sent.version:sent.version + 2]
            return [deployment(region, sent.model, one.get("suffixes", {}).get(region, ""))
                    for one in possible]
        ends = load.check(names)
        assert ends[200, 1] and ends[200, 2] and ends[200, 3]
        assert_no_failure(gateway)


def all_clusters_change(number: int) -> Edit:
    return put(f"{CLUSTERS}[*].connect_timeout", f"{61 + number}s")


def key_is_known(load: Load, key: str) -> bool:
    connection, sent = load.begin(in_url=True, key=key)
    with connection:
        response = connection.exchange(sent.raw())
    if response.status == 401:
        own_answer(response, "unknown_key", hidden=[key])
        return False
    return load.answered(sent, response).status == 200


def test_the_module_is_replaced_under_load(
        regions: Regions, modules: Sequence[str], start_gateway: Start) -> None:
    """Either stage first, or both at once, and back. As long as a gateway stage does not know that the
    backend stages are another module's, a caller may be told that a region has throttled it."""
    document = regions.document()
    steps: List[Tuple[str, Tuple[str, str], bool]] = [
        (modules[1], (LISTENER, ALL_CLUSTERS), True),
        (modules[2], (ALL_CLUSTERS, LISTENER), True),
        (modules[1], (LISTENER, ALL_CLUSTERS), False),
        (modules[0], (ALL_CLUSTERS, LISTENER), False),
    ]
    with start_gateway(document, xds=True) as gateway:
        with Load(gateway, regions, may_throttle=(TWICE, THROTTLED, PAIR)) as load:
            for path, order, one_by_one in steps:
                load.grow()
                held = load.hold()
                for parts in [(part,) for part in order] if one_by_one else [order]:
                    gateway.reconfigure(document, module_at(path), order=parts, one_by_one=False)
                    load.replaced()
                    load.grow()
                held.finish()
            load.grow(1000)
        ends = load.check(own_name)
        assert ends[200, 1] and ends[200, 2] and ends[200, 3]
        assert_no_failure(gateway)


def own_name(sent: Sent, region: str) -> List[str]:
    return [deployment(region, sent.model)]


def test_a_request_is_retried_by_another_module_once_that_is_known(
        regions: Regions, modules: Sequence[str], start_gateway: Start) -> None:
    document = regions.document()
    with start_gateway(document, xds=True) as gateway, gateway.connect() as connection:
        load = Load(gateway, regions, may_throttle=(THROTTLED, ONCE))
        ways: List[Json] = [{"in_url": in_url, "padding": padding, "stream": stream}
                            for in_url in (True, False) for padding in (0, 40_000)
                            for stream in (False, True)]
        way, models = cycle(ways), cycle(f"{THROTTLED}-0-{number}" for number in range(6))

        def ends(sent: Sent) -> Tuple[int, str, int]:
            one = load.answered(sent, connection.exchange(sent.raw()))
            return one.status, one.region, one.attempts

        def ask(*throttles: str) -> Tuple[int, str, int]:
            return ends(load.once(throttles=throttles, **next(way)))

        def until(wanted: Tuple[int, str, int], other: Tuple[int, str, int]) -> None:
            # aa is in cooldown for the model for a moment, or probed.
            allowed = [other, (200, "bb", 1)]
            while (end := ends(load.request(next(models), throttles=("aa",), **next(way)))) != wanted:
                assert end in allowed
        passed, retried = (429, "aa", 1), (200, "bb", 2)
        assert ask("aa") == retried
        gateway.reconfigure(document, module_at(modules[1]), order=(ALL_CLUSTERS,))
        until(passed, retried)  # the worker has the new clusters
        until(retried, passed)  # and knows that the modules differ
        for _ in ways:
            assert ask("aa") == retried
            assert ask("aa", "bb") == (200, "cc", 3)
            assert ask() == (200, "aa", 1)
        gateway.reconfigure(document, module_at(modules[1]))
        with gateway.connect() as connection:
            for _ in ways:
                assert ask("aa") == retried
        load.check(own_name)
        assert_no_failure(gateway)


def test_a_module_that_was_replaced_goes_when_its_last_connection_has(
        regions: Regions, modules: Sequence[str], start_gateway: Start) -> None:
    document = regions.document()
    with start_gateway(document, xds=True, drain_seconds=1) as gateway:
        load = Load(gateway, regions)
        before = active_vms(gateway)
        for path, order in [(modules[1], (LISTENER, ALL_CLUSTERS)),
                            (modules[2], (ALL_CLUSTERS, LISTENER))]:
            gateway.reconfigure(document, module_at(path), order=order)
            assert key_is_known(load, KEY)
            gateway.envoy.wait_until(lambda: active_vms(gateway) == before, "end of VMs")
            assert key_is_known(load, KEY)
        assert_no_failure(gateway)


def active_vms(gateway: Gateway) -> int:
    """By Envoy's log: the gauge of 1.37 is another for each cluster and listener, and goes with them."""
    return int(re.findall(r"(\d+) (?:now|remaining) active", gateway.envoy.log_text())[-1])
