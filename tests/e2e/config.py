"""Builders for the plugin's configuration. They write what they are given: a test of a wrong
configuration uses them too."""

from __future__ import annotations

import hashlib
from typing import Any, Dict, List, Sequence, Union

from azure_sim import Resource

Json = Dict[str, Any]
IDENTITY_CLUSTER = "azure_identity"


def digest(key: str) -> str:
    """A subscription key as the configuration has it."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def subscription(id: str, *, key: Union[str, Sequence[str]], models: Sequence[str] = ("*",),
                 **more: Any) -> Json:
    """A subscription with one key, or two. `more` are further fields, as they are spelled."""
    keys = [key] if isinstance(key, str) else key
    return {"id": id, "keys": [digest(one) for one in keys], "models": list(models), **more}


def backend(resource: Union[Resource, str], **more: Any) -> Json:
    """A backend for a simulated resource, or for a name that simulated Azure does not know."""
    name, host = ((resource.name, resource.host) if isinstance(resource, Resource)
                  else (resource, f"contoso-{resource}.openai.azure.com"))
    return {"name": name, "endpoint": f"https://{host}", **more}


def route(to: Union[Resource, str], **more: Any) -> Json:
    """One of a model's backends, such as `route(east, deployment="gpt-4o", weight=3)`."""
    return {"backend": to.name if isinstance(to, Resource) else to, **more}


def model(name: str, *backends: Union[Resource, str, Json], **more: Any) -> Json:
    """A model and its backends in order; what is no `route` stands for a plain one."""
    routes = [one if isinstance(one, dict) else route(one) for one in backends]
    return {"name": name, "backends": routes, **more}


def managed_identity(**more: Any) -> Json:
    """The `identity` for the endpoint of simulated Azure; `more` selects a user-assigned one."""
    return {"managed_identity": {"cluster": IDENTITY_CLUSTER, **more}}


def config(*, subscriptions: List[Json], backends: List[Json], models: List[Json],
           **more: Any) -> Json:
    """A whole configuration. Unless `more` says otherwise, `identity` is the machine's own, and
    requests wait for its token as long as that takes on a busy machine."""
    return {"identity": managed_identity(), "token_wait": "60s", "subscriptions": subscriptions,
            "backends": backends, "models": models, **more}
