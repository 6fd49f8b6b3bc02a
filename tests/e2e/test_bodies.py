"""Models that a body names: found however it is cut, and every other byte as it was sent."""

from __future__ import annotations

import gzip
import json
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import pytest

from azure_sim import Answer, AzureSim, Delivery, Gate, RecordedRequest
from e2e import config
from e2e.calls import (API_VERSION, JSON, Call, arrived_at, chat, chunked, dated, get, left_clean,
                       nothing_arrived, own_answer, refused, send, served, unmetered, v1, warm)
from e2e.edits import with_trailers
from e2e.gateway import Gateway
from e2e.identity import closed_gate
from e2e.wire import Closed, Connection, request

KEY = "key-of-the-team"
TEAM = ("api-key", KEY)
PLAIN_KEY = "key-without-the-grant-for-resources"
PLAIN = ("api-key", PLAIN_KEY)
LONG = b"a-deployment-whose-name-is-much-longer-than-that-of-the-model"
PATH = "/openai/v1/chat/completions"
MIB = 1024 * 1024  # also what the gateway buffers of a body
PNG = bytes(range(256)) * 4


def document(azure: AzureSim, **more: Any) -> Dict[str, Any]:
    east, sweden = azure.resources["eastus"], azure.resources["sweden"]
    return config.config(
        subscriptions=[config.subscription(
            "team", key=KEY, models=["same", "longer", "much-shorter"], operations=["*"]),
            config.subscription("plain", key=PLAIN_KEY)],
        backends=[config.backend(east), config.backend(sweden)],
        models=[
            config.model("same", east),
            config.model("longer", config.route(east, deployment=LONG.decode())),
            config.model("much-shorter", config.route(east, deployment="s")),
            config.model("secret", sweden),
        ],
        **more,
    )


def with_resources(azure: AzureSim) -> AzureSim:
    for name in ("eastus", "sweden"):
        azure.add_resource(name, host=f"contoso-{name}.openai.azure.com", deployments={
            one: "gpt-4o" for one in ("same", LONG.decode(), "s", "secret")})
    return azure


@pytest.fixture(scope="module")
def cloud(azure: AzureSim) -> AzureSim:
    return with_resources(azure)


