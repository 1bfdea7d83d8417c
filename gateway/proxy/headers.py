"""One strict reading of a head; what goes on is written anew from what was read.

Request smuggling needs two readers who disagree. Here the parsed form is the only form: hop-by-hop and
framing headers are never copied, names with `_` are dropped, and what llhttp lets through but a backend
may read otherwise is refused. The rules and their sources stand in the table below.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import IntEnum, auto
from typing import TYPE_CHECKING

from gateway.proxy.errors import Refusal, malformed

if TYPE_CHECKING:
    from gateway.core.admission import KeyUse

MAX_LINE_BYTES = 8190
MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 128
# Header names that clients may invent are remembered up to this many, to look each up once.
MAX_REMEMBERED_NAMES = 2048

Headers = list[tuple[bytes, bytes]]


class Rule(IntEnum):
    """What becomes of a header."""

    FORWARD = auto()
    DROP = auto()
    HOST = auto()
    CONTENT_LENGTH = auto()
    TRANSFER_ENCODING = auto()
    CONNECTION = auto()
    EXPECT = auto()
    CONTENT_TYPE = auto()
    CONTENT_ENCODING = auto()
    CREDENTIAL = auto()
    AUTHORIZATION = auto()
    WEBSOCKET = auto()
    REQUEST_ID = auto()
    MODEL = auto()
    DEADLINE = auto()
    RESIDENCY = auto()


# Once: looking up a member of an enum costs as much as a call (CPython 3.11), and these are asked per header.
_FORWARD, _DROP, _CREDENTIAL, _CONNECTION = Rule.FORWARD, Rule.DROP, Rule.CREDENTIAL, Rule.CONNECTION
_WEBSOCKET = Rule.WEBSOCKET

_HOP_BY_HOP = (
    b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te",
    b"trailer", b"upgrade", b"http2-settings", b"proxy-authentication-info",
)  # fmt: skip
_API_KEYS = (
    b"cookie", b"x-api-key", b"api-key", b"x-goog-api-key", b"x-amz-security-token", b"openai-organization",
    b"openai-project",
)  # fmt: skip
_CREDENTIALS = (b"authorization", *_API_KEYS)

_REQUEST_RULES: dict[bytes, Rule] = {
    b"host": Rule.HOST,
    b"content-length": Rule.CONTENT_LENGTH,
    b"transfer-encoding": Rule.TRANSFER_ENCODING,
    b"connection": Rule.CONNECTION,
    b"expect": Rule.EXPECT,
    b"content-type": Rule.CONTENT_TYPE,
    b"content-encoding": Rule.CONTENT_ENCODING,
    b"authorization": Rule.AUTHORIZATION,
    b"x-request-id": Rule.REQUEST_ID,
    b"x-spillway-model": Rule.MODEL,
    b"x-spillway-deadline": Rule.DEADLINE,
    b"x-spillway-residency": Rule.RESIDENCY,
    # The client's own credentials stay here unless the cluster says `pass_client`.
    **dict.fromkeys(_API_KEYS, Rule.CREDENTIAL),
    # Where a request came from is told by the gateway, not by the client.
    **dict.fromkeys((b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host",
                     b"x-forwarded-port", b"x-real-ip"), Rule.DROP),
    **dict.fromkeys(_HOP_BY_HOP, Rule.DROP),
    # Read on the paths of tunnels, and dropped everywhere else.
    **dict.fromkeys((b"upgrade", b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-protocol",
                     b"sec-websocket-extensions"), Rule.WEBSOCKET),
}  # fmt: skip

_RESPONSE_RULES: dict[bytes, Rule] = {
    b"content-length": Rule.CONTENT_LENGTH,
    b"transfer-encoding": Rule.TRANSFER_ENCODING,
    b"connection": Rule.CONNECTION,
    b"content-type": Rule.CONTENT_TYPE,
    b"content-encoding": Rule.CONTENT_ENCODING,
    b"x-request-id": Rule.DROP,  # the gateway's own is sent
    # A backend must not set state or show secrets at a client of the gateway. Its challenges ask for the
    # gateway's credential, not the client's; its transport rules speak of another host (ADR 0034).
    **dict.fromkeys((b"set-cookie", b"set-cookie2", *_CREDENTIALS, b"www-authenticate",
                     b"authentication-info", b"alt-svc", b"strict-transport-security",
                     b"clear-site-data"), Rule.DROP),
    **dict.fromkeys(_HOP_BY_HOP, Rule.DROP),
}  # fmt: skip

# Of the rules that are each one header's.
_NAMES = {rule: name.decode() for name, rule in _REQUEST_RULES.items()}

# Read here and passed on all the same.
_KEPT = (Rule.CONTENT_TYPE, Rule.CONTENT_ENCODING)

_HOST = re.compile(rb"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9-]{1,64}")
_CHARSET = re.compile(rb"charset[^=;]*=\s*([^;\s]*)")
# Visible characters, blanks, and what Latin-1 or UTF-8 make of others (RFC 9112 4).
_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]{0,256}")
_BAD_IN_TARGET = re.compile(rb"#|%(?:00|0[aAdD])")


class _RuleBook:
    """Rules by header name as it came, so that the usual spellings cost one look-up."""

    def __init__(self, rules: dict[bytes, Rule]) -> None:
        self._rules = rules
        self._remembered: dict[bytes, Rule] = {}
        self.get = self._remembered.get

    def learn(self, name: bytes) -> Rule:
        lower = name.lower()
        rule = self._rules.get(lower)
        if rule is None:
            internal = lower.startswith((b"x-spillway-", b"sec-websocket-"))
            # nginx, WSGI and CGI read `a_b` as `a-b`: two names for one header is one too many.
            rule = Rule.DROP if internal or b"_" in lower else Rule.FORWARD
        if len(self._remembered) < MAX_REMEMBERED_NAMES:
            self._remembered[name] = rule
        return rule


_request_book = _RuleBook(_REQUEST_RULES)
_response_book = _RuleBook(_RESPONSE_RULES)


class RequestHead:
    """A request head that passed every check. `forward` holds the lines that go upstream as they are."""

    __slots__ = (
        "content_encoding",
        "content_length",
        "content_type",
        "credentials",
        "deadline",
        "expects_continue",
        "forward",
        "is_chunked",
        "is_http_10",
        "is_json",
        "keeps_alive",
        "key",
        "method",
        "model_header",
        "path",
        "request_id",
        "residency",
        "target",
        "upgrade",
    )

    def __init__(self, method: bytes, target: bytes) -> None:
        self.method = method
        self.target = target
        self.path = target
        self.forward = b""
        self.credentials = b""
        self.content_length: int | None = None
        self.content_type = b""
        self.content_encoding = b""
        self.is_chunked = False
        self.is_http_10 = False
        self.is_json = True  # a request without a Content-Type is taken for JSON too
        self.keeps_alive = True
        self.expects_continue = False
        self.request_id: bytes | None = None
        self.model_header: bytes | None = None
        self.key: KeyUse | None = None  # whose key it shows: see client_keys.py
        self.residency: bytes | None = None
        self.deadline: bytes | None = None  # as it came: see spans.py
        # Of a tunnel, by header: see websocket.py. `connection` is there when that says "upgrade".
        self.upgrade: dict[bytes, bytes] | None = None

    @property
    def may_repeat(self) -> bool:
        """Nothing in it is for this one request: the same bytes again mean the same again."""
        return self.content_length is not None and self.keeps_alive and not self.expects_continue

    @property
    def has_body(self) -> bool:
        return self.is_chunked or bool(self.content_length)


def read_request_head(method: bytes, target: bytes, version: str, headers: Headers) -> RequestHead:
    """Checks a parsed head and sorts its headers. Raises Refusal; the connection is closed then."""
    head = RequestHead(method, target)
    if version != "1.1":
        if version != "1.0":
            raise Refusal(505, "invalid_request", "HTTP/1.1 is spoken here.", closes=True)
        head.keeps_alive = False
        head.is_http_10 = True
    _check_target(head)
    if len(headers) > MAX_HEADERS:
        raise malformed(f"More than {MAX_HEADERS} headers.", status=431)
    lines: list[bytes] = []
    special: dict[Rule, bytes] = {}
    rule_of = _request_book.get
    for name, value in headers:
        rule = rule_of(name) or _request_book.learn(name)
        if not value.isascii() or len(value) + len(name) > MAX_LINE_BYTES:
            raise _bad_value(value)
        if rule is _FORWARD:
            lines.append(b"%b: %b\r\n" % (name, value))
        elif rule is not _DROP:
            if rule is _CREDENTIAL:
                _take_credential(head, name, value)
                continue
            if rule is _WEBSOCKET:
                _note_upgrade(head, name.lower(), value.strip(b" \t"))
                continue
            if rule in special:
                if rule is not _CONNECTION:
                    raise _stands_twice(rule)
                value = b"%b,%b" % (special[rule], value)
            special[rule] = value.strip(b" \t")
            if rule in _KEPT:
                lines.append(b"%b: %b\r\n" % (name, value))
    _take_special(head, version, special)
    _check_body_is_announced(head)
    head.forward = b"".join(lines)
    if (connection := special.get(Rule.CONNECTION)) is not None and connection != b"keep-alive":
        _obey_connection(head, connection)
    return head


def _note_upgrade(head: RequestHead, name: bytes, value: bytes) -> None:
    if head.upgrade is None:
        head.upgrade = {}
    # What may be a list may stand in several lines; what may not is refused as a list.
    head.upgrade[name] = head.upgrade[name] + b"," + value if name in head.upgrade else value


def _take_credential(head: RequestHead, name: bytes, value: bytes) -> None:
    """Of two keys a backend may take the other one. Cookies may come on several lines (RFC 9113 8.2.3)."""
    lower = name.lower()
    if lower != b"cookie" and b"\n%b:" % lower in b"\n" + head.credentials.lower():
        raise malformed("A credential that may stand once stands twice.", param=lower.decode())
    head.credentials += b"%b: %b\r\n" % (name, value)


def _stands_twice(rule: Rule) -> Refusal:
    if rule is Rule.EXPECT:
        return _unknown_expectation()
    return malformed("A header that may stand once stands twice.", param=_NAMES[rule])


def _unknown_expectation() -> Refusal:
    return malformed("The only expectation known is '100-continue', once.", param="expect", status=417)


def check_request_line(raw_head: bytes, request_line: bytes) -> None:
    """llhttp skips blank lines before the request line and spaces in it; two readers may differ there."""
    if not raw_head.startswith(request_line):
        raise malformed("The request line is not method, one space, target, one space, version.")


def _bad_value(value: bytes) -> Refusal:
    if not value.isascii():
        return malformed("A header value holds bytes outside ASCII.")
    return malformed(f"A header line is longer than {MAX_LINE_BYTES} bytes.", status=431)


def _check_target(head: RequestHead) -> None:
    target = head.target
    if len(target) > MAX_LINE_BYTES:
        raise malformed("The request target is too long.", status=414)
    if not target.startswith(b"/"):
        if head.method == b"CONNECT":
            raise Refusal(405, "method_not_allowed", "This is not a forward proxy.", closes=True)
        raise malformed("The request target must be a path.")
    if b"#" in target or (b"%" in target and _BAD_IN_TARGET.search(target)):
        raise malformed("The request target holds a character that has no place there.")
    query_at = target.find(b"?")
    if query_at >= 0:
        head.path = target[:query_at]


def _take_special(head: RequestHead, version: str, special: dict[Rule, bytes]) -> None:
    _check_host(special.get(Rule.HOST))
    for rule, value in special.items():
        if rule is Rule.CONTENT_LENGTH:
            if not value.isdigit() or len(value) > 19:
                raise malformed("Content-Length must be one plain number.", param="content-length")
            head.content_length = int(value)
        elif rule is Rule.TRANSFER_ENCODING:
            # A list, a coding besides chunked, or HTTP/1.0: two hops may disagree (RFC 9112 6.1).
            if value.lower() != b"chunked" or version != "1.1":
                message = "Transfer-Encoding must be exactly 'chunked', on HTTP/1.1."
                raise malformed(message, param="transfer-encoding")
            head.is_chunked = True
        elif rule is Rule.CONTENT_TYPE:
            head.content_type = value
            head.is_json = _is_json(value)
        elif rule is Rule.CONTENT_ENCODING:
            head.content_encoding = value
        elif rule is Rule.AUTHORIZATION:
            head.credentials += b"Authorization: %b\r\n" % value
        elif rule is Rule.EXPECT:
            if value.lower() != b"100-continue":
                raise _unknown_expectation()
            head.expects_continue = version == "1.1"  # HTTP/1.0 knows no interim answers
        elif rule is Rule.REQUEST_ID:
            head.request_id = value if _REQUEST_ID.fullmatch(value) else None
        elif rule is Rule.MODEL:
            head.model_header = value
        elif rule is Rule.DEADLINE:
            head.deadline = value
        elif rule is Rule.RESIDENCY:
            head.residency = value
    if head.is_chunked and head.content_length is not None:
        raise malformed("Content-Length and Transfer-Encoding exclude each other.", param="content-length")


def _is_json(content_type: bytes) -> bool:
    """JSON by its name, in UTF-8."""
    kind, _, parameters = content_type.lower().partition(b";")
    kind = kind.strip()
    if kind != b"application/json" and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
        return False
    return not parameters or all(map(_is_utf_8, _CHARSET.findall(parameters)))


def _is_utf_8(charset: bytes) -> bool:
    return charset.strip(b'"') in (b"utf-8", b"utf8", b"us-ascii")


def _check_body_is_announced(head: RequestHead) -> None:
    if head.method == b"GET" and head.has_body:
        raise malformed("A GET has no body here.")
    if head.method == b"POST" and head.content_length is None and not head.is_chunked:
        message = "A POST needs Content-Length or Transfer-Encoding."
        raise malformed(message, param="content-length", status=411)


def _check_host(host: bytes | None) -> None:
    match = _HOST.fullmatch(host) if host is not None else None
    if match is None or (match[1] is not None and int(match[1]) > 65535):
        raise malformed("Exactly one valid Host header is needed.", param="host")


def _obey_connection(head: RequestHead, connection: bytes) -> None:
    """Headers named by Connection are for this hop only; framing is the parser's and stays."""
    named = {token.strip().lower() for token in connection.split(b",")}
    if b"close" in named:
        head.keeps_alive = False
    if head.upgrade is not None and b"upgrade" in named:
        head.upgrade[b"connection"] = connection
    named -= {b"close", b"keep-alive", b"upgrade", b""}
    if named:
        if head.upgrade is not None:
            head.upgrade = {name: value for name, value in head.upgrade.items() if name not in named}
        head.forward = _without(head.forward, named)
        head.credentials = _without(head.credentials, named)


