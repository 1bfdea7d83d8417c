"""The clients that people use, against real processes: they must see nothing unusual."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from contextlib import contextmanager

import openai
import pytest

from tests.proxy.dialogue import settled
from tests.proxy.processes import running, start_engine, start_gateway_process

MESSAGES = [{"role": "user", "content": "Say something."}]


@contextmanager
def one_engine(folder):
    engine = start_engine("--ttft", "5ms", "--tpot", "2ms", "--model", "m")
    gateway = start_gateway_process(
        f"""
timeouts: {{first_byte: 300ms, stall: 300ms}}
clusters:
- {{name: only, limit: 2, backends: ['{engine.url}'], models: [m]}}
""",
        folder,
    )
    with running(gateway, engine):
        yield gateway, engine


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """One engine behind a gateway: what an engine does is what the client gets."""
    with one_engine(tmp_path_factory.mktemp("clients")) as made:
        yield made


@pytest.fixture
def healthy_fleet(tmp_path):
    """One that no other test has hurt: its circuit is closed and both its slots are there."""
    with one_engine(tmp_path) as made:
        yield made


@pytest.fixture
def engine(fleet):
    yield fleet[1]
    fleet[1].set_faults()


@pytest.fixture
def client(fleet):
    with openai.OpenAI(base_url=f"{fleet[0].url}/v1", api_key="canary", max_retries=0) as made:
        yield made


@pytest.fixture
async def async_client(fleet):
    async with openai.AsyncOpenAI(base_url=f"{fleet[0].url}/v1", api_key="canary", max_retries=0) as made:
        yield made


def test_a_chat(client):
    answer = client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=5)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens <= 5


def test_a_streamed_chat(client):
    stream = client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=8, stream=True)
    events = list(stream)
    assert events[-1].choices[0].finish_reason in ("stop", "length")
    assert "".join(event.choices[0].delta.content or "" for event in events)


def test_embeddings_and_models(client):
    assert client.embeddings.create(model="m", input=["a", "b"]).data[1].embedding
    assert [model.id for model in client.models.list()] == ["m"]


def test_where_a_request_went_is_in_the_raw_answer(client):
    raw = client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES, max_tokens=1)
    assert raw.headers["x-spillway-cluster"] == "only"
    assert raw.headers["x-request-id"] == raw.request_id


async def test_async_and_streaming(async_client):
    answers = await asyncio.gather(
        *(async_client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=2) for _ in range(2))
    )
    assert all(answer.choices for answer in answers)
    stream = await async_client.chat.completions.create(
        model="m", messages=MESSAGES, max_tokens=4, stream=True
    )
    assert [event async for event in stream][-1].choices[0].finish_reason


def test_errors_are_the_classes_that_callers_catch(client, engine):
    ask = client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as unknown:
        ask(model="other", messages=MESSAGES)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as invalid:
        ask(model="", messages=MESSAGES)
    assert (invalid.value.code, invalid.value.param) == ("invalid_request", "model")
    engine.set_faults({"kind": "error", "status": 500})
    with pytest.raises(openai.InternalServerError) as broken:
        ask(model="m", messages=MESSAGES)
    assert broken.value.status_code == 500
    engine.set_faults({"kind": "error", "status": 429, "retry_after_s": 1})
    with pytest.raises(openai.RateLimitError):
        ask(model="m", messages=MESSAGES)
    engine.set_faults({"kind": "hang_before_head"})
    with pytest.raises(openai.InternalServerError) as hung:
        ask(model="m", messages=MESSAGES)
    assert (hung.value.status_code, hung.value.code) == (504, "upstream_timeout_first_byte")
    engine.set_faults({"kind": "reset"})
    with pytest.raises(openai.InternalServerError) as reset:
        ask(model="m", messages=MESSAGES)
    assert (reset.value.status_code, reset.value.code) == (502, "upstream_unreachable")


@pytest.mark.parametrize("kind", ["cut", "stall"])
def test_a_broken_stream_is_an_error_and_not_an_end(client, engine, kind):
    engine.set_faults({"kind": kind, "after_tokens": 3})
    stream = client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=20, stream=True)
    received = []
    with pytest.raises(openai.APIError):
        for event in stream:
            received.append(event)
    assert received


def test_a_broken_answer_is_an_error(client, engine):
    engine.set_faults({"kind": "cut"})
    with pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=20)


async def test_a_cancelled_stream_frees_the_engine(async_client, engine):
    aborted = engine.counter("aborted_total")
    stream = await async_client.chat.completions.create(
        model="m", messages=MESSAGES, max_tokens=10_000, stream=True, extra_body={"ignore_eos": True}
    )
    async for _ in stream:
        break
    assert engine.counter("in_flight") == 1
    await stream.close()
    assert await settled(lambda: engine.counter("in_flight") == 0, 0.5)
    assert engine.counter("aborted_total") == aborted + 1


async def test_a_cancelled_task_frees_the_engine(async_client, engine):
    engine.set_faults({"kind": "slow", "factor": 100})
    aborted = engine.counter("aborted_total")
    asking = asyncio.ensure_future(
        async_client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=100)
    )
    assert await settled(lambda: engine.counter("in_flight") == 1)
    asking.cancel()
    assert await settled(lambda: engine.counter("in_flight") == 0, 0.5)
    assert engine.counter("aborted_total") == aborted + 1


def test_the_client_does_not_repeat_what_the_gateway_has_tried(client, engine):
    engine.set_faults({"kind": "reset"})
    before = engine.counter("requests_total")
    with pytest.raises(openai.InternalServerError):
        client.with_options(max_retries=3).chat.completions.create(model="m", messages=MESSAGES)
    assert engine.counter("requests_total") == before + 1


async def test_the_client_waits_as_long_as_it_is_told_and_then_has_room(healthy_fleet):
    """Two fill the cluster; the third is refused with retry-after-ms, and its own retries bring it in."""
    gateway, engine = healthy_fleet
    engine.set_faults({"kind": "slow", "factor": 20})
    patient = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="canary", max_retries=8)
    ask = patient.chat.completions.create
    busy = [
        asyncio.ensure_future(
            ask(model="m", messages=MESSAGES, max_tokens=4, extra_body={"ignore_eos": True})
        )
        for _ in range(2)
    ]
    assert await settled(lambda: engine.counter("in_flight") == 2)
    began_s = time.monotonic()
    raw = await patient.chat.completions.with_raw_response.create(model="m", messages=MESSAGES, max_tokens=1)
    assert raw.status_code == 200 and raw.retries_taken >= 1
    assert time.monotonic() - began_s < 5
    await asyncio.gather(*busy)
    await patient.close()


curl = shutil.which("curl")
needs_curl = pytest.mark.skipif(curl is None, reason="curl is not installed")


def run_curl(*arguments: str) -> str:
    done = subprocess.run(
        [str(curl), "-sS", "-m", "10", *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


@needs_curl
def test_curl_posts_json(fleet):
    body = json.dumps({"model": "m", "messages": MESSAGES, "max_tokens": 2})
    out = run_curl(
        "-i", f"{fleet[0].url}/v1/chat/completions", "-H", "content-type: application/json", "-d", body
    )
    head, _, answer = out.partition("\n\n") if "\r\n" not in out else out.partition("\r\n\r\n")
    assert " 200 " in head and json.loads(answer)["choices"]


@needs_curl
def test_curl_streams(fleet):
    body = json.dumps({"model": "m", "messages": MESSAGES, "max_tokens": 4, "stream": True})
    out = run_curl(
        "-N", f"{fleet[0].url}/v1/chat/completions", "-H", "content-type: application/json", "-d", body
    )
    assert out.endswith("data: [DONE]\n\n")


@needs_curl
@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2"])
def test_curl_speaks_any_version(fleet, version):
    assert json.loads(run_curl(version, f"{fleet[0].url}/v1/models"))["data"][0]["id"] == "m"


@needs_curl
def test_curl_uploads_a_large_body_with_expect(fleet, tmp_path):
    path = tmp_path / "body.json"
    path.write_text(
        json.dumps({"model": "m", "messages": [{"role": "user", "content": "x " * 600_000}], "max_tokens": 1})
    )
    url = f"{fleet[0].url}/v1/chat/completions"
    arguments = [
        "-H",
        "content-type: application/json",
        "-H",
        "Expect: 100-continue",
        "--data-binary",
        f"@{path}",
    ]
    for framing in ([], ["-H", "transfer-encoding: chunked"]):
        out = run_curl("-w", "%{http_code}", "-o", "/dev/null", url, *framing, *arguments)
        assert out == "200"


@needs_curl
def test_curl_uses_one_connection_for_many(fleet):
    url = f"{fleet[0].url}/v1/models"
    out = run_curl("-w", "%{num_connects} ", *["-o", "/dev/null", url] * 3)
    assert out.split() == ["1", "0", "0"]
