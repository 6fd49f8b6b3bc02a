"""Answers of the operations that a deployment serves. They depend on nothing but the request, and
say which resource gave them: the content of a completion is `answer from <resource>`."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple, Union

from . import errors, multipart, strict_json
from .answers import Answer, sse
from .records import RecordedRequest

# The tokens of a chat's frame, and of a plain input's; each word is one more.
_FRAME, _PLAIN_FRAME = 10, 4
SPEECH = b"ID3\x04\x00\x00" + bytes(range(256)) * 16
# A PNG of one pixel.
IMAGE = ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9Q"
         "DwADhgGAWjR9awAAAABJRU5ErkJggg==")


# A prompt that has this text fails in every resource (`errors.MODEL_ERROR`).
UPSETTING = "produce invalid content"


@dataclass(frozen=True)
class Asked:
    """A request's content: the fields of its JSON body or form."""

    fields: Mapping[str, Any]
    files: Mapping[str, bytes]

    @property
    def model(self) -> Optional[str]:
        model = self.fields.get("model")
        return model if isinstance(model, str) else None

    @property
    def stream(self) -> bool:
        return self.fields.get("stream") in (True, "true")

    @property
    def include_usage(self) -> bool:
        options = self.fields.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    @property
    def upsets_the_model(self) -> bool:
        return any(UPSETTING in json.dumps(self.fields[name])
                   for name in ("messages", "prompt", "input") if name in self.fields)


def read(request: RecordedRequest) -> Union[Asked, Answer]:
    """The content of a JSON or multipart request, or the refusal of one that cannot be read."""
    content_type = request.header("content-type") or ""
    if content_type.lower().startswith("multipart/"):
        parts = multipart.parse(content_type, request.body)
        if parts is None:
            return errors.bad_request("The multipart form is malformed")
        return Asked({part.name: part.text() for part in parts if part.filename is None},
                     {part.name: part.content for part in parts if part.filename is not None})
    try:
        fields = request.json()
    except strict_json.NotStrictJson as error:
        return errors.bad_request(f"The request body is not valid JSON: {error}")
    return Asked(fields, {}) if isinstance(fields, dict) else errors.bad_request("Not an object")


def tokens(asked: Asked, content: str) -> Tuple[int, int, int]:
    """What a text request uses: input, as much of it as comes from a cache, output. A word is a token."""
    inputs = [asked.fields[name] for name in ("messages", "prompt", "input") if name in asked.fields]
    prompt = _FRAME + sum(len(text.split()) for text in _texts(inputs))
    return prompt, prompt // 4, len(content.split())


def usage(asked: Asked, content: str) -> Dict[str, Any]:
    """The same as chat completions and completions tell it."""
    prompt, cached, output = tokens(asked, content)
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0}}