def _without(lines: bytes, names: set[bytes]) -> bytes:
    kept = [line for line in lines.splitlines(True) if line.split(b":", 1)[0].lower() not in names]
    return b"".join(kept)


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A backend's head that passed every check. `forward` is the status line and the lines to pass on.

    `length` is None where the body ends with the last chunk (`is_chunked`) or with the connection.
    """

    status: int
    forward: bytes
    length: int | None
    is_chunked: bool
    is_event_stream: bool
    is_encoded: bool

    def with_length(self, length: int) -> ResponseHead:
        """By hand, for every answer with the head of the last one: `replace` takes three times as long."""
        return ResponseHead(
            self.status, self.forward, length, self.is_chunked, self.is_event_stream, self.is_encoded
        )

    @property
    def ends_with_connection(self) -> bool:
        return self.length is None and not self.is_chunked

    @property
    def ends_with_done(self) -> bool:
        """A good event stream without framing: whether it is whole, only its last event tells."""
        return (
            self.ends_with_connection and self.is_event_stream and self.status < 400 and not self.is_encoded
        )


def without_secret(head: ResponseHead, secret: bytes) -> ResponseHead:
    """A backend that shows the cluster's own credential shows it to nobody. Raises BadResponse."""
    first, *lines = head.forward.splitlines(True)
    if secret in first:
        raise BadResponse("a credential in the status line")
    return replace(head, forward=first + b"".join(line for line in lines if secret not in line))


