"""Fixtures of the tests in a real mesh: those of the tests against a plain Envoy."""

from __future__ import annotations

from e2e.conftest import (_azure_starts_afresh, azure, pytest_collection_modifyitems,
                          pytest_runtest_makereport, pytest_runtest_setup, workers)

__all__ = ["_azure_starts_afresh", "azure", "pytest_collection_modifyitems",
           "pytest_runtest_makereport", "pytest_runtest_setup", "workers"]
