"""A projected volume changes as kubelet changes it."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Set

import pytest

from azure_sim import SECRET_FILE, TOKEN_FILE, ProjectedVolume, assertions


def test_it_looks_like_kubelets(tmp_path: Path) -> None:
    volume = ProjectedVolume(tmp_path / "tokens", {TOKEN_FILE: "first"})
    assert os.readlink(volume.path()) == "..data/azure-identity-token"
    assert os.readlink(volume.root / "..data") == volume.data.name
    assert volume.data.name.startswith("..20") and not volume.data.is_symlink()
    assert volume.path().read_text() == "first"
    assert sorted(one.name for one in volume.root.iterdir()) == sorted(
        ["..data", volume.data.name, TOKEN_FILE])


def test_rotation_replaces_the_directory_behind_the_same_links(tmp_path: Path) -> None:
    volume = ProjectedVolume(tmp_path, {TOKEN_FILE: "first", SECRET_FILE: "one"})
    link, old = os.lstat(volume.path()), volume.data
    volume.rotate({TOKEN_FILE: "second", SECRET_FILE: "two"})
    assert (volume.path().read_text(), volume.path(SECRET_FILE).read_text()) == ("second", "two")
    assert os.lstat(volume.path()).st_ino == link.st_ino
    assert volume.data != old and not old.exists()


def test_a_file_can_go_and_come_back(tmp_path: Path) -> None:
    volume = ProjectedVolume(tmp_path, {TOKEN_FILE: "first"})
    volume.rotate({})
    assert not os.path.lexists(volume.path())
    volume.rotate({TOKEN_FILE: "second"})
    assert volume.path().read_text() == "second"


def test_who_reads_meanwhile_never_finds_half_a_file(tmp_path: Path) -> None:
    volume = ProjectedVolume(tmp_path, {TOKEN_FILE: "0" * 4096})
    done = threading.Event()
    seen: Set[str] = set()

    def read() -> None:
        while not done.is_set():
            # Opened by way of a directory that may go before the file is opened.
            try:
                text = volume.path().read_text()
            except FileNotFoundError:
                continue
            seen.add(text if len(set(text)) == 1 and len(text) == 4096 else "torn")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for turn in range(200):
            volume.rotate({TOKEN_FILE: str(turn % 10) * 4096})
    finally:
        done.set()
        reader.join()
    assert "torn" not in seen


def test_an_assertion_says_who_it_is_and_is_unlike_any_other() -> None:
    first, second = assertions.issue(lifetime=60), assertions.issue(lifetime=60)
    assert first != second and first.endswith(assertions.MARK)
    said = assertions.decode(first)
    assert said is not None
    assert (said.issuer, said.subject, said.audiences) == (
        assertions.ISSUER, assertions.SUBJECT, ("api://AzureADTokenExchange",))
    assert said.expires_at - said.not_before in (60, 61)
    assert "." not in repr(first)
    assert assertions.decode("a.b.c") is assertions.decode(first[:-1]) is None


@pytest.mark.parametrize("text", ["", "..", "a.b", "é.é.é"])
def test_what_is_no_assertion_is_none(text: str) -> None:
    assert assertions.decode(text) is None
