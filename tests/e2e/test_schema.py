"""`aoai schema` agrees with the reader of documents: editors report what `aoai check` would refuse for its form, and
nothing that it accepts."""

import copy
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, Collection, Dict, Iterator, List, Tuple

import jsonschema
import pytest
import yaml

from e2e.envoy import HANG_LIMIT
from e2e.rendering import ROOT

Json = Any
Place = Tuple[Any, ...]

# Problems of a document's form. What needs the whole document (names, clouds, keys given twice) is the reader's alone.
OF_FORM = re.compile(
    r": (?:found (?:null|true or false|a boolean|a number|a string|a list|an object|an empty list)\b.*; expected"
    r"|found -?\d+; expected a whole number|found a number with|unknown field|missing; expected"
    r"|found \d kinds of identity|expected exactly one of)")
# Which say so of a name, or of a value that another part of the document has not.
NOT_OF_FORM = ("cannot be a deployment's", "no default one")

# What stands in the place of a value.
VALUES: List[Json] = [None, True, 7, -1, 1.5, 10**6 + 1, 2**32, "x", "", "5s", [], ["x"], [7], {}, {"x": 7}]

# Each field of each section, in few documents.
BASE = {
    "identity": {"managed_identity": {"cluster": "imds", "client_id": "00000000-0000-0000-0000-00000000000F"}},
    "subscriptions": [{
        "id": "Team_1", "keys": [f"sha256:{'9f' * 32}"], "models": ["m"], "operations": ["inference", "resources"],
        "state": "active", "not_before": "2026-01-01T00:00:00Z", "expires_at": "2027-01-01T00:00:00.5Z",
        "limits": {"requests_per_minute": 600, "tokens_per_minute": 50000, "models": {"m": {"tokens_per_minute": 9}},
                   "quota": {"tokens": 20000000, "period": "month"}}}],
    "backends": [{"name": "eastus", "endpoint": "https://contoso-eastus.openai.azure.com", "cluster": "aoai_east",
                  "identity": "default"},
                 {"name": "own", "endpoint": "https://ai.internal:8443", "custom_domain": True}],
    "models": [{"name": "m", "affinity": {"body": "user"}, "backends": [
        {"backend": "eastus", "deployment": "d", "priority": 0, "weight": 1000}, {"backend": "own"}]}],
    "limits": {"store": "ratelimit", "endpoint": "https://limits.internal:8081", "cluster": "limits",
               "on_error": "allow"},
    "cloud": "public", "audience": "https://cognitiveservices.azure.com", "token_wait": "5s",
    "listener": {"address": "::", "port": 443, "tls": {"certificate": "/tls.crt", "key": "/tls.key"},
                 "body_limit": "10MiB", "request_buffer": "128MiB", "max_connections": 10, "heap_limit": "128MiB",
                 "monitoring": {"address": "0.0.0.0", "port": 9090}, "access_log": "none"},
    "failover": {"cooldown": "10s", "longest_cooldown": "2m", "failures_in_a_row": 3, "retry_within": "500ms"},
    "metering": {"streams": "reported"},
    "istio": {"name": "aoai", "attach": "gateway", "namespace": "istio-system", "selector": {"istio": "ingress"},
              "gateway": "own", "port": 443, "target_port": 8443, "hosts": ["ai.example.com"], "tls_secret": "tls",
              "module": "/aoai.wasm", "revision": "a"},
    "envoy_gateway": {"name": "aoai", "namespace": "default", "class": "eg", "port": 443, "hosts": ["ai.example.com"],
                      "tls_secret": "tls", "module": f"oci://r.example.com/aoai@sha256:{'0' * 64}"},
}
APPLICATION = {"tenant": "contoso.onmicrosoft.com", "client_id": "00000000-0000-0000-0000-000000000000",
               "cluster": "entra", "authority": "https://login.microsoftonline.com"}
SIDECAR = {"attach": "sidecar", "namespace": "shop", "selector": {"app": "shop"}, "hosts": ["ai.example.com"],
           "module": "/aoai.wasm"}
VARIANTS: Dict[str, Dict[str, Json]] = {
    "the first kind of identity": {},
    "named identities": {"identities": {
        "us": {"cloud": "us_government", "audience": "https://cognitiveservices.azure.us",
               "client_secret": {**APPLICATION, "authority": "https://login.microsoftonline.us",
                                 "secret_cluster": "secret", "secret_file": "/secret"}},
        "pod": {"workload_identity": {**APPLICATION, "token_cluster": "pod", "token_file": "/token"}}}},
    "an app": {"identity": {"app_service": {"cluster": "app", "endpoint": "http://localhost:42356/msi/token",
                                            "resource_id": "/Subscriptions/x"}}},
    "a sidecar": {"istio": SIDECAR},
    "existing gateways": {
        "istio": {"gateway": "existing", "hosts": ["ai.example.com"], "module": "/aoai.wasm"},
        "envoy_gateway": {"gateway": "edge", "listener": "https", "first_listener": "http", "hosts": ["ai.example.com"],
                          "module": "/aoai.wasm"}},
    "a principal": {"identity": {"managed_identity": {"cluster": "imds", "object_id": APPLICATION["client_id"]}}},
    "a header": {"models": [{"name": "m", "affinity": {"header": "x-user"}, "backends": [{"backend": "eastus"}]}]},
}


def aoai(*arguments: str) -> "subprocess.CompletedProcess[str]":
    tool = os.environ.get("AOAI")
    assert tool, "AOAI must name the command-line tool (make tools)"
    return subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=HANG_LIMIT, check=False)


