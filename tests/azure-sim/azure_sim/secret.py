"""Text that carries a credential and does not show it.

A test that fails prints what it compared. Header values and targets that hold a key or a token are
kept as `Credential`: equal to the text it is, printed as a placeholder.
"""

from __future__ import annotations

import re

CREDENTIAL_HEADERS = frozenset(
    {"authorization", "api-key", "ocp-apim-subscription-key", "x-api-key", "x-identity-header", "cookie"}
)
CREDENTIAL_FIELDS = frozenset({"client_secret", "client_assertion"})
_KEY_PARAMETER = re.compile(r"((?:^|[?&])(?:subscription-key|api-key)=)[^&#]*", re.IGNORECASE)


class Credential(str):
    """A string whose `repr`, and so every assertion message, hides what it holds."""

    def __repr__(self) -> str:
        return f"<credential of {len(self)} characters>"


class CredentialForm(bytes):
    """A form with credentials in it; its `repr` shows how long it is and nothing else."""

    def __repr__(self) -> str:
        return f"<form with credentials, {len(self)} bytes>"


class KeyedTarget(str):
    """A request target with a key in its query; its `repr` masks the key only."""

    def __repr__(self) -> str:
        return repr(masked(str.__str__(self)))


def masked(target: str) -> str:
    """The request target with the values of key parameters replaced by `***`."""
    return _KEY_PARAMETER.sub(r"\1***", target)


def header_value(name: str, value: str) -> str:
    """The value as recorded: a `Credential` when the (lower-case) name is one that carries keys."""
    return Credential(value) if name in CREDENTIAL_HEADERS else value


def target_text(target: str) -> str:
    """The target as recorded: unchanged text, but one with a key in it prints masked."""
    return KeyedTarget(target) if _KEY_PARAMETER.search(target) else target


def form_field(name: str, value: str) -> str:
    """The value of a form's field as recorded: a `Credential` when the field carries one."""
    return Credential(value) if name in CREDENTIAL_FIELDS else value
