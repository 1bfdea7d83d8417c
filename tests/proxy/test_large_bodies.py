"""Large bodies: read by another process, as exactly as small ones, and no one waits for them."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import pytest

from gateway.core.model import Reason
from gateway.proxy import bodies
from gateway.proxy.large_bodies import LARGE_BODY_BYTES, LargeBodies
from tests.proxy.dialogue import post, settled

PAD = b'"x":"%b"' % (b"y" * LARGE_BODY_BYTES)


def large(*fields: bytes) -> bytes:
    return b"{" + b",".join([PAD, *fields]) + b"}"


@pytest.fixture
async def mapped(start_backend, start_gateway):
    backend = await start_backend()
    clusters = f"clusters: [{{name: a, limit: 8, models: {{m: up/m}}, backends: ['{backend.url}']}}]"
    return await start_gateway(clusters), backend


def process_of(gateway) -> int | None:
    return gateway.plane.large_bodies.process_id


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ((b'"model":"m"',), 200),
        ((b'"nested":{"model":"n"}', b'"model" : "m"'), 200),
        (('"é":"日本"'.encode(), b'"model":"m"'), 200),
        ((b'"model":"m"', b'"model":"m"'), 400),
        ((b'"model":"m"', b'"mod\\u0065l":"n"'), 400),
        ((b'"model":7',), 400),
        ((b'"model":"m"', b"nonsense"), 400),
        ((b'"model":"m"', b'"bad":"\xff"'), 400),
        ((b'"other":1',), 400),
        ((b'"model":"unknown"',), 404),
    ],
)
async def test_they_are_read_as_small_ones_are(mapped, fields, status):
    gateway, backend = mapped
    for body in (large(*fields), b"{" + b",".join(fields) + b"}"):
        answer = await gateway.ask(post(body))
        assert answer.status == status
        if status == 200:
            assert backend.requests[-1].body == body.replace(b'"m"', b'"up/m"')
    assert process_of(gateway) is not None


async def test_a_header_that_names_the_model_changes_no_body(mapped):
    gateway, backend = mapped
    for body in (large(b'"in":{"model":"m"}'), b'{"in":{"model":"m"}}', b'{"in":"model"}'):
        path = "/v1/rerank"
        assert (await gateway.ask(post(body, "x-spillway-model: m", path=path))).status == 200
        assert backend.requests[-1].body == body


async def test_a_large_form(mapped):
    gateway, backend = mapped
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + b"\r\n-" * LARGE_BODY_BYTES
        + b'\r\n--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n'
    )  # fmt: skip
    form = "Content-Type: multipart/form-data; boundary=b"
    answer = await gateway.ask(post(body, form, path="/v1/audio/transcriptions"))
    assert answer.status == 200
    assert backend.requests[-1].body == body.replace(b"\r\nm\r\n", b"\r\nup/m\r\n")


async def test_small_ones_start_no_process_and_do_not_wait_for_large_ones(mapped):
    gateway, backend = mapped
    assert (await gateway.ask(post())).status == 200
    assert process_of(gateway) is None
    assert (await gateway.ask(post(large(b'"model":"m"')))).status == 200
    os.kill(process_of(gateway), signal.SIGSTOP)  # it reads for as long as we like
    client = await gateway.connect()
    await client.send(post(large(b'"model":"m"')) + post(b'{"model":"m","second":1}'))
    assert (await gateway.ask(post())).status == 200
    assert gateway.plane.exchanges, "it did not wait"
    os.kill(process_of(gateway), signal.SIGCONT)
    assert [(await client.answer()).status for _ in range(2)] == [200, 200]
    assert backend.requests[-1].body.endswith(b'"second":1}'), "a connection keeps its order"


async def test_a_client_that_leaves_meanwhile_leaves_nothing(mapped):
    gateway, backend = mapped
    await gateway.ask(post(large(b'"model":"m"')))
    os.kill(process_of(gateway), signal.SIGSTOP)
    client = await gateway.connect()
    await client.send(post(large(b'"model":"m"')))
    assert await settled(lambda: len(gateway.plane.exchanges) == 1)
    client.close()
    assert await settled(lambda: gateway.is_clean)
    assert gateway.records[-1].outcome.reason is Reason.CLIENT_LEFT
    os.kill(process_of(gateway), signal.SIGCONT)
    assert len(backend.requests) == 1


async def test_a_process_that_dies_is_replaced(mapped):
    gateway, _ = mapped
    await gateway.ask(post(large(b'"model":"m"')))
    first = process_of(gateway)
    os.kill(first, signal.SIGKILL)
    assert (await gateway.ask(post(large(b'"model":"m"')))).status == 200
    assert process_of(gateway) not in (None, first)


async def test_one_that_takes_too_long_is_ended(mapped):
    gateway, _ = mapped
    await gateway.ask(post(large(b'"model":"m"')))
    gateway.plane.large_bodies._child._socket.settimeout(0.1)
    os.kill(process_of(gateway), signal.SIGSTOP)
    answer = await gateway.ask(post(large(b'"model":"m"')))
    assert (answer.status, answer.error["code"]) == (400, "invalid_request")
    assert (await gateway.ask(post(large(b'"model":"m"')))).status == 200


async def test_closing_ends_the_process_also_while_it_reads():
    reader = LargeBodies()
    await reader.read(b"", large(b'"model":"m"'), is_json=True)
    pid = reader.process_id
    os.kill(pid, signal.SIGSTOP)
    reading = asyncio.ensure_future(reader.read(b"", large(b'"model":"m"'), is_json=True))
    await asyncio.sleep(0.01)
    reader.close()
    with pytest.raises(Exception, match="can't be read now"):
        await reading
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m"}',
        b'{"a":[1,{"b":"model"}],"model" \n:\t"m\\n\\"x"}',
        '{"é":"日","model":"m","z":"日"}'.encode(),
        b'{"x":"\\u0041","model":"m"}',
        b'{"a":{"model":"n"},"model":"m","b":[{"model":"o"}]}',
    ],
)
def test_the_place_of_the_model_is_found_however_it_is_looked_for(body):
    expected = json.loads(body) | {"model": "other"}
    for is_there in (True, False):
        first, last = bodies._json_model_span(body, is_there=is_there)
        assert json.loads(body[:first] + b'"other"' + body[last:]) == expected


def filled(before: bytes, unit: bytes, behind: bytes) -> bytes:
    """About the largest body of this shape that is not large by its size."""
    return before + unit * ((LARGE_BODY_BYTES - 100 - len(before) - len(behind)) // len(unit)) + behind


_DEEP = b"[" * 900 + b"]" * 900 + b","
HARD = {
    "escaped keys": filled(b'{"model":"m"', b',"\\u0061":1', b"}"),
    "a disguise and many keys": filled(b'{"\\u0061":1,"model":"m"', b',"":1', b"}"),
    "a disguise and space": filled(b'{"\\u0061":1,"model":"m"', b' , "a" : 1', b"}"),
    "a disguise and depth": filled(b'{"\\u0061":1,"model":"m","x":[', _DEEP, b"1]}"),
    "models inside": filled(b'{"model":"m","x":[', b'{"model":"n"},', b"1]}"),
    "streams inside": filled(b'{"model":"m","stream":false,"x":[', b'{"stream":1},', b"1]}"),
    "an exponent and lists": filled(b'{"model":"m","y":1e000,"x":[', b"[],", b"1]}"),
    "an exponent and depth": filled(b'{"model":"m","y":1e-000,"z":1e100,"x":[', _DEEP, b"1]}"),
    "long numbers": filled(b'{"model":"m","x":[', b"1" * 300 + b",", b"1]}"),
}
EASY = {
    "many keys": filled(b'{"model":"m"', b',"":1', b"}"),
    "depth": filled(b'{"model":"m","x":[', _DEEP, b"1]}"),
    "escapes": filled(b'{"model":"m","x":"', b"\\n\\u00e9\\ud83d\\ude00", b'"}'),
    "text": filled(b'{"model":"m","x":"', "é日".encode(), b'"}'),
    "numbers": filled(b'{"model":"m","x":[', b"1.5e30,0.1234567,", b"1]}"),
}


class _Effort:
    """How many bytes are read here in the two ways that take long, at most at once."""

    def __init__(self, monkeypatch) -> None:
        self.most = 0
        for name in ("_top_level_values", "refuse_overflow"):
            monkeypatch.setattr(bodies, name, self._noting(getattr(bodies, name)))

    def _noting(self, read):
        def noting(text):
            self.most = max(self.most, len(text))
            return read(text)

        return noting


@pytest.mark.parametrize("body", HARD.values(), ids=HARD)
async def test_who_is_hard_to_read_is_read_elsewhere(mapped, monkeypatch, body):
    """Each would take 10 to 250 ms of the event loop. A cluster with another name needs no second look."""
    gateway, backend = mapped
    effort = _Effort(monkeypatch)
    assert (await gateway.ask(post(body))).status == 200
    assert backend.requests[-1].body == body.replace(b'"model":"m"', b'"model":"up/m"')
    assert process_of(gateway) is not None and not effort.most
    twice = body[:-1] + b',"mod\\u0065l":"n"}'
    answer = await gateway.ask(post(twice))
    assert (answer.status, answer.error["param"]) == (400, "model") and not effort.most


@pytest.mark.parametrize("body", EASY.values(), ids=EASY)
async def test_who_is_not_is_read_at_once_and_once(mapped, monkeypatch, body):
    gateway, backend = mapped
    effort = _Effort(monkeypatch)
    assert (await gateway.ask(post(body))).status == 200
    assert backend.requests[-1].body == body.replace(b'"model":"m"', b'"model":"up/m"')
    for name in (b'"model":null', b'"other":"m"'):
        unnamed = body.replace(b'"model":"m"', name)
        assert (await gateway.ask(post(unnamed, "x-spillway-model: m"))).status == 200
        assert backend.requests[-1].body == unnamed.replace(b'"model":null', b'"model":"up/m"')
    assert process_of(gateway) is None and not effort.most


@pytest.mark.parametrize("size", [bodies.HARD_BODY_BYTES, bodies.HARD_BODY_BYTES + 1])
async def test_hard_ones_that_are_short_are_read_at_once(mapped, monkeypatch, size):
    gateway, backend = mapped
    effort = _Effort(monkeypatch)
    inside = b'{"x":{"model":"n"},"y":"', b'{"stream":true,"x":{"stream":1},"y":"'
    for begun in (b'{"\\u0061":"', *inside, b'{"x":1e000,"y":"'):
        body = begun + b"y" * (size - len(begun) - 14) + b'","model":"m"}'
        assert len(body) == size
        assert (await gateway.ask(post(body))).status == 200
        assert backend.requests[-1].body == body.replace(b'"model":"m"', b'"model":"up/m"')
    is_short = size <= bodies.HARD_BODY_BYTES
    assert (process_of(gateway) is None, effort.most) == (is_short, size if is_short else 0)


@pytest.mark.parametrize("name", HARD)
async def test_in_a_hurry_the_same_is_said_of_what_is_not_hard(name):
    body = HARD[name]
    with pytest.raises(bodies.NeedsTime):
        bodies.read_json(body, is_hurried=True)
    assert bodies.read_json(body) == bodies.BodyFacts("m", False)
