"""JSON that readers read differently (FAULTS 2c), beside the stories of tests/proxy/test_requests.py."""

from __future__ import annotations

from itertools import islice
from random import Random

import pytest

from gateway.proxy import bodies
from gateway.proxy.errors import Refusal
from tests.fuzz.trying import corpus, mutations
from tests.proxy.dialogue import post

LARGE = b'"' + b"x" * 300_000 + b'"'
DIGITS = b"9" * 309


def body(value: bytes, before: bytes = b"", behind: bytes = b"") -> bytes:
    return b'{"model":"m"%b,"x":%b%b}' % (before, value, behind)


OVERFLOWS = (
    b"1e999", b"1E999", b"1e+999", b"-1e999", b"1.5e309", b"1e00309", b"10e308", b"[1,[2e400]]", DIGITS,
    b"-" + DIGITS, b"1" * 4301, b"9" * 1_000_000, b"1" * 250 + b"e99", DIGITS + b".5",
    b"1e0000000000000999",
)  # fmt: skip
IN_RANGE = (
    b"1e308", b"1.7e308", b"1e-999", b"1e10", b"1E+10", b"18446744073709551616", b"1" * 308,
    b"0." + b"1" * 400, b'"1e999"', b'"' + DIGITS + b'"', b'"%b e999, 1e999"' % DIGITS, b"[1e9,1e99]",
    b"0e999", b"12345678901234567890",
)  # fmt: skip
DIFFERENT = (
    b'"\\ud800"', b'"\\udc00"', b'"\\ud800\\u0041"', b'"\\ud800\\ud800"', b'"\\udc00\\ud800"',
    b'"\\uD83D"', b"Infinity", b"-Infinity", b"NaN", b"nan", b"+1", b"01", b"1.", b".5", b"0x1", b"1_0",
    b"True", b"None", b"undefined", b"'a'", b"a", b"[1,]", b'{"a":1,}', b'{"a":1 "b":2}', b'{"a"}',
    b"{a:1}", b"[1 2]", b'"\\q"', b'"\\u12"', b'"\\x41"', b'"\t"', b'"\n"', b'"\0"', b"1 /* */",
    b"1 // x", b"1 # x", b'"\xff"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"',
    b'"\xe2\x82"', b"[" * 1100 + b"]" * 1100, b'{"a":' * 1100 + b"1" + b"}" * 1100, b"[" * 100_000,
    b"\xa01", b"\x0c1", b"\xef\xbb\xbf1",
)  # fmt: skip
AROUND = (
    b'\xef\xbb\xbf{"model":"m"}', b'{"model":"m"}\0', b'{"model":"m"}\x0c', b'\xa0{"model":"m"}',
    b'{"model":"m"}]', b'{"model":"m"};', b'[{"model":"m"}]', b'"{}"', b"{}{}", b"\0", b"true", b"null",
    b"-1", b"\x1e{}\n", b')]}\'\n{"model":"m"}', '{"model":"m"}'.encode("utf-16-le"),
    '{"model":"m"}'.encode("utf-32"),
)  # fmt: skip
TWICE = (
    b',"model":"m"', b',"model":"n"', b',"mod\\u0065l":"n"', b',"\\u006dodel":"n"',
    b',"\\u006Dodel":"n"', b',"model" :"n"', b',"a":{"model":1},"model":"n"',
    b',"a":"\\"model\\"","model":"n"', b',"stream":true,"stream":true',
    b',"stream":true,"\\u0073tream":false', b',"stream":null,"stream":true',
    b',"stream":true,"stream":null', b',"model":null',
)  # fmt: skip
ONCE = (
    b',"Model":"n"', b',"model ":"n"', b',"a":{"model":"n","stream":true}',
    b',"a":[{"model":"n"},{"model":"o"}]', b',"a":"\\"model\\":\\"n\\""', b',"modelx":"n"',
    b',"a\\u0000":1', b',"mod\\\\u0065l":"n"', b',"a":"\\ud83d\\ude00"',
)  # fmt: skip


