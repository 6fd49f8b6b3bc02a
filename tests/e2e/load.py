"""Clients that ask all the time, three regions that throttle what is marked so, and whether each
response is the one of its request: from the right region, after the right attempts, each with the
right content.

    with Load(gateway, regions) as load:
        load.grow()               # so many more requests
        held = load.hold()        # streams, uploads and attempts that are in the middle of it
        gateway.reconfigure(...)
        load.replaced()
        held.finish()
    load.check(names)
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from itertools import count, cycle
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from azure_sim import Answer, AzureSim, Delivery, Gate, ManagedIdentity, RecordedRequest, errors
from azure_sim.script import Step
from e2e import config
from e2e.calls import API_VERSION, unmetered
from e2e.gateway import Gateway
from e2e.regions import own_headers
from e2e.side_by_side import SideBySide
from e2e.wire import Connection, Head, Response, request

Json = Dict[str, Any]
KEY = "aoai_the-search-teams-key-0001"
REGIONS = ("aa", "bb", "cc")
_CLIENTS = 4
# Kinds of models: of regions in turn; whose first region throttles what is marked so; whose first two
# do; of two regions; and those of one request each. What one request teaches the gateway is nothing to
# the other clients' nor to the client's next ones.
STEADY, THROTTLED, TWICE, PAIR, ONCE = "steady", "throttled", "twice", "pair", "once"
_OF_CLIENT = 6
_ONCE = [f"{ONCE}-{number}" for number in range(120)]
MODELS = [*(f"{kind}-{client}-{number}" for kind in (STEADY, THROTTLED, TWICE, PAIR)
            for client in range(_CLIENTS) for number in range(_OF_CLIENT)), *_ONCE]
# By which a request says what shall become of it, and a response which request it is for.
MARK, THROTTLES, RESETS, SEEN = "x-mark", "x-throttles", "x-resets", "x-seen"
_V1 = "/openai/v1/chat/completions"
# A client opens another connection after so many requests, unless it keeps its first.
_ON_ONE_CONNECTION = 5
_PADDING = (0, 700, 40_000)


def deployment(region: str, model: str, suffix: str = "") -> str:
    """What a region calls a model: each another name, of another length."""
    return {"aa": f"{model}-2024-11-20", "bb": f"b-{model}", "cc": f"in.cc.{model}"}[region] + suffix


@dataclass
class Regions:
    """The regions in simulated Azure, and who signs in to each: aa has the machine's own identity, the
    others another."""

    azure: AzureSim
    others: ManagedIdentity = field(default_factory=ManagedIdentity)
    gates: Dict[str, Gate] = field(default_factory=dict)

    def prepare(self, suffixes: Sequence[str] = ("",)) -> None:
        """What a reset takes away. Deployments have a name with each of these suffixes."""
        machine = self.azure.identity.system_assigned
        assert machine is not None
        self.azure.identity.user_assigned = [self.others]
        for region in REGIONS:
            if region not in self.azure.resources:
                self.azure.add_resource(region, host=f"contoso-{region}.openai.azure.com")
            resource = self.azure.resources[region]
            resource.deployments = {deployment(region, model, suffix): "gpt-4o"
                                    for model in MODELS for suffix in suffixes}
            resource.principals = {self.signs_in(region)}
            resource.script.always(self._rule(region))

    def signs_in(self, region: str) -> str:
        """The object id of the identity that a region takes."""
        machine = self.azure.identity.system_assigned
        assert machine is not None
        return machine.object_id if region == "aa" else self.others.object_id

    def document(self, *, keys: Sequence[str] = (), suffixes: Optional[Dict[str, str]] = None,
                 weights: Sequence[int] = (3, 2, 1)) -> Json:
        """The document. `keys` are further ones; `suffixes` are those of the deployments in each region;
        `weights` are those of the steady model's regions."""
        found = suffixes or {}

        def model(name: str) -> Json:
            kind = name.partition("-")[0]
            regions = REGIONS[1:] if kind == PAIR else REGIONS
            return config.model(name, *[
                config.route(region, deployment=deployment(region, name, found.get(region, "")),
                             **({"weight": weight} if kind == STEADY else {"priority": rank}))
                for rank, (region, weight) in enumerate(zip(regions, weights))])
        return config.config(
            subscriptions=[config.subscription("search", key=KEY),
                           *(config.subscription(f"team-{number}", key=key)
                             for number, key in enumerate(keys))],
            backends=[config.backend(self.azure.resources[region],
                                     **({} if region == "aa" else {"identity": "others"}))
                      for region in REGIONS],
            identities={"others": config.managed_identity(client_id=self.others.client_id)},
            models=[model(name) for name in MODELS],
            failover={"cooldown": "1s", "retry_within": "5m"})

    def wait_for(self, region: str, mark: str) -> None:
        """Returns when a request has arrived whole."""
        self.azure.resources[region].recorder.wait_until(
            lambda all_seen: any(seen.complete and seen.header(MARK) == mark for seen in all_seen),
            f"request {mark}")

    def _rule(self, region: str) -> Callable[[RecordedRequest], Optional[Step]]:
        resource = self.azure.resources[region]

        def rule(seen: RecordedRequest) -> Optional[Step]:
            mark = str(seen.header(MARK))
            gate = self.gates.get(mark)
            if seen.header(RESETS) == region:
                return Delivery(before=gate, reset=True)
            if region in (seen.header(THROTTLES) or "").split(","):
                answer = errors.throttled(retry_after_ms="1")
                delivery = Delivery(before=gate)
            else:
                answer = resource.answer(seen)
                delivery = Delivery(each_chunk=gate)
            return answer.with_headers([(SEEN, mark)]).delivered(delivery)
        return rule


