"""Above `max_memory` nobody new is taken on, what is under way goes on, and it ends by itself."""

from __future__ import annotations

import asyncio
import sys

import pytest

from gateway.proxy.memory import TRIM_S, MemoryGuard, give_back_free_memory, resident_bytes
from tests.proxy.dialogue import BODY, CHAT, EVENT, LAST_CHUNK, chunk, event_stream, get, post, settled

CAP = 1000 * 2**20

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self")


class Memory:
    """What a process has: in use, and free but not given back to the system."""

    def __init__(self) -> None:
        self.used = self.free = self.trims = 0

    def read(self) -> int:
        return self.used + self.free

    def give_back(self) -> None:
        self.trims += 1
        self.free = 0


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def guard(memory: Memory) -> MemoryGuard:
    return MemoryGuard(memory.read, memory.give_back)


def test_above_the_cap_until_a_tenth_below(memory: Memory, guard: MemoryGuard) -> None:
    for used, is_over in ((CAP, False), (CAP + 1, True), (CAP - 1, True), (CAP * 0.9, False), (CAP, False)):
        memory.used = int(used)
        guard.look(CAP, 0.0)
        assert guard.is_over is is_over, used


def test_what_is_free_is_given_back_before_anybody_is_refused(memory: Memory, guard: MemoryGuard) -> None:
    memory.used, memory.free = CAP // 2, CAP
    guard.look(CAP, 0.0)
    assert (guard.is_over, memory.trims) == (False, 1)


def test_while_it_is_above_it_asks_again_and_not_all_the_time(memory: Memory, guard: MemoryGuard) -> None:
    memory.used = 2 * CAP
    for tenth in range(30):
        guard.look(CAP, tenth / 10)
    assert guard.is_over and memory.trims == 3 / TRIM_S
    memory.used, memory.free = CAP // 2, CAP
    guard.look(CAP, 3.0)
    assert not guard.is_over


def test_without_a_cap_nothing_is_read(memory: Memory) -> None:
    guard = MemoryGuard(lambda: pytest.fail("was read"), memory.give_back)
    guard.look(None, 0.0)
    assert not guard.is_over


def test_a_cap_that_was_taken_away_refuses_nobody(memory: Memory, guard: MemoryGuard) -> None:
    memory.used = 2 * CAP
    guard.look(CAP, 0.0)
    guard.look(None, 0.1)
    assert not guard.is_over


@needs_proc
def test_the_process_s_own_memory_is_read_and_given_back() -> None:
    give_back_free_memory()  # what other tests have left
    before = resident_bytes()
    held = [bytes(100_000) + b"x" for _ in range(1000)]  # from the heap, each too small for a mapping
    kept = [bytes(1000) for _ in range(1000)]
    grown = resident_bytes() - before
    assert grown > 90_000_000
    del held
    give_back_free_memory()
    assert resident_bytes() - before < grown / 2 and len(kept) == 1000


@pytest.fixture
async def full(start_backend, start_gateway, memory: Memory):
    """A gateway whose memory is as the test says; it is below its cap at first."""
    backend = await start_backend()
    gateway = await start_gateway("max_memory: 1000MiB", backend)
    guard = gateway.plane.memory
    guard._resident_bytes, guard._give_back = memory.read, memory.give_back

    async def use(share: float) -> None:
        memory.used = int(CAP * share)
        assert await settled(lambda: guard.is_over is (share > 1))

    return gateway, backend, use


async def test_new_connections_and_requests_are_refused_and_what_runs_goes_on(full):
    gateway, backend, use = full
    go_on = asyncio.Event()
    backend.will(event_stream(), chunk(EVENT), go_on, chunk(EVENT), LAST_CHUNK)
    streaming, kept = await gateway.connect(), await gateway.connect()
    await streaming.send(post())
    assert b" 200 " in await streaming.head() and await streaming.chunk() == EVENT
    await kept.send(post())
    assert (await kept.answer()).status == 200

    await use(1.1)
    asked = len(backend.requests)
    await kept.send(post())  # the same head as before
    for answer in (await kept.answer(), await gateway.ask(post())):
        assert (answer.status, answer.error["code"]) == (503, "overloaded")
        assert (answer.header("retry-after"), answer.header("connection")) == ("1", "close")
    assert len(backend.requests) == asked
    assert gateway.plane.door.refused["max_memory"] == 1
    assert gateway.gateway._metrics.refused == {("max_memory",): 1}
    go_on.set()
    assert await streaming.chunk() == EVENT and await streaming.chunk() == b""

    await use(0.5)
    assert (await gateway.ask(post())).status == 200


async def test_a_body_is_refused_before_it_is_sent(full):
    gateway, backend, use = full
    client = await gateway.connect()
    assert await settled(lambda: gateway.plane.connection_count == 1)
    await use(1.1)
    await client.send(post(b"x" * 1_000_000)[:300])
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (503, "overloaded")
    assert gateway.plane.buffered_bytes == 0 and not backend.requests
    await use(0.5)


async def test_it_is_told_in_the_metrics(full):
    gateway, _, use = full
    assert "spillway_over_memory 0.0" in await gateway.metrics()
    await use(1.1)
    await gateway.ask(post())
    text = await gateway.metrics()
    assert "spillway_over_memory 1.0" in text
    assert 'spillway_refused_connections_total{reason="max_memory"} 1.0' in text
    await use(0.5)


async def test_what_clients_are_made_to_wait_for_or_closed_for_is_counted(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway(
        "max_body: 1KiB\nmax_buffered: 1KiB\ntimeouts: {keep_alive: 200ms, request_head: 200ms}", backend
    )
    go_on = asyncio.Event()
    backend.default = [go_on, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"]
    pipelining = await gateway.connect()
    await pipelining.send(get("/v1/models") * 10, post(BODY) + get("/v1/models") * 40)
    large = [await gateway.connect() for _ in range(2)]
    head = f"POST {CHAT} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
    for client in large:
        await client.send(f"{head}Content-Length: 900\r\n\r\n".encode() + b'{"model":"m"' + b" " * 800)
    assert await settled(lambda: all(gateway.plane.paused.values()))
    go_on.set()
    for client in large:
        await client.send(b" " * 87 + b"}")
        assert (await client.answer()).status == 200
    for _ in range(51):
        assert (await pipelining.answer()).status == 200
    silent = await gateway.connect()
    assert await silent.rest() == b"" == await pipelining.rest()
    assert await settled(lambda: gateway.plane.closed == {"idle": 4, "write": 0})
    text = await gateway.metrics()
    assert 'spillway_closed_connections_total{reason="idle"} 4.0' in text
    for reason, times in gateway.plane.paused.items():
        assert times and f'spillway_paused_reading_total{{reason="{reason}"}} {times:.1f}' in text
