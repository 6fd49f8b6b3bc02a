"""What can go wrong between a caller and an endpoint that issues tokens, by name.

Each fault is a step of a script: `sim.entra.script.then(faults.of(sim.entra)["429 plain text"])`.
"""

from __future__ import annotations

from typing import Dict, Union

from . import aadsts
from .answers import HANG, RESET, Answer, Delivery
from .entra import Entra
from .managed_identity import ManagedIdentityEndpoint
from .script import Step

# Marked, so that it can be searched for like a token.
NOT_A_TOKEN = "text with spaces, which is no token"
OVERSIZE = 64 * 1024 + 1


def of(endpoint: Union[ManagedIdentityEndpoint, Entra]) -> Dict[str, Step]:
    """Every fault for this endpoint. None of these answers can be used for a request."""
    whole = endpoint.granted().content()
    return {
        "404": Answer(404),
        "410": Answer(410),
        "429": Answer(429, body={"error": "too_many_requests"}),
        "429 retry-after": Answer(429, [("Retry-After", "2")]),
        "429 plain text": aadsts.throttled(2),
        "500": Answer(500, body={"error": "server_error", "error_description": "internal"}),
        "503 page": Answer(503, [("Content-Type", "text/html")], "<html>unavailable</html>"),
        "hanging": HANG,
        "reset": RESET,
        "no HTTP": Delivery(raw=b"\x00\x01 what is this\r\n\r\n"),
        "cut": endpoint.granted().delivered(Delivery(cut_after=len(whole) // 2)),
        "empty": Answer(200),
        "no JSON": Answer(200, body="<html>welcome</html>"),
        "half of the JSON": Answer(200, [("Content-Type", "application/json")],
                                   whole[:len(whole) // 2]),
        "oversized": padded(endpoint.granted(), OVERSIZE),
        "not a header value": endpoint.granted(token=NOT_A_TOKEN),
        "expired": endpoint.granted(lifetime=-3600.0),
    }


def padded(answer: Answer, size: int) -> Answer:
    """The same JSON answer, with a first field that makes it `size` bytes or a few more."""
    assert isinstance(answer.body, dict)
    return Answer(answer.status, answer.headers, {"padding": "x" * size, **answer.body})
