"""JSON Web Tokens that nobody signed: a mark, easy to search for, stands for a signature."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Dict, Mapping, Optional


def encode(header: Mapping[str, Any], claims: Mapping[str, Any], mark: bytes) -> str:
    """The token's text: three parts of base64url without padding."""
    return ".".join(base64url(part) for part in (_json(header), _json(claims), mark))


def decode(token: str, header: Mapping[str, Any], mark: bytes) -> Optional[Dict[str, Any]]:
    """The claims of a token with exactly this header and mark; None for any other text."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        found_header, payload, found_mark = (_unbase64url(part) for part in parts)
        claims = json.loads(payload)
    except (ValueError, binascii.Error):
        return None
    if found_header != _json(header) or found_mark != mark or not isinstance(claims, dict):
        return None
    return claims


def base64url(raw: bytes) -> str:
    """RFC 7515's base64url: no padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _unbase64url(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
