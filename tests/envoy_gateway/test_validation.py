"""What the repository shows is what the API server takes where Envoy Gateway's and the Gateway API's definitions are
installed."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import jsonschema
import pytest
import yaml

from e2e.rendering import ROOT

Json = Dict[str, Any]
RENDERED = sorted((ROOT / "envoy" / "envoy-gateway").glob("*.envoy-gateway.yaml"))


@pytest.fixture(scope="module")
def schemas() -> Dict[Tuple[str, str], Json]:
    """The schema of each kind, by its version and name."""
    found = {}
    for path in Path(os.environ["ENVOY_GATEWAY_DEFINITIONS"]).rglob("*.yaml"):
        for one in yaml.load_all(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if not one or one["kind"] != "CustomResourceDefinition":
                continue
            for version in one["spec"]["versions"]:
                key = f"{one['spec']['group']}/{version['name']}", one["spec"]["names"]["kind"]
                found[key] = strict(version["schema"]["openAPIV3Schema"])
    return found


def strict(schema: Any) -> Any:
    """The schema, by which a field that it does not know is an error."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {name: strict(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get(
            "x-kubernetes-preserve-unknown-fields"):
        changed.setdefault("additionalProperties", False)
    return changed


def problems(resource: Json, schemas: Dict[Tuple[str, str], Json]) -> Iterator[str]:
    schema = copy.deepcopy(schemas[resource["apiVersion"], resource["kind"]])
    # The API server's own.
    schema["properties"]["metadata"] = {"type": "object"}
    for error in jsonschema.Draft7Validator(schema).iter_errors(resource):
        yield f"{resource['kind']}: {error.json_path}: {error.message}"


def resources(path: Path) -> List[Json]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


@pytest.mark.parametrize("path", RENDERED, ids=[path.stem for path in RENDERED])
def test_what_is_rendered_is_valid(path: Path, schemas: Dict[Tuple[str, str], Json]) -> None:
    found = resources(path)
    assert {"EnvoyProxy", "EnvoyPatchPolicy"} <= {one["kind"] for one in found}
    assert [problem for one in found for problem in problems(one, schemas)] == []


def test_an_unknown_field_and_a_wrong_value_are_not_valid(
        schemas: Dict[Tuple[str, str], Json]) -> None:
    [policy] = [one for one in resources(RENDERED[0]) if one["kind"] == "EnvoyPatchPolicy"]
    policy["spec"]["jsonPatchs"] = []
    policy["spec"]["type"] = "Merge"
    assert len(list(problems(policy, schemas))) == 2
