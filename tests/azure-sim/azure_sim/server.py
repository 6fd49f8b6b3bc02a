"""One listening socket: receives, records, asks its service for an answer, sends it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Optional

from aiohttp import web

from .answers import AT_ONCE, Answer, Delivery
from .records import RecordedRequest
from .script import Step
from .sending import send
from .service import Service
from .sessions import converse

_HEAD_LIMIT = 256 * 1024

# Connections that may wait to be accepted: as many as a test makes at once, and more.
_BACKLOG = 1024


class Listener:
    """A service on 127.0.0.1, over plain HTTP/1.1 or TLS."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._runner: Optional[web.ServerRunner] = None

    async def start(self, at: socket.socket, tls: Optional[ssl.SSLContext] = None) -> None:
        """Listen on this socket, which has its port and is nobody else's from now on."""
        server = web.Server(
            self._handle,
            handler_cancellation=True,  # a peer that leaves is noticed while its answer is made
            auto_decompress=False,  # the recorded body is what was on the wire
            access_log=None,
            max_line_size=_HEAD_LIMIT,
            max_field_size=_HEAD_LIMIT,
        )
        self._runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.SockSite(self._runner, at, ssl_context=tls, backlog=_BACKLOG).start()

    async def stop(self) -> None:
        """Stop listening and end what is under way, answers that hang included."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        record = RecordedRequest(
            request.method,
            request.raw_path,
            [(name.decode("latin-1"), value.decode("latin-1"))
             for name, value in request.raw_headers],
        )
        recorder = self._service.recorder
        recorder.opened(record)
        left = True
        try:
            response = await self._respond(request, record)
            left = False
            return response
        finally:
            recorder.closed(record, left=left)

    async def _respond(self, request: web.BaseRequest, record: RecordedRequest
                       ) -> web.StreamResponse:
        step = self._service.script.pop()
        delivery = step.delivery if isinstance(step, Answer) else step
        if not (delivery is not None and delivery.early):
            await self._receive(request, record)
            if step is None:
                step = self._service.script.decide(record)
        if (record.header("upgrade") or "").lower() == "websocket" and not isinstance(step, Answer):
            return await converse(self._service, request, record, step or AT_ONCE)
        answer = _carried_out(step, self._service, record)
        record.status = answer.status
        return await send(request, answer)

    async def _receive(self, request: web.BaseRequest, record: RecordedRequest) -> None:
        if (record.header("expect") or "").lower() == "100-continue" and request.transport:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        async for chunk in request.content.iter_any():
            self._service.recorder.received(record, chunk)
        self._service.recorder.completed(record)


def _carried_out(step: Optional[Step], service: Service, record: RecordedRequest) -> Answer:
    if isinstance(step, Answer):
        return step
    usual = service.answer(record)
    return usual.delivered(step) if isinstance(step, Delivery) else usual


async def stop_all(listeners: "list[Listener]") -> None:
    """Stop several listeners at once."""
    await asyncio.gather(*(listener.stop() for listener in listeners))