class BadResponse(Exception):
    """The backend's head can't be trusted."""


# llhttp lets them through; some clients read a status line with them as none at all (RFC 9112 4).
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def read_response_head(
    status: int, reason: bytes, version: str, headers: Headers, lowest_status: int = 200
) -> ResponseHead:
    """Checks a backend's head. Raises BadResponse."""
    if not lowest_status <= status <= 599 or version not in ("1.1", "1.0") or not _REASON.fullmatch(reason):
        raise BadResponse(f"status line {version} {status}")
    if reason != b"OK" and _CONTROL.search(reason):
        raise BadResponse("a control character in the reason phrase")
    if len(headers) > MAX_HEADERS:
        raise BadResponse(f"more than {MAX_HEADERS} headers")
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason)]
    special: dict[Rule, bytes] = {}
    rule_of = _response_book.get
    for name, value in headers:
        rule = rule_of(name) or _response_book.learn(name)
        if rule is _FORWARD:
            lines.append(b"%b: %b\r\n" % (name, value))
        elif rule is not _DROP:
            if rule in special:
                if rule is not _CONNECTION:
                    raise BadResponse(f"{rule.name} stands twice")
                value = b"%b,%b" % (special[rule], value)
            special[rule] = value.strip(b" ")
            if rule in _KEPT:
                lines.append(b"%b: %b\r\n" % (name, value))
    if max(map(len, lines)) > MAX_LINE_BYTES:
        raise BadResponse(f"a header line longer than {MAX_LINE_BYTES} bytes")
    forward = b"".join(lines)
    if (connection := special.get(Rule.CONNECTION)) is not None:
        forward = _without(forward, {token.strip().lower() for token in connection.split(b",")})
    length, is_chunked = _response_framing(special, version)
    if status in (204, 304):
        length, is_chunked = 0, False
    return ResponseHead(
        status,
        forward,
        length,
        is_chunked,
        special.get(Rule.CONTENT_TYPE, b"").lower().startswith(b"text/event-stream"),
        special.get(Rule.CONTENT_ENCODING, b"identity") != b"identity",
    )


def _response_framing(special: dict[Rule, bytes], version: str) -> tuple[int | None, bool]:
    coding = special.get(Rule.TRANSFER_ENCODING)
    length = special.get(Rule.CONTENT_LENGTH)
    if coding is not None:
        # A TAB behind the coding is legal, but llhttp reads such a body to the connection's end.
        if coding.lower() != b"chunked" or length is not None or version != "1.1":
            raise BadResponse("framing that two readers may read differently")
        return None, True
    if length is None:
        return None, False
    length = length.strip(b" \t")
    if not length.isdigit() or len(length) > 19:
        raise BadResponse("Content-Length is not one plain number")
    return int(length), False
