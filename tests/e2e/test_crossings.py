"""How often a request crosses the border between Envoy and the module.

What the module costs is mostly the number of its crossings (calls of Envoy into the module and of
the module into Envoy), and that number, other than a time, is the same on every machine. Envoy logs
each call and each return at the level `trace` of its logger `wasm`; calls are counted, returns are
not. A failure prints the calls in order, the nested ones indented.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Set, Tuple

import pytest

from azure_sim import AzureSim, Delivery, Gate
from e2e import config
from e2e.envoy import Envoy
from e2e.rendering import bootstrap, resource_at
from e2e.wire import Connection, Head, request

# The most crossings of a request that is served at its first attempt, and of one more piece of a
# response. Source: issue 7, "Fewer crossings".
URL_NAMES_THE_MODEL = 20 + 1  # The attempt is counted by model and status.
BODY_NAMES_THE_MODEL = 24
IN_A_POOL = 40
STREAMED_EVENT = 1
# A response of JSON is read (2, with the allocation of the piece); at the end, the time is read and
# recorded (2), each kind of tokens counted (1 to 3), and subscription, model, operation, backend, tokens, input
# and output are left for access logs (7).
METERED_INPUT = 12
METERED = METERED_INPUT + 2
# A chat is asked to come uncompressed, as long as the reserve makes it (1), its body is read (2) and
# ends with the reserve (1).
ASKED_FOR_USAGE = 4
# And how many backends were asked.
METERED_IN_A_POOL = METERED + 1
# A piece of a response is read, with its allocation.
READ = 2

# Of so many requests of a kind, the one with the fewest crossings counts.
SAME_REQUESTS = 5

LISTENER = "aoai"
KEY = "aoai_crossings_key"
GRANTED_KEY = "aoai_crossings_granted_key"
MODEL = "gpt-4o"
REGIONS = ("eastus", "sweden", "france")
HEADERS = [("api-key", KEY), ("content-type", "application/json")]
CHAT = f"/openai/deployments/{MODEL}/chat/completions?api-version=2024-10-21"
MESSAGES = b'{"messages":[{"role":"user","content":"hi"}]}'
URL_NAMED = request("POST", CHAT, HEADERS, MESSAGES)
URL_NAMED_AND_GRANTED = request("POST", CHAT, [("api-key", GRANTED_KEY), *HEADERS[1:]], MESSAGES)
EMBEDDINGS = request("POST", f"/openai/deployments/{MODEL}/embeddings?api-version=2024-10-21",
                     HEADERS, b'{"input":"hi"}')
BODY_NAMED = request("POST", "/openai/v1/chat/completions", HEADERS,
                     b'{"messages":[{"role":"user","content":"hi"}],"model":"gpt-4o"}')
STREAMED = request("POST", CHAT, HEADERS,
                   b'{"messages":[{"role":"user","content":"hi"}],"stream":true}')

# `[time][thread][trace][wasm] [file] [host->vm] name(arguments)`; a return has `[host<-vm]`.
_LINE = re.compile(r"^\[[^\]]*\]\[(?P<thread>\d+)\]\[trace\]\[wasm\] \[[^\]]*\] "
                   r"\[(?P<way>host->vm|vm->host|host<-vm|vm<-host)\] (?P<call>.*)$", re.MULTILINE)
_CALLBACK = re.compile(r"proxy_on_(?P<name>\w+)\((?P<context>\d+)(?:, (?P<parent>\d+))?")

# One context of the module: its number, and the thread, for each thread has a module of its own.
Context = Tuple[str, int]


@dataclass(frozen=True)
class Crossing:
    """A call of Envoy into the module (`host->vm`) or of the module into Envoy (`vm->host`), made
    during a callback for this context; `depth` 0 is the callback itself."""

    context: Context
    depth: int
    way: str
    call: str

    def __str__(self) -> str:
        return f"{'  ' * self.depth}[{self.way}] {self.call}"


@pytest.fixture(scope="module")
def single(azure: AzureSim) -> Iterator[Envoy]:
    """A gateway whose model is on one backend: no backend stage."""
    with _gateway(azure, *REGIONS[:1]) as envoy:
        yield envoy


@pytest.fixture(scope="module")
def pool(azure: AzureSim) -> Iterator[Envoy]:
    """A gateway whose model is on three backends: both stages."""
    with _gateway(azure, *REGIONS) as envoy:
        yield envoy


def test_a_request_whose_url_names_the_model(single: Envoy) -> None:
    crossings = _of_a_request(single, EMBEDDINGS)
    _assert_at_most(URL_NAMES_THE_MODEL + METERED_INPUT, crossings)
    assert "proxy_get_buffer_bytes(0" not in _listed(crossings), "its body is not read"


@pytest.mark.parametrize("raw", [URL_NAMED, URL_NAMED_AND_GRANTED], ids=["checked", "granted"])
def test_a_chat_whose_url_names_the_model(single: Envoy, raw: bytes) -> None:
    _assert_at_most(URL_NAMES_THE_MODEL + METERED + ASKED_FOR_USAGE, _of_a_request(single, raw))


def test_a_request_whose_body_names_the_model(single: Envoy) -> None:
    _assert_at_most(BODY_NAMES_THE_MODEL + METERED, _of_a_request(single, BODY_NAMED))


def test_a_request_in_a_pool(pool: Envoy) -> None:
    crossings = _of_a_request(pool, URL_NAMED, before=len(REGIONS))
    assert len({crossing.context for crossing in crossings}) == 2, _listed(crossings)
    _assert_at_most(IN_A_POOL + METERED_IN_A_POOL + ASKED_FOR_USAGE, crossings)


def test_a_streamed_event(single: Envoy, azure: AzureSim) -> None:
    _assert_at_most(STREAMED_EVENT + READ, _of_an_event(single, azure))


def test_a_streamed_event_in_a_pool(pool: Envoy, azure: AzureSim) -> None:
    # Both stages see it, and one reads it.
    _assert_at_most(2 * STREAMED_EVENT + READ, _of_an_event(pool, azure))


@contextlib.contextmanager
def _gateway(azure: AzureSim, *regions: str) -> Iterator[Envoy]:
    resources = [
        azure.resources.get(region) or azure.add_resource(
            region, host=f"contoso-{region}.openai.azure.com", deployments={MODEL: MODEL})
        for region in regions]
    document = config.config(
        subscriptions=[config.subscription("team", key=KEY),
                       config.subscription("granted", key=GRANTED_KEY, operations=["*"])],
        backends=[config.backend(resource) for resource in resources],
        models=[config.model(MODEL, *resources)])
    rendered = bootstrap(document, "--identity", f"127.0.0.1:{azure.identity.port}",
                         *map(resource_at, resources))
    with Envoy(rendered, wasm_log_level="trace") as envoy:
        yield envoy


def _of_a_request(envoy: Envoy, raw: bytes, before: int = 1) -> List[Crossing]:
    """The crossings of one request, sent after so many others of its kind have been served: the fewest of several,
    because a body that a busy machine delivers in two pieces takes a callback more."""
    found: List[List[Crossing]] = []
    with Connection(envoy.port(LISTENER)) as connection:
        for _ in range(before):
            _assert_served(connection.exchange(raw).head)
        known = len(_once_streams_ended(envoy))
        for _ in range(SAME_REQUESTS):
            _assert_served(connection.exchange(raw).head)
            crossings = _once_streams_ended(envoy)
            found.append(crossings[known:])
            known = len(crossings)
    return min(found, key=len)


def _of_an_event(envoy: Envoy, azure: AzureSim) -> List[Crossing]:
    """The crossings between the arrivals of a response's first two events."""
    gate = Gate()
    for resource in azure.resources.values():
        resource.script.then(Delivery(each_chunk=gate))
    with Connection(envoy.port(LISTENER)) as connection:
        connection.send(STREAMED)
        _assert_served(connection.read_head())
        gate.release()
        assert connection.read_event() is not None
        # Envoy logs as it calls, and sends a piece after the callbacks for it.
        before = _crossings(envoy.log_text())
        gate.release()
        assert connection.read_event() is not None
        crossings = _crossings(envoy.log_text())[len(before):]
        gate.open()
        while connection.read_event() is not None:
            pass
    _once_streams_ended(envoy)
    assert "proxy_on_response_body" in _listed(crossings), "the event was not seen"
    return crossings


