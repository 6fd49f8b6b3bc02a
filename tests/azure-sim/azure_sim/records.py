"""One request as it arrived."""

from __future__ import annotations

import time
from typing import List, Optional, Sequence, Tuple
from urllib.parse import parse_qsl

from . import strict_json, tokens
from .secret import CredentialForm, form_field, header_value, masked, target_text

FORM = "application/x-www-form-urlencoded"


class RecordedRequest:
    """One request as it was on the wire.

    `target` is the raw path and query; `headers` are pairs as received, names in lower case and
    repeats kept; `body` is what has arrived so far. `complete` is True once the whole body is here,
    and stays False when the peer went away before. `left` turns True when the peer went away before
    it had its answer. Credentials are there to compare and never to read: see `secret`.
    """

    def __init__(self, method: str, target: str, headers: Sequence[Tuple[str, str]]) -> None:
        self.method = method
        self.target: str = target_text(target)
        self.headers: List[Tuple[str, str]] = [
            (name.lower(), header_value(name.lower(), value)) for name, value in headers
        ]
        self.received_at = time.time()
        self.complete = False
        self.left = False
        self.status: Optional[int] = None
        self.websocket_messages: List[str] = []
        self._body = bytearray()
        self.token: Optional[tokens.Claims] = None
        bearer = tokens.bearer(self.header("authorization"))
        if bearer is not None:
            self.token = tokens.decode(bearer)

    def header(self, name: str) -> Optional[str]:
        """The first value of a header."""
        return next(iter(self.header_values(name)), None)

    def header_values(self, name: str) -> List[str]:
        """Every value of a header, in order; empty when it is absent."""
        return [value for key, value in self.headers if key == name.lower()]

    @property
    def host(self) -> str:
        return self.header("host") or ""

    @property
    def path(self) -> str:
        """The target up to the query, still percent-encoded."""
        return str(self.target).partition("?")[0]

    @property
    def query(self) -> List[Tuple[str, str]]:
        """The query's parameters in order, decoded."""
        return parse_qsl(str(self.target).partition("?")[2], keep_blank_values=True)

    @property
    def body(self) -> bytes:
        return CredentialForm(self._body) if self._is_form else bytes(self._body)

    @property
    def form(self) -> List[Tuple[str, str]]:
        """The fields of a URL-encoded form in order, decoded; empty when the body is none."""
        if not self._is_form:
            return []
        return [(name, form_field(name, value)) for name, value in
                parse_qsl(self._body.decode("latin-1"), keep_blank_values=True)]

    @property
    def _is_form(self) -> bool:
        return (self.header("content-type") or "").partition(";")[0].strip().lower() == FORM

    @property
    def body_length(self) -> int:
        """How many bytes of the body are here; cheaper than `len(request.body)`."""
        return len(self._body)

    def extend(self, more: bytes) -> None:
        """More of the body has arrived. For the recorder alone."""
        self._body += more

    def json(self) -> object:
        """The body as strict JSON; `NotStrictJson` when it is not."""
        return strict_json.parse(self.body)

    @property
    def models(self) -> List[object]:
        """Every top-level `model` of a JSON body: two when the sender repeated it."""
        return strict_json.top_level(self.body, "model")

    def __repr__(self) -> str:
        state = "complete" if self.complete else "incomplete"
        target = masked(str(self.target))
        return f"<{self.method} {self.host}{target}, {self.body_length} body bytes, {state}>"
