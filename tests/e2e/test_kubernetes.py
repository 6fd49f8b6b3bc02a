"""The manifests in envoy/kubernetes and envoy/istio are what Kubernetes takes, and fit what is rendered for them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, List

import kubernetes_validate
import pytest
import yaml

from e2e.rendering import ROOT

Json = Dict[str, Any]
FOLDER, IN_MESH = ROOT / "envoy" / "kubernetes", ROOT / "envoy" / "istio"
# The oldest version of Kubernetes that has volumes of images without further ado.
VERSION = "1.35"
CUSTOMIZED: Json = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
MANIFESTS: List[str] = CUSTOMIZED["resources"]
# What is rendered, and what istioctl validates, comes first.
[RENDERED, *MANIFESTS_IN_MESH] = yaml.safe_load(
    (IN_MESH / "kustomization.yaml").read_text())["resources"]
PATHS = [*(FOLDER / name for name in MANIFESTS), *(IN_MESH / name for name in MANIFESTS_IN_MESH)]


def read(name: str, folder: Path = FOLDER) -> Json:
    found: Json = yaml.safe_load((folder / name).read_text())
    return found


@pytest.mark.parametrize("path", PATHS, ids=[str(path.relative_to(ROOT)) for path in PATHS])
def test_a_manifest_is_valid(path: Path) -> None:
    kubernetes_validate.validate(yaml.safe_load(path.read_text()), VERSION, strict=True)


def test_a_wrong_manifest_is_not_valid() -> None:
    manifest = read("deployment.yaml")
    manifest["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_every_file_and_folder_that_the_kustomization_names_is_there() -> None:
    files = [name for one in CUSTOMIZED["configMapGenerator"] for name in one["files"]]
    assert all((FOLDER / name).is_file() for name in [*MANIFESTS, *files])
    assert {Path(name).name for name in files} == {
        path.name for path in (FOLDER / "xds").iterdir()}
    assert (FOLDER / "monitoring" / "kustomization.yaml").is_file()


def test_what_the_pod_mounts_is_where_the_configuration_looks() -> None:
    pod = read("deployment.yaml")["spec"]["template"]
    [container] = pod["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["spec"]["volumes"]}
    text = "".join(path.read_text() for path in (FOLDER / "xds").iterdir())
    paths = set(re.findall(r"(?:filename|path): (/[\w./-]+)", text))
    # What the webhook of workload identity mounts, what is in Envoy's image, and the routes' own paths.
    others = {path for path in paths if path.startswith(("/var/run/secrets/azure", "/etc/ssl/"))
              or path in ("/", "/metrics", "/ready")}
    assert {path for path in paths - others if not path.startswith(tuple(mounts.values()))} == set()
    assert f"{mounts['bootstrap']}/bootstrap.yaml" in container["args"]
    document = read("gateway.yaml")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    listener = document["listener"]
    assert ports == {"https": listener["port"], "metrics": listener["monitoring"]["port"]}
    assert pod["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    assert read("serviceaccount.yaml")["metadata"]["annotations"] == {
        "azure.workload.identity/client-id": document["identity"]["workload_identity"]["client_id"]}
    assert pod["spec"]["serviceAccountName"] == read("serviceaccount.yaml")["metadata"]["name"]


def test_the_proxies_of_the_mesh_are_those_that_the_document_means() -> None:
    section = read("own-gateway.yaml", IN_MESH)["istio"]
    rendered = [one for one in yaml.safe_load_all((IN_MESH / RENDERED).read_text()) if one]
    pod = read("gateway/deployment.yaml", IN_MESH)["spec"]["template"]
    assert section["selector"].items() <= pod["metadata"]["labels"].items()
    assert {one["metadata"]["namespace"] for one in rendered} == {section["namespace"]} == {
        read("kustomization.yaml", IN_MESH)["namespace"]}
    [override] = [one["metadata"]["name"] for one in rendered if one["kind"] == "ConfigMap"]
    assert pod["metadata"]["annotations"]["sidecar.istio.io/bootstrapOverride"] == override
    [port] = [server["port"]["number"] for one in rendered if one["kind"] == "Gateway"
              for server in one["spec"]["servers"]]
    [container] = pod["spec"]["containers"]
    assert port in [one["containerPort"] for one in container["ports"]]
    assert [one["port"] for one in read("gateway/service.yaml", IN_MESH)["spec"]["ports"]] == [port]
