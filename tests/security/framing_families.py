"""Families of hostile framing: lengths, codings, chunk sizes, extensions and trailers in every spelling."""

from __future__ import annotations

from collections.abc import Iterator

from tests.security.cases import (
    BODY,
    CHUNKS,
    CODING,
    EITHER,
    HOST,
    PASSED,
    REFUSED,
    TYPE,
    Case,
    chunked,
    coding,
    header,
    length,
    many,
    with_coding,
)
from tests.security.head_families import CONTROLS, FOREIGN, SIGNS, printable

LARGE = (400, 413)
CODINGS = (400, 411, 501)
OVERLONG = (400, 431)


def _lengths() -> Iterator[Case]:
    values = [b"13", b"013", b"0", b"13,", b",13", b"13,13", b"13, 13", b"13 13", b"12", b"14", b"", b" "]
    values += [sign + b"13" for sign in SIGNS[:-3]]
    values += [b"13" + sign for sign in SIGNS if sign[:1] not in b"0,"]
    values += [
        b"1.3e1",
        b"13e0",
        b"0b1101",
        b"0o15",
        b"(13)",
        b"[13]",
        b"13\\r\\n",
        b"null",
        b"inf",
        b"9" * 19,
    ]
    values += [b"9" * 20, b"%d" % 2**63, b"%d" % 2**64, b"%d" % (2**64 + 13), b"%d" % (2**32 + 13)]
    for value in values:
        yield Case(f"twice-13-{printable(value)}", header(b"Content-Length: %b\r\n" % value), REFUSED, LARGE)
        yield Case(f"coding-{printable(value)}", with_coding(b"Content-Length: %b\r\n" % value + CODING),
                   REFUSED, LARGE)  # fmt: skip
        if value not in (b"13", b"013", b"0", b"12", b"14"):
            yield Case(f"alone-{printable(value)}", length(value), REFUSED, LARGE)
    yield Case("leading-zeros", length(b"0" * 10 + b"13"), EITHER, LARGE)


def _codings() -> Iterator[Case]:
    wrong = [b"identity", b"gzip", b"deflate", b"compress", b"x-chunked", b"chunked-x", b"chunke",
             b"", b",", b"*", b"trailers", b"chunked;q=1", b'"chunked"', b"'chunked'", b"chunked=1",
             b"chunked\\", b"cow"]  # fmt: skip
    for value in wrong:
        yield Case(f"alone-{printable(value)}", coding(value), REFUSED, CODINGS)
        for joined in (value + b", chunked", b"chunked, " + value, b"chunked," + value, value + b",chunked"):
            yield Case(f"list-{printable(joined)}", coding(joined), REFUSED, CODINGS)
        lines = b"Transfer-Encoding: %b\r\n" % value
        yield Case(f"before-{printable(value)}", with_coding(lines + CODING), REFUSED, CODINGS)
        yield Case(f"behind-{printable(value)}", with_coding(CODING + lines), REFUSED, CODINGS)
        yield Case(f"capitals-{printable(value)}", with_coding(CODING + lines.upper()), REFUSED, CODINGS)
    for version in (b"1.0", b"0.9", b"1.2", b"2.0"):
        line = b"POST /v1/chat/completions HTTP/%b\r\n" % version
        yield Case(
            f"on-{version.decode()}", line + HOST + TYPE + CODING + b"\r\n" + CHUNKS, REFUSED, (400, 505)
        )
    yield Case("get", b"GET /v1/models HTTP/1.1\r\n" + HOST + CODING + b"\r\n0\r\n\r\n")


