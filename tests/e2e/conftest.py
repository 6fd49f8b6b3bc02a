"""Fixtures of the tests against a real Envoy.

Simulated Azure and Envoys live as long as a test module; what simulated Azure recorded and was told
is forgotten before each test. A failing test shows the logs of the Envoys it could have used.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Dict, Generator, Iterator, List

import pytest

from azure_sim import AzureSim
from e2e.envoy import Envoy
from e2e.gateway import Gateway


@pytest.fixture(scope="module", params=[1, 2], ids=["1-worker", "2-workers"])
def workers(request: pytest.FixtureRequest) -> int:
    """Envoy's concurrency: every test that uses it, or `start_gateway`, runs once for each."""
    return int(request.param)


@pytest.fixture(scope="module")
def azure() -> Iterator[AzureSim]:
    """Simulated Azure without resources; a module adds those it needs."""
    with AzureSim() as sim:
        yield sim


@pytest.fixture(autouse=True)
def _azure_starts_afresh(request: pytest.FixtureRequest) -> None:
    if "azure" in request.fixturenames:
        request.getfixturevalue("azure").reset()


@pytest.fixture(scope="module")
def start_envoy() -> Iterator[Callable[..., Envoy]]:
    """`start_envoy(bootstrap, workers=1)`: an Envoy that ends with the module."""
    with contextlib.ExitStack() as stack:
        def start(bootstrap: Dict[str, Any], **how: Any) -> Envoy:
            return stack.enter_context(Envoy(bootstrap, **how))
        yield start


@pytest.fixture(scope="module")
def start_gateway(azure: AzureSim, workers: int) -> Iterator[Callable[..., Gateway]]:
    """`start_gateway(document, **options)`: Envoy with the filter, of either number of workers, which
    ends with the module. Options are those of `Gateway`."""
    with contextlib.ExitStack() as stack:
        def start(document: Dict[str, Any], **options: Any) -> Gateway:
            return stack.enter_context(Gateway(document, azure, **{"workers": workers, **options}))
        yield start


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    """Where tests are spread over processes (`-n`), those that share Envoys stay together: the
    tests of a module, or of a module and a number of workers, are one piece of work."""
    for item in items:
        parameters = getattr(item, "callspec").params if hasattr(item, "callspec") else {}
        item.add_marker(pytest.mark.xdist_group(
            f"{item.path.stem}-{parameters.get('workers', 'any')}"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    Envoy.started[:] = [envoy for envoy in Envoy.started if not envoy.stopped]
    for envoy in Envoy.started:
        envoy.log_mark = len(envoy.log_text())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport,
                                                              pytest.TestReport]:
    report = yield
    if report.failed:
        for envoy in Envoy.started:
            report.sections.append((f"Envoy's log (pid {envoy.pid})", envoy.log_for_people()))
    return report