@pytest.fixture(scope="module")
def gateway(cloud: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    return warm(start_gateway(document(cloud, listener={"body_limit": "1MiB"})), chat("same", TEAM))


def until_read(connection: Connection) -> None:
    """Returns when Envoy has most likely read what other connections have sent before: it has
    answered what this one sends now. Only whether a cut is seen as one depends on that."""
    assert connection.exchange(get("/").raw()).status == 401


# A body, and the body that arrives.
BODIES: Dict[str, Tuple[bytes, bytes]] = {
    "model first": (b'{"model":"same","messages":[]}', b'{"model":"same","messages":[]}'),
    "model last": (b'{"messages":[],"model":"same"}', b'{"messages":[],"model":"same"}'),
    "longer, last": (b'{"messages":[],"model":"longer"}',
                    b'{"messages":[],"model":"' + LONG + b'"}'),
    "longer, first": (b'{"model":"longer","messages":[]}',
                      b'{"model":"' + LONG + b'","messages":[]}'),
    "shorter, last": (b'{"messages":[],"model":"much-shorter"}', b'{"messages":[],"model":"s"}'),
    "white space everywhere": (
        b' \r\n{\t"model" :\n "longer"  ,"messages"\r:[ ] }\n \n',
        b' \r\n{\t"model" :\n "' + LONG + b'"  ,"messages"\r:[ ] }\n \n'),
    "an escape in the key": (b'{"mod\\u0065l":"longer","messages":[]}',
                             b'{"mod\\u0065l":"' + LONG + b'","messages":[]}'),
    "only escapes in the key": (
        b'{"\\u006d\\u006F\\u0064\\u0065\\u006c":"longer","messages":[]}',
        b'{"\\u006d\\u006F\\u0064\\u0065\\u006c":"' + LONG + b'","messages":[]}'),
    "an escape in the value": (b'{"model":"lon\\u0067er","messages":[]}',
                               b'{"model":"' + LONG + b'","messages":[]}'),
    "an escape in a value that stays": (b'{"model":"s\\u0061me","messages":[]}',
                                        b'{"model":"s\\u0061me","messages":[]}'),
    "nested models": (
        b'{"a":{"model":"secret"},"messages":[{"model":"secret"}],"model":"longer"}',
        b'{"a":{"model":"secret"},"messages":[{"model":"secret"}],"model":"' + LONG + b'"}'),
    "a model in a text": (
        b'{"user":"\\",\\"model\\":\\"secret\\",\\\\","model":"longer","messages":[]}',
        b'{"user":"\\",\\"model\\":\\"secret\\",\\\\","model":"' + LONG + b'","messages":[]}'),
    "brackets in nested texts": (
        b'{"messages":[{"content":"]}\\"]}"}],"model":"longer"}',
        b'{"messages":[{"content":"]}\\"]}"}],"model":"' + LONG + b'"}'),
    "similar names": (
        b'{"models":"secret","mode":"secret","model_":1,"model":"longer","messages":[]}',
        b'{"models":"secret","mode":"secret","model_":1,"model":"' + LONG + b'","messages":[]}'),
    "every kind of value": (
        b'{"a":null,"b":true,"c":-1.5e+3,"d":"x","e":{},"f":[],"model":"longer","messages":[]}',
        b'{"a":null,"b":true,"c":-1.5e+3,"d":"x","e":{},"f":[],"model":"' + LONG
        + b'","messages":[]}'),
    "other alphabets": (
        '{"user":"\u00e4\u4e16\U0001f600","model":"longer","messages":[]}'.encode(),
        '{"user":"\u00e4\u4e16\U0001f600","model":"'.encode() + LONG + b'","messages":[]}'),
}
CUT = ["model first", "shorter, last", "an escape in the key", "an escape in the value",
       "white space everywhere", "a model in a text"]


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
@pytest.mark.parametrize("body, arrives", BODIES.values(), ids=BODIES.keys())
def test_only_the_models_value_is_changed(gateway: Gateway, azure: AzureSim, body: bytes,
                                          arrives: bytes, framing: str) -> None:
    with gateway.connect() as connection:
        connection.send(*framed(framing, body))
        response = connection.read_response()
    seen = arrived_at(azure, "eastus")
    assert (seen.target, seen.body) == (PATH, arrives)
    length, coding = [str(len(arrives))], ["chunked"]
    assert (seen.header_values("content-length"), seen.header_values("transfer-encoding")) == (
        (length, []) if framing == "content-length" else ([], coding))
    assert response.status == 200


def framed(framing: str, *pieces: bytes, kind: Tuple[str, str] = JSON, path: str = PATH,
           key: Tuple[str, str] = TEAM) -> List[bytes]:
    """A request in parts, one for each piece of the body, by either way to say where it ends."""
    if framing == "chunked":
        head = request("POST", path, [key, kind, ("transfer-encoding", "chunked")])
        *parts, end = chunked(*pieces)
        parts[0] = head + parts[0]
        parts[-1] += end
        return parts
    length = sum(len(piece) for piece in pieces)
    head = request("POST", path, [key, kind, ("content-length", str(length))])
    return [head + pieces[0], *pieces[1:]]


def assert_all_arrive(azure: AzureSim, count: int, body: bytes) -> None:
    seen = azure.resources["eastus"].wait_for_requests(count)
    assert len(seen) == count
    for one in seen:
        left_clean(azure, one, "eastus")
    assert {unmetered(one.body) for one in seen} == {body}


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
@pytest.mark.parametrize("name", CUT)
def test_a_body_may_be_cut_anywhere(gateway: Gateway, azure: AzureSim, name: str, framing: str
                                    ) -> None:
    body, arrives = BODIES[name]
    cut_everywhere(gateway, azure, body, arrives, framing, JSON, PATH)


def cut_everywhere(gateway: Gateway, azure: AzureSim, body: bytes, arrives: bytes, framing: str,
                   kind: Tuple[str, str], path: str) -> None:
    """One connection for each place: all send the first part, then all send the second."""
    cuts = range(1, len(body))
    with gateway.connect() as other:
        connections = [gateway.connect() for _ in cuts]
        halves = [framed(framing, body[:cut], body[cut:], kind=kind, path=path) for cut in cuts]
        for part in (0, 1):
            for connection, parts in zip(connections, halves):
                connection.send(parts[part])
            until_read(other)
        statuses = {connection.read_response().status for connection in connections}
    for connection in connections:
        connection.close()
    assert statuses == {200}
    assert_all_arrive(azure, len(cuts), arrives)


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_a_body_may_come_byte_by_byte(gateway: Gateway, azure: AzureSim, framing: str) -> None:
    body, arrives = BODIES["an escape in the key"]
    with gateway.connect() as connection, gateway.connect() as other:
        for part in framed(framing, *(body[at:at + 1] for at in range(len(body)))):
            connection.send(part)
            until_read(other)
        assert connection.read_response().status == 200
    assert_all_arrive(azure, 1, arrives)


def json_body(text: bytes, *headers: Tuple[str, str]) -> Call:
    return v1(text, TEAM, *headers)


def typed(content_type: Optional[str], body: bytes, *more: Tuple[str, str]) -> Call:
    kind = [] if content_type is None else [("content-type", content_type)]
    return Call(PATH, [TEAM, *kind, *more], body)


SAME = b'{"model":"same","messages":[]}'
ZIPPED = gzip.compress(SAME)
UNREADABLE: Dict[str, Call] = {
    "two models": json_body(b'{"model":"same","model":"secret"}'),
    "two models, the forbidden one first": json_body(b'{"model":"secret","model":"same"}'),
    "the same model twice": json_body(b'{"model":"same","a":1,"model":"same"}'),
    "a second model, escaped": json_body(b'{"model":"same","mod\\u0065l":"secret"}'),
    "a first model, escaped": json_body(b'{"\\u006Dodel":"same","model":"same"}'),
    "a second model in another case": json_body(b'{"model":"same","Model":"secret"}'),
    "a first model in another case": json_body(b'{"MODEL":"secret","model":"same"}'),
    "a second model with a space": json_body(b'{"model":"same","model ":"secret"}'),
    "a second model that is null": json_body(b'{"model":"same","model":null}'),
    "only a model in another case": json_body(b'{"Model":"same"}'),
    "no model": json_body(b'{"messages":[]}'),
    "a nested model only": json_body(b'{"a":{"model":"same"}}'),
    "an empty object": json_body(b"{}"),
    "an empty body": json_body(b""),
    "white space": json_body(b"  \n"),
    "null": json_body(b'{"model":null}'),
    "a number": json_body(b'{"model":1}'),
    "an object": json_body(b'{"model":{"name":"same"}}'),
    "a list": json_body(b'{"model":["same"]}'),
    "a JSON array": json_body(b'[{"model":"same"}]'),
    "a JSON text": json_body(b'"model"'),
    "not JSON": json_body(b"model: same"),
    "HTML": json_body(b"<html></html>"),
    "single quotes": json_body(b"{'model':'same'}"),
    "no quotes": json_body(b'{model:"same"}'),
    "a comment": json_body(b'{/*"model":"secret",*/"model":"same"}'),
    "a comma at the end": json_body(b'{"model":"same",}'),
    "two commas": json_body(b'{"a":1,,"model":"same"}'),
    "cut in the model": json_body(b'{"model":"sam'),
    "a second document": json_body(SAME + b'{"model":"secret"}'),
    "a second document on another line": json_body(SAME + b'\n{"model":"secret"}\n'),
    "a NUL behind": json_body(SAME + b"\x00"),
    "a NUL in the key": json_body(b'{"model\x00":"secret","model":"same"}'),
    "a line break in the value": json_body(b'{"model":"same\n"}'),
    "a byte order mark": json_body(b"\xef\xbb\xbf" + SAME),
    "no UTF-8 in the value": json_body(b'{"model":"same\xff"}'),
    "half a surrogate in the value": json_body(b'{"model":"same\\ud800"}'),
    "a value of a kilobyte": json_body(b'{"model":"' + b"x" * 1024 + b'"}'),
    "UTF-16": typed("application/json; charset=utf-16", SAME.decode().encode("utf-16")),
    "UTF-16 that says nothing": json_body(SAME.decode().encode("utf-16-le")),
    "said to be UTF-16": typed("application/json; charset=utf-16", SAME),
    "said to be Latin-1": typed('application/json; charset="iso-8859-1"', SAME),
    "said to be UTF-7": typed("application/json;charset=UTF-7", SAME),
    "gzip": json_body(ZIPPED, ("content-encoding", "gzip")),
    "said to be gzip": json_body(SAME, ("content-encoding", "gzip")),
    "two encodings": json_body(SAME, ("content-encoding", "identity, br")),
    "two encoding headers": json_body(SAME, ("content-encoding", "identity"),
                                      ("content-encoding", "identity")),
    "gzip that says nothing": json_body(ZIPPED),
    "two content types": typed("application/json", SAME,
                               ("content-type", "multipart/form-data; boundary=x")),
    "an urlencoded form": typed("application/x-www-form-urlencoded", b"model=same"),
    "JSON said to be an urlencoded form": typed("application/x-www-form-urlencoded", SAME),
    "JSON said to be multipart": typed("multipart/form-data; boundary=x", SAME),
    "another multipart": typed("multipart/mixed; boundary=x", SAME),
}


@pytest.mark.parametrize("call", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_body_whose_model_cannot_be_told_goes_nowhere(
        gateway: Gateway, azure: AzureSim, call: Call) -> None:
    refused(gateway, azure, call, "missing_model", hidden=[KEY])


def test_an_empty_chunked_body_names_no_model(gateway: Gateway, azure: AzureSim) -> None:
    head = request("POST", PATH, [TEAM, JSON, ("transfer-encoding", "chunked")])
    with gateway.connect() as connection, gateway.connect() as other:
        connection.send(head)
        until_read(other)
        own_answer(connection.exchange(b"0\r\n\r\n"), "missing_model")
    nothing_arrived(azure)


READABLE: Dict[str, Call] = {
    "no content type": typed(None, SAME),
    "UTF-8": typed("application/json; charset=UTF-8", SAME),
    "quoted UTF-8": typed('application/json; charset="utf-8"', SAME),
    "another JSON type": typed("application/vnd.api+json", SAME),
    "text": typed("text/plain", SAME),
    "not encoded": json_body(SAME, ("content-encoding", "identity")),
}


@pytest.mark.parametrize("call", READABLE.values(), ids=READABLE.keys())
def test_a_body_that_is_json_is_read_as_json(gateway: Gateway, azure: AzureSim, call: Call
                                             ) -> None:
    assert send(gateway, call).status == 200
    assert arrived_at(azure, "eastus").body == SAME


ANY_BODY: Dict[str, Tuple[bytes, List[Tuple[str, str]]]] = {
    "gzip": (ZIPPED, [("content-encoding", "gzip")]),
    "not JSON": (b"\x00\xff{", []),
    "another model": (b'{"model":"secret","model":"secret","messages":[]}', []),
    "empty": (b"", []),
}


@pytest.mark.parametrize("body, headers", ANY_BODY.values(), ids=ANY_BODY.keys())
def test_a_body_is_not_looked_at_where_the_url_names_the_model(
        gateway: Gateway, azure: AzureSim, body: bytes, headers: List[Tuple[str, str]]) -> None:
    send(gateway, Call(dated("longer"), [TEAM, JSON, *headers], body))
    seen = arrived_at(azure, "eastus")
    assert (seen.target, unmetered(seen.body)) == (dated(LONG.decode()), body)
    assert [seen.header(name) for name, _ in headers] == [value for _, value in headers]


# How a body goes on whose first part, with its model, has already gone to the backend.
START = b'{"model":"longer","messages":["' + b"x" * 2000
SECOND_THOUGHTS = {
    "a second model": b'"],"model":"secret"}',
    "a second model, escaped": b'"],"mode\\u006c":"secret"}',
    "a second model in another case": b'"],"MODEL":"secret"}',
    "a second document": b'"]} {"model":"secret"}',
    "something else": b'"],}',
}


def is_on_its_way(azure: AzureSim, least: int) -> RecordedRequest:
    """The request at eastus, once this much of its body is there."""
    [seen] = azure.resources["eastus"].recorder.wait_until(
        lambda seen: bool(seen) and seen[0].body_length >= least, f"first {least} bytes")
    assert not seen.complete
    return seen


def assert_never_completed(azure: AzureSim) -> None:
    [seen] = azure.resources["eastus"].recorder.wait_until(
        lambda seen: all(one.left for one in seen), "request that was given up")
    assert not seen.complete


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
@pytest.mark.parametrize("rest", SECOND_THOUGHTS.values(), ids=SECOND_THOUGHTS.keys())
def test_a_second_model_far_behind_keeps_the_backend_from_a_complete_request(
        gateway: Gateway, azure: AzureSim, rest: bytes, framing: str) -> None:
    first, second = framed(framing, START, rest)
    with gateway.connect() as connection:
        connection.send(first)
        is_on_its_way(azure, len(START))
        own_answer(connection.exchange(second), "missing_model", hidden=[KEY])
    assert_never_completed(azure)
    assert azure.resources["sweden"].requests == []
    assert send(gateway, json_body(SAME)).status == 200


TOO_EARLY: Dict[str, Tuple[str, Tuple[str, str], bytes, bytes]] = {
    "JSON": (PATH, JSON, START, b'"]'),
    "a form": ("/openai/v1/audio/transcriptions",
               ("content-type", "multipart/form-data; boundary=frontier"),
               b'--frontier\r\nContent-Disposition: form-data; name="model"\r\n\r\nsame\r\n'
               b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
               + b"x" * 2000, b"\r\n--frontier"),
}


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
@pytest.mark.parametrize("path, kind, start, end", TOO_EARLY.values(), ids=TOO_EARLY.keys())
def test_a_body_that_ends_too_early_is_answered_though_it_went_on(
        gateway: Gateway, azure: AzureSim, path: str, kind: Tuple[str, str], start: bytes,
        end: bytes, framing: str) -> None:
    first, second = framed(framing, start, end, kind=kind, path=path)
    with gateway.connect() as connection:
        connection.send(first)
        is_on_its_way(azure, 1000)
        own_answer(connection.exchange(second), "missing_model", hidden=[KEY])
    if framing == "chunked":
        assert_never_completed(azure)
    else:
        # Envoy tells of the end after the last byte has gone; what arrives is no document.
        azure.resources["eastus"].recorder.wait_until(
            lambda seen: all(one.left or one.complete for one in seen), "end of the request")


def test_a_second_model_after_the_answer_began_breaks_the_answer_off(
        gateway: Gateway, azure: AzureSim) -> None:
    gate = Gate()
    azure.resources["eastus"].script.then(Answer(
        200, chunks=[b"data: 1\n\n", b"data: 2\n\n"],
        delivery=Delivery(early=True, each_chunk=gate)))
    first, second = framed("chunked", START, SECOND_THOUGHTS["a second model"])
    with gateway.connect() as connection:
        connection.send(first)
        gate.release()
        assert connection.read_head().status == 200
        assert connection.read_chunk_data() == b"data: 1\n\n"
        connection.send(second)
        with pytest.raises(Closed):
            connection.read_chunk_data()
    assert_never_completed(azure)
    assert send(gateway, json_body(SAME)).status == 200


def big(size: int, *, model_first: bool) -> bytes:
    fill = b'"messages":[],"user":"' + b"x" * (size - 60) + b'"'
    return (b'{"model":"longer",' + fill + b"}" if model_first
            else b"{" + fill + b',"model":"longer"}')


def renamed(body: bytes) -> bytes:
    return body.replace(b'"longer"', b'"' + LONG + b'"')


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_a_body_of_900_kib_with_its_model_last_is_served(
        gateway: Gateway, azure: AzureSim, framing: str) -> None:
    body = big(900 * 1024, model_first=False)
    pieces = [body[at:at + 100_000] for at in range(0, len(body), 100_000)]
    with gateway.connect() as connection:
        connection.send(*framed(framing, *pieces))
        assert connection.read_response().status == 200
    assert arrived_at(azure, "eastus").body == renamed(body)


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_a_body_over_envoys_limit_with_its_model_last_is_envoys_own_413(
        gateway: Gateway, azure: AzureSim, framing: str) -> None:
    body = big(MIB + MIB // 2, model_first=False)
    with gateway.connect() as connection:
        try:
            connection.send(*framed(framing, body))
        except ConnectionError:
            pass  # answered before all of it was sent
        head = connection.read_head()
    assert (head.status, head.values("x-aoai-reason")) == (413, [])
    nothing_arrived(azure)
    assert send(gateway, json_body(SAME)).status == 200


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_a_body_over_envoys_limit_with_its_model_first_streams_through(
        gateway: Gateway, azure: AzureSim, framing: str) -> None:
    body = big(3 * MIB, model_first=True)
    first, second, third = framed(framing, body[:100], body[100:2 * MIB], body[2 * MIB:])
    with gateway.connect() as connection:
        connection.send(first)
        is_on_its_way(azure, 100)
        connection.send(second)
        is_on_its_way(azure, MIB)
        connection.send(third)
        assert connection.read_response().status == 200
    assert unmetered(arrived_at(azure, "eastus").body) == renamed(body)


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_an_upload_of_10_mib_streams_through_where_the_url_names_the_model(
        gateway: Gateway, azure: AzureSim, framing: str) -> None:
    body = form(("file", PNG * (10 * MIB // len(PNG)), 'filename="a.wav"'))
    path = dated("longer", "audio/transcriptions")
    parts = framed(framing, body[:1], body[1:2 * MIB], body[2 * MIB:], kind=FORM, path=path)
    with gateway.connect() as connection:
        connection.send(parts[0])
        is_on_its_way(azure, 1)
        connection.send(parts[1])
        is_on_its_way(azure, MIB)
        connection.send(parts[2])
        assert connection.read_response().status == 200
    seen = arrived_at(azure, "eastus")
    assert seen.target == dated(LONG.decode(), "audio/transcriptions")
    assert seen.body == body


# On Your Data

@pytest.mark.parametrize("framing", ["content-length", "chunked"])
@pytest.mark.parametrize("end", [b'"}],"data_sources":[]}', b'"}],"data\\u005fsources":[]}'])
def test_data_sources_far_behind_keep_the_backend_from_a_complete_request(
        gateway: Gateway, azure: AzureSim, end: bytes, framing: str) -> None:
    start = b'{"messages":[{"role":"user","content":"' + b"x" * 3 * MIB
    first, second = framed(framing, start, end, path=dated("longer"), key=PLAIN)
    with gateway.connect() as connection:
        connection.send(first)
        is_on_its_way(azure, MIB)
        own_answer(connection.exchange(second), "operation_not_allowed", hidden=[PLAIN_KEY])
    assert_never_completed(azure)
    with gateway.connect() as connection:
        connection.send(*framed(framing, start, end, path=dated("longer")))
        assert connection.read_response().status == 200, "with the grant"


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_a_chat_of_3_mib_streams_through_while_data_sources_are_looked_for(
        gateway: Gateway, azure: AzureSim, framing: str) -> None:
    body = b'{"messages":[{"role":"user","content":"' + b"x" * 3 * MIB + b'"}]}'
    first, second = framed(framing, body[:2 * MIB], body[2 * MIB:], path=dated("longer"), key=PLAIN)
    with gateway.connect() as connection:
        connection.send(first)
        is_on_its_way(azure, MIB)
        connection.send(second)
        assert connection.read_response().status == 200
    assert unmetered(arrived_at(azure, "eastus").body) == body


# Forms

TRANSCRIPTIONS = "/openai/v1/audio/transcriptions"
FORM = ("content-type", "multipart/form-data; boundary=frontier")
Part = Tuple[str, bytes, str]


def form(*parts: Part, boundary: str = "frontier", end: bytes = b"--\r\n") -> bytes:
    """A form: for each part its name, its content and what else its disposition says."""
    line = b"--" + boundary.encode()
    body = b""
    for name, content, more in parts:
        disposition = f'Content-Disposition: form-data; name="{name}"' + (more and f"; {more}")
        kind = "Content-Type: audio/wav\r\n" if more else ""
        body += line + f"\r\n{disposition}\r\n{kind}\r\n".encode() + content + b"\r\n"
    return body + line + end


FILE: Part = ("file", b"RIFF" + PNG, 'filename="a.wav"')
EMPTY: Part = ("prompt", b"", "")


def model(name: bytes) -> Part:
    return ("model", name, "")


def with_content(content: bytes) -> Part:
    return ("file", content, 'filename="model"')


LOOKS_LIKE = (b'\r\n--other\r\nContent-Disposition: form-data; name="model"\r\n\r\nsecret\r\n'
              b'--other--\r\n{"model":"secret"}\r\n\r\n')


def both(*parts: Part) -> Tuple[bytes, bytes]:
    """A form as it is sent, and as it arrives."""
    arriving = [(name, {b"longer": LONG, b"much-shorter": b"s"}.get(content, content), more)
                for name, content, more in parts]
    return form(*parts), form(*arriving)


FORMS: Dict[str, Tuple[bytes, bytes]] = {
    "model before the file": both(model(b"same"), FILE),
    "model behind the file": both(FILE, model(b"same")),
    "longer, before the file": both(model(b"longer"), FILE),
    "longer, behind the file": both(FILE, model(b"longer")),
    "shorter, before the file": both(model(b"much-shorter"), EMPTY, FILE),
    "shorter, behind the file": both(EMPTY, FILE, model(b"much-shorter")),
    "a file that looks like a form": both(with_content(LOOKS_LIKE), model(b"longer")),
    "a file with beginnings of a delimiter": both(
        with_content(b"\r\n--frontie\r\n--fronti\r\n-\r\n\r\r"), model(b"longer")),
    "a file that ends like a delimiter": both(with_content(b"x\r\n--frontie"), model(b"longer")),
    "an empty file": both(with_content(b""), model(b"longer")),
    "a delimiter within a line": both(with_content(b"x--frontier--"), model(b"longer")),
    "a line break at the end": (form(model(b"longer"), FILE, end=b"--\r\n\r\n"),
                                form(model(LONG), FILE, end=b"--\r\n\r\n")),
    "no line break at the end": (form(model(b"longer"), FILE, end=b"--"),
                                 form(model(LONG), FILE, end=b"--")),
    "another name that holds it": both(("my-model", b"secret", ""), ("models[]", b"secret", ""),
                                       model(b"longer"), FILE),
}

@pytest.mark.parametrize("framing", ["content-length", "chunked"])
@pytest.mark.parametrize("body, arrives", FORMS.values(), ids=FORMS.keys())
def test_only_the_models_value_is_changed_in_a_form(
        gateway: Gateway, azure: AzureSim, body: bytes, arrives: bytes, framing: str) -> None:
    with gateway.connect() as connection:
        connection.send(*framed(framing, body, kind=FORM, path=TRANSCRIPTIONS))
        response = connection.read_response()
    seen = arrived_at(azure, "eastus")
    assert (seen.target, seen.body) == (TRANSCRIPTIONS, arrives)
    assert seen.header_values("content-type") == [FORM[1]]
    assert seen.header_values("content-length") == (
        [str(len(arrives))] if framing == "content-length" else [])
    assert response.status == 200


def test_a_form_may_be_cut_anywhere(gateway: Gateway, azure: AzureSim) -> None:
    body, arrives = both(with_content(b"a\r\n--frontie\r"), model(b"longer"))
    cut_everywhere(gateway, azure, body, arrives, "content-length", FORM, TRANSCRIPTIONS)


BOUNDARIES = {
    "a browser's": "----WebKitFormBoundary7MA4YWxkTrZu0gW",
    "one character": "x",
    "seventy": "x" * 70,
    "dashes": "------",
    "spaces and punctuation": "a b'()+_,-./:=?c",
}


@pytest.mark.parametrize("boundary", BOUNDARIES.values(), ids=BOUNDARIES.keys())
def test_a_boundary_may_be_any_that_the_standard_allows(
        gateway: Gateway, azure: AzureSim, boundary: str) -> None:
    kind = ("content-type", f'Multipart/Form-Data; charset=utf-8; Boundary="{boundary}"')
    body = form(model(b"longer"), FILE, boundary=boundary)
    assert send(gateway, Call(TRANSCRIPTIONS, [TEAM, kind], body)).status == 200
    assert arrived_at(azure, "eastus").body == form(model(LONG), FILE, boundary=boundary)


def form_call(body: bytes, kind: str = FORM[1]) -> Call:
    return Call(TRANSCRIPTIONS, [TEAM, ("content-type", kind)], body)


MODEL_LINES = b'--frontier\r\nContent-Disposition: form-data; name="model"\r\n'
REST = form(FILE)
BAD_FORMS: Dict[str, Call] = {
    "two models": form_call(form(model(b"same"), FILE, model(b"secret"))),
    "the same model twice": form_call(form(model(b"same"), model(b"same"), FILE)),
    "a second model in another case": form_call(form(model(b"same"), ("Model", b"secret", ""))),
    "only a model in another case": form_call(form(("MODEL", b"same", ""), FILE)),
    "no model": form_call(form(FILE)),
    "no part": form_call(b"--frontier--\r\n"),
    "an empty body": form_call(b""),
    "a model that is a file": form_call(form(("model", b"same", 'filename="x"'), FILE)),
    "an encoded model": form_call(
        MODEL_LINES + b"Content-Transfer-Encoding: base64\r\n\r\nc2FtZQ==\r\n" + REST),
    "two names": form_call(form(("x", b"same", 'name="model"'), FILE)),
    "an encoded name": form_call(
        b"--frontier\r\nContent-Disposition: form-data; name*=utf-8''model\r\n\r\nsame\r\n" + REST),
    "an escaped name": form_call(form(("x\\", b"same", ""), model(b"same"), FILE)),
    "two dispositions": form_call(
        MODEL_LINES + b'Content-Disposition: form-data; name="x"\r\n\r\nsame\r\n' + REST),
    "a folded disposition": form_call(
        b'--frontier\r\nContent-Disposition: form-data;\r\n name="model"\r\n\r\nsame\r\n' + REST),
    "no disposition": form_call(b"--frontier\r\nX: y\r\n\r\nsame\r\n" + form(model(b"same"), FILE)),
    "bare line feeds": form_call(form(model(b"same"), FILE).replace(b"\r\n", b"\n")),
    "a delimiter behind a bare line feed": form_call(
        form(with_content(b"x\n--frontier\nx"), model(b"same"))),
    "a longer delimiter in a file": form_call(
        form(with_content(b"x\r\n--frontiers\r\n"), model(b"same"))),
    "a delimiter with spaces": form_call(
        form(model(b"same"), FILE).replace(b"frontier\r\n", b"frontier \r\n")),
    "a preamble": form_call(b"hello\r\n" + form(model(b"same"), FILE)),
    "an empty line before": form_call(b"\r\n" + form(model(b"same"), FILE)),
    "something behind the end": form_call(form(model(b"same"), FILE) + b"x"),
    "a second form behind the end": form_call(form(model(b"same")) + form(model(b"secret"), FILE)),
    "cut before the model": form_call(form(FILE, model(b"same"))[:-40]),
    "a model that is no UTF-8": form_call(form(model(b"\xff"), FILE)),
    "a model of a kilobyte": form_call(form(model(b"x" * 1024), FILE)),
    # RFC 2046 lets a part end right behind its headers' empty line, and parsers do (Go, Python).
    "a second model behind a part without content": form_call(
        form(with_content(MODEL_LINES + b"\r\nsecret"), model(b"same"))),
    "no boundary": form_call(form(model(b"same"), FILE), "multipart/form-data"),
    "an empty boundary": form_call(form(model(b"same"), FILE), 'multipart/form-data; boundary=""'),
    "two boundaries": form_call(
        form(model(b"same"), FILE), "multipart/form-data; boundary=frontier; boundary=x"),
    "a boundary of 71": form_call(form(model(b"same"), FILE, boundary="x" * 71),
                                  "multipart/form-data; boundary=" + "x" * 71),
    "another boundary": form_call(form(model(b"same"), FILE), "multipart/form-data; boundary=x"),
    "JSON": form_call(SAME),
    "said to be JSON": form_call(form(model(b"same"), FILE), "application/json"),
}


@pytest.mark.parametrize("call", BAD_FORMS.values(), ids=BAD_FORMS.keys())
def test_a_form_whose_model_cannot_be_told_goes_nowhere(
        gateway: Gateway, azure: AzureSim, call: Call) -> None:
    refused(gateway, azure, call, "missing_model", hidden=[KEY])


@pytest.mark.parametrize("name, reason", [
    (b"secret", "model_not_allowed"), (b"absent", "unknown_model"), (b"", "unknown_model"),
    (b" same", "unknown_model"), (b"same\r\n", "unknown_model")])
def test_a_forms_model_is_taken_literally(gateway: Gateway, azure: AzureSim, name: bytes,
                                          reason: str) -> None:
    refused(gateway, azure, form_call(form(model(name), FILE)), reason)


def test_a_file_of_5_mib_behind_its_model_streams_through(gateway: Gateway, azure: AzureSim
                                                          ) -> None:
    file = with_content(PNG * (5 * MIB // len(PNG)))
    body = form(model(b"longer"), file)
    parts = framed("content-length", body[:300], body[300:2 * MIB], body[2 * MIB:], kind=FORM,
                   path=TRANSCRIPTIONS)
    with gateway.connect() as connection:
        connection.send(parts[0])
        is_on_its_way(azure, 300)
        connection.send(parts[1])
        is_on_its_way(azure, MIB)
        connection.send(parts[2])
        assert connection.read_response().status == 200
    assert arrived_at(azure, "eastus").body == form(model(LONG), file)


def test_a_file_over_envoys_limit_before_its_model_is_envoys_own_413(
        gateway: Gateway, azure: AzureSim) -> None:
    call = form_call(form(with_content(b"x" * (MIB + MIB // 2)), model(b"same")))
    with gateway.connect() as connection:
        try:
            connection.send(call.raw())
        except ConnectionError:
            pass  # answered before all of it was sent
        assert connection.read_head().status == 413
    nothing_arrived(azure)


def test_a_second_model_behind_a_file_keeps_the_backend_from_a_complete_request(
        gateway: Gateway, azure: AzureSim) -> None:
    body = form(model(b"same"), with_content(b"x" * 2000), model(b"secret"))
    cut = body.rindex(b"--frontier\r\n")
    first, second = framed("content-length", body[:cut], body[cut:], kind=FORM,
                           path=TRANSCRIPTIONS)
    with gateway.connect() as connection:
        connection.send(first)
        is_on_its_way(azure, cut)
        own_answer(connection.exchange(second), "missing_model", hidden=[KEY])
    assert_never_completed(azure)


@pytest.fixture(scope="module")
def pooled(cloud: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    """Envoy keeps the body of a request for `same`, for a second attempt."""
    found = document(cloud, listener={"body_limit": "1MiB"})
    found["models"][0] = config.model("same", "eastus", config.route("sweden", priority=1))
    return warm(start_gateway(found), chat("same", TEAM))


def with_pauses(azure: AzureSim, connection: Connection, *pieces: bytes) -> None:
    """Sends the pieces of a form, each once the backend has the one before."""
    parts = framed("chunked", *pieces, kind=FORM, path=TRANSCRIPTIONS)
    for number, part in enumerate(parts, 1):
        connection.send(part)
        if number < len(parts):
            is_on_its_way(azure, sum(len(piece) for piece in pieces[:number]))


def test_a_pools_form_that_is_cut_within_the_head_of_a_part_arrives_as_it_was_sent(
        pooled: Gateway, azure: AzureSim) -> None:
    body = form(model(b"same"), FILE, ("language", b"en", ""))
    at = body.rindex(b"form-data")
    pieces = [body[:at - 100], body[at - 100:at], body[at:at + 12], body[at + 12:]]
    with pooled.connect() as connection:
        with_pauses(azure, connection, *pieces)
        response = connection.read_response()
    assert (response.status, arrived_at(azure, "eastus").body) == (200, body)


def test_a_second_model_behind_a_cut_keeps_a_pool_from_a_complete_request(
        pooled: Gateway, azure: AzureSim) -> None:
    body = form(model(b"same"), FILE, model(b"secret"))
    body = body.replace(b'form-data; name="model"\r\n\r\nsecret',
                        b"form-data;" + b" " * 600 + b"name=model\r\n\r\nsecret")
    cuts = [len(body) // 2, body.rindex(b"name=") + len(b"name=")]
    *pieces, last = body[:cuts[0]], body[cuts[0]:cuts[1]], body[cuts[1]:]
    with pooled.connect() as connection:
        with_pauses(azure, connection, *pieces, last)
        own_answer(connection.read_response(), "missing_model", hidden=[KEY])
    assert_never_completed(azure)


# Trailers

@pytest.fixture(scope="module")
def trailed(cloud: AzureSim, start_gateway: Callable[..., Gateway]) -> Gateway:
    return warm(start_gateway(document(cloud), edits=[with_trailers]), chat("same", TEAM))


ASSISTANTS = f"/openai/assistants?{API_VERSION}"
TRAILED: Dict[str, Tuple[str, List[bytes], Optional[bytes]]] = {
    # Path, the body's pieces, and the body that arrives.
    "model in the path": (dated("same"), [b'{"messages"', b":[]}"], b'{"messages":[]}'),
    "model first": (PATH, [b'{"model":"longer",', b'"messages":[]}'],
                    renamed(b'{"model":"longer","messages":[]}')),
    "model last": (PATH, [b'{"messages":[],', b'"model":"longer"}'],
                   renamed(b'{"messages":[],"model":"longer"}')),
    "a model that may be there": (ASSISTANTS, [b'{"name":', b'"x"}'], b'{"name":"x"}'),
    "no model": (PATH, [b'{"messages":', b"[]}"], None),
    "cut": (PATH, [b'{"messages":', b"["], None),
    "nothing": (PATH, [], None),
}


@pytest.mark.parametrize("path, pieces, arrives", TRAILED.values(), ids=TRAILED.keys())
def test_a_body_may_end_with_trailers(trailed: Gateway, azure: AzureSim, path: str,
                                      pieces: Sequence[bytes], arrives: Optional[bytes]) -> None:
    trailers = [("x-checksum", "1"), ("x-aoai-cluster", "azure_identity"), ("api-key", "other")]
    with trailed.connect() as connection, trailed.connect() as other:
        connection.send(request("POST", path, [TEAM, JSON, ("transfer-encoding", "chunked"),
                                               ("trailer", "x-checksum")]))
        for part in chunked(*pieces, trailers=trailers):
            until_read(other)
            connection.send(part)
        response = connection.read_response()
    if arrives is None:
        own_answer(response, "missing_model")
        nothing_arrived(azure)
    else:
        assert arrived_at(azure, "eastus").body == arrives
        assert response.status == 200


def test_trailers_behind_an_incomplete_body_keep_the_backend_from_a_complete_request(
        trailed: Gateway, azure: AzureSim) -> None:
    head = request("POST", PATH, [TEAM, JSON, ("transfer-encoding", "chunked")])
    first, end = chunked(START, trailers=[("x-checksum", "1")])
    with trailed.connect() as connection:
        connection.send(head + first)
        is_on_its_way(azure, len(START))
        own_answer(connection.exchange(end), "missing_model")
    assert_never_completed(azure)


# Bodies that come while there is no token yet

COLD: Dict[str, Tuple[str, Tuple[str, str], bytes, bytes, bytes, Optional[bytes]]] = {
    # Path, content type; what comes before the token, with the model and without waiting for the
    # rest, what comes later but before the token too, what comes behind it; what arrives.
    "whole before the token": (PATH, JSON, BODIES["longer, first"][0], b"", b"",
                               BODIES["longer, first"][1]),
    "rest before the token": (PATH, JSON, b'{"model":"longer",', b'"messages":[]}', b"",
                              BODIES["longer, first"][1]),
    "rest behind the token": (PATH, JSON, b'{"model":"longer",', b'"mess', b'ages":[]}',
                              BODIES["longer, first"][1]),
    "shorter, rest behind the token": (
        PATH, JSON, b'{"model":"much-shorter",', b'"mess', b'ages":[]}',
        b'{"model":"s","messages":[]}'),
    "model in the path": (dated("longer"), JSON, b'{"mess', b"ages", b'":[]}', b'{"messages":[]}'),
    "form": (TRANSCRIPTIONS, FORM, form(model(b"longer"), FILE)[:120],
             form(model(b"longer"), FILE)[120:300], form(model(b"longer"), FILE)[300:],
             form(model(LONG), FILE)),
    "a second model before the token": (
        PATH, JSON, b'{"model":"longer",', b'"model":"secret"}', b"", None),
}


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_a_body_that_comes_before_its_token_arrives_as_it_would_behind_it(
        workers: int, framing: str) -> None:
    with AzureSim() as sim:
        gate = closed_gate(sim)
        with_resources(sim)
        with Gateway(document(sim, token_wait="5m"), sim, workers=workers) as gateway:
            with gateway.connect() as other:
                rows = {name: gateway.connect() for name in COLD}
                sent = {name: framed(framing, *filter(None, row[2:5]), kind=row[1], path=row[0])
                        for name, row in COLD.items()}
                for part in (0, 1):
                    for name, connection in rows.items():
                        if len(sent[name]) > part:
                            connection.send(sent[name][part])
                    until_read(other)
                assert sim.resources["eastus"].requests == []
                own_answer(rows["a second model before the token"].read_response(),
                           "missing_model")
                gate.open()
                going = [name for name, row in COLD.items() if row[5] is not None]
                gateway.envoy.wait_for_stat(
                    "wasmcustom.aoai_entra_token_fetches_total.identity.default.result.success")
                for name in going:
                    if len(sent[name]) > 2:
                        rows[name].send(sent[name][2])
                got = {name: rows[name].read_response().status for name in going}
                for connection in rows.values():
                    connection.close()
            assert got == {name: 200 for name in going}
            arrived = sorted(one.body for one in sim.resources["eastus"].requests)
            assert arrived == sorted(row[5] for row in COLD.values() if row[5] is not None)
            for one in sim.resources["eastus"].requests:
                left_clean(sim, one, "eastus")


def test_a_request_before_the_slow_ones_rest_is_not_held_up(gateway: Gateway, azure: AzureSim
                                                            ) -> None:
    first, second = framed("chunked", b'{"messages":[],', b'"model":"same"}')
    with gateway.connect() as slow, gateway.connect() as other:
        slow.send(first)
        until_read(other)
        served(other, json_body(SAME))
        slow.send(second)
        assert slow.read_response().status == 200
    assert sorted(json.loads(one.body)["model"] for one in azure.resources["eastus"].requests) == [
        "same", "same"]
