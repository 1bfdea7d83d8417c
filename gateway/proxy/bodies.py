"""What is read from a request: the model and the stream flag; of large bodies never the whole tree.

The body itself goes upstream byte for byte; only a cluster that knows the model by another name gets
the one value replaced, at its exact place.
"""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import orjson

from gateway.proxy.errors import invalid, unreadable
from gateway.proxy.multipart import model_span
from gateway.proxy.overflow import may_overflow, refuse_overflow
from gateway.proxy.paths import ModelSource
from gateway.proxy.queries import model_in_query, with_query_model

if TYPE_CHECKING:
    from gateway.proxy.headers import RequestHead
    from gateway.proxy.paths import Endpoint

_SAFE_MODEL = re.compile(r"[A-Za-z0-9._:/@+=,~ -]{1,256}")
# An ASCII letter written as an escape, which no honest encoder does: the key may be "model" in disguise.
_DISGUISE = re.compile(rb"\\u00[4-7]")
_FORM = b"multipart/form-data"
_COLON = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
_STRING_OR_NULL = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|null')
# Up to here any body is read within 5 ms; some larger ones need a microsecond for each byte.
HARD_BODY_BYTES = 4 * 1024
_SPACE = re.compile(r"[ \t\r\n]*")
# Only where values end is asked for: no number is made of digits, however many there are.
_JSON = json.JSONDecoder(parse_int=len, parse_float=len)


# Once: looking up a member of an enum costs as much as a call (CPython 3.11).
_IN_PATH, _IN_BODY, _IN_QUERY = ModelSource.PATH, ModelSource.BODY, ModelSource.QUERY


