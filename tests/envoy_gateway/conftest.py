"""Fixtures of the tests with a real Envoy Gateway: those of the tests against a plain Envoy.

Envoy Gateway listens at ports of its own choice. `make test-envoy-gateway` runs the tests in a network of their own,
where nothing else is at those ports, and where there is no other way out than loopback."""

from __future__ import annotations

import fcntl
import socket
import struct

from e2e.conftest import (_azure_starts_afresh, azure, pytest_collection_modifyitems,
                          pytest_runtest_makereport, pytest_runtest_setup, workers)

__all__ = ["_azure_starts_afresh", "azure", "pytest_collection_modifyitems",
           "pytest_runtest_makereport", "pytest_runtest_setup", "workers"]

# <linux/sockios.h>, <linux/if.h>
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1


def pytest_configure() -> None:
    """Brings up loopback, which is down in a new network."""
    with socket.socket() as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        _, flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, _GET_FLAGS, request))
        if not flags & _UP:
            fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14x", b"lo", flags | _UP))
