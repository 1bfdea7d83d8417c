"""Each fault as the client sees it, and the control endpoint."""

import asyncio

import pytest

from gateway.mock_engine.faults import Fault, FaultError, FaultKind, Faults, parse_fault, parse_flag


async def test_an_error_comes_at_once_with_its_retry_after(start_engine, dial) -> None:
    wire = await dial(await start_engine({"kind": "error", "status": 503, "retry_after_s": 1.2, "next": 1}))
    wire.post()
    answer = await wire.answer()
    assert (answer.status, answer.header("retry-after")) == (503, "2")
    assert answer.json()["error"]["type"] == "server_error"
    wire.post()
    assert (await wire.answer()).status == 200


async def test_a_reset_is_a_reset(start_engine, dial) -> None:
    wire = await dial(await start_engine({"kind": "reset"}))
    wire.post()
    with pytest.raises(ConnectionResetError):
        await wire.reader.read()


async def test_a_hung_engine_says_nothing_but_its_health_is_green(start_engine, dial, settled) -> None:
    engine = await start_engine({"kind": "hang_before_head"})
    wire, probe = await dial(engine), await dial(engine)
    wire.post()
    assert await wire.is_silent()
    probe.get("/health")
    assert (await probe.answer()).status == 200
    probe.get("/metrics")
    assert b'running{engine="0",model_name="mock-model"} 1\n' in (await probe.answer()).body
    wire.close()
    assert await settled(lambda: engine.counters.aborted == 1)
    assert (engine.counters.in_flight, engine.counters.hung) == (0, 0)


@pytest.mark.parametrize("stream", [True, False])
async def test_hang_after_head_sends_the_head_alone(start_engine, dial, stream) -> None:
    wire = await dial(await start_engine({"kind": "hang_after_head"}))
    wire.post(stream=stream)
    assert (await wire.head()).startswith("HTTP/1.1 200 OK\r\n")
    assert await wire.is_silent()


async def test_a_stall_stops_after_its_tokens(start_engine, dial) -> None:
    engine = await start_engine({"kind": "stall", "after_tokens": 2})
    wire = await dial(engine)
    wire.post(stream=True)
    await wire.head()
    assert b'"t0 "' in await wire.chunk()
    assert b'"t1 "' in await wire.chunk()
    assert await wire.is_silent()
    assert (engine.counters.hung, engine.gauges.running) == (1, 0)


@pytest.mark.parametrize("output_tokens", [2, 16])
async def test_a_cut_closes_without_the_last_chunk(start_engine, dial, output_tokens) -> None:
    engine = await start_engine({"kind": "cut", "after_tokens": 2})
    wire = await dial(engine)
    wire.post(stream=True, max_tokens=output_tokens)
    rest = (await wire.reader.read()).decode()
    assert '"t1 "' in rest
    assert '"t2 "' not in rest
    assert "[DONE]" not in rest
    assert not rest.endswith("0\r\n\r\n")
    assert (engine.counters.in_flight, engine.counters.aborted) == (0, 0)


async def test_a_cut_can_be_a_reset(start_engine, dial) -> None:
    wire = await dial(await start_engine({"kind": "cut", "after_tokens": 0, "rst": True}))
    wire.post(stream=True)
    with pytest.raises(ConnectionResetError):
        await wire.reader.read()


async def test_a_whole_answer_is_cut_in_its_middle(start_engine, dial) -> None:
    wire = await dial(await start_engine({"kind": "cut"}))
    wire.post()
    head = await wire.head()
    body = await wire.reader.read()
    assert 0 < len(body) < int(head.rsplit("content-length: ")[1].split()[0])


@pytest.mark.parametrize("preset", ["fixed", "h100-80"])
async def test_slow_stretches_every_duration(start_engine, dial, preset) -> None:
    engine = await start_engine({"kind": "slow", "factor": 4, "next": 1}, ttft_s=0.01, preset=preset)
    wire = await dial(engine)
    loop = asyncio.get_running_loop()
    durations_s = []
    for _ in range(2):
        started_s = loop.time()
        wire.post(max_tokens=1)
        await wire.answer()
        durations_s.append(loop.time() - started_s)
    assert durations_s[0] > 2 * durations_s[1]


