"""A volume that Kubernetes projects into a pod, with kubelet's way of replacing what is in it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Mapping

TOKEN_FILE = "azure-identity-token"
SECRET_FILE = "client-secret"
_DATA = "..data"


class ProjectedVolume:
    """Files that change all at once: each is a symbolic link to `..data/<name>`, and `..data` one
    to a directory named after the time, which a rename replaces.

        volume = ProjectedVolume(tmp_path / "tokens", {TOKEN_FILE: assertions.issue()})
        volume.rotate({TOKEN_FILE: assertions.issue()})

    Source: Kubernetes' AtomicWriter, which kubelet uses for secrets and projected tokens.
    """

    def __init__(self, root: Path, files: Mapping[str, str]) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.rotate(files)

    def path(self, name: str = TOKEN_FILE) -> Path:
        """The path that never changes; there is nothing behind it while the file is missing."""
        return self.root / name

    @property
    def data(self) -> Path:
        """The directory that `..data` leads to at the moment."""
        return self.root / os.readlink(self.root / _DATA)

    def rotate(self, files: Mapping[str, str]) -> None:
        """Replace everything by these files, in one step for whoever reads. No files: all gone."""
        old = self.data if os.path.lexists(self.root / _DATA) else None
        new = Path(tempfile.mkdtemp(prefix=time.strftime("..%Y_%m_%d_%H_%M_%S."), dir=self.root))
        new.chmod(0o755)
        for name, content in files.items():
            (new / name).write_text(content)
        fresh = self.root / "..data_tmp"
        fresh.symlink_to(new.name)
        os.rename(fresh, self.root / _DATA)
        for name in files:
            if not os.path.lexists(self.root / name):
                (self.root / name).symlink_to(f"{_DATA}/{name}")
        if old is not None:
            for gone in {one.name for one in old.iterdir()} - set(files):
                (self.root / gone).unlink()
            shutil.rmtree(old)
