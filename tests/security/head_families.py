"""Families of hostile requests: each rule of FAULTS 2a in every place and spelling that it has.

cases.py has one vector or a few for each row; here a rule is turned through every control byte, every kind of
blank and line end, every place in the message, and every header that has a meaning.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.security.cases import (
    BODY,
    EITHER,
    HOST,
    LENGTH,
    LINE,
    PASSED,
    REFUSED,
    TYPE,
    Case,
    chunked,
    coding,
    header,
    host,
    length,
    request_line,
    target,
)

CONTROLS = [bytes((byte,)) for byte in (*range(0x09), *range(0x0A, 0x20), 0x7F)]
FOREIGN = [b"\x80", b"\x85", b"\xa0", b"\xad", b"\xff", "é".encode(), "\u2028".encode(), b"\xc0\x8a"]
BLANKS = [b" ", b"\t", b"\x0b", b"\x0c", b"\xa0", b"\x85", b"  ", b" \t"]
LINE_ENDS = [b"\n", b"\r", b"\r\r\n", b"\n\r", b"\x0b", b"\x0c", b"\0", b"\r\0\n", b"\n\n", b"\x85", b"\r \n"]
SIGNS = [b"+", b"-", b"0x", b"0X", b"_", b"#", b"$", b'"', b"'", b"x", b"g", b".", b",", b"\\", b"%"]
METHOD_REFUSALS = (400, 405, 501)

# Those that may stand once, besides the framing ones: a value that is good by itself for each.
SINGLE = {
    b"Host": b"gw.local",
    b"Content-Type": b"application/json",
    b"Content-Encoding": b"identity",
    b"Authorization": b"Bearer a",
    b"X-Api-Key": b"a",
    b"Api-Key": b"a",
    b"X-Goog-Api-Key": b"a",
    b"X-Request-Id": b"a",
    b"X-Spillway-Model": b"m",
    b"X-Spillway-Deadline": b"5",
}


def printable(text: bytes) -> str:
    return "".join(chr(byte) if 0x20 < byte < 0x7F else f"<{byte:02x}>" for byte in text)


def _controls() -> Iterator[Case]:
    """Each control byte in each part of a head. A line end in it is a line end of its own: HD-03, HD-04."""
    for byte in CONTROLS:
        places = {
            "name": header(b"X%bA: b\r\n" % byte),
            "before-name": header(b"%bX-A: b\r\n" % byte),
            "behind-name": header(b"X-A%b: b\r\n" % byte),
            "value": header(b"X-A: a%bb\r\n" % byte),
            "before-value": header(b"X-A:%bb\r\n" % byte),
            "behind-value": header(b"X-A: b%b\r\n" % byte),
            "host": host(b"Host: gw%b.local\r\n" % byte),
            "behind-host": host(b"Host: gw.local%b\r\n" % byte),
            "length": length(b"1%b3" % byte),
            "before-length": length(byte + b"13"),
            "behind-length": length(b"13" + byte),
            "coding": coding(b"chun%bked" % byte),
            "before-coding": coding(byte + b"chunked"),
            "behind-coding": coding(b"chunked" + byte),
            "path": target(b"/v1/chat%b/completions" % byte),
            "query": target(b"/v1/chat/completions?a=%bb" % byte),
            "method": request_line(b"PO%bST /v1/chat/completions HTTP/1.1\r\n" % byte),
            "version": request_line(b"POST /v1/chat/completions HTTP/1.%b1\r\n" % byte),
            "behind-version": request_line(b"POST /v1/chat/completions HTTP/1.1%b\r\n" % byte),
            "first": byte + header(b""),
        }
        for place, sent in places.items():
            yield Case(f"{printable(byte)}-{place}", sent, REFUSED, METHOD_REFUSALS)


def _foreign() -> Iterator[Case]:
    """Bytes outside ASCII: in a value refused or passed in peace, elsewhere refused."""
    for text in FOREIGN:
        for place, sent in {
            "name": header(b"X%bA: b\r\n" % text),
            "host": host(b"Host: gw%b.local\r\n" % text),
            "length": length(b"13" + text),
            "before-length": length(text + b"13"),
            "coding": coding(b"chunked" + text),
            "before-coding": coding(text + b"chunked"),
            "path": target(b"/v1/chat%b/completions" % text),
            "query": target(b"/v1/chat/completions?a=%b" % text),
            "method": request_line(b"PO%bST /v1/chat/completions HTTP/1.1\r\n" % text),
            "first": text + header(b""),
        }.items():
            yield Case(f"{printable(text)}-{place}", sent, REFUSED, METHOD_REFUSALS)
        yield Case(f"{printable(text)}-value", header(b"X-A: %b\r\n" % text), EITHER)


def _blanks() -> Iterator[Case]:
    """Blanks where none belongs: before a colon, in a name, between the parts of the request line."""
    for blank in BLANKS:
        for name in (b"Content-Length: 13", b"Transfer-Encoding: chunked", b"Host: x", b"X-A: b"):
            before, _, value = name.partition(b":")
            yield Case(
                f"{printable(blank)}-colon-{before.decode()}", header(before + blank + b":" + value + b"\r\n")
            )
            yield Case(f"{printable(blank)}-first-{before.decode()}", header(blank + name + b"\r\n"))
        line = b"POST /v1/chat/completions HTTP/1.1"
        for number in (0, 1):
            parts = line.split(b" ")
            extra = [*parts[:number], parts[number] + blank, *parts[number + 1 :]]
            yield Case(f"{printable(blank)}-line-{number}", request_line(b" ".join(extra) + b"\r\n"),
                       REFUSED, METHOD_REFUSALS)  # fmt: skip
        yield Case(f"{printable(blank)}-line-end", request_line(line + blank + b"\r\n"))


def _folds() -> Iterator[Case]:
    """obs-fold in each header that has a meaning, right behind the colon and inside the value."""
    names = {**SINGLE, b"Content-Length": b"13", b"Transfer-Encoding": b"chunked", b"X-A": b"b"}
    for fold in (b"\r\n ", b"\r\n\t", b"\r\n \r\n ", b"\n ", b"\r "):
        for name, value in names.items():
            label = f"{printable(fold)}-{name.decode()}"
            yield Case(f"{label}-colon", header(b"%b:%b%b\r\n" % (name, fold, value)))
            yield Case(f"{label}-value", header(b"%b: %b%bx\r\n" % (name, value, fold)))
        yield Case(
            f"{printable(fold)}-first", LINE + fold[1:].lstrip(b"\n") + HOST + TYPE + LENGTH + b"\r\n" + BODY
        )
        trailer = b"d\r\n" + BODY + b"\r\n0\r\nX: a%bb\r\n\r\n" % fold
        yield Case(f"{printable(fold)}-trailer", chunked(trailer))


def _twice() -> Iterator[Case]:
    """What may stand once, twice: alike, unlike, in capitals, and as a list where that is another value."""
    for name, value in SINGLE.items():
        first = b"" if name in (b"Host", b"Content-Type") else b"%b: %b\r\n" % (name, value)
        for label, second in {
            "same": b"%b: %b\r\n" % (name, value),
            "other": b"%b: %bz\r\n" % (name, value),
            "capitals": b"%b: %b\r\n" % (name.upper(), value),
            "empty": b"%b:\r\n" % name,
        }.items():
            yield Case(f"{name.decode()}-{label}", header(first + b"X-Between: 1\r\n" + second))
    for label, lines in {
        "same": b"Expect: 100-continue\r\n" * 2,
        "capitals": b"Expect: 100-continue\r\nEXPECT: 100-CONTINUE\r\n",
        "other": b"Expect: 100-continue\r\nExpect: x\r\n",
        "list": b"Expect: 100-continue, x\r\n",
        "unknown": b"Expect: 200-maybe\r\n",
        "empty": b"Expect:\r\n",
    }.items():
        yield Case(f"Expect-{label}", header(lines), REFUSED, (417,))


def _line_ends() -> Iterator[Case]:
    """Each line of the message with each wrong end."""
    head = [LINE.rstrip(), HOST.rstrip(), TYPE.rstrip(), LENGTH.rstrip(), b""]
    body = [b"d", BODY, b"0", b""]
    for wrong in LINE_ENDS:
        for at in range(len(head)):
            sent = b"".join(line + (wrong if at == i else b"\r\n") for i, line in enumerate(head)) + BODY
            yield Case(f"{printable(wrong)}-head-{at}", sent, REFUSED, (400, 408))
        for at in range(len(body)):
            sent = b"".join(line + (wrong if at == i else b"\r\n") for i, line in enumerate(body))
            yield Case(f"{printable(wrong)}-chunk-{at}", chunked(sent), REFUSED, (400, 408))
    whole = LINE + HOST + TYPE + LENGTH + b"\r\n" + BODY
    for wrong in (b"\n", b"\r"):
        yield Case(f"{printable(wrong)}-everywhere", whole.replace(b"\r\n", wrong), REFUSED, (400, 408))


def _hosts() -> Iterator[Case]:
    for value in (b"a b", b"a,b", b"u@h", b"u:p@h", b"h/p", b"h?q", b"h#f", b"h\\p", b"http://h",
                  b"h:", b":80", b"h:-1", b"h:+80", b"h:0x50", b"h:80:80", b"h:65536", b"h:999999",
                  b"h:8 0", b"[::1", b"::1]", b"[::1]x", b"[g::1]", b"[]", b"%2e", b"a_b", b"<a>",
                  b'"a"', b"a;b", b"{a}", b"*", b"h:80/"):  # fmt: skip
        yield Case(f"host-{printable(value)}", host(b"Host: " + value + b"\r\n"))
    for value in (
        b"gw",
        b"gw.local:8080",
        b"127.0.0.1",
        b"[::1]",
        b"[2001:db8::1]:443",
        b"xn--bcher-kva.example",
    ):
        yield Case(f"good-{printable(value)}", host(b"Host: " + value + b"\r\n"), PASSED)


def _targets() -> Iterator[Case]:
    """A path that is not exactly one of the table reaches nothing, however it is spelt."""
    for path in (b"*", b"chat", b"?", b"//v1/chat/completions", b"/v1//chat/completions",
                 b"/v1/chat/completions/", b"/./v1/chat/completions", b"/v1/./chat/completions",
                 b"/v1/x/../chat/completions", b"/%76%31/chat/completions",
                 b"/v1/chat%2fcompletions", b"/v1/chat%2Fcompletions", b"/v1/chat/completions%20",
                 b"/v1/chat/completions;x", b"/v1/chat/completions%3fx", b"/v1/chat\\completions",
                 b"/v1/%2e%2e/v1/chat/completions", b"/v1/..;/chat/completions",
                 b"/V1/chat/completions", b"/v1/chat/completions%00",
                 b"/v1/chat/completions%0d%0aX: y", b"/v1/images/%2e%2e/x", b"/v1/images/..",
                 b"/v1/images/.", b"/v1/images/a%5cb", b"/v1/audio/a%c0%ae",
                 b"http://gw.local/v1/chat/completions", b"https://gw.local/",
                 b"file:///etc/passwd", b"gw.local:80", b"/v1/chat/completions#f",
                 b"/v1/chat/completions?a#f", b"/v1/chat/completions?a=%0a",
                 b"/v1/chat/completions?a=%0D", b"/v1/chat/completions?a=%00"):  # fmt: skip
        yield Case(printable(path), target(path), REFUSED, (400, 404))
    for method in (b"CONNECT", b"TRACE", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"HEAD",
                   b"PROPFIND", b"SOURCE", b"QUERY", b"PRI", b"Post", b"post", b"POSTX", b"POS",
                   b"P", b"", b"POST:", b"P\xd0\x9eST"):  # fmt: skip
        line = method + b" /v1/chat/completions HTTP/1.1\r\n"
        yield Case(f"method-{printable(method)}", request_line(line), REFUSED, METHOD_REFUSALS)
    for version in (b"", b"HTTP", b"HTTP/", b"HTTP/1", b"HTTP/1.", b"HTTP/.1", b"HTTP/11",
                    b"HTTP/1.1.1", b"HTTP/1,1", b"HTTP/1.1 x", b"HTTPS/1.1", b"http/1.1",
                    b"Http/1.1", b"ICE/1.1", b"RTSP/1.0", b"HTTP/1.11", b"HTTP/3", b"HTTP/01.1",
                    b"HTTP /1.1", b"HTTP/ 1.1", b"HTTP/-1.1", b"HTTP/9.9"):  # fmt: skip
        line = b"POST /v1/chat/completions " + version + b"\r\n"
        yield Case(f"version-{printable(version)}", request_line(line), REFUSED, (400, 405, 505))


HEAD_FAMILIES: dict[str, list[Case]] = {
    "controls": list(_controls()),
    "foreign": list(_foreign()),
    "blanks": list(_blanks()),
    "folds": list(_folds()),
    "twice": list(_twice()),
    "line-ends": list(_line_ends()),
    "hosts": list(_hosts()),
    "targets": list(_targets()),
}
