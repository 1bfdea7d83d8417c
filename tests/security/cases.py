"""The project's own vectors for the framing rows CL, TE, CH, HD, HO and RL of the catalogue of bad inputs.

Every vector begins as the same good request and bends one thing. The allowed outcomes:
REFUSED     an error of the gateway's own, then the end of the connection; no byte reaches a backend;
UNKNOWN     an error of the gateway's own on a request that is well framed: the connection may stay;
PASSED      exactly one well-formed request with the good body reaches the backend;
CLOSED      the end of the connection without an answer.
"""

from __future__ import annotations

from enum import Flag, auto
from typing import NamedTuple

LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
HOST = b"Host: gw.local\r\n"
TYPE = b"Content-Type: application/json\r\n"
BODY = b'{"model":"m"}'
LENGTH = b"Content-Length: 13\r\n"
CODING = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"d\r\n" + BODY + b"\r\n0\r\n\r\n"


class Allowed(Flag):
    REFUSED = auto()
    UNKNOWN = auto()
    PASSED = auto()
    CLOSED = auto()


REFUSED, UNKNOWN, PASSED, CLOSED = Allowed.REFUSED, Allowed.UNKNOWN, Allowed.PASSED, Allowed.CLOSED
EITHER = REFUSED | PASSED


class Case(NamedTuple):
    """`statuses`: what a refusal may say; `absent`: what must not be in the bytes a backend gets."""

    id: str
    sent: bytes
    allowed: Allowed = REFUSED
    statuses: tuple[int, ...] = (400,)
    absent: tuple[bytes, ...] = ()


def length(value: bytes) -> bytes:
    """The good request with another Content-Length."""
    return LINE + HOST + TYPE + b"Content-Length: " + value + b"\r\n\r\n" + BODY


def coding(value: bytes) -> bytes:
    """The good chunked request with another Transfer-Encoding."""
    return with_coding(b"Transfer-Encoding: " + value + b"\r\n")


def with_coding(lines: bytes) -> bytes:
    return LINE + HOST + TYPE + lines + b"\r\n" + CHUNKS


def chunked(body: bytes) -> bytes:
    return LINE + HOST + TYPE + CODING + b"\r\n" + body


def header(line: bytes) -> bytes:
    """The good request with one line more; `line` brings its own end."""
    return LINE + HOST + TYPE + LENGTH + line + b"\r\n" + BODY


def host(lines: bytes) -> bytes:
    return LINE + lines + TYPE + LENGTH + b"\r\n" + BODY


def request_line(line: bytes) -> bytes:
    """The good request under another request line; `line` brings its own end."""
    return line + HOST + TYPE + LENGTH + b"\r\n" + BODY


def target(path: bytes) -> bytes:
    return request_line(b"POST " + path + b" HTTP/1.1\r\n")


def many(count: int, size: int = 1) -> bytes:
    return b"".join(b"X-%d: %b\r\n" % (number, b"a" * size) for number in range(count))


GOOD = [
    Case("good-length", header(b""), PASSED),
    Case("good-chunked", chunked(CHUNKS), PASSED),
]

