"""Uploads (FAULTS 2d): the model is read as every reader would read it, or there is a 400."""

from __future__ import annotations

import contextlib

import pytest

from gateway.proxy.errors import Refusal
from gateway.proxy.multipart import model_span
from tests.proxy.dialogue import post

PATH = "/v1/audio/transcriptions"
KIND = "multipart/form-data; boundary=XX"
FIELD = b'Content-Disposition: form-data; name="%b"\r\n'
FILE = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n'


def part(headers: bytes, content: bytes = b"m") -> bytes:
    return b"--XX\r\n" + headers + b"\r\n" + content + b"\r\n"


def field(name: bytes = b"model", content: bytes = b"m") -> bytes:
    return part(FIELD % name, content)


def named(parameters: bytes) -> bytes:
    """A part with these parameters in its disposition."""
    return part(b"Content-Disposition: form-data" + parameters + b"\r\n")


END = b"--XX--\r\n"
SOUND = part(FILE, bytes(range(256)) * 4)

GOOD = {
    "usual": SOUND + field() + END,
    "model-first": field() + SOUND + END,
    "no-line-end": field() + b"--XX--",
    "token": named(b"; name=model") + END,
    "capitals": named(b'; Name="model"').replace(b"Content-Disposition", b"CONTENT-DISPOSITION") + END,
    "more-headers": part(FIELD % b"model" + b"Content-Type: text/plain; charset=utf-8\r\n") + END,
    "coding-binary": part(FIELD % b"model" + b"Content-Transfer-Encoding: Binary\r\n") + END,
    "filename": part(FILE.replace(b"a.wav", b"../../etc/passwd"), b"x") + field() + END,
    "filename-quotes": part(FILE.replace(b"a.wav", b"C:\\a;b=c.wav"), b"x") + field() + END,
    "filename-foreign": part(FILE.replace(b"a.wav", "é.wav".encode()), b"x") + field() + END,
    "filename-both": part(FILE.replace(b'"a.wav"', b"\"a\"; filename*=utf-8''%c3%a9"), b"x") + field() + END,
    "gzip-file": part(FILE + b"Content-Encoding: gzip\r\n", b"\x1f\x8b") + field() + END,
    "base64-file": part(FILE + b"Content-Transfer-Encoding: base64\r\n", b"!!") + field() + END,
    "lying-length": part(FILE + b"Content-Length: 9999\r\n", b"x") + field() + END,
    "charset-field": field(b"_charset_", b"utf-16" * 20) + field() + END,
    "empty-file": part(FILE, b"") + field() + END,
    "line-ends-inside": part(FILE, b"\r\n\r\n--X\r\n--\r\nXX\n--Y") + field() + END,
    "like-a-field": field(b"models", b"n") + field(b"Model", b"n") + field() + END,
    "63-others": field(b"x") * 63 + field() + END,
}
BAD = {
    "empty": b"",
    "only-end": END,
    "no-end": SOUND + field(),
    "cut-end": SOUND + field() + b"--XX",
    "cut-dash": SOUND + field() + b"--XX-",
    "cut-part": SOUND + field()[:-3],
    "cut-header": b"--XX\r\nContent-Disp",
    "no-blank-line": b"--XX\r\n" + FIELD % b"model" + b"m\r\n" + END,
    "no-header": b"--XX\r\n\r\nm\r\n" + END,
    "no-disposition": part(b"Content-Type: text/plain\r\n") + END,
    "preamble": b"hello\r\n" + field() + END,
    "blank-preamble": b"\r\n" + field() + END,
    "epilogue": field() + END + b"hello",
    "field-in-epilogue": field() + END + field(content=b"n") + END,
    "blank-epilogue": field() + END + b"\r\n",
    "other-boundary": field().replace(b"XX", b"YY") + b"--YY--\r\n",
    "longer-boundary": field().replace(b"--XX", b"--XXX") + b"--XXX--\r\n",
    "padded-boundary": field().replace(b"--XX\r\n", b"--XX  \r\n") + END,
    "bare-lf-boundary": part(FILE, b"x\n--XX\n" + FIELD % b"model" + b"\nn") + field() + END,
    "boundary-inside": part(FILE, b"x --XX y") + field() + END,
    "bare-cr-boundary": part(FILE, b"x\r--XX\r\n") + field() + END,
    "boundary-at-content": b"--XX\r\n" + FILE + b"\r\n--XX\r\n" + FIELD % b"model" + b"\r\nm\r\n" + END,
    "bare-lf-everywhere": (field() + END).replace(b"\r\n", b"\n"),
    "bare-lf-headers": part((FIELD % b"model").replace(b"\r\n", b"\n")) + END,
    "bare-lf-header": part(b"X: a\nContent-Disposition: form-data; name=model\r\n" + FIELD % b"x") + END,
    "bare-cr-header": part(b"X: a\rb\r\n" + FIELD % b"model") + END,
    "nul-header": part(b"X: a\0\r\n" + FIELD % b"model") + END,
    "fold": part(b'Content-Disposition: form-data;\r\n name="model"\r\n') + END,
    "no-colon": part(b"NoColon\r\n" + FIELD % b"model") + END,
    "space-colon": part((FIELD % b"model").replace(b":", b" :")) + END,
    "twice": field() + field(content=b"n") + END,
    "twice-same": field() + field() + END,
    "two-dispositions": part(FIELD % b"x" + FIELD % b"model") + END,
    "two-names": named(b'; name="x"; name="model"') + END,
    "two-names-same": named(b'; name="model"; name="model"') + END,
    "two-names-capitals": named(b'; name="x"; NAME="model"') + END,
    "name-star": named(b"; name*=utf-8''model") + END,
    "name-and-star": named(b"; name=\"x\"; name*=utf-8''model") + END,
    "no-name": named(b"") + END,
    "escaped-name": named(b'; name="mod\\el"') + END,
    "escaped-quote": named(b'; name="a\\"; name=model; x="') + END,
    "open-quote": named(b'; name="model') + END,
    "spaced-name": named(b'; name = "model"') + END,
    "attachment": part(b'Content-Disposition: attachment; name="model"\r\n') + END,
    "no-kind": part(b'Content-Disposition: name="model"\r\n') + END,
    "nested": part(FIELD % b"x" + b"Content-Type: multipart/mixed; boundary=YY\r\n", b"--YY--")
    + field()
    + END,
    "nested-capitals": part(FIELD % b"x" + b"content-type: Multipart/Mixed\r\n") + field() + END,
    "base64-model": part(FIELD % b"model" + b"Content-Transfer-Encoding: base64\r\n", b"bQ==") + END,
    "quoted-model": part(FIELD % b"model" + b"Content-Transfer-Encoding: quoted-printable\r\n") + END,
    "gzip-model": part(FIELD % b"model" + b"Content-Encoding: gzip\r\n") + END,
    "65-parts": field(b"x") * 64 + field() + END,
    "5000-parts": field(b"x") * 5000 + field() + END,
    "large-header": part(FIELD % b"model" + b"X: " + b"a" * 20_000 + b"\r\n") + END,
    "500-headers": part(FIELD % b"model" + b"".join(b"X-%d: a\r\n" % n for n in range(500))) + END,
    "same-header": part(FIELD % b"model" + b"X: a\r\nX: a\r\n") + END,
}
BAD_KINDS = (
    "multipart/form-data",
    "multipart/form-data; boundary",
    "multipart/form-data; boundary=",
    'multipart/form-data; boundary=""',
    f"multipart/form-data; boundary={'X' * 71}",
    "multipart/form-data; boundary=XX; boundary=XX",
    "multipart/form-data; boundary=YY; boundary=XX",
    "multipart/form-data; boundary*=utf-8''XX",
    "multipart/form-data; boundary*0=X; boundary*1=X",
    'multipart/form-data; boundary="XX',
    'multipart/form-data; boundary="X X "',
    "multipart/form-data; boundary=X{X",
    "multipart/form-data; boundary = XX",
    "multipart/form-data boundary=XX",
    'multipart/form-data; x="boundary=XX"',
)  # fmt: skip


