"""HTTP/1.1 as a backend speaks it: keep-alive, pipelining, framing, disconnects, back-pressure."""

import asyncio

CHAT = "/v1/chat/completions"


async def test_pipelined_requests_are_answered_in_order(start_engine, dial) -> None:
    wire = await dial(await start_engine(ttft_s=0.02))
    wire.post(max_tokens=1)
    wire.get("/health")
    wire.post("/v1/rerank")
    bodies = [(await wire.answer()).body for _ in range(3)]
    assert b'"t0 "' in bodies[0]
    assert bodies[1] == b""
    assert b"/v1/rerank" in bodies[2]


async def test_each_echo_shows_its_own_head_also_behind_a_chunked_body(start_engine, dial) -> None:
    wire = await dial(await start_engine())
    first = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"1b\r\nPOST /a HTTP/1.1\r\nX: y\r\n\r\n!\r\n0\r\n\r\n"
    second = b"POST /b HTTP/1.1\r\nHost:b\r\nContent-Length: 0\r\n\r\n"
    everything = first + body + second
    for cut in (len(first) - 7, len(first) + 9, len(first) + len(body) + 5, len(everything)):
        wire.writer.write(everything[:cut])
        await asyncio.sleep(0.002)
        wire.writer.write(everything[cut:])
        assert (await wire.answer()).json()["head"].encode() == first
        assert (await wire.answer()).json()["head"].encode() == second


async def test_a_client_that_asks_to_close_is_closed(start_engine, dial) -> None:
    wire = await dial(await start_engine())
    wire.post(headers="Connection: close\r\n")
    answer = await wire.answer()
    assert answer.header("connection") == "close"
    assert await wire.reader.read() == b""


async def test_a_continue_comes_before_the_body(start_engine, dial) -> None:
    wire = await dial(await start_engine())
    wire.writer.write(b"POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
    assert await wire.head() == "HTTP/1.1 100 Continue\r\n\r\n"
    wire.writer.write(b"x")
    assert (await wire.answer()).json()["body_length"] == 1


async def test_garbage_is_refused_and_counted(start_engine, dial) -> None:
    engine = await start_engine()
    wire = await dial(engine)
    wire.writer.write(b"POST /x HTTP/1.1\r\nContent-Length: +1\r\n\r\n")
    assert (await wire.answer()).status == 400
    assert await wire.reader.read() == b""
    assert (engine.counters.malformed, engine.counters.requests) == (1, 0)


async def test_a_client_that_leaves_aborts_its_generation(start_engine, dial, settled) -> None:
    engine = await start_engine(ttft_s=5.0, max_num_seqs=1)
    running, waiting = await dial(engine), await dial(engine)
    running.post(stream=True)
    await running.head()
    waiting.post()
    assert await settled(lambda: engine.gauges.waiting == 1)
    running.close()
    assert await settled(lambda: engine.counters.aborted == 1)
    assert (engine.gauges.running, engine.gauges.waiting) == (1, 0)  # the seat went to the next
    waiting.close()
    assert await settled(lambda: engine.counters.aborted == 2)
    assert (engine.gauges.running, engine.counters.in_flight) == (0, 0)


async def test_a_slow_reader_gets_every_token_in_the_end(start_engine, dial, settled) -> None:
    engine = await start_engine()
    wire = await dial(engine)
    wire.writer.transport.pause_reading()
    wire.post(stream=True, max_tokens=40_000)
    assert await settled(lambda: engine.gauges.running == 0 and engine.counters.requests == 1, within_s=5)
    assert engine.counters.in_flight == 1  # generated, but not yet read
    wire.writer.transport.resume_reading()
    received = b""
    while not received.endswith(b"0\r\n\r\n"):
        received += await wire.reader.read(1 << 20)
    assert received.count(b"data: ") == 40_002  # the role, the tokens, the end mark
    assert engine.counters.in_flight == 0


async def test_the_backends_own_truth_is_in_its_metrics(start_engine, dial) -> None:
    engine = await start_engine(ttft_s=0.03, max_num_seqs=2)
    wires = [await dial(engine) for _ in range(3)]
    for wire in wires:
        wire.post(max_tokens=4)
    for wire in wires:
        await wire.answer()
    wires[0].get("/metrics")
    lines = (await wires[0].answer()).body.decode().splitlines()
    labels = 'engine="0",model_name="mock-model"'
    assert f"vllm:num_requests_running{{{labels}}} 0" in lines
    assert f"vllm:generation_tokens_total{{{labels}}} 12" in lines
    assert f'vllm:request_success_total{{{labels},finished_reason="length"}} 3' in lines
    assert "mock_engine_peak_running 2" in lines
    assert "mock_engine_peak_in_flight 3" in lines
    assert "mock_engine_requests_total 3" in lines
    assert "mock_engine_aborted_total 0" in lines
