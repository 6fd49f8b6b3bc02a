"""What a resource keeps, and so is tied to it: responses, files, batches, assistants and so on."""

from __future__ import annotations

import time
import uuid
from typing import Any, Dict, Mapping, Optional

from . import errors, inference, multipart, strict_json
from .answers import Answer, sse
from .inference import Asked
from .records import RecordedRequest
from .routes import Route

_KINDS = {"responses": ("resp_", "response"), "files": ("assistant-", "file"),
          "uploads": ("upload_", "upload"), "batches": ("batch_", "batch"),
          "assistants": ("asst_", "assistant"), "threads": ("thread_", "thread"),
          "vector_stores": ("vs_", "vector_store"),
          "fine_tuning/jobs": ("ftjob-", "fine_tuning.job"), "evals": ("eval_", "eval")}


class Store:
    """Objects by collection and id, in the order of their creation."""

    def __init__(self) -> None:
        self._objects: Dict[str, Dict[str, Dict[str, Any]]] = {}

    def add(self, collection: str, fields: Mapping[str, Any]) -> Dict[str, Any]:
        """A new object of the collection with these fields, an id and a creation time."""
        prefix, kind = _KINDS[collection]
        made = {**fields, "id": f"{prefix}{uuid.uuid4().hex}", "object": kind,
                "created_at": int(time.time())}
        self._objects.setdefault(collection, {})[made["id"]] = made
        return made

    def of(self, collection: str) -> Dict[str, Dict[str, Any]]:
        return self._objects.setdefault(collection, {})


def create_response(store: Store, asked: Asked, model: str, resource: str) -> Answer:
    """POST of the Responses API, plain or streaming. `previous_response_id` must be ours."""
    previous = asked.fields.get("previous_response_id")
    if previous is not None and previous not in store.of("responses"):
        return errors.error(404, "404", f"Previous response with id '{previous}' not found.")
    if "input" not in asked.fields:
        return errors.bad_request("'input' is a required property", "input")
    text = f"answer from {resource}"
    content = {"type": "output_text", "text": text, "annotations": []}
    message = {"type": "message", "id": f"msg_{uuid.uuid4().hex}", "status": "completed",
               "role": "assistant", "content": [content]}
    prompt, cached, output = inference.tokens(asked, text)
    used = {"input_tokens": prompt, "output_tokens": output, "total_tokens": prompt + output,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens_details": {"reasoning_tokens": 0}}
    made = store.add("responses", {
        "model": model, "status": "completed", "output": [message], "usage": used, "error": None,
        "previous_response_id": previous, "parallel_tool_calls": True, "tool_choice": "auto",
        "tools": [], "metadata": {}, "incomplete_details": None, "instructions": None,
    })
    if not asked.stream:
        return Answer(200, body=made)
    started = {**made, "status": "in_progress", "output": [], "usage": None}
    return Answer(200, chunks=sse(
        {"type": "response.created", "sequence_number": 0, "response": started},
        {"type": "response.output_text.delta", "sequence_number": 1, "item_id": message["id"],
         "output_index": 0, "content_index": 0, "delta": text, "logprobs": []},
        {"type": "response.completed", "sequence_number": 2, "response": made},
        named=True,
    ))


def answer(store: Store, request: RecordedRequest, route: Route, deployments: Mapping[str, str]
           ) -> Answer:
    """The basics of a collection: list, create, read, delete; the models are the deployments'."""
    if route.operation == "models":
        return _models(request, route, sorted(set(deployments.values())))
    objects = store.of(route.operation)
    if not route.item:
        if request.method == "GET":
            return _list(list(objects.values()))
        return _create(store, request, route.operation)
    found = objects.get(route.item[0])
    if found is None:
        return errors.error(404, "404", f"No such {_KINDS[route.operation][1]}")
    if len(route.item) > 1:
        return _list([]) if request.method == "GET" else errors.RESOURCE_NOT_FOUND
    if request.method == "DELETE":
        del objects[route.item[0]]
        return Answer(200, body={"id": found["id"], "object": f"{found['object']}.deleted",
                                 "deleted": True})
    return Answer(200, body=found) if request.method == "GET" else errors.RESOURCE_NOT_FOUND


def _create(store: Store, request: RecordedRequest, collection: str) -> Answer:
    if request.method != "POST" or collection == "responses":
        return errors.RESOURCE_NOT_FOUND
    if collection == "files":
        return _upload(store, request)
    fields: Any = {}
    if request.body_length:
        try:
            fields = request.json()
        except strict_json.NotStrictJson as error:
            return errors.bad_request(f"The request body is not valid JSON: {error}")
    return Answer(200, body=store.add(collection, fields if isinstance(fields, dict) else {}))


def _upload(store: Store, request: RecordedRequest) -> Answer:
    parts = multipart.parse(request.header("content-type") or "", request.body)
    file = multipart.first(parts or [], "file")
    purpose = multipart.first(parts or [], "purpose")
    if file is None or purpose is None:
        return errors.bad_request("A form with 'file' and 'purpose' is required")
    return Answer(201, body=store.add("files", {
        "bytes": len(file.content), "filename": file.filename, "purpose": purpose.text(),
        "status": "processed"}))


def _models(request: RecordedRequest, route: Route, names: "list[str]") -> Answer:
    models = {name: {"id": name, "object": "model", "created": 0, "owned_by": "simulated"}
              for name in names}
    if request.method != "GET" or len(route.item) > 1:
        return errors.RESOURCE_NOT_FOUND
    if not route.item:
        return _list(list(models.values()))
    found: Optional[Dict[str, Any]] = models.get(route.item[0])
    return Answer(200, body=found) if found else errors.RESOURCE_NOT_FOUND


def _list(objects: "list[Dict[str, Any]]") -> Answer:
    ids = [one["id"] for one in objects]
    return Answer(200, body={"object": "list", "data": objects, "has_more": False,
                             "first_id": ids[0] if ids else None,
                             "last_id": ids[-1] if ids else None})
