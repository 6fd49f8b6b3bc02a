"""What a client sends to choose where its request goes, and that none of it does."""

from __future__ import annotations

from typing import Callable, Dict, List, Optional, Tuple, Union

import pytest

from azure_sim import AzureSim
from e2e import config
from e2e.calls import (API_VERSION, JSON, MESSAGES, Call, Pairs, arrived_at, chat, dated, get,
                       nothing_arrived, own_answer, refused, send, v1, warm)
from e2e.gateway import Gateway
from e2e.wire import Head

KEY, INFERENCE_KEY = "key-of-the-team", "key-for-inference-alone"
TEAM, INFERENCE = ("api-key", KEY), ("api-key", INFERENCE_KEY)
TOKEN_PATH = ("/metadata/identity/oauth2/token?api-version=2018-02-01"
              "&resource=https%3A%2F%2Fcognitiveservices.azure.com")


@pytest.fixture(scope="module")
def cloud(azure: AzureSim) -> AzureSim:
    """`allowed` is on eastus as `dep-a`, `secret` on sweden under its own name; each resource has
    both, so that only the filter keeps them apart."""
    for name in ("eastus", "sweden"):
        azure.add_resource(name, host=f"contoso-{name}.openai.azure.com",
                           deployments={"dep-a": "allowed", "secret": "secret"})
    return azure


@pytest.fixture(scope="module")
def gateway(cloud: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    east, sweden = cloud.resources["eastus"], cloud.resources["sweden"]
    return warm(start_gateway(config.config(
        subscriptions=[
            config.subscription("team", key=KEY, models=["allowed"], operations=["*"]),
            config.subscription("inference", key=INFERENCE_KEY, models=["allowed"]),
        ],
        backends=[config.backend(east), config.backend(sweden)],
        models=[config.model("allowed", config.route(east, deployment="dep-a")),
                config.model("secret", sweden)],
    )), chat("allowed", TEAM))


UPGRADE = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13"),
           ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]

# A request of each kind, the status of its answer, and the path that arrives.
KINDS: Dict[str, Tuple[Callable[[Pairs], Call], int, str]] = {
    "model in the path": (lambda more: chat("allowed", *more), 200, dated("dep-a")),
    "model in the body": (lambda more: v1(b'{"model":"allowed","messages":[]}', *more), 200,
                          "/openai/v1/chat/completions"),
    "model in the query": (
        lambda more: get("/openai/v1/realtime?model=allowed", *UPGRADE, *more), 101,
        "/openai/v1/realtime?model=dep-a"),
    "no model": (lambda more: get("/openai/v1/files", *more), 200, "/openai/v1/files"),
}

SPOOFS: Dict[str, Pairs] = {
    "the identity endpoint": [("x-aoai-cluster", "azure_identity")],
    "another backend": [("x-aoai-cluster", "aoai_sweden")],
    "a pool": [("x-aoai-cluster", "aoai/sweden>eastus")],
    "no cluster": [("x-aoai-cluster", "")],
    "in upper case": [("X-AOAI-CLUSTER", "azure_identity")],
    "in mixed case": [("X-Aoai-Cluster", "azure_identity"), ("x-aOAI-cLUSTER", "aoai_sweden")],
    "again and again": [("x-aoai-cluster", "azure_identity")] * 20,
    "odd bytes": [("x-aoai-cluster", "\xff\xfe\x80"), ("x-aoai-backend", "\xc3\x28")],
    "very long": [("x-aoai-cluster", "azure_identity" * 1500)],
    "around the key": [("x-aoai-cluster", "aoai_sweden"), TEAM, ("x-aoai-cluster", "")],
    "the backend": [("x-aoai-backend", "sweden")],
    "the backend, again": [("x-aoai-backend", "sweden"), ("X-Aoai-Backend", "sweden")],
    "the reason": [("x-aoai-reason", "ok"), ("x-aoai-attempts", "0"), ("x-aoai-retry", "1")],
    "nothing behind the prefix": [("x-aoai-", "x")],
    "sixty others": [(f"x-aoai-{number}", "x") for number in range(60)],
    "named by Connection": [("connection", "x-aoai-cluster"), ("x-aoai-cluster", "azure_identity")],
}


