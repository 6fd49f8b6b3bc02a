"""One Azure OpenAI resource: its names, its deployments, who may use it, what it got."""

from __future__ import annotations

import uuid
from typing import Dict, List, Mapping, Optional, Sequence, Set, Tuple, Union

from . import errors, inference, stored, strict_json
from .access import Access, refusal
from .answers import Answer
from .limits import HANG_LIMIT
from .recorder import Recorder
from .records import RecordedRequest
from .routes import Route, route
from .script import Script

AUDIENCES = ("https://cognitiveservices.azure.com", "https://ai.azure.com")


class Resource:
    """A resource and its settings. Attributes may be changed at any time.

    `hosts` are the names it answers to, the regional one included. `keys` empty means that key
    authentication is disabled. `deployments` maps deployment names to model names.
    """

    def __init__(self, name: str, *, hosts: Sequence[str], deployments: Mapping[str, str],
                 region: str, regional_host: Optional[str] = None, tls: bool = False) -> None:
        self.name = name
        self.host = hosts[0]
        self.regional_host = regional_host
        self.hosts: Set[str] = {host.lower() for host in [*hosts, *filter(None, [regional_host])]}
        self.region = region
        self.tls = tls
        self.recorder = Recorder(name)
        self.script = Script()
        self.port = 0
        self._deployments = dict(deployments)
        self.reset_settings()

    def reset_settings(self) -> None:
        """As it was added: access granted, no keys, nothing stored."""
        self.deployments: Dict[str, str] = dict(self._deployments)
        self.audiences: Tuple[str, ...] = AUDIENCES
        self.access = Access.GRANTED
        self.keys: Set[str] = set()
        self.store = stored.Store()

    @property
    def requests(self) -> List[RecordedRequest]:
        return self.recorder.requests

    @property
    def max_concurrent(self) -> int:
        return self.recorder.max_concurrent

    def wait_for_requests(self, count: int, timeout: float = HANG_LIMIT) -> List[RecordedRequest]:
        return self.recorder.wait_for_requests(count, timeout)

    def answer(self, request: RecordedRequest) -> Answer:
        """The usual answer, with the headers that every answer of Azure carries."""
        return self._answer(request).with_headers([
            ("apim-request-id", str(uuid.uuid4())),
            ("x-request-id", str(uuid.uuid4())),
            ("x-ms-region", self.region),
        ])

    def greeting(self, request: RecordedRequest) -> Union[Answer, str]:
        """For the realtime WebSocket: its refusal or `session.created`."""
        found = route(request)
        refused = refusal(self, request, "realtime")
        if refused is not None:
            return refused
        if found is None or found.operation != "realtime":
            return errors.RESOURCE_NOT_FOUND
        if found.deployment not in self.deployments:
            return errors.DEPLOYMENT_NOT_FOUND
        return inference.session_created(self.deployments[found.deployment])

    def _answer(self, request: RecordedRequest) -> Answer:
        found = route(request)
        operation = found.operation if found else "unknown"
        refused = refusal(self, request, f"deployments/{operation}")
        if refused is not None:
            return refused
        if found is None or found.operation == "realtime":
            return errors.RESOURCE_NOT_FOUND
        if "json" in (request.header("content-type") or "") and request.body_length:
            try:
                request.json()
            except strict_json.NotStrictJson as error:
                return errors.bad_request(f"The request body is not valid JSON: {error}")
        if found.inference or (found.operation == "responses" and not found.item):
            if request.method == "POST":
                return self._infer(request, found)
            return errors.RESOURCE_NOT_FOUND
        return stored.answer(self.store, request, found, self.deployments)

    def _infer(self, request: RecordedRequest, found: Route) -> Answer:
        asked = inference.read(request)
        if isinstance(asked, Answer):
            return asked
        deployment = found.deployment if found.deployment is not None else asked.model
        if deployment is None:
            return errors.bad_request("you must provide a model parameter", "model")
        if deployment not in self.deployments:
            return errors.DEPLOYMENT_NOT_FOUND
        model = self.deployments[deployment]
        if found.operation == "responses":
            answer = stored.create_response(self.store, asked, model, self.name)
        else:
            answer = inference.answer(found.operation, asked, model, self.name)
        return answer.with_headers([
            ("x-ms-deployment-name", deployment),
            ("x-ratelimit-remaining-requests", "99"),
            ("x-ratelimit-remaining-tokens", "99000"),
        ])