@pytest.fixture(scope="module")
def schema() -> Json:
    found = aoai("schema")
    assert (found.returncode, found.stderr) == (0, "")
    schema = json.loads(found.stdout)
    jsonschema.Draft7Validator.check_schema(schema)
    return schema


def refused(directory: Path, documents: List[Json]) -> List[List[str]]:
    """The problems of each document, as `aoai check` has them."""
    for number, document in enumerate(documents):
        (directory / f"{number:05}.json").write_text(json.dumps(document))
    problems: List[List[str]] = [[] for _ in documents]
    for line in aoai("check", str(directory)).stdout.splitlines():
        placed = re.fullmatch(r".*/(\d{5})\.json(.*)", line)
        assert placed is not None, line
        if ": ok: " not in placed[2]:
            problems[int(placed[1])].append(placed[2])
    return problems


def places(node: Json, path: Place = ()) -> Iterator[Place]:
    yield path
    steps = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for step, child in steps:
        yield from places(child, (*path, step))


def mutants(document: Json, sections: Collection[str]) -> Iterator[Json]:
    """The document with one thing changed in these sections, each in turn: a value replaced, a field removed, an
    unknown one added."""
    for path in places(document):
        if path and path[0] not in sections:
            continue
        for change in [*VALUES, "remove", "add"]:
            changed = copy.deepcopy(document)
            if not path:
                if change == "add":
                    yield {**changed, "unknown": 1}
                continue
            parent = changed
            for step in path[:-1]:
                parent = parent[step]
            if change == "remove":
                del parent[path[-1]]
            elif change != "add":
                parent[path[-1]] = change
            elif isinstance(parent[path[-1]], dict):
                parent[path[-1]]["unknown"] = 1
            else:
                continue
            yield changed


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_refuses_the_form_that_the_reader_refuses_and_no_other(
        schema: Json, tmp_path: Path, variant: str) -> None:
    document = {**BASE, **VARIANTS[variant]}
    documents = [document, *mutants(document, VARIANTS[variant] or BASE)]
    validator = jsonschema.Draft7Validator(schema)
    found = refused(tmp_path, documents)
    assert found[0] == [] and validator.is_valid(document)
    wrong = 0
    differ = []
    for one, problems in zip(documents, found):
        of_form = [line for line in problems
                   if OF_FORM.search(line) and not any(part in line for part in NOT_OF_FORM)]
        errors = [f"{list(error.absolute_path)}: {error.message}" for error in validator.iter_errors(one)]
        if not problems and errors:
            differ.append(f"aoai check accepts what the schema refuses: {errors}")
        if of_form and not errors:
            differ.append(f"the schema accepts what aoai check refuses: {of_form}")
        wrong += bool(errors)
    assert not differ, "\n".join(differ)
    assert wrong > len(documents) // 2 > 20


def test_every_document_of_the_repository_is_valid(schema: Json) -> None:
    found = [yaml.load(path.read_text(), Yaml) for directory in ("envoy", "tests/golden")
             for path in (ROOT / directory).rglob("*.yaml") if re.search("^subscriptions:", path.read_text(), re.M)]
    assert len(found) > 10
    for document in found:
        jsonschema.Draft7Validator(schema).validate(document)


class Yaml(yaml.SafeLoader):
    """YAML 1.2, as editors read it: a time is a text."""


Yaml.yaml_implicit_resolvers = {first: [(tag, form) for tag, form in resolvers if not tag.endswith(":timestamp")]
                                for first, resolvers in Yaml.yaml_implicit_resolvers.items()}


def fields(schema: Json, node: Json) -> Iterator[Tuple[str, Json]]:
    """The paths of all fields, as problems have them."""
    while "$ref" in node or "allOf" in node and "properties" not in node:
        inner = node if "$ref" in node else node["allOf"][0]
        if "$ref" not in inner:
            return
        node = schema["definitions"][inner["$ref"].rsplit("/", 1)[1]]
    for name, child in node.get("properties", {}).items():
        yield name, child
        for inner, grandchild in fields(schema, child.get("items", child)):
            yield f"{name}{'[]' if 'items' in child else ''}.{inner}", grandchild


def test_the_tables_of_the_readme_have_its_fields_and_each_is_described(schema: Json) -> None:
    known = dict(fields(schema, schema))
    assert len(known) > 80
    undescribed = [name for name, node in known.items() if not node.get("description", "").strip()]
    assert undescribed == []
    in_readme = set()
    section = None
    for line in (ROOT / "README.md").read_text().splitlines():
        if heading := re.match(r"#+ (?:`([^`]+)`|(The document)|.*)", line):
            section = "" if heading[2] else heading[1]
        elif section is not None and (row := re.match(r"\| (\[?`.+?) \|", line)):
            in_readme.update(f"{section}.{name}".lstrip(".") for name in re.findall(r"`([^`]+)`", row[1]))
    # Kinds have a table each, and what is the same in two of them stands in one.
    documented = {name for name in known if not re.search(r"limits\.(models\.|quota)|affinity\.|monitoring\.|tls$", name)}
    documented = {name for name in documented if name not in {"models[].backends"}}
    same = {f"identity.client_secret.{name}" for name in ("tenant", "client_id", "cluster", "authority")}
    assert {name for name in in_readme if name.startswith(tuple(schema["properties"]))} - {
        "subscriptions[].limits.quota.tokens", "subscriptions[].limits.quota.period", "identities"} <= set(known)
    assert documented - {"identity.cloud", "identity.audience"} <= in_readme | same
