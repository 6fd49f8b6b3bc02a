"""The image that `make image` writes is one that registries take, and has the module where Istio looks for it."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import httpx

from e2e.images import pushed, registry, written
from e2e.rendering import ROOT, wasm_module

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def test_a_registry_takes_the_image_and_gives_out_the_module_by_its_digest(tmp_path: Path) -> None:
    digest = written(tmp_path / "image")
    with registry(tmp_path) as host, httpx.Client(
            base_url=f"http://{host}/v2/aoai-filter", trust_env=False) as http:
        assert pushed(tmp_path / "image", host).endswith(f"@{digest}")
        manifest = http.get(f"/manifests/{digest}", headers={"accept": MANIFEST}).json()
        assert manifest["mediaType"] == MANIFEST
        # Istio and Envoy Gateway look for the module in the last layer.
        *_, last = manifest["layers"]
        assert last["mediaType"] == LAYER
        layer = gzip.decompress(http.get(f"/blobs/{last['digest']}").content)
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        [entry] = archive.getmembers()
        module = archive.extractfile(entry)
        assert entry.name == "plugin.wasm" and module is not None
        assert module.read() == Path(wasm_module()).read_bytes()


def test_the_same_module_is_the_same_image_and_takes_the_place_of_another(tmp_path: Path) -> None:
    (tmp_path / "image" / "blobs").mkdir(parents=True)
    (tmp_path / "image" / "blobs" / "of-another").write_bytes(b"x")
    assert written(tmp_path / "image") == written(tmp_path / "same")
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
             for folder in (tmp_path / "image", tmp_path / "same")]
    assert names[0] == names[1]


def test_wrong_arguments_print_the_usage() -> None:
    done = subprocess.run([sys.executable, str(ROOT / ".ci" / "image")], stderr=subprocess.PIPE,
                          text=True, check=False)
    assert done.returncode == 2 and ".ci/image MODULE FOLDER" in done.stderr
