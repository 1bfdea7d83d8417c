"""The `model` field of a multipart upload: where it stands, to be read and, if need be, replaced."""

from __future__ import annotations

import logging

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from gateway.proxy.errors import Refusal, invalid

# An upload has a file and a handful of fields; what has more is no upload.
MAX_PARTS = 64
MAX_PART_HEADER_BYTES = 8190

# The parser warns of every mistake in a body: a client must not write into the gateway's log at will.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


class _ModelFinder:
    """Listens to the parser and notes the spans of parts named `model`."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []
        self.is_ended = False
        self._parts = 0
        self._header_name = b""
        self._header_value = b""
        self._is_model = False
        self._span: tuple[int, int] | None = None

    def on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise invalid(f"The upload has more than {MAX_PARTS} parts.")
        self._is_model = False
        self._span = None

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]
        self._check_size()

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]
        self._check_size()

    def _check_size(self) -> None:
        if len(self._header_name) + len(self._header_value) > MAX_PART_HEADER_BYTES:
            raise invalid("A part of the upload has too large a header.")

    def on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            _, options = parse_options_header(self._header_value)
            self._is_model = options.get(b"name") == b"model"
        self._header_name = self._header_value = b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_model:
            # The parser may hand a part over in several pieces; they lie side by side in the body.
            self._span = (start if self._span is None else self._span[0], end)

    def on_part_end(self) -> None:
        if self._is_model:
            self.spans.append(self._span or (0, 0))

    def on_end(self) -> None:
        self.is_ended = True


def model_span(content_type: bytes, body: bytes) -> tuple[int, int] | None:
    """Start and end of the value of the field `model`; None without one. Raises Refusal 400."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary or len(boundary) > 70:
        raise invalid("The multipart boundary must have 1 to 70 characters.")
    finder = _ModelFinder()
    callbacks = {
        name: getattr(finder, name)
        for name in (
            "on_part_begin",
            "on_header_field",
            "on_header_value",
            "on_header_end",
            "on_part_data",
            "on_part_end",
            "on_end",
        )
    }
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except Refusal:
        raise
    except (FormParserError, ValueError) as error:
        raise invalid("The multipart body is not valid.") from error
    if not finder.is_ended:
        raise invalid("The multipart body does not end with its boundary.")
    if len(finder.spans) > 1:
        raise invalid("'model' is given more than once.", param="model")
    return finder.spans[0] if finder.spans else None
