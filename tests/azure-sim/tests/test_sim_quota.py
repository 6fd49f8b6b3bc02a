"""The limits of a resource, and prompts that fail everywhere."""

from __future__ import annotations

from typing import Any, Dict

import httpx
import pytest

from azure_sim import Quota, Resource
from azure_sim.inference import UPSETTING
from azure_sim.quota import estimate

CHAT = "/openai/deployments/gpt-4o-2024-11-20/chat/completions?api-version=2024-10-21"
SHORT: Dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


def long(tokens: int) -> Dict[str, Any]:
    return {"messages": [{"role": "user", "content": "word" * tokens}]}


def test_what_a_request_counts_for_is_its_prompt_and_what_it_asks_for() -> None:
    assert estimate(SHORT) < 20
    assert 500 <= estimate(long(500)) < 520
    assert estimate({**SHORT, "max_tokens": 300}) == estimate(SHORT) + 300
    assert estimate({"input": "word" * 50, "max_completion_tokens": 7}) == 57


def test_a_request_larger_than_the_quota_is_told_to_wait_for_a_day(http: httpx.Client, east: Resource
                                                                   ) -> None:
    east.quota = Quota(tokens=100)
    refused = http.post(CHAT, json=long(200))
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "86400")
    assert "86400 seconds" in refused.json()["error"]["message"]
    assert http.post(CHAT, json=SHORT).status_code == 200


def test_a_request_too_large_for_now_is_told_when_to_retry(http: httpx.Client, east: Resource) -> None:
    east.quota = Quota(peak=100, peak_seconds=7)
    refused = http.post(CHAT, json={**SHORT, "max_tokens": 4000})
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "7")
    assert "high demand" in refused.json()["error"]["message"]
    assert http.post(CHAT, json=SHORT).status_code == 200


def test_a_rate_limit_gives_the_time_until_there_is_room(http: httpx.Client, east: Resource) -> None:
    east.quota = Quota(requests=2, window=1000.0)
    assert [http.post(CHAT, json=SHORT).status_code for _ in range(3)] == [200, 200, 429]
    refused = http.post(CHAT, json=SHORT)
    assert 0 < int(refused.headers["retry-after"]) <= 1000
    assert 0 < int(refused.headers["retry-after-ms"]) <= 1_000_000
    east.quota = Quota(requests=2, window=0.0)
    assert [http.post(CHAT, json=SHORT).status_code for _ in range(3)] == [200, 200, 200]


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_upsets_the_model_fails(http: httpx.Client, stream: bool) -> None:
    upsetting = {"messages": [{"role": "user", "content": f"please {UPSETTING}"}], "stream": stream}
    refused = http.post(CHAT, json=upsetting)
    assert (refused.status_code, refused.json()["error"]["type"]) == (500, "model_error")
    assert http.post(CHAT, json=SHORT).status_code == 200
