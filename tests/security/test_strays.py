"""Answers that nobody asked for, at every moment around the next request: none of them is its answer.

A backend in this process writes its stray into its socket inside a call of the gateway's: so it is in the
gateway's kernel at that very moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import types

import pytest

from gateway.core.model import Reason
from gateway.proxy.upstream import UpstreamConnection
from gateway.proxy.wire import Wire
from tests.proxy.dialogue import post, reply, settled
from tests.security.poison import GOOD, POISON

_SLOWLY = [0.01, reply()]  # so that a stray is read before the true answer is there
STRAYS = {
    "whole": [POISON],
    "in-pieces": [POISON[:20], POISON[20:]],
    "byte": [POISON[:1], POISON[1:]],
    "interim": [b"HTTP/1.1 103 E\r\n\r\n" + POISON],
    "blank": [b"\r\n" + POISON],
    "garbage": [b"\0"],
}


@pytest.mark.parametrize("is_before", [True, False])
async def test_an_answer_that_nobody_asked_for_is_not_the_next_one_s(pair, is_before):
    """It comes in the very turn in which the idle connection is taken: still before the request is out."""
    gateway, backend = pair
    client = await gateway.connect()
    for _ in range(40):
        await client.send(post())
        assert (await client.answer()).body == GOOD
        (upstream,) = backend.open_connections
        if is_before:
            upstream.transport.write(POISON)
            client.writer.write(post())
        else:
            client.writer.write(post())
            upstream.transport.write(POISON)
        assert (await client.answer()).body == GOOD
        assert await settled(lambda: len(backend.open_connections) == 1)


class Stray:
    """Comes at the moment in which a request is written to a connection that was idle: once."""

    def __init__(self, backend, parts: list[bytes], *, is_late: bool) -> None:
        self._backend, self._parts, self._is_late = backend, parts, is_late
        self.connection = None
        self.was_seen: bool | None = None

    def around(self, look):
        def is_silent(wire) -> bool:
            if self.connection is not None:
                return look(wire)
            (self.connection,) = self._backend.open_connections
            if not self._is_late:
                self._write()
            self.was_seen = not look(wire)
            if self._is_late:
                self._write()
            return not self.was_seen

        return is_silent

    def _write(self) -> None:
        raw = socket.socket(fileno=os.dup(self.connection.transport.get_extra_info("socket").fileno()))
        with raw:
            # The request is then acknowledged with the next thing that is written, as between far machines.
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
            raw.send(self._parts[0])
        for part in self._parts[1:]:
            asyncio.get_running_loop().call_later(0.002, self._write_on, part)

    def _write_on(self, part: bytes) -> None:
        with contextlib.suppress(RuntimeError):
            self.connection.transport.write(part)


@pytest.mark.parametrize("parts", STRAYS.values(), ids=STRAYS)
@pytest.mark.parametrize("is_late", [False, True], ids=["before", "crossing"])
async def test_a_stray_at_the_moment_of_the_write_costs_its_connection_only(
    pair, monkeypatch, parts, is_late
):
    gateway, backend = pair
    client = await gateway.connect()
    await client.send(post())
    assert (await client.answer()).body == GOOD
    stray = Stray(backend, parts, is_late=is_late)
    monkeypatch.setattr(Wire, "is_silent", stray.around(Wire.is_silent))
    backend.default = _SLOWLY
    for _ in range(3):
        await client.send(post())
        assert (await client.answer()).body == GOOD
    assert stray.was_seen is not is_late
    assert stray.connection.number == 0 and stray.connection.is_lost.is_set()
    sent_in_vain = [request for request in backend.requests[1:] if request.connection == 0]
    assert len(sent_in_vain) <= is_late, "what is seen in time is sent nothing"
    assert [request.connection for request in backend.requests[-3:]] == [1, 1, 1]


@pytest.mark.parametrize("status", ["400 Bad", "431 Too Large"])
async def test_an_answer_before_the_end_of_a_head_is_an_answer(pair, status):
    """Who finds a head too large need not read it all: a refusal is not a stray."""
    gateway, backend = pair

    def refuse(connection, data):
        connection.transport.pause_reading()
        connection.transport.write(reply(b"early", "Connection: close", status=status))
        return True

    backend.intercept = refuse
    padding = (f"X-Padding-{n}: {'x' * 7_000}" for n in range(8))
    answer = await gateway.ask(post(b'{"model":"m"}', *padding))
    assert (answer.status, answer.body) == (int(status[:3]), b"early")


class Ends:
    """Two sockets. What the far one gets it acknowledges with its next word; the near one has a Wire."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.near = socket.create_connection(listening.getsockname())
            self.far = listening.accept()[0]
        self.far.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        self.wire = Wire(self)

    def get_extra_info(self, name: str) -> socket.socket:
        return self.near

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.near.close()
        self.far.close()


