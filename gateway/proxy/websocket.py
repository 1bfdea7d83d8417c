"""The words of WebSocket (RFC 6455): the opening handshake on both sides of the gateway, and the Close frame.

Nothing but the handshake is read for its sense. Frames are only counted through, so that a Close frame can be
put between two of them; what is in them is the peers' own business.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import replace
from typing import NamedTuple

from gateway.proxy.errors import Refusal, malformed
from gateway.proxy.headers import BadResponse, Headers, RequestHead, ResponseHead, read_response_head

# RFC 6455 1.3: what makes an answer one to a WebSocket handshake, and to nothing else.
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TOKEN = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# Browsers can't set headers: their OpenAI clients put credentials among the subprotocols.
_CREDENTIALS = (b"openai-insecure-api-key.", b"openai-organization.", b"openai-project.")

GOING_AWAY = 1001
POLICY = 1008
# Frames followed in one segment. After more the count is given up: empty ones must not cost others time.
MAX_FRAMES_PER_SEGMENT = 256


class Handshake(NamedTuple):
    """What a client asks for: its key, and its offers in its own order."""

    key: bytes
    protocols: tuple[bytes, ...]
    extensions: bytes

    def lines(self, *, pass_client: bool) -> bytes:
        """For the backend; credentials among the subprotocols only with `pass_client`."""
        protocols = self.offered(pass_client=pass_client)
        return b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n%b%b%b" % (
            b"sec-websocket-key: %b\r\n" % self.key,
            b"sec-websocket-protocol: %b\r\n" % b", ".join(protocols) if protocols else b"",
            b"sec-websocket-extensions: %b\r\n" % self.extensions if self.extensions else b"",
        )

    def offered(self, *, pass_client: bool) -> tuple[bytes, ...]:
        """The subprotocols that a backend is asked for, and may choose from."""
        if pass_client:
            return self.protocols
        return tuple(name for name in self.protocols if not name.startswith(_CREDENTIALS))


def handshake_of(head: RequestHead) -> Handshake:
    """What the head of a request on a WebSocket path asks for. Raises Refusal, which ends the connection."""
    asked = head.upgrade or {}
    if head.is_http_10 or asked.get(b"upgrade", b"").lower() != b"websocket" or b"connection" not in asked:
        raise _needs_websocket()
    if asked.get(b"sec-websocket-version") != b"13":
        raise _needs_websocket()
    key = asked.get(b"sec-websocket-key", b"")
    if not _is_key(key):
        raise malformed("Sec-WebSocket-Key must be 16 bytes in base64.", param="sec-websocket-key")
    protocols = _list_of(asked.get(b"sec-websocket-protocol", b""))
    if not all(map(_TOKEN.fullmatch, protocols)) or len(set(protocols)) != len(protocols):
        message = "Sec-WebSocket-Protocol must be a list of different names."
        raise malformed(message, param="sec-websocket-protocol")
    return Handshake(key, tuple(protocols), asked.get(b"sec-websocket-extensions", b""))


def _needs_websocket() -> Refusal:
    return Refusal(
        426,
        "invalid_request",
        "This path speaks WebSocket, version 13.",
        closes=True,
        headers=b"upgrade: websocket\r\nsec-websocket-version: 13\r\n",
    )


def _is_key(key: bytes) -> bool:
    try:
        return len(key) == 24 and len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False


def _list_of(value: bytes) -> list[bytes]:
    return [part for part in (part.strip(b" \t") for part in value.split(b",")) if part]


def accept_of(key: bytes) -> bytes:
    """The answer to a key (RFC 6455 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def read_switch(
    handshake: Handshake, offered: tuple[bytes, ...], reason: bytes, version: str, headers: Headers
) -> ResponseHead:
    """A backend's 101, checked against what it was asked. Raises BadResponse.

    `forward` of the head that is returned begins a tunnel at the client: it has all lines but the gateway's.
    """
    told: dict[bytes, bytes] = {}
    for name, value in headers:
        name, value = name.lower(), value.strip(b" \t")
        told[name] = told[name] + b"," + value if name in told else value
    if version != "1.1" or b"content-length" in told or b"transfer-encoding" in told:
        raise BadResponse("a 101 that is framed")
    if told.get(b"upgrade", b"").lower() != b"websocket":
        raise BadResponse("a 101 to something else than WebSocket")
    if b"upgrade" not in _list_of(told.get(b"connection", b"").lower()):
        raise BadResponse("a 101 without Connection: upgrade")
    accept = accept_of(handshake.key)
    if told.get(b"sec-websocket-accept") != accept:
        raise BadResponse("a 101 to another key")
    lines = b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: %b\r\n" % accept
    protocol, extensions = told.get(b"sec-websocket-protocol"), told.get(b"sec-websocket-extensions")
    if protocol is not None:
        if protocol not in offered:
            raise BadResponse("a subprotocol that was not offered")
        lines += b"sec-websocket-protocol: %b\r\n" % protocol
    if extensions is not None:
        if not _names_of(extensions) <= _names_of(handshake.extensions):
            raise BadResponse("an extension that was not offered")
        lines += b"sec-websocket-extensions: %b\r\n" % extensions
    head = read_response_head(101, reason, version, headers, lowest_status=101)
    return replace(head, forward=head.forward + lines, length=0)


def _names_of(extensions: bytes) -> set[bytes]:
    return {part.partition(b";")[0].strip(b" \t").lower() for part in _list_of(extensions)}


def close_frame(code: int, why: bytes, mask: int | None = None) -> bytes:
    """A Close frame; with a `mask` of 32 bits, as a client sends it. `why` is 123 bytes at most."""
    payload = code.to_bytes(2, "big") + why
    if mask is None:
        return bytes((0x88, len(payload))) + payload
    key = (mask & 0xFFFFFFFF).to_bytes(4, "big")
    masked = bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
    return bytes((0x88, 0x80 | len(payload))) + key + masked


class FrameCount:
    """Follows the frames of one direction, to know when none is under way."""

    __slots__ = ("_begun", "_is_lost", "_left")

    def __init__(self) -> None:
        self._left = 0  # bytes of the frame under way that have not come yet
        self._begun = b""  # a frame's head, as far as it has come
        self._is_lost = False

    @property
    def is_between(self) -> bool:
        """Whether another frame may be put here."""
        return not (self._left or self._begun or self._is_lost)

    def follow(self, data: bytes) -> None:
        size = len(data)
        if self._left >= size or self._is_lost:
            self._left -= size
            return
        if self._begun:
            data, self._begun = self._begun + data, b""
            size = len(data)
        at = self._left
        self._left = 0
        for _ in range(MAX_FRAMES_PER_SEGMENT):
            if at >= size:
                self._left = at - size
                return
            whole = _frame_bytes(data, at)
            if not whole:
                self._begun = data[at:]
                return
            at += whole
        self._is_lost = True

    def __repr__(self) -> str:
        return f"<FrameCount {'lost' if self._is_lost else 'between' if self.is_between else 'inside'}>"


def _frame_bytes(data: bytes, at: int) -> int:
    """How long the frame is that begins at `at`, its head included; 0 while its head is not whole."""
    if len(data) < at + 2:
        return 0
    second = data[at + 1]
    length = second & 0x7F
    head = 6 if second & 0x80 else 2
    if length >= 126:
        wide = 2 if length == 126 else 8
        if len(data) < at + 2 + wide:
            return 0
        length = int.from_bytes(data[at + 2 : at + 2 + wide], "big")
        head += wide
    return head + length
