"""WebSocket sessions: a greeting, then every event echoed, but for those that ask for a response."""

from __future__ import annotations

from aiohttp import web

from . import inference
from .answers import Answer, Delivery
from .records import RecordedRequest
from .sending import begin, close, send
from .service import Service


async def converse(service: Service, request: web.BaseRequest, record: RecordedRequest,
                   delivery: Delivery) -> web.StreamResponse:
    """Serve a handshake and the session after it. The delivery's `cut_after` counts the events that it sends after the greeting."""
    greeting = service.greeting(record)
    if isinstance(greeting, Answer):
        record.status = greeting.status
        return await send(request, greeting.delivered(delivery))
    broken = await begin(request, delivery)
    if broken is not None:
        return broken
    record.status = 101
    session = web.WebSocketResponse(max_msg_size=64 * 1024 * 1024)
    await session.prepare(request)
    await session.send_str(greeting)
    echoes = 0
    async for message in session:
        service.recorder.websocket_message(record, str(message.data))
        await session.send_str(inference.session_answer(str(message.data)))
        echoes += 1
        if echoes == delivery.cut_after:
            return close(request, session)
    return session
