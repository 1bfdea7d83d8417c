"""The shapes of answers: the official client must be able to read all of them."""

import hashlib
from collections.abc import AsyncIterator

import openai
import pytest

MESSAGES = [{"role": "user", "content": "What is the airspeed of an unladen swallow?"}]


@pytest.fixture
async def engine(start_engine):
    return await start_engine(models=("mock-model", "other"), strict_model=True)


@pytest.fixture
async def client(engine) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key="x", base_url=f"{engine.url}/v1", max_retries=0) as client:
        yield client


async def test_a_chat_answer_has_as_many_tokens_as_asked_for(client) -> None:
    answer = await client.chat.completions.create(model="mock-model", messages=MESSAGES, max_tokens=3)
    assert answer.choices[0].message.content == "t0 t1 t2 "
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3
    assert answer.usage.prompt_tokens == 10


async def test_max_completion_tokens_wins_and_16_is_the_default(client) -> None:
    asked = await client.chat.completions.create(
        model="other", messages=MESSAGES, max_tokens=3, max_completion_tokens=5
    )
    default = await client.chat.completions.create(model="other", messages=MESSAGES)
    assert (asked.model, asked.usage.completion_tokens) == ("other", 5)
    assert (default.usage.completion_tokens, default.choices[0].finish_reason) == (16, "stop")


async def test_a_chat_stream_adds_up_to_the_same_text(client) -> None:
    stream = await client.chat.completions.create(
        model="mock-model",
        messages=MESSAGES,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content for chunk in chunks if chunk.choices)
    assert text == "".join(f"t{index} " for index in range(12))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-2:] == [None, "length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 12
    assert len({chunk.id for chunk in chunks}) == 1


async def test_completions_whole_and_streamed(client) -> None:
    whole = await client.completions.create(model="mock-model", prompt="Say", max_tokens=4)
    stream = await client.completions.create(model="mock-model", prompt="Say", max_tokens=4, stream=True)
    assert whole.choices[0].text == "t0 t1 t2 t3 "
    assert "".join([chunk.choices[0].text async for chunk in stream]) == whole.choices[0].text


async def test_embeddings_in_both_encodings(client) -> None:
    as_floats = await client.embeddings.create(model="other", input=["a", "b"], encoding_format="float")
    as_base64 = await client.embeddings.create(model="other", input="a", dimensions=8)
    assert as_floats.data[0].embedding != as_floats.data[1].embedding
    assert as_base64.data[0].embedding == pytest.approx(as_floats.data[0].embedding)


async def test_models_are_listed_and_others_are_not_found(client) -> None:
    assert [model.id async for model in client.models.list()] == ["mock-model", "other"]
    assert (await client.models.retrieve("other")).id == "other"
    with pytest.raises(openai.NotFoundError, match="`third` does not exist") as refused:
        await client.chat.completions.create(model="third", messages=MESSAGES)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"max_tokens": 0}, "max_tokens: must be"), ({"model": 3}, "model: must be a string")],
)
async def test_bad_fields_are_the_callers_error(engine, dial, fields, message) -> None:
    wire = await dial(engine)
    wire.post(**fields)
    answer = await wire.answer()
    assert answer.status == 400
    assert message in answer.json()["error"]["message"]


async def test_a_stream_ends_with_done_and_its_last_chunk(engine, dial) -> None:
    wire = await dial(engine)
    wire.post(stream=True, max_tokens=2)
    answer = await wire.answer()
    assert answer.header("transfer-encoding") == "chunked"
    assert answer.header("content-type") == "text/event-stream; charset=utf-8"
    assert len(answer.events) == 4  # the role, two tokens, the end mark
    assert answer.events[-1] == "[DONE]"


async def test_any_other_path_and_the_echo_header_say_what_arrived(engine, dial) -> None:
    wire = await dial(engine)
    wire.post("/v2/models/x/infer", headers="x-Odd:  spaced \r\n")
    other = (await wire.answer()).json()
    assert (other["method"], other["path"]) == ("POST", "/v2/models/x/infer")
    assert other["head"].endswith("\r\nx-Odd:  spaced \r\n\r\n")
    assert ["x-Odd", "spaced "] in other["headers"]
    wire.writer.write(
        b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nX-Mock-Echo: 1\r\nContent-Length: 2\r\n\r\n"
    )
    wire.writer.write(b"ab")
    echoed = (await wire.answer()).json()
    assert echoed["body_length"] == 2
    assert echoed["body_sha256"] == hashlib.sha256(b"ab").hexdigest()
    wire.get("/health", headers="x-mock-echo: 1\r\n")
    assert (await wire.answer()).json()["path"] == "/health"
