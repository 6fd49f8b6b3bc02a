"""JSON read strictly: what two parsers could read differently is an error here."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Tuple


class NotStrictJson(ValueError):
    """The body is not JSON, or says something twice."""


def parse(raw: bytes) -> Any:
    """The value of a JSON text (UTF-8, RFC 8259: no NaN, no repeated names at any depth)."""
    return _load(raw, _unique)


def top_level(raw: bytes, name: str) -> List[Any]:
    """Every value that the top-level object gives `name`, in order: two when it is repeated.

    Empty when the body is no JSON object.
    """
    try:
        found = _load(raw, _Pairs)
    except NotStrictJson:
        return []
    return [value for key, value in found.pairs if key == name] if isinstance(found, _Pairs) else []


class _Pairs:
    def __init__(self, pairs: List[Tuple[str, Any]]) -> None:
        self.pairs = pairs


def _load(raw: bytes, objects: Any) -> Any:
    try:
        text = raw.decode("utf-8")
        return json.loads(text, object_pairs_hook=objects, parse_constant=_refuse_constant)
    except NotStrictJson:
        raise
    except (ValueError, RecursionError) as error:
        raise NotStrictJson(str(error)) from None


def _unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise NotStrictJson(f"repeated names: {', '.join(repeated)}")
    return result


def _refuse_constant(name: str) -> Any:
    raise NotStrictJson(f"{name} is not JSON")
