"""The corpus keeps its promises, and so do some mutations of it; a minute of them with `--full`."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from gateway.proxy.errors import Refusal
from gateway.proxy.multipart import model_span
from tests.fuzz.fake_network import World
from tests.fuzz.run import by_atheris
from tests.fuzz.targets import CORPUS, NAMES, open_target
from tests.fuzz.trying import MAX_AMPLIFICATION, Found, Trial, corpus, fuzz, replay

# A second or two each on an idle machine. The seed stays, so that a failure is the change's own.
INPUTS = {"downstream": 1500, "upstream": 400, "model": 10_000, "config": 100}


@pytest.mark.parametrize("name", NAMES)
def test_the_corpus(name: str) -> None:
    assert replay(name) == 2 * len(list((CORPUS / name).iterdir())) > 20


@pytest.mark.parametrize("name", NAMES)
def test_some_mutations(name: str) -> None:
    assert fuzz(name, seed=1, inputs=INPUTS[name]).count == INPUTS[name]


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", NAMES)
def test_a_minute_of_mutations(name: str) -> None:
    assert fuzz(name, seed=2, seconds=60).count > INPUTS[name]


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("name", NAMES)
def test_a_minute_by_coverage(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("atheris", reason="the extra `fuzz` is not installed, or has no wheel here")
    assert by_atheris(name, 60, 1, tmp_path_factory.mktemp("found")) == 0


def test_a_broken_promise_is_found() -> None:
    def wasteful(data: bytes) -> None:
        assert len(data) < 3, "too long"
        kept.append(bytearray(4_000_000 * len(data)))

    kept: list[bytearray] = []
    trial = Trial("model", wasteful)
    trial(b"")
    with pytest.raises(Found, match="too long"):
        trial(b"abc")
    with pytest.raises(Found, match="bytes of memory for 1"):
        trial(b"a", is_measured=True)


_POST = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
_OK = b"HTTP/1.1 200 OK\r\n"
_HEADERS = b"".join(b"X-%d: %b\r\n" % (number, b"a" * 550) for number in range(80))  # http.client takes 100
# What makes most objects of fewest bytes, each as large as it may be here.
_JSON = b'application/json\n{"model":"m","\\u0061":'
_UPLOAD = b"multipart/form-data; boundary=b\n"
COSTLY = {
    "tiny chunks": ("downstream", _POST + _CHUNKED + b"2\r\n  \r\n" * 9000 + b"2\r\n{}\r\n0\r\n\r\n"),
    "headers": ("downstream", _POST + _HEADERS + b'Content-Length: 13\r\n\r\n{"model":"m"}'),
    "pipelined": ("downstream", b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n" * 1500),
    "an answer of tiny chunks": ("upstream", _OK + _CHUNKED + b"2\r\nab\r\n" * 9000 + b"0\r\n\r\n"),
    "an answer of headers": ("upstream", _OK + _HEADERS + b"Content-Length: 2\r\n\r\nok"),
    "lists": ("model", _JSON + b"[" + b"[]," * 20_000 + b"0]}"),
    "keys": ("model", _JSON + b"0" + b',"":0' * 12_000 + b"}"),
    "wide characters": ("model", _JSON + b'"' + "\U0001f600".encode() * 15_000 + b'"}'),
    "parts": ("model", _UPLOAD + b"--b\r\nA: b\r\n\r\n\r\n" * 4000 + b"--b--\r\n"),
}


@pytest.mark.parametrize("case", COSTLY)
def test_costly_inputs_cost_little(case: str) -> None:
    name, data = COSTLY[case]
    assert len(data) > 40_000
    with open_target(name) as target:
        trial = Trial(name, target)
        trial(data)
        trial(data, is_measured=True)
    assert trial.most_amplification < MAX_AMPLIFICATION[name]


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


ASKS = next(data for data in corpus("downstream") if data.startswith(b"POST /v1/chat"))


def test_a_client_in_memory_sees_that_an_answer_is_cut(world: World) -> None:
    _, heard = world.serve([ASKS], [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut"])
    assert heard.startswith(b"HTTP/1.1 200") and heard.endswith(b"content-length: 9\r\n\r\ncut")


@pytest.mark.parametrize("reason", [b"O\0K", b"O\x1bK", b"O\x7fK", b"\x0b"])
def test_a_control_character_in_the_reason_is_no_answer(world: World, reason: bytes) -> None:
    _, heard = world.serve([ASKS], [b"HTTP/1.1 200 " + reason + b"\r\nContent-Length: 2\r\n\r\nok"])
    assert heard.startswith(b"HTTP/1.1 502 ") and reason not in heard


def test_a_bad_upload_writes_no_log_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(Refusal):
        model_span(b"multipart/form-data; boundary=b", b"--x\r\n\r\nno upload")
    assert not caplog.records
