"""Puts an `Answer` on the wire, whole or broken as its delivery says."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Optional

from aiohttp import web
from multidict import CIMultiDict

from .answers import Answer, Delivery


async def send(request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    """Deliver the answer. Where the delivery breaks the connection the result is only there for the
    server to return: writing it fails quietly."""
    broken = await begin(request, answer.delivery)
    if broken is not None:
        return broken
    if answer.chunks is not None:
        return await _stream(request, answer)
    return await _whole(request, answer)


async def begin(request: web.BaseRequest, delivery: Delivery) -> Optional[web.StreamResponse]:
    """What a delivery does before the first byte; None when an answer shall follow."""
    if delivery.delay:
        await asyncio.sleep(delivery.delay)
    if delivery.before is not None:
        await delivery.before.passage()
    if delivery.hang:
        await asyncio.get_running_loop().create_future()
    if delivery.reset:
        return _reset(request)
    if delivery.raw is not None:
        return _write_and_close(request, delivery.raw)
    return None


async def _whole(request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    content, cut = answer.content(), answer.delivery.cut_after
    if cut is None or cut >= len(content):
        response = web.Response(status=answer.status, headers=_headers(answer), body=content)
        await response.prepare(request)
        await response.write_eof()
        return response
    broken = web.StreamResponse(status=answer.status, headers=_headers(answer))
    broken.content_length = len(content)
    await broken.prepare(request)
    await broken.write(content[:cut])
    return close(request, broken)


async def _stream(request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    delivery = answer.delivery
    response = web.StreamResponse(status=answer.status, headers=_headers(answer))
    await response.prepare(request)
    for sent, chunk in enumerate(answer.chunks or ()):
        if sent == delivery.cut_after:
            return close(request, response)
        if delivery.each_chunk is not None:
            await delivery.each_chunk.passage()
        await response.write(chunk)
    await response.write_eof()
    return response


def _headers(answer: Answer) -> "CIMultiDict[str]":
    headers: "CIMultiDict[str]" = CIMultiDict(answer.headers)
    headers.setdefault("Content-Type", answer.content_type())
    return headers


def _reset(request: web.BaseRequest) -> web.StreamResponse:
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        # Lingering for no time makes the close a TCP reset.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response()


def _write_and_close(request: web.BaseRequest, raw: bytes) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.write(raw)
        request.transport.close()
    return web.Response()


def close(request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
    """Close the connection after what has been written, without the end of the answer."""
    if request.transport is not None:
        request.transport.close()
    return response
