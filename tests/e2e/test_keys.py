"""Where a subscription key may be, and that it leaves nowhere."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Tuple

import pytest

from azure_sim import AzureSim
from e2e import config
from e2e.calls import (API_VERSION, JSON, MESSAGES, Call, arrived_at, chat, dated, get, goes_on,
                       nothing_arrived, own_answer, refused, send, unmetered, v1, warm)
from e2e.edits import MANAGER, put
from e2e.gateway import Gateway

KEY, SECONDARY, OTHER = "primary-Key.1", "secondary-Key.2", "key-of-another-team"
SPACED, PUNCTUATED, FOREIGN = "a key with spaces", "p&q=r+s/t?u%41#,;", "schl\u00fcssel"
WRONG = "this-is-nobodys-key"
KEYS = (KEY, SECONDARY, OTHER, SPACED, PUNCTUATED, FOREIGN, WRONG)
FOREIGN_BYTES = FOREIGN.encode().decode("latin-1")
GOOD = chat("gpt-4o", ("api-key", KEY))

LONG = 50 * 1024  # within Envoy's default of 60 KiB for all headers


def document(azure: AzureSim) -> Dict[str, Any]:
    east = azure.resources["eastus"]
    return config.config(
        subscriptions=[
            config.subscription("search", key=[KEY, SECONDARY], operations=["*"]),
            config.subscription("other", key=OTHER),
            config.subscription("odd", key=[SPACED, PUNCTUATED]),
            config.subscription("foreign", key=FOREIGN),
        ],
        backends=[config.backend(east)],
        models=[config.model("gpt-4o", east)],
    )


@pytest.fixture(scope="module")
def cloud(azure: AzureSim) -> AzureSim:
    azure.add_resource("eastus", host="contoso-eastus.openai.azure.com",
                       deployments={"gpt-4o": "gpt-4o"})
    return azure


@pytest.fixture(scope="module")
def gateway(cloud: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    return warm(start_gateway(document(cloud)), GOOD)


HEADERS: Dict[str, List[Tuple[str, str]]] = {
    "api-key": [("api-key", KEY)],
    "api-key in any case": [("API-Key", KEY)],
    "API Management's header": [("Ocp-Apim-Subscription-Key", KEY)],
    "API Management's header in any case": [("OCP-APIM-SUBSCRIPTION-KEY", KEY)],
    "bearer": [("Authorization", f"Bearer {KEY}")],
    "bearer in lower case": [("authorization", f"bearer {KEY}")],
    "bearer in upper case": [("AUTHORIZATION", f"BEARER {KEY}")],
    "bearer behind several spaces": [("authorization", f"Bearer   {KEY}")],
    "secondary key": [("api-key", SECONDARY)],
    "white space around it": [("api-key", f"  {KEY}\t")],
    "spaces in it": [("api-key", SPACED)],
    "spaces in it, as bearer": [("authorization", f"Bearer {SPACED}")],
    "punctuation in it": [("api-key", PUNCTUATED)],
    "another alphabet": [("api-key", FOREIGN_BYTES)],
    "api-key and bearer, as azure-ai-inference sends them": [
        ("Authorization", f"Bearer {KEY}"), ("api-key", KEY)],
    "the same in all three": [("api-key", KEY), ("ocp-apim-subscription-key", KEY),
                              ("authorization", f"Bearer {KEY}")],
    "an empty header besides": [("api-key", ""), ("ocp-apim-subscription-key", KEY)],
    "an empty header of the same name besides": [("api-key", ""), ("api-key", KEY)],
    "basic authentication besides": [("authorization", "Basic a2V5"), ("api-key", KEY)],
    "basic authentication twice besides": [("authorization", "Basic a2V5"), ("api-key", KEY),
                                           ("authorization", "Basic b3RoZXI=")],
    "an odd authorization besides": [("authorization", "\xff\xfe"), ("api-key", KEY)],
    "an empty authorization besides": [("authorization", ""), ("api-key", KEY)],
    "a bearer without token besides": [("authorization", "Bearer "), ("api-key", KEY)],
}


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS.keys())
def test_a_key_in_a_header_is_accepted_and_leaves_nowhere(
        gateway: Gateway, azure: AzureSim, headers: List[Tuple[str, str]]) -> None:
    assert send(gateway, chat("gpt-4o", *headers)).status == 200
    seen = arrived_at(azure, "eastus")
    assert (seen.target, unmetered(seen.body)) == (dated("gpt-4o"), MESSAGES)


# What a client sends as query, and what of it leaves, byte for byte.
QUERIES = {
    "subscription-key": (f"{API_VERSION}&subscription-key={KEY}", API_VERSION),
    "api-key": (f"{API_VERSION}&api-key={KEY}", API_VERSION),
    "first": (f"api-key={KEY}&{API_VERSION}", API_VERSION),
    "in between": (f"{API_VERSION}&api-key={KEY}&z=1", f"{API_VERSION}&z=1"),
    "name in another case": (f"{API_VERSION}&API-Key={KEY}", API_VERSION),
    "encoded name": (f"{API_VERSION}&%61pi%2Dkey={KEY}", API_VERSION),
    "encoded name, other one": (f"{API_VERSION}&subscription%2dke%79={KEY}", API_VERSION),
    "encoded value": (f"{API_VERSION}&api-key=%70rimary%2DKey%2e1", API_VERSION),
    "wholly encoded value": (
        f"{API_VERSION}&api-key=" + "".join(f"%{ord(one):02X}" for one in KEY), API_VERSION),
    "encoded punctuation": (
        f"{API_VERSION}&api-key=p%26q%3Dr%2Bs%2Ft%3Fu%2541%23%2C%3B", API_VERSION),
    "spaces as plus": (f"{API_VERSION}&api-key=a+key+with+spaces", API_VERSION),
    "spaces encoded": (f"{API_VERSION}&api-key=a%20key%20with%20spaces", API_VERSION),
    "another alphabet": (f"{API_VERSION}&api-key=schl%C3%BCssel", API_VERSION),
    "secondary key": (f"{API_VERSION}&subscription-key={SECONDARY}", API_VERSION),
    "under both names": (f"api-key={KEY}&{API_VERSION}&subscription-key={KEY}", API_VERSION),
    "twice": (f"api-key={KEY}&{API_VERSION}&api-key={KEY}", API_VERSION),
    "an empty one besides": (f"api-key=&{API_VERSION}&api-key={KEY}&api-key", API_VERSION),
    "odd neighbours": (f"%61=%41+b&&{API_VERSION}&api-key={KEY}&y&=z&%zz=1&x=a=b&u=%2F..%2F",
                       f"%61=%41+b&&{API_VERSION}&y&=z&%zz=1&x=a=b&u=%2F..%2F"),
    "neighbours with similar names": (
        f"{API_VERSION}&api-key={KEY}&my-api-key=1&api-key2=2&api_key=3&key=4&apikey=5",
        f"{API_VERSION}&my-api-key=1&api-key2=2&api_key=3&key=4&apikey=5"),
}


@pytest.mark.parametrize("query, left", QUERIES.values(), ids=QUERIES.keys())
def test_a_key_in_the_query_is_accepted_and_only_it_is_taken_out(
        gateway: Gateway, azure: AzureSim, query: str, left: str) -> None:
    response = send(gateway, chat("gpt-4o", query=query))
    seen = arrived_at(azure, "eastus")
    assert (response.status, seen.target) == (200, dated("gpt-4o", query=left))


BOTH_PLACES = {
    "a wrong key in the query": ([("api-key", KEY)], f"api-key={WRONG}"),
    "a wrong key in the query beside a bearer": (
        [("authorization", f"Bearer {KEY}")], f"subscription-key={WRONG}"),
    "another team's key in the query": ([("api-key", KEY)], f"api-key={OTHER}"),
    "two different keys in the query": (
        [("api-key", KEY)], f"api-key={WRONG}&subscription-key={OTHER}"),
    "the same key in the query": ([("api-key", KEY)], f"api-key={KEY}"),
}


@pytest.mark.parametrize("headers, query", BOTH_PLACES.values(), ids=BOTH_PLACES.keys())
def test_a_key_in_a_header_beats_the_query_and_both_are_taken_out(
        gateway: Gateway, azure: AzureSim, headers: List[Tuple[str, str]], query: str) -> None:
    assert send(gateway, chat("gpt-4o", *headers, query=f"{API_VERSION}&{query}")).status == 200
    assert arrived_at(azure, "eastus").target == dated("gpt-4o")


ELSEWHERE = {
    "body-named": v1(b'{"model":"gpt-4o","messages":[]}', ("authorization", f"Bearer {KEY}")),
    "body-named, key in the query": Call(
        f"/openai/v1/chat/completions?api-key={KEY}", [JSON], b'{"model":"gpt-4o","messages":[]}'),
    "no model": get("/openai/v1/files", ("ocp-apim-subscription-key", KEY)),
    "no model, key in the query": get(f"/openai/v1/files?subscription-key={KEY}"),
}


@pytest.mark.parametrize("call", ELSEWHERE.values(), ids=ELSEWHERE.keys())
def test_a_key_leaves_nowhere_whatever_names_the_model(
        gateway: Gateway, azure: AzureSim, call: Call) -> None:
    assert send(gateway, call).status == 200
    seen = arrived_at(azure, "eastus")
    assert (seen.target, seen.body) == (call.target.partition("?")[0], call.body)


def in_query(query: str) -> Call:
    return chat("gpt-4o", query=f"{API_VERSION}&{query}")


REFUSED = {
    "no key": (chat("gpt-4o"), "missing_key"),
    "empty": (chat("gpt-4o", ("api-key", "")), "missing_key"),
    "white space": (chat("gpt-4o", ("api-key", " \t ")), "missing_key"),
    "empty bearer": (chat("gpt-4o", ("authorization", "Bearer")), "missing_key"),
    "another scheme": (chat("gpt-4o", ("authorization", f"Token {KEY}")), "missing_key"),
    "no scheme": (chat("gpt-4o", ("authorization", KEY)), "missing_key"),
    "empty in the query": (in_query("api-key="), "missing_key"),
    "no value in the query": (in_query("api-key"), "missing_key"),
    "in a cookie": (chat("gpt-4o", ("cookie", f"api-key={KEY}")), "missing_key"),
    "in the fragment of another parameter": (in_query(f"x=api-key={KEY}"), "missing_key"),
    "wrong": (chat("gpt-4o", ("api-key", WRONG)), "unknown_key"),
    "wrong bearer": (chat("gpt-4o", ("authorization", f"Bearer {WRONG}")), "unknown_key"),
    "wrong in the query": (in_query(f"subscription-key={WRONG}"), "unknown_key"),
    "wrong in a header, right in the query": (
        chat("gpt-4o", ("api-key", WRONG), query=f"{API_VERSION}&api-key={KEY}"), "unknown_key"),
    "in another case": (chat("gpt-4o", ("api-key", KEY.upper())), "unknown_key"),
    "cut": (chat("gpt-4o", ("api-key", KEY[:-1])), "unknown_key"),
    "with more behind": (chat("gpt-4o", ("api-key", KEY + "x")), "unknown_key"),
    "a list": (chat("gpt-4o", ("api-key", f"{KEY},{KEY}")), "unknown_key"),
    "its digest": (chat("gpt-4o", ("api-key", config.digest(KEY))), "unknown_key"),
    "the digest's digits": (chat("gpt-4o", ("api-key", config.digest(KEY)[7:])), "unknown_key"),
    "encoded in a header": (chat("gpt-4o", ("api-key", "%70rimary-Key.1")), "unknown_key"),
    "encoded twice in the query": (in_query("api-key=%2570rimary-Key.1"), "unknown_key"),
    "Latin-1 where it is UTF-8": (chat("gpt-4o", ("api-key", FOREIGN)), "unknown_key"),
    "not UTF-8": (chat("gpt-4o", ("api-key", "\xff\xfe\x80")), "unknown_key"),
    "not UTF-8, as bearer": (chat("gpt-4o", ("authorization", "Bearer \xff")), "unknown_key"),
    "not UTF-8 in the query": (in_query("api-key=%ff%FE"), "unknown_key"),
    "50 KiB": (chat("gpt-4o", ("api-key", "k" * LONG)), "unknown_key"),
    "50 KiB, as bearer": (chat("gpt-4o", ("authorization", "Bearer " + "k" * LONG)), "unknown_key"),
    "50 KiB in the query": (in_query("api-key=" + "%6b" * (LONG // 3)), "unknown_key"),
    "different in two headers": (
        chat("gpt-4o", ("api-key", KEY), ("authorization", f"Bearer {WRONG}")), "conflicting_keys"),
    "primary and secondary": (
        chat("gpt-4o", ("api-key", KEY), ("ocp-apim-subscription-key", SECONDARY)),
        "conflicting_keys"),
    "of two teams": (
        chat("gpt-4o", ("api-key", KEY), ("ocp-apim-subscription-key", OTHER)), "conflicting_keys"),
    "different in the query": (in_query(f"api-key={KEY}&api-key={OTHER}"), "conflicting_keys"),
    "different under the query's two names": (
        in_query(f"api-key={KEY}&subscription-key={OTHER}"), "conflicting_keys"),
    "a header twice": (chat("gpt-4o", ("api-key", KEY), ("api-key", KEY)), "conflicting_keys"),
    "a header twice with different keys": (
        chat("gpt-4o", ("api-key", KEY), ("API-KEY", OTHER)), "conflicting_keys"),
    "API Management's header twice": (
        chat("gpt-4o", *[("Ocp-Apim-Subscription-Key", KEY)] * 2), "conflicting_keys"),
    # Envoy joins repeats of this header to one, `Bearer a,Bearer b`, before a filter sees them.
    "bearer twice": (chat("gpt-4o", *[("authorization", f"Bearer {KEY}")] * 2), "conflicting_keys"),
    "bearer twice with different keys": (
        chat("gpt-4o", ("authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {OTHER}")),
        "conflicting_keys"),
    "bearer behind basic": (
        chat("gpt-4o", ("authorization", "Basic a2V5"), ("authorization", f"Bearer {KEY}")),
        "missing_key"),
}


@pytest.mark.parametrize("call, reason", REFUSED.values(), ids=REFUSED.keys())
def test_a_key_that_is_none_is_refused_and_a_good_request_works_after_it(
        gateway: Gateway, azure: AzureSim, call: Call, reason: str) -> None:
    with gateway.connect() as connection:
        response = connection.exchange(call.raw())
        own_answer(response, reason, hidden=KEYS)
        nothing_arrived(azure)
        goes_on(gateway, connection, response, GOOD)


def test_headers_beyond_envoys_limit_are_envoys_own_431(gateway: Gateway, azure: AzureSim) -> None:
    with gateway.connect() as connection:
        connection.send(chat("gpt-4o", ("api-key", "k" * 64 * 1024)).raw())
        head = connection.read_head()
    assert (head.status, head.values("x-aoai-reason")) == (431, [])
    nothing_arrived(azure)
    assert send(gateway, GOOD).status == 200


def test_a_key_of_64_kib_reaches_the_filter_where_envoy_lets_it(
        cloud: AzureSim, start_gateway: Callable[..., Gateway]) -> None:
    raise_the_limit = put(f"{MANAGER}.max_request_headers_kb", 256)
    gateway = warm(start_gateway(document(cloud), edits=[raise_the_limit]), GOOD)
    cloud.reset()
    long = "k" * 64 * 1024
    for call in (chat("gpt-4o", ("api-key", long)),
                 chat("gpt-4o", ("authorization", f"Bearer {long}")),
                 in_query(f"api-key={long}")):
        refused(gateway, cloud, call, "unknown_key", hidden=[long[:100]])
    assert send(gateway, GOOD).status == 200
    arrived_at(cloud, "eastus")


def test_no_key_is_in_envoys_log(gateway: Gateway) -> None:
    for call in (GOOD, in_query(f"api-key={OTHER}"), chat("gpt-4o", ("api-key", WRONG)),
                 chat("gpt-4o", ("api-key", KEY), ("api-key", KEY))):
        send(gateway, call)
    log = gateway.envoy.log_text()
    assert [index for index, key in enumerate(KEYS) if key in log] == []
