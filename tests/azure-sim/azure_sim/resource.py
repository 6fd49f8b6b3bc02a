"""One Azure OpenAI resource: its names, its deployments, who may use it, what it got."""

from __future__ import annotations

import uuid
from typing import Dict, Mapping, Optional, Sequence, Set, Tuple, Union

from . import access, clouds, errors, inference, mistakes, stored, strict_json
from .access import Access
from .answers import Answer, Pairs
from .endpoint import Endpoint
from .managed_identity import TENANT
from .quota import Quota
from .records import RecordedRequest
from .routes import Route, route


class Resource(Endpoint):
    """A resource and its settings. Attributes may be changed at any time.

    `hosts` are the names it answers to, the regional one included; the first of them says in which
    cloud it is. `keys` empty means that key authentication is disabled. `deployments` maps
    deployment names to model names. `tenant` and `audiences` are whose tokens, for whom, it takes;
    `principals` are the object ids of those that have the role, None when all have it. `quota` is what
    may be asked of the deployments, None when that is any number of requests of any size. `is_foundry`
    is whether it serves more than OpenAI's paths, which its first name says.
    """

    def __init__(self, name: str, *, hosts: Sequence[str], deployments: Mapping[str, str],
                 region: str, regional_host: Optional[str] = None, tls: bool = False,
                 tenant: str = TENANT) -> None:
        super().__init__(name)
        self.host = hosts[0]
        self.regional_host = regional_host
        self.hosts: Set[str] = {host.lower() for host in [*hosts, *filter(None, [regional_host])]}
        self.region = region
        self.tls = tls
        self.is_foundry = self.host.endswith(".services.ai.azure.com")
        self._tenant = tenant
        self._deployments = dict(deployments)
        self.reset_settings()

    def reset_settings(self) -> None:
        """As it was added: access granted, no keys, no limits, nothing stored."""
        self.deployments: Dict[str, str] = dict(self._deployments)
        self.tenant = self._tenant
        self.audiences: Tuple[str, ...] = clouds.of_host(self.host).audiences
        self.principals: Optional[Set[str]] = None
        self.access = Access.GRANTED
        self.keys: Set[str] = set()
        self.quota: Optional[Quota] = None
        self.store = stored.Store()
        self._mistake: Optional[mistakes.Mistake] = None
        self._spaced = False

    def break_with(self, slug: str, *, spaced: bool = False) -> None:
        """Answer every request like this row of `mistakes.MISTAKES`, whatever it is, until `mend`;
        `spaced` is `errors.spaced`. A script's deliveries apply to these answers too."""
        self._mistake, self._spaced = mistakes.MISTAKES[slug], spaced

    def mend(self) -> None:
        """Undo `break_with`."""
        self._mistake = None

    def refusal(self, slug: str) -> Answer:
        """One such answer with this resource's headers, for a script: to a chat request of somebody
        unknown."""
        chat = RecordedRequest(
            "POST", "/openai/deployments/any/chat/completions?api-version=2024-10-21", [])
        return mistakes.MISTAKES[slug].answer(self, chat).with_headers(self._headers())

    def answer(self, request: RecordedRequest) -> Answer:
        """The usual answer, with the headers that every answer of Azure carries."""
        broken = self._broken(request)
        return (broken or self._answer(request)).with_headers(self._headers())

    def greeting(self, request: RecordedRequest) -> Union[Answer, str]:
        """For the realtime WebSocket: its refusal or `session.created`."""
        greeting = self._broken(request) or self._greeting(request)
        if isinstance(greeting, Answer):
            return greeting.with_headers(self._headers())
        return greeting

    def _headers(self) -> Pairs:
        return [
            ("apim-request-id", str(uuid.uuid4())),
            ("x-request-id", str(uuid.uuid4())),
            ("x-ms-region", self.region),
            ("strict-transport-security", "max-age=31536000; includeSubDomains; preload"),
            ("x-content-type-options", "nosniff"),
        ]

    def _broken(self, request: RecordedRequest) -> Optional[Answer]:
        if self._mistake is None:
            return None
        answer = self._mistake.answer(self, request)
        return errors.spaced(answer) if self._spaced else answer

    def _greeting(self, request: RecordedRequest) -> Union[Answer, str]:
        found = route(request, self.is_foundry)
        refused = access.refusal(self, request, found)
        if refused is not None:
            return refused
        if found is None or found.operation != "realtime":
            return errors.RESOURCE_NOT_FOUND
        if found.deployment not in self.deployments:
            return errors.DEPLOYMENT_NOT_FOUND
        return inference.session_created(self.deployments[found.deployment])

    def _answer(self, request: RecordedRequest) -> Answer:
        found = route(request, self.is_foundry)
        refused = access.refusal(self, request, found)
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
        throttled = self.quota.refusal(asked.fields) if self.quota is not None else None
        if throttled is not None:
            return throttled
        if asked.upsets_the_model:
            return errors.MODEL_ERROR
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