def _sizes() -> Iterator[Case]:
    """The size line of a chunk and that of the last one: whatever is not plain hex."""

    def sized(line: bytes) -> bytes:
        return chunked(line + b"\r\n" + BODY + b"\r\n0\r\n\r\n")

    def last(line: bytes) -> bytes:
        return chunked(b"d\r\n" + BODY + b"\r\n" + line + b"\r\n\r\n")

    for sign in SIGNS:
        for line in (sign + b"d", b"d" + sign, b"0" + sign + b"d", b"d" + sign + b"d"):
            yield Case(f"size-{printable(line)}", sized(line), REFUSED, LARGE)
        for line in (sign + b"0", b"0" + sign):
            if line not in (b"0x0", b"0X0"):
                yield Case(f"last-{printable(line)}", last(line))
    for byte in (*CONTROLS, *FOREIGN, b" ", b"\t"):
        label = printable(byte)
        yield Case(f"before-size-{label}", sized(byte + b"d"))
        yield Case(f"behind-size-{label}", sized(b"d" + byte), EITHER if byte in (b" ", b"\t") else REFUSED)
        yield Case(f"before-last-{label}", last(byte + b"0"))
        yield Case(f"behind-last-{label}", last(b"0" + byte), EITHER if byte in (b" ", b"\t") else REFUSED)
        yield Case(f"behind-data-{label}", chunked(b"d\r\n" + BODY + byte + b"\r\n0\r\n\r\n"))
        if byte not in (b" ", b"\t"):
            allowed = EITHER if byte in FOREIGN else REFUSED
            yield Case(f"ext-name-{label}", sized(b"d;a%bb" % byte), REFUSED)
            yield Case(f"ext-value-{label}", sized(b"d;a=%bb" % byte), REFUSED)
            yield Case(f"ext-quoted-{label}", sized(b'd;a="%b"' % byte), allowed)
            yield Case(f"ext-last-{label}", last(b"0;a%b" % byte))
            yield Case(f"trailer-name-{label}", last(b"0\r\nX%b: a" % byte))
            yield Case(f"trailer-value-{label}", last(b"0\r\nX: a%bb" % byte), allowed)
    for digits in (b"f" * 8, b"f" * 15, b"f" * 16, b"f" * 17, b"f" * 40, b"1" + b"0" * 16, b"8" + b"0" * 15):
        yield Case(f"overflow-{len(digits)}-{digits[:1].decode()}", sized(digits), REFUSED, LARGE)
    for count in (15, 16, 17, 100, 5000):
        yield Case(f"zeros-{count}", sized(b"0" * count + b"d"), EITHER, OVERLONG)
        yield Case(f"last-zeros-{count}", last(b"0" * count), EITHER, OVERLONG)


def _framing_sizes() -> Iterator[Case]:
    """Extensions and trailers: small ones dropped, large ones refused, at once and in pieces."""
    for size in (1, 100, 3000):
        ext = b";" + b"e" * size
        yield Case(f"ext-{size}", chunked(b"d" + ext + b"\r\n" + BODY + b"\r\n0" + ext + b"\r\n\r\n"), PASSED,
                   absent=(b"eee",) if size > 3 else ())  # fmt: skip
    for size in (4097, 20_000, 300_000):
        ext = b";" + b"e" * size
        yield Case(f"ext-{size}", chunked(b"d" + ext + b"\r\n" + BODY + b"\r\n0\r\n\r\n"), REFUSED, OVERLONG)
        yield Case(f"ext-open-{size}", chunked(b"d" + ext), REFUSED, OVERLONG)
        yield Case(f"last-{size}", chunked(b"d\r\n" + BODY + b"\r\n0" + ext + b"\r\n\r\n"), REFUSED, OVERLONG)
    for size in (9000, 300_000):
        trailer = b"d\r\n" + BODY + b"\r\n0\r\nX-T: " + b"t" * size
        yield Case(f"trailer-{size}", chunked(trailer + b"\r\n\r\n"), REFUSED, OVERLONG)
        yield Case(f"trailer-open-{size}", chunked(trailer), REFUSED, OVERLONG)
    tiny = b"".join(b"1;%b\r\n%c\r\n" % (b"e" * 3000, byte) for byte in BODY)
    yield Case("ext-each", chunked(tiny + b"0\r\n\r\n"), REFUSED, OVERLONG)
    yield Case("trailers-10", chunked(b"d\r\n" + BODY + b"\r\n0\r\n" + many(10) + b"\r\n"), PASSED,
               absent=(b"X-1",))  # fmt: skip
    yield Case(
        "trailers-3000", chunked(b"d\r\n" + BODY + b"\r\n0\r\n" + many(3000) + b"\r\n"), REFUSED, OVERLONG
    )
    for name in (
        b"Host",
        b"Content-Length",
        b"Authorization",
        b"Cookie",
        b"X-Spillway-Model",
        b"Content-Type",
    ):
        sent = chunked(b"d\r\n" + BODY + b"\r\n0\r\n" + name + b": 7\r\n\r\n")
        yield Case(f"trailer-{name.decode()}", sent, EITHER, absent=(b": 7\r\n",))


FRAMING_FAMILIES: dict[str, list[Case]] = {
    "lengths": list(_lengths()),
    "codings": list(_codings()),
    "sizes": list(_sizes()),
    "framing-sizes": list(_framing_sizes()),
}
