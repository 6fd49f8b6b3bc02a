"""The least that a test needs: one resource, one model, a subscription or two, and how to call."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

import httpx

from azure_sim import HANG_LIMIT, AzureSim, Resource
from e2e import config
from e2e.gateway import Gateway
from e2e.wire import Connection, Response, request

Json = Dict[str, Any]
KEY = "aoai_the-search-teams-key-0001"
OTHER_KEY = "aoai_the-other-teams-key-0002"
MODEL = "gpt-4o"
HOST = "contoso-eastus.openai.azure.com"
CHAT = f"/openai/deployments/{MODEL}/chat/completions?api-version=2024-10-21"
V1_CHAT = "/openai/v1/chat/completions"
BODY: Json = {"messages": [{"role": "user", "content": "hi"}]}
RAW_BODY = b'{"messages":[{"role":"user","content":"hi"}]}'
JSON_TYPE = ("content-type", "application/json")


def east(azure: AzureSim) -> Resource:
    """The resource, added to simulated Azure the first time."""
    if "eastus" not in azure.resources:
        azure.add_resource("eastus", host=HOST, deployments={MODEL: MODEL})
    return azure.resources["eastus"]


def settings(resource: Resource, *, keys: Tuple[str, ...] = (KEY,), **more: Any) -> Json:
    """A configuration with a subscription for each key; `more` are further top-level fields."""
    return config.config(
        subscriptions=[config.subscription(f"team-{number}", key=key)
                       for number, key in enumerate(keys, 1)],
        backends=[config.backend(resource)],
        models=[config.model(MODEL, resource)],
        **more,
    )


def chat(gateway: Gateway, key: str = KEY, **headers: str) -> httpx.Response:
    """A chat request on a connection of its own, so that any worker may get it."""
    with httpx.Client(base_url=gateway.url, timeout=HANG_LIMIT, trust_env=False) as http:
        return http.post(CHAT, headers={"api-key": key, **headers}, json=BODY)


def raw_chat(*headers: Tuple[str, str], key: str = KEY) -> bytes:
    """The same request as bytes."""
    return request("POST", CHAT, [("api-key", key), JSON_TYPE, *headers], RAW_BODY)


def callers(gateway: Gateway, count: int) -> List[Connection]:
    """As many connections. Envoy's workers share them by the system's choice."""
    return [gateway.connect() for _ in range(count)]


def assert_refused(answer: Any, status: int, reason: str) -> None:
    """An answer of the filter's own, as `httpx` or `wire` has it."""
    found: Optional[str]
    if isinstance(answer, Response):
        found_status, found = answer.status, answer.head.header("x-aoai-reason")
    else:
        found_status, found = answer.status_code, answer.headers.get("x-aoai-reason")
    assert (found_status, found) == (status, reason), answer


def until_served(gateway: Gateway) -> None:
    """Returns once a chat request succeeds; meanwhile each one must fail for want of a token."""
    def served() -> bool:
        answer = chat(gateway)
        if answer.status_code != 200:
            assert_refused(answer, 503, "token_unavailable")
        return answer.status_code == 200
    gateway.envoy.wait_until(served, "served request")