@pytest.fixture
async def pair(start_backend, start_gateway):
    backend = await start_backend()
    return await start_gateway(backend, limit=100), backend


async def test_a_good_upload_passes_byte_for_byte(pair):
    gateway, backend = pair
    client = await gateway.connect()
    for name, body in GOOD.items():
        await client.send(post(body, f"Content-Type: {KIND}", path=PATH))
        assert (await client.answer()).status == 200, name
        assert backend.requests[-1].body == body
        start, end = model_span(KIND.encode(), body) or (0, 0)
        assert body[start:end] == b"m", name


async def test_what_readers_may_read_differently_is_a_400(pair):
    gateway, backend = pair
    client = await gateway.connect()
    for name, body in BAD.items():
        await client.send(post(body, f"Content-Type: {KIND}", path=PATH))
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (400, "invalid_request"), name
    assert not backend.requests


async def test_a_boundary_that_is_not_one_is_a_400(pair):
    gateway, backend = pair
    client = await gateway.connect()
    for kind in BAD_KINDS:
        await client.send(post(field() + END, f"Content-Type: {kind}", path=PATH))
        assert (await client.answer()).status == 400, kind
    assert not backend.requests


@pytest.mark.parametrize(
    "kind",
    [
        'multipart/form-data; boundary="XX"',
        "Multipart/Form-Data;BOUNDARY=XX",
        "multipart/form-data; charset=utf-8; boundary=XX",
        'multipart/form-data; boundary=XX; x="y;z"'.replace('"', ""),
    ],
)
def test_a_boundary_may_be_written_so(kind):
    assert model_span(kind.encode(), field() + END) is not None


HARD = {
    "line-ends": b"\r\n" * 4_000_000,
    "dashes": b"-" * 8_000_000,
    "almost": b"\r\n--X" * 1_600_000,
    "header": b"--XX\r\n" + FIELD % b"x" + b"X: " + b" " * 8_000_000,
    "blanks": (b"--XX\r\nContent-Disposition: form-data; name=x" + b" " * 7_000 + b'"\r\n\r\n\r\n') * 60,
}


@pytest.mark.parametrize("content", HARD.values(), ids=HARD)
def test_no_upload_costs_more_than_its_size(content):
    """A reading that is quadratic would take hours here."""
    for body in (part(FILE, content) + field() + END, content + END):
        with contextlib.suppress(Refusal):
            assert model_span(KIND.encode(), body) is not None