@pytest.mark.parametrize("offers, left", [
    (["realtime, openai-insecure-api-key.KEY, openai-beta.realtime-v1"],
     ["realtime, openai-beta.realtime-v1"]),
    (["openai-insecure-api-key.KEY"], []),
    (["realtime", "openai-insecure-api-key.KEY,x"], ["realtime, x"]),
], ids=["a browser", "nothing else", "two headers"])
def test_a_key_among_the_subprotocols_opens_a_session_and_goes_nowhere(
        gateway: Gateway, azure: AzureSim, offers: List[str], left: List[str]) -> None:
    offered = [("sec-websocket-protocol", offer.replace("KEY", KEY)) for offer in offers]
    target = "/openai/v1/realtime?model=allowed"
    assert send_for_head(gateway, get(target, *UPGRADE, *offered)).status == 101
    seen = arrived_at(azure, "eastus")
    assert [str(value) for name, value in seen.headers if name == "sec-websocket-protocol"] == left
    assert KEY not in str(seen.headers)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("spoof", SPOOFS.values(), ids=SPOOFS.keys())
def test_a_header_of_the_filters_own_is_removed_and_decides_nothing(
        gateway: Gateway, azure: AzureSim, kind: Tuple[Callable[[Pairs], Call], int, str],
        spoof: Pairs) -> None:
    make, status, target = kind
    key: Pairs = [] if TEAM in spoof else [TEAM]
    head = send_for_head(gateway, make([*spoof, *key]))
    assert (head.status, head.values("x-aoai-backend")) == (status, ["eastus"])
    [_] = azure.resources["eastus"].wait_for_requests(1)
    assert arrived_at(azure, "eastus").target == target


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("spoof", [one for one in SPOOFS.values() if TEAM not in one],
                         ids=[name for name, one in SPOOFS.items() if TEAM not in one])
def test_a_header_of_the_filters_own_opens_nothing_without_a_key(
        gateway: Gateway, azure: AzureSim, kind: Tuple[Callable[[Pairs], Call], int, str],
        spoof: Pairs) -> None:
    refused(gateway, azure, kind[0](spoof), "missing_key")


def send_for_head(gateway: Gateway, call: Call) -> Head:
    with gateway.connect() as connection:
        connection.send(call.raw())
        return connection.read_head()


OUTSIDE = {
    "outside the data plane": (get("/", ("x-aoai-cluster", "azure_identity"), TEAM),
                               "unknown_operation"),
    "the identity endpoint's path": (
        get(TOKEN_PATH, ("metadata", "true"), ("x-aoai-cluster", "azure_identity"), TEAM),
        "unknown_operation"),
    "a model out of scope": (chat("secret", ("x-aoai-cluster", "aoai_sweden"), TEAM),
                             "model_not_allowed"),
    "a model out of scope in the body": (
        v1(b'{"model":"secret"}', ("x-aoai-cluster", "aoai_sweden"), TEAM), "model_not_allowed"),
    "an operation out of scope": (
        get("/openai/v1/files", ("x-aoai-cluster", "aoai_sweden"), INFERENCE),
        "operation_not_allowed"),
    "no model at all": (v1(b"{}", ("x-aoai-cluster", "aoai_sweden"), TEAM), "missing_model"),
}