def test_what_crossed_the_request_acknowledges_nothing_of_it():
    with Ends() as ends:
        ends.far.send(b"stray")
        ends.near.send(b"r" * 100)
        ends.near.recv(100)
        assert ends.wire.unread_bytes() == 100
        ends.far.send(b"answer")
        ends.near.recv(100)
        assert ends.wire.unread_bytes() == 0


def test_silent_is_who_has_neither_spoken_nor_left():
    for speak in (lambda far: far.send(b"\n"), lambda far: far.shutdown(socket.SHUT_WR)):
        with Ends() as ends:
            assert ends.wire.is_silent()
            speak(ends.far)
            assert not ends.wire.is_silent()


class Told:
    """A receiver, a pool, a transport and what the kernel says of it, in memory."""

    def __init__(self, unread: int, buffered: int = 0, *, is_encrypted: bool = False) -> None:
        self.heard: list[str] = []
        self.is_aborted = self.is_given_back = False
        self.secret = b""
        self.ssl_context = object() if is_encrypted else None
        self.buffered = 0
        self.writes = self
        self.connection = UpstreamConnection(self, 0.0)
        self.connection.connection_made(self)
        self.connection._wire = self
        self.unread_bytes = lambda: unread
        self._at_first = buffered

    def ask(self, head: int, body: int) -> None:
        self.connection.send(self, b"h" * head, b"b" * body)
        self.buffered = self._at_first
        for piece in (POISON[:30], POISON[30:]):
            if not self.is_aborted:
                self.connection.data_received(piece)
            self.buffered = 0

    def add(self, connection, data) -> None:
        connection.write(data)

    def get_extra_info(self, name: str):
        return types.SimpleNamespace(fileno=lambda: -1)

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def write(self, data) -> None: ...

    def on_answer_head(self, head) -> None: ...

    def on_answer_body(self, chunk) -> None: ...

    def on_answer_end(self) -> None:
        self.heard.append("answer")

    def on_answer_failed(self, reason) -> None:
        self.heard.append(reason)

    def abort(self) -> None:
        self.is_aborted = True

    def give_back(self, connection) -> None:
        self.is_given_back = True


@pytest.mark.parametrize(
    ("unread", "buffered", "is_answer", "is_kept"),
    [
        (0, 0, True, True),
        (100, 0, False, False),  # not a byte is there
        (60, 40, False, False),
        (0, 100, False, False),
        (99, 0, True, False),  # early: what it has not read may become the next request's beginning
        (0, 99, True, False),
        (1, 0, True, False),
    ],
)
def test_who_answers_before_the_request_is_there_is_not_heard(unread, buffered, is_answer, is_kept):
    told = Told(unread, buffered)
    told.ask(30, 70)
    assert told.heard == (["answer"] if is_answer else [Reason.BAD_RESPONSE])
    assert told.is_given_back is is_kept and told.is_aborted is not is_kept


@pytest.mark.parametrize(
    ("body", "unread", "is_answer"),
    [(70, 122, False), (70, 0, True), (20_000, 20_074, True), (20_000, 0, True)],
)
def test_of_tls_one_record_is_there_or_not_and_of_several_nothing_is_said(body, unread, is_answer):
    """The overhead of several may be more than the part of them that is acknowledged."""
    told = Told(unread, is_encrypted=True)
    told.ask(30, body)
    assert told.heard == (["answer"] if is_answer else [Reason.BAD_RESPONSE])
    assert told.is_given_back is (unread == 0)