@dataclass(frozen=True)
class Sent:
    """A request, and what it was sent on: `version` is the number of replacements that were over before
    its connection was made."""

    mark: str
    model: str
    in_url: bool
    version: int
    throttles: Tuple[str, ...] = ()
    resets: str = "none"
    stream: bool = False
    padding: int = 0
    key: str = KEY

    @property
    def body(self) -> bytes:
        fields: Json = {"messages": [{"role": "user", "content": self.mark}],
                        "metadata": "x" * self.padding}
        if not self.in_url:
            fields = {"user": self.mark, "model": self.model, **fields}
        if self.stream:
            fields["stream"] = True
        return json.dumps(fields).encode()

    def raw(self) -> bytes:
        target = _dated(self.model) if self.in_url else _V1
        headers = [("api-key", self.key), ("content-type", "application/json"), (MARK, self.mark),
                   (THROTTLES, ",".join(self.throttles)), (RESETS, self.resets)]
        return request("POST", target, headers, self.body)

    def as_attempt(self, name: str) -> Tuple[str, bytes]:
        """Target and body with which it arrives at a deployment."""
        if self.in_url:
            return _dated(name), self.body
        return _V1, self.body.replace(f'"model": "{self.model}"'.encode(),
                                      f'"model": "{name}"'.encode())


@dataclass(frozen=True)
class Answered:
    """What became of a request."""

    sent: Sent
    status: int
    region: str
    attempts: int


def _dated(model: str) -> str:
    return f"/openai/deployments/{model}/chat/completions?{API_VERSION}"


