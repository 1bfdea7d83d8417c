"""Hostile backends: an error of the gateway's own, or a visible cut; never a hang, never another's bytes."""

from __future__ import annotations

import pytest

from tests.proxy.dialogue import Ending, chunk, event_stream, post, reply

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 2\r\n"
CODING = b"Transfer-Encoding: chunked\r\n"
FIVE = b"5\r\nhello\r\n0\r\n\r\n"
EVENT = b'data: {"a":1}\n\n'

UNREADABLE = {
    "RS-01": b"",
    "RS-04": b"garbage\r\n\r\n",
    "RS-05": b"<html>no head at all</html>",
    "RS-06": b"HTTP/1.1 abc OK\r\n" + LENGTH + b"\r\nOK",
    "RS-07": b"HTTP/1.1 20 OK\r\n" + LENGTH + b"\r\nOK",
    "RS-08": b"HTTP/1.1 999 X\r\n" + LENGTH + b"\r\nOK",
    "RS-08-low": b"HTTP/1.1 099 X\r\n" + LENGTH + b"\r\nOK",
    "RS-09": b"HTTP/2.0 200 OK\r\n" + LENGTH + b"\r\nOK",
    "RS-10": OK + b"X: a\x00b\r\n" + LENGTH + b"\r\nOK",
    "RS-11": OK + b"X: a\rSet-Cookie: b\r\n" + LENGTH + b"\r\nOK",
    "RS-14": OK + b"NoColon\r\n" + LENGTH + b"\r\nOK",
    "RS-15": OK + b"".join(b"X-%d: a\r\n" % n for n in range(300)) + LENGTH + b"\r\nOK",
    "RS-16": OK + b"X: " + b"a" * 200_000,
    "RS-16-whole": OK + b"X: " + b"a" * 200_000 + b"\r\n" + LENGTH + b"\r\nOK",
    "RS-16-line": OK + b"X: " + b"a" * 9_000 + b"\r\n" + LENGTH + b"\r\nOK",
    "RS-19": OK + LENGTH + b"Content-Length: 3\r\n\r\nOK",
    "RS-19-list": OK + b"Content-Length: 2, 3\r\n\r\nOK",
    "RS-20": OK + LENGTH + CODING + b"\r\n" + FIVE,
    "RS-20-turned": OK + CODING + LENGTH + b"\r\n" + FIVE,
    "RS-21": OK + b"Content-Length: -1\r\n\r\nOK",
    "RS-22": OK + b"Content-Length: 2x\r\n\r\nOK",
    "RS-23": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + FIVE,
    "RS-24": OK + b"Transfer-Encoding: xyz\r\n\r\nhello",
    "RS-32": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2000 + OK + LENGTH + b"\r\nOK",
    "RS-33": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nraw",
    "RS-45": b"HTTP/1.1 200 " + b"r" * 20_000 + b"\r\n" + LENGTH + b"\r\nOK",
    "RS-46": OK + CODING + CODING + b"\r\n" + FIVE,
}
LENIENT = {  # may be refused or made regular
    "RS-12": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nOK",
    "RS-13": OK + b"X: a\r\n folded\r\n" + LENGTH + b"\r\nOK",
}
CUTS = {
    "RS-17": (OK + b"Content-Length: 100\r\n\r\nOK", Ending.FIN),
    "RS-25": (event_stream() + chunk(EVENT), Ending.FIN),
    "RS-26": (event_stream() + chunk(EVENT), Ending.RST),
    "RS-27": (event_stream() + chunk(EVENT), b"XX\r\nfoo\r\n"),
    "RS-28": (event_stream() + chunk(EVENT), b"f" * 17 + b"\r\nfoo\r\n"),
    "RS-29": (event_stream() + chunk(EVENT), b"5;" + b"e" * 65_536),
    "RS-29-late": (event_stream() + chunk(b"x" * 60_000), b"5;" + b"e" * 65_536),
    "RS-30": (event_stream() + chunk(EVENT) + b"0\r\n", b"X-T: a\r\n" * 5_000),
    "RS-30-late": (event_stream() + chunk(b"x" * 60_000) + b"0\r\n", b"X-T: " + b"a" * 65_536),
    "RS-42": (OK + b"Content-Type: text/event-stream\r\n\r\n" + EVENT, Ending.RST),
}


@pytest.fixture
async def pair(start_backend, start_gateway):
    backend = await start_backend()
    return await start_gateway("timeouts: {first_byte: 1s, stall: 1s}", backend), backend


def in_pieces(sent: bytes, size: int | None):
    return [sent] if size is None else [sent[at : at + size] for at in range(0, len(sent), size)]


@pytest.mark.parametrize("size", [None, 1, 7])
@pytest.mark.parametrize("sent", UNREADABLE.values(), ids=UNREADABLE)
async def test_an_answer_that_cannot_be_trusted_is_a_502(pair, sent, size):
    gateway, backend = pair
    if size is not None and len(sent) > 1000:
        size *= 1000
    backend.will(*in_pieces(sent, size), 0.0, Ending.FIN)
    answer = await gateway.ask(post())
    assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")


@pytest.mark.parametrize("sent", LENIENT.values(), ids=LENIENT)
async def test_an_answer_that_is_only_untidy_is_refused_or_made_regular(pair, sent):
    gateway, backend = pair
    backend.will(sent, Ending.FIN)
    answer = await gateway.ask(post())
    assert answer.status == 502 or (answer.status, answer.body) == (200, b"OK")
    assert b"\n" not in answer.head.replace(b"\r\n", b"")
    assert b"\r\n " not in answer.head


@pytest.mark.parametrize(("begun", "ending"), CUTS.values(), ids=CUTS)
async def test_an_answer_that_breaks_is_cut_at_once(pair, begun, ending):
    gateway, backend = pair
    backend.will(begun, 0.02, ending, 5.0)
    answer = await gateway.ask(post(), within_s=0.8)
    assert answer.status == 200 and not answer.is_whole


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_a_body_where_none_belongs_is_dropped_with_its_connection(pair, status):
    gateway, backend = pair
    backend.will(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\nhello")
    client = await gateway.connect()
    await client.send(post() + post())
    first, second = await client.answer(), await client.answer()
    assert (first.status, first.body, second.status) == (int(status[:3]), b"", 200)
    assert backend.requests[1].connection == 1


async def test_an_answer_behind_the_answer_reaches_nobody(pair):
    gateway, backend = pair
    backend.will(reply(b"ok"), reply(b"POISON"))
    for expected in (b"ok", b'{"ok":true}', b'{"ok":true}'):
        assert (await gateway.ask(post())).body == expected
