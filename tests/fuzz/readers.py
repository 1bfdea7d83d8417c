"""Other people's HTTP/1.1 parsers, each made to say in the same words what it reads in some bytes.

None of them is the gateway's: where all say the same of what the gateway writes, no two hops can be made
to disagree about it.
"""

from __future__ import annotations

import asyncio
import http.client
import io
from typing import Any, NamedTuple, cast

import h11
import httptools
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, HttpResponseParser

_LARGE = 64 * 1024
_UNLIMITED = 2**24  # aiohttp would pause at its limit, and wait for somebody to read
Headers = tuple[tuple[bytes, bytes], ...]


class Request(NamedTuple):
    """`headers` with names in lower case, in their order."""

    method: bytes
    target: bytes
    headers: Headers
    body: bytes


class Response(NamedTuple):
    status: int
    headers: Headers
    body: bytes


class Unread(Exception):
    """This parser does not take the bytes as exactly one whole message."""


def _headers(pairs: Any) -> Headers:
    return tuple((bytes(name).lower(), bytes(value).strip(b" \t")) for name, value in pairs)


# --- requests --------------------------------------------------------------------------------------------


def request_by_h11(raw: bytes) -> Request:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=2 * _LARGE)
    connection.receive_data(raw)
    try:
        head = connection.next_event()
        body = _h11_body(connection)
    except h11.RemoteProtocolError as error:
        raise Unread(str(error)) from error
    if not isinstance(head, h11.Request) or connection.trailing_data[0]:
        raise Unread(repr(head))
    return Request(head.method, head.target, _headers(head.headers), body)


def _h11_body(connection: h11.Connection) -> bytes:
    parts = []
    while isinstance(event := connection.next_event(), h11.Data):
        parts.append(bytes(event.data))
    if not isinstance(event, h11.EndOfMessage) or list(event.headers):
        raise Unread(repr(event))
    return b"".join(parts)


class _Told:
    """Listens to httptools."""

    def __init__(self) -> None:
        self.url = self.body = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.ends = 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, chunk: bytes) -> None:
        self.body += chunk

    def on_message_complete(self) -> None:
        self.ends += 1


def request_by_httptools(raw: bytes) -> Request:
    told = _Told()
    parser = httptools.HttpRequestParser(told)
    try:
        parser.feed_data(raw)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
        raise Unread(repr(error)) from error
    if told.ends != 1:
        raise Unread(f"{told.ends} messages")
    return Request(parser.get_method(), told.url, _headers(told.headers), told.body)


def request_by_aiohttp(raw: bytes, loop: asyncio.AbstractEventLoop) -> Request:
    parser = HttpRequestParser(
        BaseProtocol(loop),
        loop,
        _UNLIMITED,
        max_line_size=_LARGE,
        max_field_size=_LARGE,
        auto_decompress=False,
    )
    head, body = _one_of_aiohttp(parser, raw, ends=False)
    return Request(head.method.encode(), head.path.encode(), _headers(head.raw_headers), body)


def _one_of_aiohttp(parser: Any, raw: bytes, *, ends: bool) -> tuple[Any, bytes]:
    try:
        messages, _, tail = parser.feed_data(raw)
        if ends:
            parser.feed_eof()
    except HttpProcessingError as error:
        raise Unread(repr(error)) from error
    if len(messages) != 1 or tail:
        raise Unread(f"{len(messages)} messages and {len(tail)} bytes")
    head, payload = messages[0]
    if payload.exception() is not None or not payload.is_eof():
        raise Unread("not whole")
    return head, payload.read_nowait(-1)


def read_request(raw: bytes, loop: asyncio.AbstractEventLoop) -> Request:
    """What all parsers read in the bytes of one request. Fails when they differ, or one refuses."""
    readings = {
        "h11": request_by_h11(raw),
        "httptools": request_by_httptools(raw),
        "aiohttp": request_by_aiohttp(raw, loop),
    }
    assert len(set(readings.values())) == 1, f"read in more than one way: {readings}"
    return readings["h11"]


# --- responses -------------------------------------------------------------------------------------------


def response_by_h11(raw: bytes) -> Response:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=2 * _LARGE)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    connection.receive_data(b"")
    try:
        head = connection.next_event()
        body = _h11_body(connection)
    except h11.RemoteProtocolError as error:
        raise Unread(str(error)) from error
    if not isinstance(head, h11.Response) or connection.trailing_data[0]:
        raise Unread(repr(head))
    return Response(head.status_code, _headers(head.headers), body)


def response_by_aiohttp(raw: bytes, loop: asyncio.AbstractEventLoop) -> Response:
    parser = HttpResponseParser(
        BaseProtocol(loop),
        loop,
        _UNLIMITED,
        max_line_size=_LARGE,
        max_field_size=_LARGE,
        auto_decompress=False,
        read_until_eof=True,
    )
    head, body = _one_of_aiohttp(parser, raw, ends=True)
    return Response(head.code, _headers(head.raw_headers), body)


class _Socket:
    def __init__(self, raw: bytes) -> None:
        self.file = io.BytesIO(raw)

    def makefile(self, mode: str) -> io.BytesIO:
        return self.file


def response_by_http_client(raw: bytes) -> Response:
    sock = _Socket(raw)
    response = http.client.HTTPResponse(cast(Any, sock))
    try:
        response.begin()
        # A copy: at its end the response closes the file, and what is left in it is asked for.
        rest = response.fp
        body = response.read() if response.chunked or response.length is None else rest.read(response.length)
        if response.length is not None and not response.chunked and len(body) < response.length:
            raise Unread("not whole")
    except (http.client.HTTPException, ValueError) as error:
        raise Unread(repr(error)) from error
    pairs = ((name.encode("latin-1"), value.encode("latin-1")) for name, value in response.getheaders())
    return Response(response.status, _headers(pairs), body)


def read_response(raw: bytes, loop: asyncio.AbstractEventLoop) -> Response | None:
    """What all parsers read in all bytes of a connection; None where all say that it is cut.

    Fails when they differ.
    """
    readings = {
        "h11": _or_cut(lambda: response_by_h11(raw)),
        "aiohttp": _or_cut(lambda: response_by_aiohttp(raw, loop)),
        "http.client": _or_cut(lambda: response_by_http_client(raw)),
    }
    seen = {reading if isinstance(reading, Response) else None for reading in readings.values()}
    assert len(seen) == 1, f"read in more than one way: {readings}"
    return seen.pop()


def _or_cut(read: Any) -> Response | str:
    try:
        return cast(Response, read())
    except Unread as unread:
        return str(unread)
