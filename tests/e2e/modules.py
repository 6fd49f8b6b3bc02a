"""Modules that do the same as the one under test, and that Envoy takes for others."""

from __future__ import annotations

from pathlib import Path
from typing import List

from e2e.rendering import wasm_module


def like_the_module(folder: Path, count: int) -> List[str]:
    """The module, and so many that are the same but for a section that says nothing. Envoy tells modules
    apart by their bytes, and notices another path only."""
    code, paths = Path(wasm_module()).read_bytes(), [wasm_module()]
    for number in range(1, count + 1):
        path = folder / f"aoai_filter-{number}.wasm"
        path.write_bytes(code + _section(f"build {number}", b"another"))
        paths.append(str(path))
    return paths


def _section(name: str, content: bytes) -> bytes:
    """A custom section of a WebAssembly module, of less than 128 bytes."""
    named = bytes([len(name)]) + name.encode() + content
    return bytes([0, len(named)]) + named