@pytest.mark.parametrize("call, reason", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_a_header_of_the_filters_own_saves_no_request_that_is_refused(
        gateway: Gateway, azure: AzureSim, call: Call, reason: str) -> None:
    refused(gateway, azure, call, reason)


HOSTS: Dict[str, Call] = {
    name: Call(target, [*more, TEAM, JSON], MESSAGES, host=host)
    for name, (host, target, more) in {
        "another backend's": ("contoso-sweden.openai.azure.com", dated("allowed"), []),
        "the metadata address": ("169.254.169.254", dated("allowed"), []),
        "with a port": ("contoso-sweden.openai.azure.com:8443", dated("allowed"), []),
        "a cluster": ("azure_identity", dated("allowed"), []),
        "empty": ("", dated("allowed"), []),
        "twice": ("gateway.test", dated("allowed"), [("host", "contoso-sweden.openai.azure.com")]),
        "forwarded": ("gateway.test", dated("allowed"), [
            ("x-forwarded-host", "contoso-sweden.openai.azure.com"),
            ("x-original-host", "169.254.169.254"), ("forwarded", "host=169.254.169.254")]),
        "rewritten": ("gateway.test", dated("allowed"), [
            ("x-original-url", dated("secret")), ("x-rewrite-url", dated("secret")),
            ("x-envoy-original-path", dated("secret"))]),
        "absolute form": (
            "gateway.test", "http://contoso-sweden.openai.azure.com" + dated("allowed"), []),
        "absolute form of the metadata address": (
            "gateway.test", "http://169.254.169.254" + dated("allowed"), []),
        "absolute form with user": (
            "gateway.test", "http://a:b@contoso-sweden.openai.azure.com" + dated("allowed"), []),
    }.items()
}


@pytest.mark.parametrize("call", HOSTS.values(), ids=HOSTS.keys())
def test_the_host_decides_nothing(gateway: Gateway, azure: AzureSim, call: Call) -> None:
    assert send(gateway, call).status == 200
    assert arrived_at(azure, "eastus").target == dated("dep-a")


METADATA = ("metadata", "true")
ABSOLUTE: Dict[str, Tuple[Call, str]] = {
    "with a key": (get("http://169.254.169.254" + TOKEN_PATH, METADATA, TEAM), "unknown_operation"),
    "without a key": (get("http://169.254.169.254" + TOKEN_PATH, METADATA), "missing_key"),
    "of the admin interface": (get("http://127.0.0.1:9901/quitquitquit", TEAM),
                               "unknown_operation"),
    "without a path": (get("http://169.254.169.254", TEAM), "unknown_operation"),
    "in the path": (get("/http://169.254.169.254" + TOKEN_PATH, METADATA, TEAM),
                    "unknown_operation"),
}


@pytest.mark.parametrize("call, reason", ABSOLUTE.values(), ids=ABSOLUTE.keys())
def test_an_absolute_target_is_no_way_to_another_host(
        gateway: Gateway, azure: AzureSim, call: Call, reason: str) -> None:
    refused(gateway, azure, call, reason)


ENVOYS_OWN = {
    "connect": b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nhost: 169.254.169.254:80\r\n",
    "options for everything": b"OPTIONS * HTTP/1.1\r\nhost: gateway.test\r\n",
    "no slash": b"GET openai/v1/models HTTP/1.1\r\nhost: gateway.test\r\n",
    "a pseudo-header": b"GET /openai/v1/models HTTP/1.1\r\nhost: a\r\n:authority: b\r\n",
    "a space in a name": b"GET /openai/v1/models HTTP/1.1\r\nhost: a\r\nx-aoai-cluster : b\r\n",
    "bytes that are no ASCII": b"GET /openai/v1/models\xff HTTP/1.1\r\nhost: a\r\n",
    "a fragment": b"GET /openai/v1/realtime?model=allowed#&model=secret HTTP/1.1\r\nhost: a\r\n",
    "another scheme": b"GET https://169.254.169.254" + TOKEN_PATH.encode()
                      + b" HTTP/1.1\r\nhost: a\r\nmetadata: true\r\n",
    "no such protocol": b"GET /openai/v1/models HTTP/3.1\r\nhost: a\r\n",
}


@pytest.mark.parametrize("head", ENVOYS_OWN.values(), ids=ENVOYS_OWN.keys())
def test_what_envoy_or_the_filter_cannot_read_goes_nowhere(
        gateway: Gateway, azure: AzureSim, head: bytes) -> None:
    with gateway.connect() as connection:
        connection.send(head + f"api-key: {KEY}\r\n\r\n".encode())
        assert 400 <= connection.read_head().status < 500
    nothing_arrived(azure)
    assert send(gateway, chat("allowed", TEAM)).status == 200


def path(text: str) -> str:
    return f"/openai/deployments/{text}?{API_VERSION}"


# A path, and what becomes of it: the path that arrives, or the reason of a refusal.
CHAT = "chat/completions"
PATHS: Dict[str, Tuple[str, Union[str, Tuple[str]]]] = {
    # Served: what arrives is what was looked at.
    "plain": (path(f"allowed/{CHAT}"), (dated("dep-a"),)),
    "double slashes": (f"//openai///deployments//allowed//chat/completions?{API_VERSION}",
                       (dated("dep-a"),)),
    "a slash at the end": (path(f"allowed/{CHAT}/"), (dated("dep-a"),)),
    "encoded letters": (f"/%6fpenai/d%65ployments/%61llow%65d/ch%61t/completions?{API_VERSION}",
                        (dated("dep-a"),)),
    "another case": (f"/OpenAI/Deployments/allowed/Chat/COMPLETIONS?{API_VERSION}",
                     (f"/OpenAI/Deployments/dep-a/Chat/COMPLETIONS?{API_VERSION}",)),
    "dots in the query": (path(f"allowed/{CHAT}") + "&a=/../secret/chat/completions",
                          (dated("dep-a") + "&a=/../secret/chat/completions",)),
    "other models in the query": (path(f"allowed/{CHAT}") + "&model=secret&deployment=secret",
                                  (dated("dep-a") + "&model=secret&deployment=secret",)),
    "a second question mark": (path(f"allowed/{CHAT}") + "?/../../secret",
                               (dated("dep-a") + "?/../../secret",)),
    # Not in scope, however it is spelled.
    "secret": (path(f"secret/{CHAT}"), "model_not_allowed"),
    "secret, encoded": (path(f"%73ecret/{CHAT}"), "model_not_allowed"),
    "secret, wholly encoded": (path(f"%73%65%63%72%65%74/{CHAT}"), "model_not_allowed"),
    "secret behind double slashes": (path(f"/secret//{CHAT}"), "model_not_allowed"),
    "secret in another case around": (
        f"/OPENAI/DEPLOYMENTS/secret/{CHAT}?{API_VERSION}", "model_not_allowed"),
    "secret in another case": (path(f"Secret/{CHAT}"), "unknown_model"),
    "its deployment's name": (path(f"dep-a/{CHAT}"), "unknown_model"),
    "a parameter in the segment": (path(f"allowed;x=secret/{CHAT}"), "unknown_model"),
    "a space behind": (path(f"allowed%20/{CHAT}"), "unknown_model"),
    "a plus sign": (path(f"allowed+/{CHAT}"), "unknown_model"),
    "a slash of another script": (path(f"allowed%EF%BC%8Fsecret/{CHAT}"), "unknown_model"),
    "no model": (path(CHAT), "unknown_model"),
    # Read in two ways by two parsers.
    "dot dot": (path(f"allowed/../secret/{CHAT}"), "unknown_operation"),
    "dot dot back": (path(f"secret/../allowed/{CHAT}"), "unknown_operation"),
    "dot dot at the end": (path(f"allowed/{CHAT}/.."), "unknown_operation"),
    "dot dot out of the data plane": (
        "/openai/../metadata/identity/oauth2/token", "unknown_operation"),
    "dot dot into the data plane": (
        f"/x/../openai/deployments/allowed/{CHAT}?{API_VERSION}", "unknown_operation"),
    "a dot": (path(f"./allowed/{CHAT}"), "unknown_operation"),
    "encoded dots": (path(f"allowed/%2e%2E/secret/{CHAT}"), "unknown_operation"),
    "half encoded dots": (path(f"allowed/.%2e/secret/{CHAT}"), "unknown_operation"),
    "doubly encoded dots": (path(f"allowed/%252e%252e/secret/{CHAT}"), "unknown_operation"),
    "encoded slash": (path(f"allowed%2F..%2Fsecret/{CHAT}"), "unknown_operation"),
    "encoded slash in lower case": (path(f"allowed%2fchat/{CHAT}"), "unknown_operation"),
    "doubly encoded slash": (path(f"allowed%252F..%252Fsecret/{CHAT}"), "unknown_operation"),
    "backslashes": (path(f"allowed\\..\\secret/{CHAT}"), "unknown_operation"),
    "encoded backslash": (path(f"allowed%5C..%5csecret/{CHAT}"), "unknown_operation"),
    "backslash for a slash": (f"\\openai/deployments/allowed/{CHAT}", "unknown_operation"),
    "encoded question mark": (path(f"allowed%3F/{CHAT}"), "unknown_operation"),
    "encoded fragment": (path(f"allowed%23/{CHAT}"), "unknown_operation"),
    "nul": (path(f"allowed%00/{CHAT}"), "unknown_operation"),
    "a line break": (path(f"allowed%0d%0ahost:%20x/{CHAT}"), "unknown_operation"),
    "a triplet that is none": (path(f"allowed%zz/{CHAT}"), "unknown_operation"),
    "overlong utf-8": (path(f"allowed/%c0%ae%c0%ae/secret/{CHAT}"), "unknown_operation"),
    "behind something": (f"/x/openai/deployments/allowed/{CHAT}", "unknown_operation"),
}


@pytest.mark.parametrize("key", [INFERENCE_KEY, KEY], ids=["inference", "all operations"])
@pytest.mark.parametrize("sent, becomes", PATHS.values(), ids=PATHS.keys())
def test_the_model_that_is_authorised_is_the_one_that_is_asked_for(
        gateway: Gateway, azure: AzureSim, key: str, sent: str,
        becomes: Union[str, Tuple[str]]) -> None:
    call = Call(sent, [("api-key", key), JSON], MESSAGES)
    if isinstance(becomes, str):
        refused_or_bad_request(gateway, azure, call, becomes)
        return
    send(gateway, call)
    assert arrived_at(azure, "eastus").target == becomes[0]


def refused_or_bad_request(gateway: Gateway, azure: AzureSim, call: Call, reason: str) -> None:
    """Some of these Envoy refuses by itself, when it does not begin with a slash."""
    response = send(gateway, call)
    if call.target.startswith("/"):
        own_answer(response, reason)
    else:
        assert 400 <= response.status < 500
    nothing_arrived(azure)


QUERIES: Dict[str, Tuple[str, Optional[str], str]] = {
    # Name: query sent, query that arrives, reason of a refusal.
    "v1": ("model=allowed", "model=dep-a", ""),
    "dated": ("deployment=allowed", "deployment=dep-a", ""),
    "encoded": ("%6dod%65l=%61llowed", "%6dod%65l=dep-a", ""),
    "in another case": ("Model=allowed", "Model=dep-a", ""),
    "neighbours": ("a=%41&model=allowed&&b", "a=%41&model=dep-a&&b", ""),
    "secret": ("model=secret", None, "model_not_allowed"),
    "secret, encoded": ("model=s%65cret", None, "model_not_allowed"),
    "secret in another case of the name": ("MODEL=secret", None, "model_not_allowed"),
    "twice": ("model=allowed&model=secret", None, "missing_model"),
    "twice the same": ("model=allowed&model=allowed", None, "missing_model"),
    "under both names": ("model=allowed&deployment=secret", None, "missing_model"),
    "twice, once encoded": ("model=allowed&%6dodel=secret", None, "missing_model"),
    "twice, once in another case": ("model=allowed&MODEL=secret", None, "missing_model"),
    "an encoded separator": ("model=allowed%26model%3Dsecret", None, "unknown_model"),
    "a semicolon": ("model=allowed;model=secret", None, "unknown_model"),
    "empty": ("model=", None, "unknown_model"),
    "no value": ("model", None, "unknown_model"),
    "nul": ("model=allowed%00", None, "unknown_model"),
    "not utf-8": ("model=%ff", None, "unknown_model"),
    "none": ("a=b", None, "missing_model"),
}


@pytest.mark.parametrize("sent, left, reason", QUERIES.values(), ids=QUERIES.keys())
def test_the_querys_model_that_is_authorised_is_the_one_that_is_asked_for(
        gateway: Gateway, azure: AzureSim, sent: str, left: Optional[str], reason: str) -> None:
    call = get(f"/openai/v1/realtime?{sent}", TEAM)
    if left is None:
        refused(gateway, azure, call, reason)
        return
    send(gateway, call)
    assert arrived_at(azure, "eastus").target == f"/openai/v1/realtime?{left}"


UNKNOWN_PATHS: List[str] = [
    "/openai/v1/deployments/secret/chat/completions",
    "/openai/openai/deployments/secret/chat/completions",
    "/openai/deployments",
    "/openai/v2/chat/completions",
    "/openai",
    "/openai/v1",
]


@pytest.mark.parametrize("target", UNKNOWN_PATHS)
def test_a_path_nobody_has_looked_at_is_not_inference(
        gateway: Gateway, azure: AzureSim, target: str) -> None:
    refused(gateway, azure, Call(target, [INFERENCE, JSON], MESSAGES), "operation_not_allowed")