@pytest.fixture
async def ask(start_backend, start_gateway):
    """Sends bodies on one connection, and says what became of each: whether it passed as it was."""
    backend = await start_backend()
    gateway = await start_gateway(backend, limit=100)
    client = await gateway.connect()

    async def passes(content: bytes, *lines: str) -> bool:
        seen = len(backend.requests)
        await client.send(post(content, *lines))
        answer = await client.answer()
        if answer.status == 200:
            assert backend.requests[-1].body == content
            return True
        assert answer.status in (400, 415) and answer.error["code"] == "invalid_request"
        assert len(answer.error["message"]) < 300 and answer.header("connection") is None
        assert len(backend.requests) == seen
        return False

    return passes


async def test_a_number_that_no_double_holds_is_refused(ask):
    for value in OVERFLOWS:
        assert not await ask(body(value)), value[:40]
    for value in (DIGITS, b"-" + DIGITS, b"9" * 4301):
        for offset in range(0, 200, 7):
            assert not await ask(
                body(b"[%b]" % value, behind=b',"y":%b' % (LARGE[:-1] + b" " * offset + b'"'))
            )
            assert not await ask(body(value, before=b',"y":%b' % (LARGE[:-1] + b" " * offset + b'"')))


async def test_a_number_in_range_and_any_text_pass_as_they_are(ask):
    for value in IN_RANGE:
        assert await ask(body(value)), value[:40]
        assert await ask(body(value, behind=b',"y":' + LARGE)), value[:40]


async def test_what_only_some_readers_take_is_refused(ask):
    for value in DIFFERENT:
        assert not await ask(body(value)), value[:40]
        assert not await ask(body(value, before=b',"y":' + LARGE)), value[:40]
    for content in AROUND:
        assert not await ask(content), content[:40]


async def test_a_field_that_decides_stands_once_however_it_is_spelt(ask):
    for more in TWICE:
        assert not await ask(body(b"1", before=more)), more
    for more in ONCE:
        assert await ask(body(b"1", before=more)), more


@pytest.mark.parametrize(
    "kind",
    [
        "application/json; charset=utf-16",
        "application/json; charset=utf-16; x=utf-8",
        "application/json; charset=utf-8; charset=utf-16",
        'application/json; charset="utf-16"',
        "application/json; Charset=UTF-7",
        "application/jsonx",
        "application/x-json",
        "text/json",
        "application/json, text/plain",
        "json",
    ],
)
async def test_another_kind_of_text_is_a_415(ask, kind):
    assert not await ask(body(b"1"), f"Content-Type: {kind}")


@pytest.mark.parametrize(
    "kind", ['application/json; charset="utf-8"', "application/json;charset=UTF-8", "a/b"]
)
async def test_utf_8_by_any_spelling_is_read(ask, kind):
    assert await ask(body(b"1"), f"Content-Type: {kind}") == (kind != "a/b")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity, gzip", "x-gzip", "aes128gcm", ","])
async def test_a_body_in_a_coding_is_a_415(ask, coding):
    assert not await ask(body(b"1"), f"Content-Encoding: {coding}")


def read(data: bytes) -> bodies.BodyFacts | bytes:
    try:
        return bodies.read_json(data)
    except Refusal as refusal:
        return refusal.body()


def test_short_bodies_are_read_in_a_shorter_way_to_the_same_end(monkeypatch):
    values = (*OVERFLOWS, *IN_RANGE, *DIFFERENT)
    seeds = [*map(body, values), *(body(b"1", behind=more) for more in (*TWICE, *ONCE)), *AROUND]
    seeds += [data.partition(b"\n")[2] for data in corpus("model")]
    asked = [data for data in seeds if len(data) <= bodies.HARD_BODY_BYTES]
    asked += islice(mutations("model", asked, Random(1)), 5000)
    short = [read(data) for data in asked]
    monkeypatch.setattr(bodies, "HARD_BODY_BYTES", -1)
    for data, told in zip(asked, short, strict=True):
        assert read(data) == told, data
