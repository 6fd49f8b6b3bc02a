"""Three regions behind one gateway, and a model of its own for each test: what one test teaches the
gateway about a backend is nothing to the next."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Sequence

import httpx

from azure_sim import HANG_LIMIT, AzureSim
from e2e import config
from e2e.gateway import Gateway
from e2e.wire import Response

Json = Dict[str, Any]
KEY, OTHER_KEY = "aoai_the-search-teams-key-0001", "aoai_the-other-teams-key-0002"
REGIONS = ("aa", "bb", "cc")
# A region that refuses connections.
DEAD = "dead"
HOMES = tuple(f"home-{number}" for number in range(8))
HOME_MODEL = "kept"
_MODELS = 120


def deployment(region: str, model: str) -> str:
    """What a region calls a model: each another name, of another length."""
    return {"aa": model + "-2024-11-20", "bb": "b-" + model, "cc": "deployed.in.cc." + model,
            DEAD: "d-" + model}[region]


def add_regions(azure: AzureSim) -> None:
    """The regions, of which the first three serve every model."""
    for region in (*REGIONS, DEAD):
        azure.add_resource(
            region, host=f"contoso-{region}.openai.azure.com",
            deployments={deployment(region, model): "gpt-4o" for model in _all_models()},
            refuses_connections=region == DEAD)


def document(azure: AzureSim, **failover: Any) -> Json:
    """`m0` and so on try aa, then bb, then cc; `w0` and so on share aa and bb as 3:1; `d0` and so
    on try the dead one first."""
    def routes(model: str, regions: Sequence[str]) -> Json:
        weights = {"aa": 3, "bb": 1} if model.startswith("w") else {}
        return config.model(model, *[
            config.route(azure.resources[region], deployment=deployment(region, model),
                         priority=0 if region in weights else rank,
                         weight=weights.get(region, 1))
            for rank, region in enumerate(regions)])
    return config.config(
        subscriptions=[
            config.subscription("search", key=KEY, operations=["*"]),
            config.subscription("other", key=OTHER_KEY),
            *(config.subscription(home, key=f"aoai_key-of-{home}", operations=["*"],
                                  models=[HOME_MODEL]) for home in HOMES)],
        backends=[config.backend(azure.resources[region]) for region in (*REGIONS, DEAD)],
        models=[routes(model, (DEAD, *REGIONS[:2]) if model.startswith("d") else REGIONS)
                for model in _all_models()],
        failover={"cooldown": "40s", "longest_cooldown": "60m", "retry_within": "5m",
                  **failover})


def unused(prefix: str) -> Iterator[str]:
    """The models of this kind, each once."""
    return (model for model in _all_models() if model[0] == prefix and model != HOME_MODEL)


def _all_models() -> List[str]:
    return [HOME_MODEL, *(f"m{number}" for number in range(_MODELS)),
            *(f"{prefix}{number}" for prefix in "dw" for number in range(20))]


def calls(azure: AzureSim) -> Dict[str, int]:
    """How many requests each region got."""
    return {name: len(one.requests) for name, one in azure.resources.items() if one.requests}


def own_headers(answer: Any) -> Dict[str, str]:
    """The filter's own headers on an answer, as `httpx` or `wire` has it."""
    pairs = answer.head.headers if isinstance(answer, Response) else answer.headers.multi_items()
    return {name: value for name, value in pairs if name.startswith("x-aoai-")}


def chat(gateway: Gateway, model: str, *, key: str = KEY, **headers: str) -> httpx.Response:
    """A chat request on a connection of its own, so that any worker may get it."""
    with httpx.Client(base_url=gateway.url, timeout=HANG_LIMIT, trust_env=False) as http:
        return http.post(
            f"/openai/deployments/{model}/chat/completions?api-version=2024-10-21",
            headers={"api-key": key, **headers},
            json={"messages": [{"role": "user", "content": "hi"}]})


def exhausted(gateway: Gateway, model: str, reason: str = "all_backends_throttled"
              ) -> httpx.Response:
    """The local reply to a request while all regions of its model are in cooldown. About once a second
    each of them is asked all the same, and must not serve what it is asked."""
    while "x-aoai-backend" in own_headers(answer := chat(gateway, model)):
        assert answer.status_code in (429, 503), answer
    assert own_headers(answer) == {"x-aoai-reason": reason}, answer
    return answer


def answered_by(answer: Any, region: str, attempts: int) -> None:
    """A region's answer after so many attempts, without any other header of the filter's own than
    what it thinks of the answer."""
    own = own_headers(answer)
    own.pop("x-aoai-diagnosis", None)
    assert own == {"x-aoai-backend": region, "x-aoai-attempts": str(attempts)}, answer


def served(answer: Any, region: str, attempts: int) -> None:
    """As above, and a success."""
    status = answer.status if isinstance(answer, Response) else answer.status_code
    assert status == 200, answer
    answered_by(answer, region, attempts)
