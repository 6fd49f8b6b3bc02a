"""Which operation of the data plane a path names.

Dated paths (`/openai/deployments/{d}/…`, `/openai/files`, …) need `api-version`; `/openai/v1/…`
does not, and names the deployment in the body. Source: the Azure OpenAI REST reference.

A Foundry resource also serves `/models/…` (azure-ai-inference, dated) and `/anthropic/v1/…` (Claude), which name the
deployment in the body. Source: what the official packages send.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Optional, Tuple
from urllib.parse import unquote

from .records import RecordedRequest

INFERENCE = (
    "chat/completions", "completions", "embeddings", "audio/transcriptions", "audio/translations",
    "audio/speech", "images/generations", "images/edits",
)
OF_MODELS = ("chat/completions", "embeddings")
OF_CLAUDE = ("messages", "messages/count_tokens")
COLLECTIONS = (
    "responses", "files", "uploads", "batches", "assistants", "threads", "vector_stores", "models",
    "fine_tuning/jobs", "evals", "realtime",
)
_API_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?")


@dataclass(frozen=True)
class Route:
    """An operation such as `chat/completions` or `files`; `deployment` is the one that the path or
    query names; `item` are the segments after a collection."""

    operation: str
    v1: bool
    deployment: Optional[str] = None
    item: Tuple[str, ...] = ()

    @property
    def inference(self) -> bool:
        return self.operation in (*INFERENCE, *OF_CLAUDE)


def route(request: RecordedRequest, foundry: bool) -> Optional[Route]:
    """The operation, or None where Azure answers `Resource not found`. Paths are exact: no doubled
    or trailing slash, no dot segments. `foundry` is whether it is asked as a Foundry resource."""
    prefix, v1_prefix = "/openai/", "/openai/v1/"
    if foundry and request.path in [f"/anthropic/v1/{name}" for name in OF_CLAUDE]:
        return Route(request.path[len("/anthropic/v1/"):], v1=True)
    if foundry and request.path in [f"/models/{name}" for name in OF_MODELS] and _is_dated(request):
        return Route(request.path[len("/models/"):], v1=True)
    if request.path.startswith(v1_prefix):
        return _v1(request, request.path[len(v1_prefix):])
    if not request.path.startswith(prefix):
        return None
    if not _is_dated(request):
        return None
    return _dated(request, request.path[len(prefix):])


def _is_dated(request: RecordedRequest) -> bool:
    versions = [value for name, value in request.query if name == "api-version"]
    return len(versions) == 1 and _API_VERSION.fullmatch(versions[0]) is not None


def _v1(request: RecordedRequest, rest: str) -> Optional[Route]:
    if rest in INFERENCE:
        return Route(rest, v1=True)
    return _collection(rest, v1=True, deployment=_query(request, "model"))


def _dated(request: RecordedRequest, rest: str) -> Optional[Route]:
    scope, _, tail = rest.partition("/")
    if scope != "deployments":
        return _collection(rest, v1=False, deployment=_query(request, "deployment"))
    deployment, _, operation = tail.partition("/")
    if operation not in INFERENCE or not deployment:
        return None
    return Route(operation, v1=False, deployment=unquote(deployment))


def _collection(rest: str, *, v1: bool, deployment: Optional[str]) -> Optional[Route]:
    for name in COLLECTIONS:
        if rest == name or rest.startswith(name + "/"):
            item = tuple(rest[len(name) + 1:].split("/")) if rest != name else ()
            if any(segment in ("", ".", "..") for segment in item):
                return None
            return Route(name, v1, deployment if name == "realtime" else None, item)
    return None


def _query(request: RecordedRequest, name: str) -> Optional[str]:
    return next((value for key, value in request.query if key == name), None)
