"""Every way in which a resource says no, by name.

The rows are those of "What a backend answers when identity is wrong"; a row of the table that has
several wordings is several here. `Resource.break_with` and `Resource.refusal` give the answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Dict

from . import access, errors
from .answers import Answer
from .records import RecordedRequest
from .routes import route

if TYPE_CHECKING:
    from .resource import Resource


@dataclass(frozen=True)
class Mistake:
    """`answer` makes the answer of a resource to a request, without the headers that all answers
    have; `status` is its status."""

    slug: str
    status: int
    answer: Callable[[Resource, RecordedRequest], Answer]


def _always(answer: Answer) -> Callable[[Resource, RecordedRequest], Answer]:
    return lambda _resource, _request: answer


def _token_refused(resource: Resource, _request: RecordedRequest) -> Answer:
    return errors.token_refused(resource.audiences[0])


def _role_missing(resource: Resource, request: RecordedRequest) -> Answer:
    return access.role_missing(resource, request, route(request, resource.is_foundry))


def _wrong_tenant(_resource: Resource, request: RecordedRequest) -> Answer:
    return errors.wrong_tenant(request.token.tid if request.token is not None else "…")


_ROWS = [
    Mistake("regional_endpoint", 400, _always(errors.REGIONAL_ENDPOINT)),
    Mistake("regional_endpoint_namespace", 400, _always(errors.REGIONAL_ENDPOINT_NAMESPACE)),
    Mistake("regional_endpoint_subdomain", 400, _always(errors.REGIONAL_ENDPOINT_OTHER_WORDS)),
    Mistake("unknown_subdomain", 404, _always(errors.UNKNOWN_SUBDOMAIN)),
    Mistake("token_refused", 401, _token_refused),
    Mistake("role_missing", 401, _role_missing),
    Mistake("no_access", 401, _always(errors.NO_ACCESS)),
    Mistake("wrong_tenant", 400, _wrong_tenant),
    Mistake("keys_disabled", 403, _always(errors.KEYS_DISABLED)),
    Mistake("public_access_disabled", 403, _always(errors.NETWORK_DENIED)),
    Mistake("firewall", 403, _always(errors.FIREWALL_DENIED)),
    Mistake("wrong_key", 401, _always(errors.WRONG_KEY)),
    Mistake("deployment_not_found", 404, _always(errors.DEPLOYMENT_NOT_FOUND)),
    Mistake("resource_not_found", 404, _always(errors.RESOURCE_NOT_FOUND)),
    Mistake("throttled", 429, _always(errors.throttled(10, retry_after="10"))),
    Mistake("content_filter", 400, _always(errors.CONTENT_FILTERED)),
]
MISTAKES: Dict[str, Mistake] = {row.slug: row for row in _ROWS}
