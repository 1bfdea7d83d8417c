"""Families of hostile and odd answers: each rule of FAULTS 2b in every place and spelling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.proxy.dialogue import chunk
from tests.security.head_families import BLANKS, CONTROLS, FOREIGN, LINE_ENDS, SIGNS, printable

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 2\r\n"
CODING = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
EVENT = b'data: {"a":1}\n\n'


class Case(NamedTuple):
    """`body` None: a 502, or, where `may_begin`, an answer that is visibly cut. Else what the client gets."""

    id: str
    sent: bytes
    body: bytes | None = None
    may_begin: bool = False
    status: int = 200


def header(line: bytes) -> bytes:
    return OK + line + LENGTH + b"\r\nOK"


def chunked(body: bytes) -> bytes:
    return OK + CODING + b"\r\n" + body


def _heads() -> Iterator[Case]:
    for byte in CONTROLS:
        for place, sent in {
            "name": header(b"X%bA: b\r\n" % byte),
            "before-name": header(b"%bX-A: b\r\n" % byte),
            "behind-name": header(b"X-A%b: b\r\n" % byte),
            "value": header(b"X-A: a%bSet-Cookie: b\r\n" % byte),
            "before-value": header(b"X-A:%bb\r\n" % byte),
            "behind-value": header(b"X-A: b%b\r\n" % byte),
            "reason": OK.replace(b"OK", b"O%bK" % byte) + LENGTH + b"\r\nOK",
            "status": OK.replace(b"200", b"2%b00" % byte) + LENGTH + b"\r\nOK",
            "behind-status": OK.replace(b"200 ", b"200" + byte) + LENGTH + b"\r\nOK",
            "version": OK.replace(b"1.1", b"1.%b1" % byte) + LENGTH + b"\r\nOK",
            "first": byte + header(b""),
            "second": b"H" + byte + header(b"")[1:],
            "length": OK + b"Content-Length: 0%b2\r\n\r\nOK" % byte,
            "before-length": OK + b"Content-Length: %b2\r\n\r\nOK" % byte,
            "behind-length": OK + b"Content-Length: 2%b\r\n\r\nOK" % byte,
            "coding": OK + b"Transfer-Encoding: chun%bked\r\n\r\n" % byte + CHUNKS,
            "before-coding": OK + b"Transfer-Encoding: %bchunked\r\n\r\n" % byte + CHUNKS,
            "behind-coding": OK + b"Transfer-Encoding: chunked%b\r\n\r\n" % byte + CHUNKS,
        }.items():
            yield Case(f"{printable(byte)}-{place}", sent)
    for text in FOREIGN:
        yield Case(f"{printable(text)}-name", header(b"X%bA: b\r\n" % text))
        yield Case(f"{printable(text)}-first", text + header(b""))
        yield Case(f"{printable(text)}-length", OK + b"Content-Length: 2%b\r\n\r\nOK" % text)
        yield Case(f"{printable(text)}-coding", OK + b"Transfer-Encoding: %bchunked\r\n\r\n" % text + CHUNKS)
    for blank in BLANKS:
        for line in (b"Content-Length: 2", b"Transfer-Encoding: chunked", b"X-A: b"):
            name, _, value = line.partition(b":")
            yield Case(
                f"{printable(blank)}-colon-{name.decode()}", header(name + blank + b":" + value + b"\r\n")
            )
            yield Case(f"{printable(blank)}-first-{name.decode()}", header(blank + line + b"\r\n"))
    for fold in (b"\r\n ", b"\r\n\t", b"\n ", b"\r "):
        for line in (
            b"X-A: b",
            b"Content-Type: text/plain",
            b"Content-Length: 2",
            b"Transfer-Encoding: chunked",
        ):
            name, _, value = line.partition(b": ")
            yield Case(f"fold-{printable(fold)}-{name.decode()}", header(line + fold + b"x\r\n"))
            yield Case(
                f"fold-colon-{printable(fold)}-{name.decode()}", header(name + b":" + fold + value + b"\r\n")
            )


def _lines() -> Iterator[Case]:
    for wrong in LINE_ENDS:
        head = [OK.rstrip(), LENGTH.rstrip(), b""]
        for at in range(1 if wrong in FOREIGN else 0, len(head)):  # in a reason phrase it is legal
            lines = b"".join(line + (wrong if at == i else b"\r\n") for i, line in enumerate(head))
            yield Case(f"{printable(wrong)}-head-{at}", lines + b"OK")
    for status in (b"", b"2", b"20", b"2000", b"0200", b"+200", b"-200", b"2e2", b"xyz", b"099",
                   b"000", b"600", b"999", b"101", b"199", b"2 0", b"2xx"):  # fmt: skip
        for framing in (LENGTH + b"\r\nOK", CODING + b"\r\n" + CHUNKS, b"\r\nOK"):
            yield Case(
                f"status-{status.decode()}-{framing[:1].decode()!r}",
                b"HTTP/1.1 " + status + b" X\r\n" + framing,
            )
    for version in (b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/2", b"HTTP/1", b"HTTP/1.10",
                    b"HTTP/01.1", b"http/1.1", b"HTTPS/1.1", b"ICY", b"RTSP/1.0", b"HTTP/",
                    b"HTTP/1.1.1"):  # fmt: skip
        yield Case(f"version-{version.decode()}", version + b" 200 OK\r\n" + LENGTH + b"\r\nOK")
    yield Case("chunked-1.0", b"HTTP/1.0 200 OK\r\n" + CODING + b"\r\n" + CHUNKS)
    yield Case("reason-long", b"HTTP/1.1 200 " + b"r" * 257 + b"\r\n" + LENGTH + b"\r\nOK")
    yield Case("no-colon", header(b"NoColon\r\n"))
    yield Case("no-name", header(b": a\r\n"))
    for garbage in (b"SSH-2.0-OpenSSH_9.6\r\n", b"220 smtp ready\r\n", b"\x16\x03\x03\0",
                    b"+OK\r\n", b"-ERR unknown command\r\n", b"{}", b"<html>", b"\0" * 100, b"H",
                    b"HTTP", b"HTTP/1.1 200"):  # fmt: skip
        yield Case(f"garbage-{printable(garbage[:12])}", garbage)


def _framing() -> Iterator[Case]:
    wrong = [
        b"3",
        b"02,2",
        b"2, 2",
        b"2,2",
        b"2;q",
        b"2.0",
        b"0x2",
        b"+2",
        b"-2",
        b"",
        b" ",
        b"2 2",
        b"9" * 26,
        b"x",
    ]
    wrong += [b"%d" % 2**64, b"%d" % (2**64 + 2), "²".encode()]
    for value in wrong:
        yield Case(
            f"length-twice-{printable(value)}", OK + LENGTH + b"Content-Length: " + value + b"\r\n\r\nOK"
        )
        if value != b"3":
            yield Case(f"length-{printable(value)}", OK + b"Content-Length: " + value + b"\r\n\r\nOK")
    yield Case("length-twice-same", OK + LENGTH + LENGTH + b"\r\nOK")
    wrong = [b"identity", b"gzip", b"", b",", b"chunke", b"xchunked", b'"chunked"', b"chunked;a=b",
             b"gzip, chunked", b"chunked, gzip", b"identity, chunked", b"chunked, chunked",
             b",chunked", b"chunked,"]  # fmt: skip
    for value in wrong:
        lines = b"Transfer-Encoding: " + value + b"\r\n"
        yield Case(f"coding-{printable(value)}", OK + lines + b"\r\n" + CHUNKS)
        yield Case(f"coding-before-{printable(value)}", OK + lines + CODING + b"\r\n" + CHUNKS)
        yield Case(f"coding-behind-{printable(value)}", OK + CODING + lines + b"\r\n" + CHUNKS)
        yield Case(f"coding-length-{printable(value)}", OK + LENGTH + lines + b"\r\nOK")
    yield Case("coding-twice", OK + CODING + CODING + b"\r\n" + CHUNKS)
    yield Case("coding-length", OK + CODING + LENGTH + b"\r\n" + CHUNKS)
    yield Case("length-coding", OK + LENGTH + CODING + b"\r\n" + CHUNKS)
    for name in (b"Content-Type: a/b\r\n", b"Content-Encoding: gzip\r\n"):
        yield Case(f"twice-{name[:12].decode()}", header(name + name))


def _chunks() -> Iterator[Case]:
    def sized(line: bytes) -> bytes:
        return chunked(line + b"\r\nhello\r\n0\r\n\r\n")

    def last(line: bytes) -> bytes:
        return chunked(b"5\r\nhello\r\n" + line + b"\r\n\r\n")

    for text in (*SIGNS, *CONTROLS, *FOREIGN, b" ", b"\t"):
        label = printable(text)
        yield Case(f"before-size-{label}", sized(text + b"5"), may_begin=True)
        yield Case(f"behind-size-{label}", sized(b"5" + text), may_begin=True)
        yield Case(f"behind-data-{label}", chunked(b"5\r\nhello" + text + b"\r\n0\r\n\r\n"), may_begin=True)
        if text not in (b"0x", b"0X"):
            yield Case(f"before-last-{label}", last(text + b"0"), may_begin=True)
            yield Case(f"behind-last-{label}", last(b"0" + text), may_begin=True)
        if text in CONTROLS:
            yield Case(f"trailer-name-{label}", last(b"0\r\nX%b: a" % text), may_begin=True)
            yield Case(f"trailer-value-{label}", last(b"0\r\nX: a%bb" % text), may_begin=True)
            yield Case(f"extension-{label}", sized(b"5;a%bb" % text), may_begin=True)
    for digits in (b"f" * 16, b"f" * 17, b"f" * 40, b"1" + b"0" * 16, b"", b"6", b"4"):
        yield Case(f"size-{len(digits)}-{digits[:1].decode()}", sized(digits), may_begin=True)
    yield Case("trailer-length", last(b"0\r\nContent-Length: 9"), may_begin=True)
    for wrong in LINE_ENDS:
        lines = [b"5", b"hello", b"0", b""]
        for at in range(len(lines)):
            sent = b"".join(line + (wrong if at == i else b"\r\n") for i, line in enumerate(lines))
            yield Case(f"{printable(wrong)}-{at}", chunked(sent), may_begin=True)
    for cut in range(1, len(CHUNKS)):
        yield Case(f"cut-{cut}", chunked(CHUNKS[:cut]), may_begin=True)


def _floods() -> Iterator[Case]:
    """More than anybody needs: no growth, no hang."""
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    yield Case("interim-9", early * 9 + header(b""))
    yield Case("interim-continue", b"HTTP/1.1 100 Continue\r\n\r\n" * 20 + header(b""))
    yield Case(
        "interim-large",
        (b"HTTP/1.1 103 E\r\n" + b"X: %b\r\n" % (b"a" * 8000) * 4 + b"\r\n") * 4 + header(b""),
    )
    yield Case(
        "interim-headers", early.replace(b"Link", b"X: y\r\n" * 200 + b"Link") + b"HTTP/1.1 999 X\r\n\r\n"
    )
    yield Case("headers-129", header(b"".join(b"X-%d: a\r\n" % n for n in range(129))))
    yield Case("headers-5000", header(b"".join(b"X-%d: a\r\n" % n for n in range(5000))))
    yield Case("header-8200", header(b"X: " + b"a" * 8200 + b"\r\n"))
    yield Case("header-300000", header(b"X: " + b"a" * 300_000 + b"\r\n"))
    yield Case("header-open", OK + b"X: " + b"a" * 300_000)
    yield Case("name-open", OK + b"X" * 300_000)
    yield Case("reason-open", b"HTTP/1.1 200 " + b"r" * 300_000)
    yield Case("cookies-1000", header(b"Set-Cookie: a=b\r\n" * 1000))
    yield Case("extension", chunked(b"5;" + b"e" * 300_000 + b"\r\nhello\r\n0\r\n\r\n"), may_begin=True)
    yield Case("extension-last", chunked(b"5\r\nhello\r\n0;" + b"e" * 300_000 + b"\r\n\r\n"), may_begin=True)
    yield Case("trailers", chunked(b"5\r\nhello\r\n0\r\n" + b"X: a\r\n" * 50_000 + b"\r\n"), may_begin=True)
    yield Case("trailer-open", chunked(b"5\r\nhello\r\n0\r\nX: " + b"t" * 300_000), may_begin=True)
    large = chunk(b"x" * 60_000)
    # What came before does not pay for it: each of these is a flood behind a large good body.
    yield Case("extension-late", chunked(large * 4 + b"5;" + b"e" * 300_000), may_begin=True)
    yield Case("trailer-late", chunked(large * 4 + b"0\r\nX: " + b"t" * 300_000), may_begin=True)
    yield Case("trailers-late", chunked(large * 4 + b"0\r\n" + b"X: a\r\n" * 50_000), may_begin=True)


def _good() -> Iterator[Case]:
    """What is odd and legal, or can be made regular: whole, once, and nothing of it twice."""
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    yield Case("tabs", OK + b"X-A:\tb\t\r\nContent-Length:\t2\r\n\r\nOK", b"OK")
    yield Case("blanks-behind", OK + b"Content-Length: 2  \r\n\r\nOK", b"OK")
    yield Case("zeros", OK + b"Content-Length: 0002\r\n\r\nOK", b"OK")
    yield Case("capitals", OK + b"TRANSFER-ENCODING: CHUNKED\r\n\r\n" + CHUNKS, b"hello")
    yield Case("old", b"HTTP/1.0 200 OK\r\n" + LENGTH + b"\r\nOK", b"OK")
    yield Case("old-kept", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + LENGTH + b"\r\nOK", b"OK")
    yield Case("close", header(b"Connection: close\r\n"), b"OK")
    yield Case("no-reason", b"HTTP/1.1 200 \r\n" + LENGTH + b"\r\nOK", b"OK")
    yield Case("foreign-value", header("X-A: é\r\n".encode()), b"OK")
    yield Case("foreign-reason", "HTTP/1.1 200 été\r\n".encode() + LENGTH + b"\r\nOK", b"OK")
    yield Case("to-the-end", OK + b"\r\nhello", b"hello")
    yield Case("interim", early * 8 + header(b""), b"OK")
    yield Case("interim-length", b"HTTP/1.1 103 E\r\n" + LENGTH + b"\r\n" + header(b""), b"OK")
    yield Case("interim-cookie", b"HTTP/1.1 100 C\r\nSet-Cookie: a\r\n\r\n" + header(b""), b"OK")
    yield Case("extension", chunked(b"5;a=b\r\nhello\r\n0;c\r\n\r\n"), b"hello")
    yield Case("trailers", chunked(b"5\r\nhello\r\n0\r\nSet-Cookie: a\r\nHost: x\r\n\r\n"), b"hello")
    yield Case("zeros-size", chunked(b"0000005\r\nhello\r\n000\r\n\r\n"), b"hello")
    yield Case("more-behind", header(b"") + b"X", b"OK")
    yield Case("answer-behind", header(b"") + header(b"X-Poison: 1\r\n"), b"OK")
    yield Case("answer-behind-chunks", chunked(CHUNKS) + header(b""), b"hello")
    yield Case("blank-behind", header(b"") + b"\r\n", b"OK")
    for status in (204, 304):
        line = b"HTTP/1.1 %d X\r\n" % status
        for label, rest in {
            "plain": b"\r\n",
            "length": LENGTH + b"\r\nOK",
            "chunks": CODING + b"\r\n" + CHUNKS,
            "none": b"\r\nOK",
        }.items():
            yield Case(f"{status}-{label}", line + rest, b"", status=status)
    yield Case("404-empty", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", b"", status=404)
    yield Case(
        "302",
        b"HTTP/1.1 302 F\r\nLocation: http://127.0.0.1:1/x\r\nContent-Length: 0\r\n\r\n",
        b"",
        status=302,
    )
    yield Case("gzip-lie", header(b"Content-Encoding: gzip\r\n"), b"OK")
    yield Case(
        "stream-done", OK + b"Content-Type: text/event-stream\r\n\r\ndata: [DONE]\n\n", b"data: [DONE]\n\n"
    )


def _streams() -> Iterator[Case]:
    """Event streams that end with their connection and without `[DONE]`: not whole (RS-41, SS-03)."""
    for label, kind in {
        "plain": b"text/event-stream",
        "capitals": b"Text/Event-Stream; charset=utf-8",
    }.items():
        head = OK + b"Content-Type: " + kind + b"\r\n\r\n"
        for number, body in enumerate(
            (EVENT, b"data: [DONE] \n\n", b"data: [DONE", b"x data: [DONE]\n\n", b": [DONE]\n\n",
             b"data: [DONE]\n\n" + EVENT, b'data: {"a":"data: [DONE]"}\n\n', b"data: [DONE]x\n\n",
             b"x" * 10 + b"data: [DONE]" + b"\n" * 52)
        ):  # fmt: skip
            yield Case(f"{label}-{number}", head + body, may_begin=True)
    for label, lines in {"length": b"Content-Length: 100\r\n", "chunks": CODING}.items():
        head = OK + b"Content-Type: text/event-stream\r\n" + lines + b"\r\n"
        yield Case(f"framed-{label}", head + (chunk(EVENT) if lines is CODING else EVENT), may_begin=True)


ANSWER_FAMILIES = {
    "heads": list(_heads()),
    "lines": list(_lines()),
    "framing": list(_framing()),
    "chunks": list(_chunks()),
    "floods": list(_floods()),
    "streams": list(_streams()),
    "good": list(_good()),
}