async def test_refuse_closes_the_port_and_opens_it_again(start_engine, dial, settled) -> None:
    engine = await start_engine(control_port=0)
    wire = await dial(engine)
    control = await asyncio.open_connection("127.0.0.1", engine.control_port)
    wire.post("/mock/faults")
    assert (await wire.answer()).status == 400
    body = b'{"faults":[{"kind":"refuse","for_s":0.05}]}'
    head = b"POST /mock/faults HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    control[1].write(head + body)
    assert b" 200 OK" in await control[0].readuntil(b"\r\n\r\n")
    with pytest.raises(ConnectionResetError):  # as if the process were gone
        await wire.reader.read()
    await asyncio.sleep(0.01)
    with pytest.raises(ConnectionRefusedError):
        await dial(engine)
    assert await settled(lambda: engine.faults.refuse is None)
    await asyncio.sleep(0.01)
    again = await dial(engine)
    again.post()
    assert (await again.answer()).status == 200
    control[1].close()


async def test_the_signal_refuses_and_accepts(start_engine, dial) -> None:
    engine = await start_engine()
    engine.toggle_refuse()
    await asyncio.sleep(0.01)
    with pytest.raises(ConnectionRefusedError):
        await dial(engine)
    engine.toggle_refuse()
    await asyncio.sleep(0.01)
    (await dial(engine)).close()


async def test_control_sets_and_shows_faults_and_never_suffers_them(start_engine, dial) -> None:
    wire = await dial(await start_engine({"kind": "reset"}))
    wire.post("/mock/faults")  # the fields of an inference request
    refused = await wire.answer()
    assert refused.status == 400
    assert "unknown key" in refused.json()["error"]["message"]
    body = b'{"faults": [{"kind": "error", "status": 429}]}'
    wire.writer.write(
        b"POST /mock/faults HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    assert (await wire.answer()).status == 200
    wire.post()
    assert (await wire.answer()).status == 429
    wire.get("/mock/faults")
    (shown,) = (await wire.answer()).json()["faults"]
    assert (shown["kind"], shown["status"], shown["fired"]) == ("error", 429, 1)
    wire.get("/v1/models")
    assert (await wire.answer()).status == 200


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "fault.kind: missing"),
        ({"kind": "flood"}, "unknown kind 'flood'"),
        ({"kind": "reset", "factor": 2}, "fault.factor: unknown key for reset"),
        ({"kind": "error", "status": 200}, "fault.status: must be an integer from 400 to 599"),
        ({"kind": "error", "next": 0}, "fault.next: must be"),
        ({"kind": "stall", "probability": True}, "fault.probability: must be a number"),
        ([], "must be an object"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message) -> None:
    with pytest.raises(FaultError, match=message):
        parse_fault(settings)


def test_a_flag_means_the_same_as_json() -> None:
    assert parse_flag("error,status=503,retry_after_s=2,next=3") == Fault(
        FaultKind.ERROR, status=503, retry_after_s=2, next=3
    )
    with pytest.raises(FaultError, match="rst: 'yes'"):
        parse_flag("cut,rst=yes")


def test_draws_repeat_with_the_seed_and_keep_their_share() -> None:
    half = Fault(FaultKind.RESET, probability=0.5)
    draws = [[Faults(seed, [half]).draw() for _ in range(1)] for seed in (1, 1)]
    assert draws[0] == draws[1]
    faults = Faults(7, [half])
    fired = [faults.draw().fault is not None for _ in range(400)]
    faults.replace([half])
    assert [faults.draw().fault is not None for _ in range(400)] == fired
    assert 150 < sum(fired) < 250


def test_the_first_that_fires_decides_and_slow_adds_to_it() -> None:
    slow, first, second = (
        Fault(FaultKind.SLOW, factor=3.0),
        Fault(FaultKind.STALL, next=1),
        Fault(FaultKind.CUT),
    )
    faults = Faults(0, [first, slow, second])
    drawn = [faults.draw() for _ in range(2)]
    assert [draw.fault for draw in drawn] == [first, second]
    assert [draw.slow_factor for draw in drawn] == [3.0, 3.0]


async def test_health_answers_as_it_is_told(start_engine, dial) -> None:
    engine = await start_engine()
    wire = await dial(engine)

    async def tell(body: bytes) -> int:
        head = f"POST /mock/health HTTP/1.1\r\nHost: mock\r\nContent-Length: {len(body)}\r\n\r\n"
        wire.writer.write(head.encode() + body)
        return (await wire.answer()).status

    assert await tell(b'{"status": 503, "body": "drain 50%"}') == 200
    wire.get("/health")
    answer = await wire.answer()
    assert (answer.status, answer.body) == (503, b"drain 50%")
    for wrong in (b"[]", b"{", b'{"status": 99}', b'{"hang": 1}', b'{"bdy": ""}'):
        assert await tell(wrong) == 400
    assert await tell(b'{"hang": true}') == 200
    silent = await dial(engine)
    silent.get("/health")
    assert await silent.is_silent()
    assert await tell(b"{}") == 200
    wire.get("/health")
    answer = await wire.answer()
    assert (answer.status, answer.body) == (200, b"")
