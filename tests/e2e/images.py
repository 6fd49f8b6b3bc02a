"""The image that `make image` writes, and a registry that takes it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator, Optional

from azure_sim import HANG_LIMIT
from e2e.rendering import ROOT, wasm_module


def written(folder: Path, module: Optional[str] = None) -> str:
    """Writes the module, or another one, as an image. Returns the digest that is printed."""
    done = subprocess.run([sys.executable, str(ROOT / ".ci" / "image"), module or wasm_module(),
                           str(folder)],
                          stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[str]:
    """A registry's host and port."""
    log = folder / "registry.log"
    with log.open("wb") as output:
        process = subprocess.Popen([os.environ["REGISTRY"], "-port", "0"], stdin=subprocess.DEVNULL,
                                   stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + HANG_LIMIT
        while not (found := re.search(r"serving on port (\d+)", log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield f"localhost:{found[1]}"
    finally:
        process.terminate()
        process.wait(timeout=HANG_LIMIT)


def pushed(folder: Path, host: str) -> str:
    """Pushes an image. Returns what it is called: REGISTRY/REPOSITORY@sha256:DIGEST."""
    done = subprocess.run([os.environ["CRANE"], "push", "--insecure", str(folder),
                           f"{host}/aoai-filter:test"], stdout=subprocess.PIPE, text=True,
                          check=True)
    return done.stdout.strip()
