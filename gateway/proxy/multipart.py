"""The `model` field of a multipart upload: where it stands, to be read and, if need be, replaced.

The body is whole, so parts are found by their delimiters and never parsed byte by byte: 32 MiB take
milliseconds, whatever is in them. What two readers could take for different parts is refused: text before the
first or behind the last delimiter, a delimiter inside of a part or behind a bare line feed, folded or doubled
headers, nested parts.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from gateway.proxy.errors import Refusal, invalid, unreadable

# An upload has a file and a handful of fields, each with two or three headers; what has more is no upload.
MAX_PARTS = 64
MAX_PART_HEADERS = 16
MAX_PART_HEADER_BYTES = 8190

_BOUNDARY = re.compile(
    rb"""multipart/form-data\s*;(?:[^"]*;)?\s*boundary=(?:"([^"]+)"|([^\s;"]+))\s*(?:;[^"]*)?""",
    re.IGNORECASE,
)
# RFC 2046 5.1.1
_BOUNDARY_VALUE = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_DISPOSITION = re.compile(
    rb'form-data((?:\s*;\s*[A-Za-z*_-]+=(?:"[^"]*"|[^\s;"]+))*)\s*(?:;\s*)?', re.IGNORECASE
)
_PARAMETER = re.compile(rb';\s*([A-Za-z*_-]+)=(?:"([^"]*)"|([^\s;"]+))')
_PLAIN = (b"binary", b"8bit", b"7bit")


class _Part(NamedTuple):
    """`start` and `end` are those of its content."""

    is_model: bool
    start: int
    end: int


def model_span(content_type: bytes, body: bytes) -> tuple[int, int] | None:
    """Start and end of the value of the field `model`; None without one. Raises Refusal 400."""
    delimiter = b"--" + _boundary_of(content_type)
    if not body.startswith(delimiter):
        raise unreadable("The multipart body does not begin with its boundary.")
    spans: list[tuple[int, int]] = []
    at, parts = len(delimiter), 0
    while body[at : at + 2] == b"\r\n":
        parts += 1
        if parts > MAX_PARTS:
            raise unreadable(f"The upload has more than {MAX_PARTS} parts.")
        part = _read_part(body, at + 2, delimiter)
        if part.is_model:
            spans.append((part.start, part.end))
        at = part.end + 2 + len(delimiter)
    if body[at:] not in (b"--", b"--\r\n") or not parts:
        raise unreadable("The multipart body does not end with its boundary.")
    if body.count(delimiter) != parts + 1:
        raise unreadable("The multipart boundary stands inside of a part.")
    if len(spans) > 1:
        raise invalid("'model' is given more than once.", param="model")
    return spans[0] if spans else None


def _boundary_of(content_type: bytes) -> bytes:
    match = _BOUNDARY.fullmatch(content_type)
    boundary = (match[1] or match[2]) if match is not None else b""
    if content_type.lower().count(b"boundary") != 1 or not _BOUNDARY_VALUE.fullmatch(boundary):
        raise unreadable("The multipart boundary must stand once and have 1 to 70 characters.")
    return boundary


def _read_part(body: bytes, start: int, delimiter: bytes) -> _Part:
    """The part whose headers begin at `start`. Raises Refusal."""
    headers_end = body.find(b"\r\n\r\n", start, start + MAX_PART_HEADER_BYTES)
    if headers_end < 0:
        raise unreadable("A part of the upload has no header, or too large a one.")
    content = headers_end + 4
    end = body.find(b"\r\n" + delimiter, content)
    if end < 0 or body.startswith(delimiter, content):
        raise unreadable("The multipart body does not end with its boundary.")
    return _Part(_is_model(_headers_of(body[start:headers_end])), content, end)


def _headers_of(block: bytes) -> dict[bytes, bytes]:
    """By lower-case name. Raises Refusal."""
    lines = block.split(b"\r\n")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None or match[1].lower() in headers or len(lines) > MAX_PART_HEADERS:
            raise _bad_header()
        headers[match[1].lower()] = match[2].strip()
    return headers


def _is_model(headers: dict[bytes, bytes]) -> bool:
    """Whether the part is the field `model`, in a form that everybody reads alike. Raises Refusal."""
    match = _DISPOSITION.fullmatch(headers.get(b"content-disposition", b""))
    if match is None or headers.get(b"content-type", b"").lower().startswith(b"multipart/"):
        raise _bad_header()
    parameters = _PARAMETER.findall(match[1])
    values = {name.lower(): quoted or token for name, quoted, token in parameters}
    if len(values) != len(parameters) or b"name*" in values or b"\\" in values.get(b"name", b"\\"):
        raise _bad_header()
    is_model: bool = values[b"name"] == b"model"
    coding = headers.get(b"content-transfer-encoding", b"binary").lower()
    if is_model and (coding not in _PLAIN or b"content-encoding" in headers):
        raise _bad_header()
    return is_model


def _bad_header() -> Refusal:
    return unreadable("A part of the upload has a header that readers may read differently.")
