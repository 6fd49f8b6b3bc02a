"""What one tenant can do to a gateway. Each attack is one act, of which there are very many; each
varies it at random. It returns what came of it, for people to read."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import Any, Callable, Deque, Dict, List, Sequence, Tuple

from azure_sim.inference import UPSETTING
from chaos.arrivals import REFUSED
from chaos.scene import LARGEST, MODELS, NEIGHBOUR_KEY, SECRET, TOO_LARGE_FOR_NOW
from e2e.calls import API_VERSION
from e2e.load import MARK
from e2e.wire import Closed, Connection, request

Pairs = Sequence[Tuple[str, str]]
# How long an attack waits for a response that it does not need.
_PATIENCE = 5.0
_FORM = "multipart/form-data; boundary=b"
_V1 = "/openai/v1/chat/completions"


@dataclass
class Attacker:
    """Where the gateway is, and what the attacks of one kind hold on to."""

    port: int
    random: Random
    held: Deque[Connection] = field(default_factory=deque)

    def connect(self) -> Connection:
        return Connection(self.port, timeout=_PATIENCE)

    def ask(self, raw: bytes) -> str:
        """The outcome of a request on a connection of its own."""
        with self.connect() as connection:
            try:
                response = connection.exchange(raw)
            except Closed:
                return "closed"
            except TimeoutError:
                return "no response"
        reason = response.head.header("x-aoai-reason")
        return f"{response.status} {reason}" if reason else str(response.status)

    def hold(self, connection: Connection, most: int) -> str:
        """Keeps a connection as it is; of very many the oldest goes, by a reset or not."""
        self.held.append(connection)
        if len(self.held) > most:
            oldest = self.held.popleft()
            oldest.leave() if self.random.random() < 0.5 else oldest.close()
        return "held"

    def chat(self, fields: Dict[str, Any], *headers: Tuple[str, str], mark: str = "attack") -> bytes:
        """A chat request that names an allowed model in its URL or its body."""
        model = self.random.choice(MODELS)
        messages = {"messages": [{"role": "user", "content": "hi"}]}
        if self.random.random() < 0.5:
            body = {**messages, **fields}
            return post(_dated(model), json.dumps(body).encode(), *headers, mark=mark)
        body = {"model": model, **messages, **fields}
        if self.random.random() < 0.5:
            body["model"] = body.pop("model")  # behind everything else
        return post(_V1, json.dumps(body).encode(), *headers, mark=mark)


def post(target: str, body: bytes, *headers: Tuple[str, str], mark: str = "attack",
         kind: str = "application/json", key: str = NEIGHBOUR_KEY) -> bytes:
    pairs = [("content-type", kind), (MARK, mark), *headers]
    return request("POST", target, [("api-key", key), *pairs] if key else pairs, body)


def _dated(model: str) -> str:
    return f"/openai/deployments/{model}/chat/completions?{API_VERSION}"


def _prompt(tokens: int) -> Dict[str, Any]:
    return {"messages": [{"role": "user", "content": "word" * tokens}]}


def oversized(attacker: Attacker) -> str:
    """Larger than any region's quota: 429 for a day from each."""
    fields = attacker.random.choice([_prompt(LARGEST + 1), {"max_tokens": 50 * LARGEST}])
    return attacker.ask(attacker.chat(fields))


def greedy(attacker: Attacker) -> str:
    """Asks for so much that each region says 429 for some seconds."""
    tokens = attacker.random.randint(TOO_LARGE_FOR_NOW + 1, LARGEST - 100)
    return attacker.ask(attacker.chat({attacker.random.choice(
        ["max_tokens", "max_completion_tokens"]): tokens}))


def upsetting(attacker: Attacker) -> str:
    """Fails with a 500 wherever it goes."""
    fields = {"messages": [{"role": "user", "content": f"please {UPSETTING}"}],
              "stream": attacker.random.random() < 0.3}
    return attacker.ask(attacker.chat(fields))


def stalled(attacker: Attacker) -> str:
    """An upload that stops on its way, and stays."""
    raw = attacker.chat({"metadata": "x" * attacker.random.choice([100, 30_000, 300_000])})
    connection = attacker.connect()
    connection.send(raw[:-attacker.random.randint(1, 80)])
    return attacker.hold(connection, 40)


def abandoned(attacker: Attacker) -> str:
    """An upload that is given up on its way, or a request whose response nobody waits for."""
    raw = attacker.chat({"metadata": "x" * attacker.random.choice([100, 30_000, 300_000])})
    connection = attacker.connect()
    whole = attacker.random.random() < 0.4
    connection.send(raw if whole else raw[:-attacker.random.randint(1, 80)])
    if attacker.random.random() < 0.3:
        connection.half_close()
    if not whole or attacker.random.random() < 0.5:
        connection.silent_for(attacker.random.uniform(0, 0.01))
    connection.leave()
    return "left"


def refused(attacker: Attacker) -> str:
    """A body that names no model, or two, or whose end is missing though all of it is there."""
    allowed = attacker.random.choice(MODELS)
    body, kind = attacker.random.choice(_refused_bodies(allowed))
    target = _V1 if kind == "application/json" else "/openai/v1/audio/transcriptions"
    if attacker.random.random() < 0.5:
        return attacker.ask(post(target, body, mark=REFUSED, kind=kind))
    chunks = [body[start:start + 40] for start in range(0, len(body), 40)]
    head = post(target, b"", ("transfer-encoding", "chunked"), mark=REFUSED, kind=kind)
    return attacker.ask(head + b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in chunks)
                        + b"0\r\n\r\n")


