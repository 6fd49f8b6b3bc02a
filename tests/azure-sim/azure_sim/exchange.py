"""One request for a token at Entra ID: an application's credential in, a token or a refusal out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Callable, Dict, Optional

from . import aadsts, assertions
from .answers import Answer
from .applications import Application
from .clouds import AUDIENCES, Cloud
from .managed_identity import repeated
from .records import RecordedRequest

if TYPE_CHECKING:
    from .entra import Entra

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SCOPE_SUFFIX = "/.default"
Refuse = Callable[..., Answer]


def answer(entra: Entra, request: RecordedRequest, tenant: str, cloud: Cloud) -> Answer:
    """The checks in the order in which Entra ID seems to make them. A body that is no form is like
    an empty one."""
    form = dict(request.form)

    def refuse(code: int, **said: str) -> Answer:
        return aadsts.refusal(code, authority=cloud.authority, tenant=tenant,
                              client_id=form.get("client_id", ""),
                              correlation_id=request.header("client-request-id"), **said)

    wrong = refuse(90013) if repeated(request.form) else _form_refusal(form, refuse)
    if wrong is not None:
        return wrong
    audience = form["scope"][:-len(SCOPE_SUFFIX)]
    application = next((one for one in entra.applications if one.tenant == tenant
                        and one.client_id.lower() == form["client_id"].lower()), None)
    if application is None:
        return refuse(700016)
    if "client_secret" in form:
        wrong = _secret_refusal(application, form["client_secret"], refuse)
    else:
        wrong = _assertion_refusal(application, form["client_assertion"], refuse)
    if wrong is not None:
        return wrong
    if audience.rstrip("/") not in AUDIENCES:
        return refuse(500011, audience=audience)
    return entra.granted(audience, application=application, by_secret="client_secret" in form)


def _form_refusal(form: Dict[str, str], refuse: Refuse) -> Optional[Answer]:
    for parameter in ("grant_type", "client_id", "scope"):
        if not form.get(parameter):
            return refuse(900144, parameter=parameter)
    if form["grant_type"] != "client_credentials":
        return refuse(70003, parameter=form["grant_type"])
    if not form["scope"].endswith(SCOPE_SUFFIX) or " " in form["scope"]:
        return refuse(70011, scope=form["scope"])
    given = [name for name in ("client_secret", "client_assertion") if form.get(name)]
    if len(given) > 1:
        return refuse(90013)
    if not given or (given == ["client_assertion"]
                     and form.get("client_assertion_type") != JWT_BEARER):
        return refuse(7000216)
    return None


def _secret_refusal(application: Application, secret: str, refuse: Refuse) -> Optional[Answer]:
    same = [one for one in application.secrets if one.value == secret]
    if not same:
        return refuse(7000215)
    return refuse(7000222) if all(one.expired for one in same) else None


def _assertion_refusal(application: Application, text: str, refuse: Refuse) -> Optional[Answer]:
    assertion, now = assertions.decode(text), time.time()
    if assertion is None:
        return refuse(50027)
    if not application.trusts(assertion, whatever_subject=True):
        return refuse(70021, issuer=assertion.issuer, subject=assertion.subject,
                      assertion_audience=" ".join(assertion.audiences))
    if not application.trusts(assertion):
        return refuse(700213, subject=assertion.subject)
    if not assertion.not_before <= now < assertion.expires_at:
        return refuse(700024, now=_iso(now), not_before=_iso(assertion.not_before),
                      expires_at=_iso(assertion.expires_at))
    return None


def _iso(epoch: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.0000000Z", time.gmtime(epoch))