def _texts(value: Any) -> Iterator[str]:
    """The texts of a prompt: of messages only their content."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, dict):
        yield from _texts(value.get("content", value.get("text")))


def answer(operation: str, asked: Asked, model: str, resource: str) -> Answer:
    """The answer of an inference operation that has no state."""
    return _OPERATIONS[operation](asked, model, f"answer from {resource}")


def session_created(model: str) -> str:
    """The first event of a realtime session."""
    session = {"id": f"sess_{uuid.uuid4().hex}", "object": "realtime.session", "model": model}
    return json.dumps({"type": "session.created", "event_id": f"event_{uuid.uuid4().hex}",
                       "session": session})


def session_answer(event: str) -> str:
    """What a realtime session sends for an event of the client's: the response that it asks for, of nine tokens and
    three, or the same event."""
    try:
        asked = json.loads(event)
    except ValueError:
        return event
    if not isinstance(asked, dict) or asked.get("type") != "response.create":
        return event
    used = {"total_tokens": 12, "input_tokens": 9, "output_tokens": 3,
            "input_token_details": {"cached_tokens": 0, "text_tokens": 9, "audio_tokens": 0},
            "output_token_details": {"text_tokens": 3, "audio_tokens": 0}}
    response = {"id": f"resp_{uuid.uuid4().hex}", "object": "realtime.response", "status": "completed",
                "output": [], "usage": used}
    return json.dumps({"type": "response.done", "event_id": f"event_{uuid.uuid4().hex}",
                       "response": response})


def _chat(asked: Asked, model: str, content: str) -> Answer:
    if not isinstance(asked.fields.get("messages"), list):
        return errors.bad_request("'messages' is a required property", "messages")
    base = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model,
            "system_fingerprint": "fp_simulated"}
    if asked.stream:
        base["object"] = "chat.completion.chunk"
        words = [{"content": word} for word in _words(content)]
        deltas = [{"role": "assistant", "content": ""}, *words]
        choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        return _streamed(base, [*choices, end], asked, content)
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return Answer(200, body={**base, "object": "chat.completion", "choices": [choice],
                             "usage": usage(asked, content)})


def _message(asked: Asked, model: str, content: str) -> Answer:
    """Claude's, with a tool where the caller brings one."""
    if not isinstance(asked.fields.get("messages"), list) or "max_tokens" not in asked.fields:
        return errors.claude(400, "invalid_request_error", "max_tokens: Field required")
    prompt, cached, output = tokens(asked, content)
    # Without what comes from a cache, which is told besides.
    used = {"input_tokens": prompt - cached, "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 0}
    tool = next(iter(asked.fields.get("tools", [])), None)
    block: Dict[str, Any] = {"type": "text", "text": content}
    if tool is not None:
        block = {"type": "tool_use", "id": "toolu_1", "name": tool["name"], "input": {"of": content}}
    reason = "end_turn" if tool is None else "tool_use"
    base = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "model": model,
            "stop_sequence": None}
    if not asked.stream:
        return Answer(200, body={**base, "content": [block], "stop_reason": reason,
                                 "usage": {**used, "output_tokens": output}})
    empty = {**block, "text": ""} if tool is None else {**block, "input": {}}
    deltas: List[Dict[str, Any]] = [{"type": "text_delta", "text": word} for word in _words(content)]
    if tool is not None:
        deltas = [{"type": "input_json_delta", "partial_json": json.dumps({"of": content})}]
    return Answer(200, chunks=sse(
        {"type": "message_start", "message": {
            **base, "content": [], "stop_reason": None, "usage": {**used, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": empty},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None},
         "usage": {"output_tokens": output}},
        {"type": "message_stop"}, named=True))


def _count_tokens(asked: Asked, _model: str, content: str) -> Answer:
    return Answer(200, body={"input_tokens": tokens(asked, content)[0]})


def _completion(asked: Asked, model: str, content: str) -> Answer:
    if "prompt" not in asked.fields:
        return errors.bad_request("'prompt' is a required property", "prompt")
    base = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model,
            "object": "text_completion"}
    if asked.stream:
        return _streamed(base, [{"index": 0, "text": word, "finish_reason": None}
                                for word in _words(content)], asked, content)
    choice = {"index": 0, "text": content, "finish_reason": "stop", "logprobs": None}
    return Answer(200, body={**base, "choices": [choice],
                             "usage": usage(asked, content)})


def _streamed(base: Dict[str, Any], choices: List[Dict[str, Any]], asked: Asked, content: str
              ) -> Answer:
    """Chunks, then the usage when it was asked for, then `[DONE]`."""
    if asked.include_usage:
        base = {**base, "usage": None}
    chunks: List[Union[Dict[str, Any], str]] = [{**base, "choices": [one]} for one in choices]
    if asked.include_usage:
        chunks.append({**base, "choices": [], "usage": usage(asked, content)})
    return Answer(200, chunks=sse(*chunks, "[DONE]"))


def _embeddings(asked: Asked, model: str, _content: str) -> Answer:
    inputs = asked.fields.get("input")
    if inputs is None:
        return errors.bad_request("'input' is a required property", "input")
    count = len(inputs) if isinstance(inputs, list) else 1
    # The same two numbers, little-endian float32, for clients that ask for base64.
    as_base64 = asked.fields.get("encoding_format") == "base64"
    vector: Any = "AAAAPwAAgL4=" if as_base64 else [0.5, -0.25]
    prompt = _PLAIN_FRAME + sum(len(text.split()) for text in _texts(inputs))
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(count)]
    return Answer(200, body={"object": "list", "data": data, "model": model,
                             "usage": {"prompt_tokens": prompt, "total_tokens": prompt}})


def _transcription(asked: Asked, _model: str, content: str) -> Answer:
    if "file" not in asked.files:
        return errors.bad_request("'file' is a required property", "file")
    return Answer(200, body={"text": f"{content}: {len(asked.files['file'])} bytes heard"})


def _speech(asked: Asked, _model: str, _content: str) -> Answer:
    if "input" not in asked.fields:
        return errors.bad_request("'input' is a required property", "input")
    return Answer(200, [("Content-Type", "audio/mpeg")], SPEECH)


def _image(asked: Asked, _model: str, content: str) -> Answer:
    if "prompt" not in asked.fields:
        return errors.bad_request("'prompt' is a required property", "prompt")
    return Answer(200, body={"created": int(time.time()),
                             "data": [{"b64_json": IMAGE, "revised_prompt": content}]})


def _words(content: str) -> List[str]:
    words = content.split(" ")
    return [words[0], *(f" {word}" for word in words[1:])]


_OPERATIONS: Dict[str, Callable[[Asked, str, str], Answer]] = {
    "chat/completions": _chat,
    "completions": _completion,
    "embeddings": _embeddings,
    "audio/transcriptions": _transcription,
    "audio/translations": _transcription,
    "audio/speech": _speech,
    "images/generations": _image,
    "images/edits": _image,
    "messages": _message,
    "messages/count_tokens": _count_tokens,
}