class Held:
    """Requests that are in the middle of it, by URL and by body: streams; attempts that will be
    throttled, or reset; and bodies of which a half has been sent, to be throttled too."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._gates: List[Gate] = []
        self._streams: List[Tuple[Connection, Sent, Head, List[bytes]]] = []
        self._attempts: List[Tuple[Connection, Sent]] = []
        self._uploads: List[Tuple[Connection, Sent, bytes]] = []
        for in_url in (True, False):
            connection, sent = load.begin(in_url=in_url, stream=True)
            gate = self._hold(sent)
            connection.send(sent.raw())
            gate.release()
            head, first = connection.read_head(), connection.read_event()
            assert head.status == 200 and first is not None
            self._streams.append((connection, sent, head, [first.data]))
            for trouble in ({"throttles": ("aa",)}, {"resets": "aa"}):
                connection, sent = load.begin(in_url=in_url, **trouble)
                self._hold(sent)
                connection.send(sent.raw())
                load.regions.wait_for("aa", sent.mark)
                self._attempts.append((connection, sent))
            connection, sent = load.begin(in_url=in_url, throttles=("aa",), padding=30_000)
            raw = sent.raw()
            connection.send(raw[:-15_000])
            self._uploads.append((connection, sent, raw[-15_000:]))

    def _hold(self, sent: Sent) -> Gate:
        gate = self._load.regions.gates[sent.mark] = Gate()
        self._gates.append(gate)
        return gate

    def finish(self) -> None:
        """Lets them go on, and checks that each is whole."""
        for gate in self._gates:
            gate.open()
        for connection, sent, head, events in self._streams:
            events += [event.data for event in iter(connection.read_event, None)]
            answered = self._load.answered(sent, Response(head, b"".join(
                event + b"\n\n" for event in events)))
            assert (answered.region, answered.attempts) == ("aa", 1), answered
            connection.close()
        for connection, sent in self._attempts:
            self._second(connection, sent)
        for connection, sent, rest in self._uploads:
            connection.send(rest)
            self._second(connection, sent)

    def _second(self, connection: Connection, sent: Sent) -> None:
        answered = self._load.answered(sent, connection.read_response())
        assert (answered.status, answered.region, answered.attempts) == (200, "bb", 2), answered
        connection.close()


class Load(SideBySide[int]):
    """The clients: the first keeps its connection, the others open another one again and again.
    A response that is not right ends its client, and then the test.

    `may_throttle` are the kinds of models of which a caller may get a 429 that it asked for."""

    def __init__(self, gateway: Gateway, regions: Regions, *,
                 may_throttle: Sequence[str] = (TWICE,)) -> None:
        self.gateway, self.regions = gateway, regions
        self.may_throttle = may_throttle
        self.version = 0
        self.results: List[Answered] = []
        self._marks = count()
        self._once = iter(_ONCE)
        self._errors: List[BaseException] = []
        super().__init__(range(_CLIENTS))

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)
        if self._errors:
            raise self._errors[0]

    def grow(self, by: int = 60) -> None:
        """Returns when so many more requests have been served by all attempts that there are, on
        connections that were made after the last replacement."""
        start = len(self.results)

        def enough() -> bool:
            if self._errors:
                raise self._errors[0]
            new = [one for one in self.results[start:] if one.sent.version == self.version]
            attempts = {one.attempts for one in new if one.status == 200}
            return len(self.results) >= start + by and len(new) >= by // 2 and attempts == {1, 2, 3}
        self.gateway.envoy.wait_until(enough, f"{by} more requests")

    def hold(self) -> Held:
        """Requests that are in the middle of it until they may finish."""
        return Held(self)

    def replaced(self) -> None:
        """A replacement is over: what is connected from now on is of the new."""
        self.version += 1

    def begin(self, **fields: Any) -> Tuple[Connection, Sent]:
        """A connection, and a request for a model of its own that is not sent yet."""
        return self.gateway.connect(), self.once(**fields)

    def once(self, **fields: Any) -> Sent:
        """A request for a model of its own."""
        return self.request(next(self._once), **fields)

    def request(self, model: str, **fields: Any) -> Sent:
        return Sent(f"mark-{next(self._marks)}", model, **{"version": self.version, **fields})

    def answered(self, sent: Sent, response: Response) -> Answered:
        """Checks that a response is the one of this request."""
        own = own_headers(response)
        region, attempts = own.pop("x-aoai-backend", "none"), int(own.pop("x-aoai-attempts", "0"))
        own.pop("x-aoai-diagnosis", None)
        assert response.status in (200, 429) and not own, (sent, response)
        assert response.head.values(SEEN) == [sent.mark], (sent, response)
        assert (response.status == 429) == (region in sent.throttles), (sent, response)
        if response.status == 429:
            assert sent.model.partition("-")[0] in self.may_throttle, (sent, response)
            # The region's own, unless the filter knows of another one that is ready.
            assert response.head.values("retry-after-ms") in (["1"], ["1000"]), (sent, response)
            assert json.loads(response.body)["error"]["code"] == "429"
        else:
            assert content(sent, response.body) == f"answer from {region}", (sent, response)
        found = Answered(sent, response.status, region, attempts)
        self.results.append(found)
        return found

    def check(self, names: Callable[[Sent, str], Sequence[str]]) -> Counter[Tuple[int, int]]:
        """Checks every attempt at each request: that there were as many as its caller was told, the last
        one where that was answered, and each with the host, the identity, the path and the body for its
        region, under one of the `names` of a request in a region. Returns how often which status came
        after how many attempts."""
        attempts: Dict[str, List[Tuple[str, RecordedRequest]]] = {}
        for region in REGIONS:
            for seen in self.regions.azure.resources[region].requests:
                attempts.setdefault(str(seen.header(MARK)), []).append((region, seen))
        assert set(attempts) == {one.sent.mark for one in self.results}
        assert len(attempts) == len(self.results), "a request was answered twice"
        for one in self.results:
            arrived = sorted(attempts[one.sent.mark], key=lambda pair: pair[1].received_at)
            tried = [region for region, _ in arrived]
            assert len(tried) == one.attempts and tried[-1] == one.region, (one, tried)
            assert set(tried[:-1]) <= {*one.sent.throttles, one.sent.resets}, (one, tried)
            for region, seen in arrived:
                self._check_attempt(one.sent, region, seen, names(one.sent, region))
        return Counter((one.status, one.attempts) for one in self.results)

    def _check_attempt(self, sent: Sent, region: str, seen: RecordedRequest, names: Sequence[str]
                       ) -> None:
        assert seen.complete and not seen.left, (sent, seen)
        assert seen.host == self.regions.azure.resources[region].host, (sent, seen)
        assert len(seen.header_values("authorization")) == 1 and seen.token is not None
        assert seen.token.oid == self.regions.signs_in(region), (sent, seen)
        own = [name for name, _ in seen.headers if name.startswith("x-aoai-") or name == "api-key"]
        assert not own, (sent, own)
        assert (seen.target, unmetered(seen.body)) in [sent.as_attempt(name) for name in names], (sent, seen)
        assert seen.header_values("content-length") == [str(len(seen.body))], (sent, seen)

    def call(self, client: int) -> None:
        connection, used, version = None, 0, self.version
        try:
            for fields in _requests(client):
                if self.stop.is_set():
                    break
                if connection is None or (used == _ON_ONE_CONNECTION and client):
                    if connection is not None:
                        connection.close()
                    version, used = self.version, 0
                    connection = self.gateway.connect()
                sent = self.request(version=version, **fields)
                response = connection.exchange(sent.raw())
                self.answered(sent, response)
                used += 1
                if response.head.values("connection") == ["close"]:
                    connection.close()
                    connection = None
        except BaseException as error:  # told by the test's own thread
            self._errors.append(error)
        finally:
            if connection is not None:
                connection.close()


def _requests(client: int) -> Iterator[Json]:
    padding = cycle(_PADDING)
    for number in count():
        in_url, model = number % 2 == 0, f"{client}-{number % _OF_CLIENT}"
        yield {"model": f"{STEADY}-{model}", "in_url": in_url, "stream": number % 3 == 0}
        yield {"model": f"{THROTTLED}-{model}", "in_url": in_url, "throttles": ("aa",),
               "padding": next(padding)}
        yield {"model": f"{TWICE}-{model}", "in_url": in_url, "throttles": ("aa", "bb"),
               "stream": number % 3 == 1}
        yield {"model": f"{PAIR}-{model}", "in_url": in_url, "throttles": ("bb",),
               "padding": next(padding)}


def content(sent: Sent, body: bytes) -> str:
    """The text of a chat completion; of a streamed one, if all of it is there."""
    if not sent.stream:
        return str(json.loads(body)["choices"][0]["message"]["content"])
    *events, done, nothing = body.split(b"\n\n")
    assert (done, nothing) == (b"data: [DONE]", b""), (sent, body)
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop", (sent, body)
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