def _refused_bodies(allowed: str) -> List[Tuple[bytes, str]]:
    model, secret = allowed.encode(), SECRET.encode()
    part = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    jsons = [
        b'{"model":"%s","messages":[],"model":"%s"}' % (model, secret),
        b'{"model":"%s","Model":"%s","messages":[]}' % (model, secret),
        b'{"model":"%s","messages":[{"role":"user","content":"hi"}' % model,
        b'{"model":"%s","messages":[]}{"model":"%s"}' % (model, secret),
        b'{"model":"%s","messages":[]' % model + b" " * 30_000,
        b'{"model":1,"messages":[]}',
        b"[]",
    ]
    forms = [
        part % (b"model", model)
        + (part % (b"model", secret)).replace(b"\r\n\r\n", b"\n\n") + b"--b--\r\n",
        part % (b"model", model) + part % (b"model", secret) + b"--b--\r\n",
        part % (b"model", model) + part % (b"file", b"x" * 20_000),
        part % (b"model", model) + b"--b--\r\n" + part % (b"model", secret) + b"--b--\r\n",
        part % (b"file", b"x" * 20_000) + b"--b--\r\n",
    ]
    return [*((body, "application/json") for body in jsons), *((body, _FORM) for body in forms)]


def without_model(attacker: Attacker) -> str:
    """A large body that has not named its model yet, and never will."""
    announced = 9 << 20
    head = post(_V1, b"", ("content-length", str(announced)), mark=REFUSED)
    size = attacker.random.choice([1 << 10, 1 << 20, 3 << 20])
    connection = attacker.connect()
    try:
        connection.send(head, b'{"messages":["', b"x" * size)
    except (OSError, Closed):
        connection.close()
        return "closed"
    return attacker.hold(connection, 40)


def half_heads(attacker: Attacker) -> str:
    """A request whose head never ends."""
    connection = attacker.connect()
    raw = attacker.chat({})
    connection.send(raw[:attacker.random.randint(1, 100)])
    return attacker.hold(connection, 100)


def invalid(attacker: Attacker) -> str:
    """What the gateway, or a region, answers with a 4xx."""
    allowed = _dated(attacker.random.choice(MODELS))
    return attacker.ask(attacker.random.choice([
        post(_dated(SECRET), b'{"messages":[]}'),
        post(_V1, json.dumps({"model": SECRET, "messages": []}).encode()),
        post(_dated("absent"), b'{"messages":[]}'),
        post(allowed, b'{"messages":'),
        post(allowed, b"{}"),
        post("/openai/deployments/../x", b"{}"),
        post("/openai/v1/nothing/here", b"{}"),
        post(allowed, b"{}", key=f"aoai_guess-{attacker.random.random()}"),
        post(allowed, b"{}", key=""),
        post(_V1, b'{"model":"balanced"}', ("authorization", "Bearer other")),
        post("/openai/v1/files", b"{}"),
        b"GET /openai/v1/realtime?model=secret HTTP/1.1\r\nhost: a\r\n\r\n",
        b"NONSENSE\r\n\r\n",
    ]))


def forged(attacker: Attacker) -> str:
    """Headers that only the gateway, or Envoy, may set."""
    headers = [
        ("x-aoai-cluster", attacker.random.choice(["azure_identity", "aoai_north", "aoai/north>east"])),
        ("x-aoai-retry", "1"), ("x-aoai-backend", "west"), ("x-aoai-attempts", "0"),
        ("x-envoy-retry-on", "5xx,retriable-4xx,reset"), ("x-envoy-max-retries", "100"),
        ("x-envoy-upstream-rq-timeout-ms", "1"), ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
        ("x-envoy-hedge-on-per-try-timeout", "true"), ("x-envoy-upstream-alt-stat-name", "a b"),
        ("x-envoy-expected-rq-timeout-ms", "1"), ("x-envoy-decorator-operation", "x"),
        ("x-forwarded-for", "169.254.169.254"), ("x-request-id", "1" * 200),
        ("connection", "authorization, x-aoai-cluster"), ("expect", "100-continue"),
        ("te", "trailers"), ("x-ms-client-request-id", "1"),
    ]
    chosen = attacker.random.sample(headers, attacker.random.randint(1, 6))
    return attacker.ask(attacker.chat({}, *chosen))


def unread(attacker: Attacker) -> str:
    """A response that nobody reads."""
    connection = attacker.connect()
    connection.send(attacker.chat({"stream": True}))
    return attacker.hold(connection, 40)


def ordinary(attacker: Attacker) -> str:
    """Nothing but a request, and now and then a large one."""
    size = attacker.random.choices([10, 200_000, 3 << 20], [20, 3, 1])[0]
    return attacker.ask(attacker.chat({"metadata": "x" * size}))


# By name, with the seconds between two acts, on average.
ATTACKS: Dict[str, Tuple[Callable[[Attacker], str], float]] = {
    attack.__name__: (attack, interval) for attack, interval in (
        (oversized, 0.3), (greedy, 0.3), (upsetting, 0.1), (stalled, 0.1), (abandoned, 0.05),
        (refused, 0.05), (without_model, 0.3), (half_heads, 0.05), (invalid, 0.02), (forged, 0.1),
        (unread, 0.1), (ordinary, 0.1))}
