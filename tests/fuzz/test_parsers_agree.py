"""What Spillway writes is read alike by h11, httptools, aiohttp, nginx; answers also by http.client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.fake_network import World
from tests.fuzz.nginx import NGINX, running_nginx
from tests.fuzz.readers import (
    Request,
    Unread,
    read_request,
    read_response,
    request_by_h11,
    request_by_httptools,
)
from tests.fuzz.targets import downstream, upstream
from tests.fuzz.trying import corpus
from tests.proxy.dialogue import Client, ScriptedBackend

_TOKEN = st.text("!#$%&'*+-.^`|~aZ09_", min_size=1, max_size=8).map(str.encode)
_VALUE = st.text("".join(map(chr, range(32, 127))) + "\t", max_size=20).map(str.encode)
_ODD_VALUE = st.binary(max_size=8)
_NAMES = (
    b"X-A x-a Accept Range Authorization Cookie X_A X-Forwarded-For Via Date Content-"
    b" Type Connection Keep-Alive TE Trailer Upgrade Expect X-Request-Id Content-"
    b" Encoding Server Set-Cookie Retry-After Location"
)
_KNOWN = st.sampled_from(_NAMES.split())
_LINE = st.tuples(
    st.one_of(_KNOWN, _TOKEN),
    st.sampled_from((b": ", b":", b": \t ", b" :")),
    st.one_of(
        _VALUE,
        _ODD_VALUE,
        st.sampled_from((b"close", b"keep-alive, x-a", b"host", b"100-continue", b"identity", b"a, b", b'"')),
    ),
    st.sampled_from((b"\r\n", b"\r\n", b"\r\n", b" \r\n", b"\t\r\n", b"\n", b"\r\n ")),
).map(b"".join)
_LINES = st.lists(_LINE, max_size=6).map(b"".join)
_BODY = st.sampled_from(
    (b'{"model":"m"}', b'{"model":"m","stream":true}', b'{"model":"m"}\r\n\r\nGET / HTTP/1.1\r\n\r\n')
)
_QUERY = st.one_of(
    st.just(b""), st.text("?&=%20aZ/.~:@!$'()*+,;{}|\\^`\"<>[]", max_size=12).map(lambda q: b"?" + q.encode())
)


@st.composite
def _framed(draw: st.DrawFn, body: bytes) -> bytes:
    """A framing and the body in it; most of them right."""
    if draw(st.booleans()):
        digits = draw(st.sampled_from((b"%d", b"%d", b"0%d", b"%d ", b"\t%d")))
        return b"Content-Length: " + digits % len(body) + b"\r\n\r\n" + body
    size = draw(st.integers(1, len(body)))
    line = draw(
        st.sampled_from((b"%x\r\n", b"%X\r\n", b"0%x\r\n", b"%x;a=b\r\n", b'%x;a="\t"\r\n', b"%x \r\n"))
    )
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    end = draw(
        st.sampled_from((b"0\r\n\r\n", b"000\r\n\r\n", b"0;a\r\n\r\n", b"0\r\nX-T: 1\r\nHost: b\r\n\r\n"))
    )
    framed = b"".join(line % len(chunk) + chunk + b"\r\n" for chunk in chunks)
    return b"Transfer-Encoding: chunked\r\n\r\n" + framed + end


@st.composite
def _requests(draw: st.DrawFn) -> bytes:
    target = draw(st.sampled_from((b"/v1/completions", b"/v1/chat/completions", b"/v1/images/a.b"))) + draw(
        _QUERY
    )
    version = draw(st.sampled_from((b"1.1", b"1.1", b"1.0")))
    head = b"POST " + target + b" HTTP/" + version + b"\r\nHost: a\r\n" + draw(_LINES)
    return head + draw(_framed(draw(_BODY)))


@st.composite
def _answers(draw: st.DrawFn) -> bytes:
    reason = draw(
        st.one_of(st.just(b" OK"), _VALUE.map(lambda value: b" " + value), _ODD_VALUE, st.just(b""))
    )
    status = draw(st.sampled_from((b"200", b"200", b"201", b"204", b"302", b"304", b"400", b"429", b"500")))
    body = draw(st.one_of(_BODY, st.binary(min_size=1, max_size=40)))
    return b"HTTP/1.1 " + status + reason + b"\r\n" + draw(_LINES) + draw(_framed(body))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


_RUN = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


def test_requests(world: World) -> None:
    """The target compares the readings; here it is fed with what is nearly right."""
    forwarded = 0

    @_RUN
    @given(st.lists(_requests(), min_size=1, max_size=2).map(b"".join))
    def run(sent: bytes) -> None:
        nonlocal forwarded
        downstream(world, sent)
        forwarded += len(world.forwarded)

    run()
    assert forwarded > 30


def test_answers(world: World) -> None:
    passed = 0
    ask = corpus_request()

    @_RUN
    @given(_answers())
    def run(answer: bytes) -> None:
        nonlocal passed
        upstream(world, answer)
        passed += b"HTTP/1.1 502" not in world.serve([ask], [answer])[1]

    run()
    assert passed > 30


def corpus_request() -> bytes:
    return next(data for data in corpus("downstream") if data.startswith(b"POST /v1/chat") and b"13" in data)


def test_readers_that_differ_are_told(world: World) -> None:
    with pytest.raises((AssertionError, Unread)):
        read_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", world.loop)
    bare_line_feeds = b"GET / HTTP/1.1\nHost: a\n\n"
    assert request_by_h11(bare_line_feeds).target == b"/"
    with pytest.raises(Unread):
        request_by_httptools(bare_line_feeds)
    with pytest.raises(AssertionError, match="more than one way"):
        read_response(b"HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n", world.loop)


@pytest.mark.skipif(NGINX is None, reason="there is no nginx")
def test_nginx_reads_requests_like_the_others(world: World, tmp_path: Path) -> None:
    raws = _forwarded(world)
    assert len(raws) > 30
    heard = asyncio.run(_through_nginx(raws, tmp_path))
    for raw, through in zip(raws, heard, strict=True):
        assert through == _comparable(request_by_h11(raw)), raw


def _forwarded(world: World) -> list[bytes]:
    """What Spillway writes for the corpus and for what is nearly right, each kind once."""
    kinds: dict[object, bytes] = {}

    def note(sent: bytes) -> None:
        for forwarded in world.serve([sent])[0]:
            kinds.setdefault(_comparable(request_by_h11(forwarded.raw)), forwarded.raw)

    for sent in corpus("downstream"):
        note(sent)
    _RUN(given(_requests())(note))()
    return list(kinds.values())


def _comparable(request: Request) -> Request:
    """Without what every hop writes for itself, and in no order."""
    own = (b"connection", b"content-length", b"x-request-id")
    return request._replace(headers=tuple(sorted(pair for pair in request.headers if pair[0] not in own)))


async def _through_nginx(raws: list[bytes], place: Path) -> list[Request | bytes]:
    """What reached the backend, in order; nginx's own answer where nothing did."""
    backend = ScriptedBackend()
    await backend.listen()
    heard: list[Request | bytes] = []
    try:
        with running_nginx(place, backend.port) as port:
            for raw in raws:
                client = await Client.connect(port)
                await client.send(raw)
                answer = await client.answer()
                client.close()
                arrived = [_comparable(request_by_h11(request.raw)) for request in backend.requests]
                backend.requests.clear()
                heard.append(arrived[0] if len(arrived) == 1 else answer.head)
    finally:
        await backend.stop()
    return heard
