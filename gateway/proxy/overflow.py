"""Numbers that no double holds: valid JSON, and read in as many ways as there are readers.

To look for them takes some tenths of a millisecond at most; the whole body is read only where one may stand,
for the text of a prompt may look so too. Of bodies above 256 KiB only long runs of digits are looked for.
"""

from __future__ import annotations

import re

import orjson

from gateway.proxy.errors import unreadable

# Digits alike, and one spelling of e.
_SHAPE = bytes.maketrans(b"123456789E", b"000000000e")
# 1.8e308 is the largest double: it takes an exponent of three digits, or two behind more than 200 digits.
_MANY_DIGITS = b"0" * 200
_MAX_SHAPED_BYTES = 256 * 1024
# Of 309 digits at least three in a row are seen by who looks at every hundredth byte.
_STRIDE_BYTES = 100
_THREE_DIGITS = re.compile(rb"[0-9]{3}")


def may_overflow(body: bytes) -> bool:
    """Whether a number beyond 1.8e308 may stand in it."""
    return _is_suspect(body) if len(body) <= _MAX_SHAPED_BYTES else _has_long_number(body)


def refuse_overflow(body: bytes) -> None:
    """Reads all of it: 0.1 µs a byte at worst. Raises Refusal 400 for valid JSON with such a number."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise unreadable(f"The body is not JSON that every reader reads alike: {error}.") from None


def _is_suspect(body: bytes) -> bool:
    # `in` first tries to take the bytes for a number, and makes an error of it, three times in vain.
    find = body.translate(_SHAPE).find
    return find(b"0e000") >= 0 or find(b"0e+000") >= 0 or find(_MANY_DIGITS) >= 0


def _has_long_number(body: bytes) -> bool:
    return any(
        body[found.start() * _STRIDE_BYTES : (found.end() - 1) * _STRIDE_BYTES + 1].isdigit()
        for found in _THREE_DIGITS.finditer(body[::_STRIDE_BYTES])
    )