CONTENT_LENGTH = [
    Case("CL-01", header(LENGTH)),
    Case("CL-02", header(b"Content-Length: 0\r\n")),
    Case("CL-03", length(b"13, 13")),
    Case("CL-04", length(b"13, 5")),
    Case("CL-05", length(b"+13")),
    Case("CL-06", length(b"-13")),
    Case("CL-07", length(b"0x0d")),
    Case("CL-08", length(b"1_3")),
    Case("CL-09", length(b"1 3")),
    Case("CL-10", length(b"13.0")),
    Case("CL-11", length(b"")),
    Case("CL-12", length(b"%d" % (2**64 + 13)), REFUSED, (400, 413)),
    Case("CL-12-max", length(b"%d" % (2**64 - 1)), REFUSED, (400, 413)),
    Case("CL-13", length(b"9" * 26), REFUSED, (400, 413)),
    Case("CL-14", length(b"0000000013"), EITHER),
    Case("CL-15", LINE + HOST + TYPE + b"Content-Length : 13\r\n\r\n" + BODY),
    Case("CL-16", LINE + HOST + TYPE + b"Content-Length\t: 13\r\n\r\n" + BODY),
    Case("CL-17", LINE + HOST + TYPE + b"Content-Length:13\r\n\r\n" + BODY, PASSED),
    Case("CL-18", length(b"13 \t"), PASSED),
    Case("CL-19", LINE + HOST + TYPE + b"Content_Length: 13\r\n\r\n" + BODY, REFUSED, (400, 411)),
    Case("CL-19-extra", header(b"Content_Length: 5\r\n"), EITHER, absent=(b"ontent_",)),
    Case("CL-20", length("1³".encode())),
    Case("CL-20-arabic", length("١٣".encode())),
    Case("CL-22", b"GET /v1/models HTTP/1.1\r\n" + HOST + b"Content-Length: 36\r\n\r\n"
         b"GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n"),
    Case("CL-23", LINE + HOST + TYPE + b"\r\n" + BODY, REFUSED, (400, 411)),
    Case("CL-24", LINE + HOST + TYPE + b"\x85Content-Length\x85: 13\r\n\r\n" + BODY),
    Case("CL-24-value", length(b"\x8513\x85")),
    Case("CL-25", length(b"1\x003")),
    Case("CL-26", length(b"13;q=1")),
]  # fmt: skip

TRANSFER_ENCODING = [
    Case("TE-01", with_coding(b"Content-Length: 6\r\n" + CODING)),
    Case("TE-01-clte", LINE + HOST + TYPE + b"Content-Length: 6\r\n" + CODING + b"\r\n0\r\n\r\nX"),
    Case("TE-02", LINE + HOST + TYPE + CODING + b"Content-Length: 4\r\n\r\n"
         b"2b\r\nGET /smuggled HTTP/1.1\r\nHost: gw.local\r\n\r\n\r\n0\r\n\r\n"),
    Case("TE-03", coding(b"xchunked"), REFUSED, (400, 501)),
    Case("TE-04", with_coding(b"Transfer-Encoding : chunked\r\n")),
    Case("TE-05", coding(b"\x0bchunked")),
    Case("TE-06", coding(b"\x0cchunked")),
    Case("TE-07", coding(b"chunked\x00")),
    Case("TE-08", coding(b",chunked"), REFUSED, (400, 501)),
    Case("TE-09", coding(b"chunked,"), REFUSED, (400, 501)),
    Case("TE-10", coding(b"chunked, identity"), REFUSED, (400, 501)),
    Case("TE-11", coding(b"identity, chunked"), REFUSED, (400, 501)),
    Case("TE-12", coding(b"identity"), REFUSED, (400, 501)),
    Case("TE-13", coding(b""), REFUSED, (400, 411, 501)),
    Case("TE-14", coding(b"gzip, chunked"), REFUSED, (400, 501)),
    Case("TE-15", coding(b"chunked, chunked")),
    Case("TE-16", with_coding(CODING + CODING)),
    Case("TE-17", with_coding(CODING + b"Transfer-Encoding: identity\r\n")),
    Case("TE-17-turned", with_coding(b"Transfer-Encoding: identity\r\n" + CODING)),
    Case("TE-18", with_coding(b"Transfer-Encoding:\r\n chunked\r\n")),
    Case("TE-18-tab", with_coding(b"Transfer-Encoding:\r\n\tchunked\r\n")),
    Case("TE-19", coding(b"chunk"), REFUSED, (400, 501)),
    Case("TE-20", coding(b'"chunked"'), REFUSED, (400, 501)),
    Case("TE-21", coding(b"chunked;foo=bar")),
    Case("TE-22", with_coding(b"Transfer_Encoding: chunked\r\n"), REFUSED, (400, 411)),
    Case("TE-22-extra", header(b"Transfer_Encoding: chunked\r\n"), EITHER, absent=(b"ransfer_",)),
    Case("TE-23", coding(b"\xa0chunked")),
    Case("TE-24", with_coding(b"X: y\rTransfer-Encoding: chunked\r\n")),
    Case("TE-25", with_coding(b"X: y\nTransfer-Encoding: chunked\r\n")),
    Case("TE-26", with_coding(b"Transfer\rEncoding: chunked\r\n")),
    Case("TE-27", with_coding(b"Transfer\r\n-Encoding: chunked\r\n")),
    Case("TE-28", with_coding(b" Transfer-Encoding: chunked\r\n")),
    Case("TE-29", coding(b"chunked\x0b")),
    Case("TE-30", b"POST /v1/chat/completions HTTP/1.0\r\n" + HOST + TYPE + CODING + b"\r\n" + CHUNKS),
    Case("TE-31", with_coding(b"TRANSFER-ENCODING: CHUNKED\r\n"), PASSED),
    Case("TE-32", with_coding(b"Transfer-Encoding: \t chunked \r\n"), PASSED),
    # llhttp takes no TAB behind the coding; to refuse what is legal and unheard of does no harm.
    Case("TE-32-tab", with_coding(b"Transfer-Encoding: chunked\t\r\n"), EITHER),
    Case("TE-32-bare", with_coding(b"Transfer-Encoding:chunked\r\n"), PASSED),
]  # fmt: skip