def _assert_served(head: Head) -> None:
    """The figures are of requests that end well at the first attempt."""
    assert (head.status, head.header("x-aoai-attempts") or "1") == (200, "1"), head


def _once_streams_ended(envoy: Envoy) -> List[Crossing]:
    """All crossings so far, as soon as every stream's contexts have been deleted."""
    def look() -> Optional[List[Crossing]]:
        crossings = _crossings(envoy.log_text())
        deleted = {one.context for one in crossings if one.call.startswith("proxy_on_delete(")}
        ended = crossings and all(one.context in deleted for one in crossings)
        return crossings if ended else None
    return envoy.wait_until(look, "end of the stream")


def _crossings(log: str) -> List[Crossing]:
    """Those of streams, in a log that begins with Envoy's start. What a root context does on its
    ticks comes when it comes, also in the middle of a request, and is left out."""
    found: List[Crossing] = []
    streams: Set[Context] = set()
    stacks: Dict[str, List[str]] = {}  # for each thread, the calls that have not returned
    for line in _LINE.finditer(log):
        stack = stacks.setdefault(line["thread"], [])
        if line["way"] in ("host<-vm", "vm<-host"):
            stack.pop()
            continue
        stack.append(line["call"])
        callback = _CALLBACK.match(stack[0])
        if callback is None:
            continue  # the module is being loaded
        context = (line["thread"], int(callback["context"]))
        # A root context has no parent.
        if callback["name"] == "context_create" and callback["parent"] != "0":
            streams.add(context)
        if context in streams:
            found.append(Crossing(context, len(stack) - 1, line["way"], line["call"]))
    return found


def _assert_at_most(most: int, crossings: List[Crossing]) -> None:
    if len(crossings) > most:
        pytest.fail(f"{len(crossings)} crossings, {most} at most:\n{_listed(crossings)}",
                    pytrace=False)


def _listed(crossings: List[Crossing]) -> str:
    return "\n".join(map(str, crossings))