class _Read(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None


class _Named(msgspec.Struct):
    model: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_loads = orjson.loads
_decoder = msgspec.json.Decoder(_Read)
_named_decoder = msgspec.json.Decoder(_Named)


class NeedsTime(Exception):
    """A body that takes too long to read while others wait."""


class BodyFacts(NamedTuple):
    """`model_span`: where the model's value stands in the body, as it is written; None for not looked for."""

    model: str | None
    stream: bool
    model_span: tuple[int, int] | None = None


# The facts of bodies that name a model whose name was looked at before, without and with the stream flag.
MAX_REMEMBERED_NAMES = 1024
_plain: dict[str, BodyFacts] = {}
_streamed: dict[str, BodyFacts] = {}


def read_facts(head: RequestHead, endpoint: Endpoint, body: bytes, *, is_hurried: bool = False) -> BodyFacts:
    """Finds the model where the endpoint says it stands. Raises Refusal 400 or 415; in a hurry, NeedsTime."""
    if endpoint.model_source is _IN_PATH:
        return BodyFacts(endpoint.model, False)
    if endpoint.model_source is _IN_QUERY:
        return BodyFacts(_model_asked(head), False)
    if head.content_encoding not in (b"", b"identity"):
        message = "A compressed request body is not read here."
        raise invalid(message, param="content-encoding", status=415)
    facts = read_json(body, is_hurried=is_hurried) if head.is_json else _read_form(head, body)
    return facts if facts.model is not None else with_header(head, endpoint, facts)


def is_read(head: RequestHead, endpoint: Endpoint) -> bool:
    """Whether anything is looked for in the body at all."""
    is_in_body = endpoint.model_source is not _IN_PATH and endpoint.model_source is not _IN_QUERY
    is_form = head.content_type.lower().startswith(_FORM)
    return is_in_body and (head.is_json or is_form) and head.content_encoding in (b"", b"identity")


def facts_of(content_type: bytes, body: bytes, *, is_json: bool, finds_span: bool = False) -> BodyFacts:
    """What the body of a JSON or multipart request says by itself. Raises Refusal 400."""
    if not is_json:
        return _read_multipart(content_type, body)
    facts = read_json(body)
    if finds_span:
        facts = facts._replace(model_span=_json_model_span(body, is_there=facts.model is not None))
    return facts


def with_header(head: RequestHead, endpoint: Endpoint, facts: BodyFacts) -> BodyFacts:
    """The same with the model of the header, where the body names none. Raises Refusal 400."""
    if facts.model is None and head.model_header is not None:
        model = head.model_header.decode()
        check_model_name(model)
        facts = facts._replace(model=model)
    if facts.model is None and endpoint.model_source is _IN_BODY:
        raise invalid("'model' is missing.", param="model")
    return facts


def _model_asked(head: RequestHead) -> str | None:
    model = model_in_query(head.target)
    if model is None and head.model_header is not None:
        model = head.model_header.decode()
    if model is not None:
        check_model_name(model)
    return model


def _read_form(head: RequestHead, body: bytes) -> BodyFacts:
    if head.content_type.lower().startswith(_FORM):
        return _read_multipart(head.content_type, body)
    if head.model_header is not None:
        return BodyFacts(None, False)
    raise invalid(
        "The Content-Type must be application/json or multipart/form-data "
        "(any other needs the header x-spillway-model).",
        param="content-type",
        status=415,
    )


def _read_multipart(content_type: bytes, body: bytes) -> BodyFacts:
    span = model_span(content_type, body)
    if span is None:
        return BodyFacts(None, False)
    model = body[span[0] : span[1]].decode("ascii", "replace")
    check_model_name(model)
    return BodyFacts(model, False, span)


def read_json(body: bytes, *, is_hurried: bool = False) -> BodyFacts:
    """The routing fields of a JSON object. Raises Refusal 400 that names the field; in a hurry, NeedsTime."""
    if len(body) <= HARD_BODY_BYTES and (facts := _read_at_once(body)) is not None:
        return facts
    return _read_with_care(body, is_hurried=is_hurried)


def _read_at_once(body: bytes) -> BodyFacts | None:
    """What `_read_with_care` finds, for a third of its cost; None where that has to look.

    orjson takes nothing but UTF-8 and numbers that a double holds: neither is to be looked for.
    """
    try:
        tree = _loads(body)
    except orjson.JSONDecodeError:
        return None
    if type(tree) is not dict:
        return None
    model, stream = tree.get("model"), tree.get("stream")
    if type(model) is not str or (stream is not None and type(stream) is not bool):
        return None
    # `find` instead of `in`: that tries whether the bytes are a number first, which costs more than to look
    # (CPython 3.11).
    if (
        body.count(b'"model"') != 1
        or ("stream" in tree and body.count(b'"stream"') != 1)
        or (body.find(b"\\") >= 0 and body.find(b"\\u00") >= 0 and _DISGUISE.search(body))
    ):
        return None
    known = _streamed if stream is True else _plain
    return known.get(model) or _remember(known, BodyFacts(model, stream is True))


def _remember(known: dict[str, BodyFacts], facts: BodyFacts) -> BodyFacts:
    """Raises Refusal 400 for a name that nobody can have."""
    assert facts.model is not None
    check_model_name(facts.model)
    if len(known) >= MAX_REMEMBERED_NAMES:
        known.clear()
    known[facts.model] = facts
    return facts


def _read_with_care(body: bytes, *, is_hurried: bool) -> BodyFacts:
    has_time = not is_hurried or len(body) <= HARD_BODY_BYTES
    try:
        if not body.isascii():
            body.decode()
        read = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_type(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise unreadable(f"The body is not valid JSON: {error}.") from None
    except RecursionError:
        raise unreadable("The body is nested too deeply.") from None
    if (
        body.count(b'"model"') > 1
        or body.count(b'"stream"') > 1
        or (b"\\" in body and b"\\u00" in body and _DISGUISE.search(body))
    ):
        if not has_time:
            raise NeedsTime
        _refuse_duplicates(body)
    if may_overflow(body):
        if not has_time:
            raise NeedsTime
        refuse_overflow(body)
    model = read.model
    if model is not None:
        check_model_name(model)
    return BodyFacts(model, read.stream is True)


def check_model_name(model: str) -> None:
    if not _SAFE_MODEL.fullmatch(model) or "/../" in f"/{model}/":
        raise invalid("'model' must be 1 to 256 characters of letters, digits and ._:/@+=,~ -", param="model")


def _wrong_type(error: msgspec.ValidationError) -> Exception:
    text = str(error)
    for field in ("model", "stream"):
        if f"$.{field}" in text:
            return invalid(f"'{field}' has the wrong type: {text.split(' - at')[0]}.", param=field)
    return unreadable("The body must be a JSON object.")


def _refuse_duplicates(body: bytes) -> None:
    """A field given twice is read differently by different parsers: that must not decide a route.

    Called where one of them may stand twice; a key spelt with an escape ("mod\\u0065l") counts too.
    """
    keys = [key for key, _, _ in _top_level_values(body.decode())]
    for field in ("model", "stream"):
        if keys.count(field) > 1:
            raise invalid(f"'{field}' is given more than once.", param=field)


def _top_level_values(text: str) -> list[tuple[str, int, int]]:
    """(key, start, end) of each value of the outermost object, in characters. `text` is valid JSON."""
    values = []
    at = _skip_space(text, 0) + 1
    try:
        while text[at := _skip_space(text, at)] != "}":
            key, at = scanstring(text, at + 1, False)
            start = _skip_space(text, _skip_space(text, at) + 1)
            _, at = _JSON.raw_decode(text, start)
            values.append((key, start, at))
            at = _skip_space(text, at)
            at += text[at] == ","
    except (ValueError, RecursionError) as error:
        raise unreadable("The body is not valid JSON, or nested too deeply.") from error
    return values


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def with_model(
    head: RequestHead,
    endpoint: Endpoint,
    body: bytes,
    upstream_model: str,
    looked: BodyFacts | None = None,
) -> tuple[bytes, bytes]:
    """Target and body with the model's name replaced where it stands, every other byte as it was.

    `looked`: what is known of a body in which the place has been looked for already.
    """
    name = upstream_model.encode()
    if endpoint.model_source is _IN_PATH:
        start = len(b"/v2/models/")
        return head.target[:start] + name + head.target[head.target.index(b"/", start) :], body
    if endpoint.model_source is _IN_QUERY:
        return with_query_model(head.target, name), body
    if head.is_json:
        name = json.dumps(upstream_model).encode()
    if looked is not None:
        span = looked.model_span
    elif head.is_json:
        # With the header the body may name none.
        span = _json_model_span(body, is_there=head.model_header is None)
    else:
        span = model_span(head.content_type, body) if head.content_type else None
    return head.target, body if span is None else _replaced(body, span, name)


def _replaced(body: bytes, span: tuple[int, int], value: bytes) -> bytes:
    with memoryview(body) as view:  # a slice would be one more copy of a large body
        return b"".join((view[: span[0]], value, view[span[1] :]))


def _json_model_span(body: bytes, *, is_there: bool) -> tuple[int, int] | None:
    """Where the value of `model` stands in a body that `read_json` took, quotes included.

    `is_there`: that it has one is known.
    """
    count = body.count(b'"model"')
    if count < 2 and not _DISGUISE.search(body):
        is_there = count == 1 and (is_there or _named_decoder.decode(body).model is not msgspec.UNSET)
        return _only_model_span(body) if is_there else None
    text = body.decode()
    for key, start, end in _top_level_values(text):
        if key == "model":
            first = len(text[:start].encode())
            return first, first + len(text[start:end].encode())
    return None


def _only_model_span(body: bytes) -> tuple[int, int] | None:
    """The same where these bytes stand once, which spares reading all that comes before.

    They are the key then: a body that has a model has its key, and no other spelling of it. Its value
    is a name; where the header has that, it may be null.
    """
    colon = _COLON.match(body, body.find(b'"model"') + len(b'"model"'))
    value = _STRING_OR_NULL.match(body, colon.end()) if colon is not None else None
    return value.span() if value is not None else None