CHUNK_SYNTAX = [
    Case("CH-01", chunked(b"0xd\r\n" + BODY + b"\r\n0\r\n\r\n")),
    Case("CH-02", chunked(b"+d\r\n" + BODY + b"\r\n0\r\n\r\n")),
    Case("CH-03", chunked(b"-d\r\n" + BODY + b"\r\n0\r\n\r\n")),
    Case("CH-04", chunked(b"0_d\r\n" + BODY + b"\r\n0\r\n\r\n")),
    Case("CH-05", chunked(b" d\r\n" + BODY + b"\r\n0\r\n\r\n")),
    Case("CH-06", chunked(b"d \r\n" + BODY + b"\r\n0\r\n\r\n"), EITHER),
    Case("CH-07", chunked(b"d\n" + BODY + b"\r\n0\r\n\r\n")),
    Case("CH-08", chunked(b"d\r\n" + BODY + b"\n0\r\n\r\n")),
    Case("CH-09", chunked(b"d\r\n" + BODY + b"0\r\n\r\n")),
    Case("CH-10", chunked(b"5\r\n" + BODY + b"\r\n0\r\n\r\n")),
    Case("CH-11", chunked(b"f" * 16 + b"\r\n" + BODY + b"\r\n0\r\n\r\n"), REFUSED, (400, 413)),
    Case("CH-11-half", chunked(b"7" + b"f" * 15 + b"\r\n" + BODY + b"\r\n0\r\n\r\n"), REFUSED, (400, 413)),
    Case("CH-11-budget", chunked(b"ffffffff\r\n" + BODY + b"\r\n0\r\n\r\n"), REFUSED, (400, 413)),
    Case("CH-12", chunked(b"1000000000000000d\r\n" + BODY + b"\r\n0\r\n\r\n"), REFUSED, (400, 413)),
    Case("CH-13", chunked(b"\r\n" + BODY + b"\r\n0\r\n\r\n")),
    Case("CH-14", chunked(b"dZ\r\n" + BODY + b"\r\n0\r\n\r\n")),
    Case("CH-15", chunked(b"d;ext=1\r\n" + BODY + b"\r\n0\r\n\r\n"), PASSED, absent=(b"ext",)),
    Case("CH-16", chunked(b"d;\n" + BODY + b"\r\n0\r\n\r\n")),
    Case("CH-17", chunked(b"d;a=\rb\r\n" + BODY + b"\r\n0\r\n\r\n")),
    Case("CH-18", chunked(b"d;a\x00b\r\n" + BODY + b"\r\n0\r\n\r\n")),
    Case("CH-19", chunked(b"d;" + b"e" * 65536 + b"\r\n" + BODY + b"\r\n0\r\n\r\n"), REFUSED, (400, 431)),
    Case("CH-19-last", chunked(b"d\r\n" + BODY + b"\r\n0;" + b"e" * 65536 + b"\r\n\r\n"),
         REFUSED, (400, 431)),
    Case("CH-20", chunked(b'd;a="open\r\n' + BODY + b"\r\n0\r\n\r\n")),
    Case("CH-21", chunked(b"0" * 22 + b"d\r\n" + BODY + b"\r\n0\r\n\r\n"), EITHER),
    Case("CH-22", chunked(b"D\r\n" + BODY + b"\r\n0\r\nX-Trailer: 1\r\n\r\n"), PASSED, absent=(b"railer",)),
    Case("CH-23", chunked(b"d\r\n" + BODY + b"\r\n0\r\nHost: evil\r\n\r\n"), EITHER, absent=(b"evil",)),
    Case("CH-23-auth", chunked(b"d\r\n" + BODY + b"\r\n0\r\nAuthorization: evil\r\n\r\n"),
         EITHER, absent=(b"evil",)),
    Case("CH-23-length", chunked(b"d\r\n" + BODY + b"\r\n0\r\nContent-Length: 99\r\n\r\n"),
         EITHER, absent=(b"99\r\n",)),
    Case("CH-23-coding", chunked(b"d\r\n" + BODY + b"\r\n0\r\n" + CODING + b"\r\n"),
         EITHER, absent=(b"chunked",)),
    Case("CH-24", chunked(b"d\r\n" + BODY + b"\r\n0\r\nX: y\nZ: 1\r\n\r\n")),
    Case("CH-25", chunked(b"d\r\n" + BODY + b"\r\n0\r\n" + many(200, 4096) + b"\r\n"), REFUSED, (400, 431)),
    Case("CH-26", chunked(b"d\r\n" + BODY + b"\r\n0\n\r\n")),
    Case("CH-27", chunked(b"d\r\n" + BODY + b"\r\n0\r\n\rX")),
    Case("CH-28", chunked(b"d;\r\n" + BODY + b"\r\n0\r\n\r\n"), EITHER),
    Case("CH-29", chunked(b"d\r\n" + BODY + b"\r\n00\r\n\r\n"), PASSED),
    Case("CH-30", chunked(b"d\r" + BODY + b"\r0\r\r")),
    Case("CH-30-data", chunked(b"d\r\n" + BODY + b"\r0\r\n\r\n")),
    Case("CH-31", chunked(b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"), PASSED),
]  # fmt: skip

HEADERS = [
    Case("HD-01", header(b"X-A: b\r\n folded\r\n")),
    Case("HD-02", header(b"X-A: b\r\n\tfolded\r\n")),
    Case("HD-02-first", LINE + b" X-A: b\r\n" + HOST + TYPE + LENGTH + b"\r\n" + BODY),
    Case("HD-03", header(b"X-A: b\rc\r\n")),
    Case("HD-04", header(b"X-A: b\n")),
    Case("HD-05", header(b"X-A: b\x00c\r\n")),
    Case("HD-06", header(b"X-A: b\x01\r\n")),
    Case("HD-06-escape", header(b"X-A: \x1b[31m\r\n")),
    Case("HD-07", header(b"X-A: b\x7f\r\n")),
    Case("HD-08", header(b"X A: b\r\n")),
    Case("HD-09", header(b"X-A : b\r\n")),
    Case("HD-10", header(b": b\r\n")),
    Case("HD-11", header(b"NoColon\r\n")),
    Case("HD-12", header(b"X(A): b\r\n")),
    Case("HD-13", header(b"X\xffA: b\r\n")),
    Case("HD-14", header(b"X-A: \xff\r\n"), EITHER),
    Case("HD-15", header("X-A: café\r\n".encode()), EITHER),
    Case("HD-16", header(b"X_Under_Score: b\r\n"), EITHER, absent=(b"nder_",)),
    Case("HD-17", header(b"X-Big: " + b"a" * 9216 + b"\r\n"), REFUSED, (400, 431)),
    Case("HD-18", header(b"X-Big: " + b"a" * 71680 + b"\r\n"), REFUSED, (400, 431)),
    Case("HD-18-name", header(b"X-" + b"a" * 9216 + b": b\r\n"), REFUSED, (400, 431)),
    Case("HD-19", header(many(150)), REFUSED, (400, 431)),
    Case("HD-20", header(many(2000)), REFUSED, (400, 431)),
    Case("HD-20-heavy", header(many(100, 2048)), REFUSED, (400, 431)),
    Case("HD-21", header(b"\x00: x\r\n")),
    Case("HD-21-inside", header(b"X\x00A: x\r\n")),
    Case("HD-23", LINE + b" " + HOST + TYPE + LENGTH + b"\r\n" + BODY),
    Case("HD-24", (LINE + HOST + TYPE + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + BODY),
    Case("HD-25", (LINE + HOST + TYPE + LENGTH + b"\r\n").replace(b"\r\n", b"\r") + BODY),
    Case("HD-27", LINE + HOST + TYPE + LENGTH + b"\rX" + BODY),
    Case("HD-27-line", LINE + HOST + TYPE + LENGTH + b"\rX-A: b\r\n\r\n" + BODY),
]  # fmt: skip

HOSTS = [
    Case("HO-01", host(b"")),
    Case("HO-02", host(HOST + b"Host: evil\r\n")),
    Case("HO-03", host(HOST + HOST)),
    Case("HO-04", host(b"Host: a, b\r\n")),
    Case("HO-05", host(b"Host: user@gw.local\r\n")),
    Case("HO-06", host(b"Host: gw.local/path\r\n")),
    Case("HO-06-query", host(b"Host: gw.local?x\r\n")),
    Case("HO-07", host(b"Host:\r\n")),
    Case("HO-07-space", host(b"Host: \r\n")),
    Case("HO-08", host(b"Host: gw.local:99999\r\n")),
    Case("HO-08-word", host(b"Host: gw.local:http\r\n")),
    Case("HO-09-six", host(b"Host: [::1]:8080\r\n"), PASSED, absent=(b"[::1]",)),
    Case("HO-09-port", host(b"Host: evil.example:81\r\n"), PASSED, absent=(b"evil",)),
    Case("HO-10", target(b"http://evil.example/v1/chat/completions"), EITHER, absent=(b"evil",)),
    Case("HO-10-user", target(b"http://user@evil.example/v1/chat/completions"), EITHER, absent=(b"evil",)),
]  # fmt: skip

REQUEST_LINES = [
    Case("RL-02", b"GET /\r\n\r\n", REFUSED, (400, 505)),
    Case("RL-03", request_line(b"POST /v1/chat/completions HTTP/0.9\r\n"), REFUSED, (400, 505)),
    Case("RL-04", request_line(b"POST /v1/chat/completions HTTP/1.2\r\n"), REFUSED, (400, 505)),
    Case("RL-05", request_line(b"POST /v1/chat/completions HTTP/2.0\r\n"), REFUSED, (400, 505)),
    Case("RL-05-short", request_line(b"POST /v1/chat/completions HTTP/2\r\n"), REFUSED, (400, 505)),
    Case("RL-06", request_line(b"POST /v1/chat/completions HTTP/1.10\r\n"), REFUSED, (400, 505)),
    Case("RL-07", request_line(b"POST /v1/chat/completions http/1.1\r\n")),
    Case("RL-08", request_line(b"POST  /v1/chat/completions HTTP/1.1\r\n")),
    Case("RL-08-after", request_line(b"POST /v1/chat/completions  HTTP/1.1\r\n")),
    Case("RL-09", request_line(b"POST\t/v1/chat/completions\tHTTP/1.1\r\n")),
    Case("RL-10", request_line(b"POST /v1/chat/completions x HTTP/1.1\r\n")),
    Case("RL-11", target(b"/v1/chat\x00/completions")),
    Case("RL-12", target(b"/v1/chat\xff/completions")),
    Case("RL-13", target(b"/v1/chat/completions#frag")),
    Case("RL-14", target(b"v1/chat/completions")),
    Case("RL-15", target(b"//evil.example/v1/chat/completions"), REFUSED, (400, 404)),
    Case("RL-16", b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
         REFUSED, (400, 405, 501)),
    Case("RL-17", b"CONNECT / HTTP/1.1\r\n" + HOST + b"\r\n", REFUSED | UNKNOWN, (400, 405, 501)),
    Case("RL-18", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", REFUSED | UNKNOWN, (400, 405)),
    Case("RL-19", b"GET * HTTP/1.1\r\n" + HOST + b"\r\n"),
    Case("RL-20", b"TRACE /v1/models HTTP/1.1\r\n" + HOST + b"Authorization: Bearer secret\r\n\r\n",
         REFUSED | UNKNOWN, (405, 501)),
    Case("RL-21", request_line(b"post /v1/chat/completions HTTP/1.1\r\n"), REFUSED, (400, 405, 501)),
    Case("RL-22", request_line(b"FOOBAR /v1/chat/completions HTTP/1.1\r\n"), REFUSED, (400, 405, 501)),
    Case("RL-22-put", request_line(b"PUT /v1/chat/completions HTTP/1.1\r\n"), REFUSED, (405, 501)),
    Case("RL-22-delete", b"DELETE /v1/chat/completions HTTP/1.1\r\n" + HOST + b"\r\n",
         REFUSED | UNKNOWN, (405, 501)),
    Case("RL-22-head", b"HEAD /v1/models HTTP/1.1\r\n" + HOST + b"\r\n", REFUSED | UNKNOWN, (405, 501)),
    Case("RL-23", request_line(b"PO\x00ST /v1/chat/completions HTTP/1.1\r\n"), REFUSED, (400, 405, 501)),
    Case("RL-24", request_line(b"A" * 9216 + b" /v1/models HTTP/1.1\r\n"), REFUSED, (400, 405, 501)),
    Case("RL-25", target(b"/v1/chat/completions?" + b"a" * 9216), REFUSED, (400, 414)),
    Case("RL-26", target(b"/v1/chat/completions?" + b"a" * 71680), REFUSED, (400, 414, 431)),
    Case("RL-27", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", REFUSED | CLOSED, (400, 405, 505)),
    Case("RL-28", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), REFUSED | CLOSED),
    Case("RL-29", target(b"/v1/%2e%2e/admin"), REFUSED, (400, 404)),
    Case("RL-29-dots", target(b"/v1/images/../chat/completions"), REFUSED, (400, 404)),
    Case("RL-30", target(b"/v1/..%2fadmin"), REFUSED, (400, 404)),
    Case("RL-30-wild", target(b"/v1/images/..%2fadmin"), REFUSED, (400, 404)),
    Case("RL-31", target(b"/v1/chat/completions%00"), REFUSED, (400, 404)),
    Case("RL-31-query", target(b"/v1/chat/completions?x=%00"), EITHER, (400, 404), absent=(b"%00",)),
    Case("RL-32", target(b"/v1/chat/completions%0d%0aX:y"), REFUSED, (400, 404)),
    Case("RL-33", target(b"/v1/images/%zz"), REFUSED, (400, 404)),
    Case("RL-34", request_line(b"POST /v1/chat/completions HTTP/1.1\x00\r\n")),
    Case("RL-34-space", request_line(b"POST /v1/chat/completions HTTP/1.1 \r\n")),
    Case("RL-35", request_line(b"\r\n" + LINE)),
    Case("RL-35-bare", b"POST\r\n\r\n" + HOST + b"\r\n"),
    Case("RL-36", target(b"http:///v1/chat/completions")),
]  # fmt: skip

CASES = [*GOOD, *CONTENT_LENGTH, *TRANSFER_ENCODING, *CHUNK_SYNTAX, *HEADERS, *HOSTS, *REQUEST_LINES]
