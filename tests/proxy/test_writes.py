"""The writes of one turn of the loop: together, in order, and none of them late."""

from __future__ import annotations

import asyncio

import pytest

from gateway.proxy.writes import MAX_WAITING_BYTES, MAX_WAITING_WRITES, WriteBatch


class Client:
    """A transport that notes in a common list what it was given."""

    def __init__(self, name: str, written: list[tuple[str, bytes]]) -> None:
        self.name = name
        self.has_left = False
        self._written = written

    def write(self, data: bytes) -> None:
        self._written.append((self.name, data))

    def is_closing(self) -> bool:
        return self.has_left


@pytest.fixture
def written() -> list[tuple[str, bytes]]:
    return []


async def test_events_of_one_turn_are_written_when_all_are_read(written):
    batch = WriteBatch(asyncio.get_running_loop())
    write_on = {name: batch.writer(Client(name, written)) for name in "abc"}
    for name in "abc":
        write_on[name](b"event")
    assert written == []
    await asyncio.sleep(0)
    assert written == [("a", b"event"), ("b", b"event"), ("c", b"event")]


async def test_an_event_stays_behind_what_its_client_got_before(written):
    batch = WriteBatch(asyncio.get_running_loop())
    client = Client("a", written)
    batch.add(client, b"head")
    batch.writer(client)(b"event")
    batch.add(client, b"last chunk")
    batch.flush()
    assert [data for _, data in written] == [b"head", b"event", b"last chunk"]


async def test_the_first_of_many_does_not_wait_for_the_last(written):
    batch = WriteBatch(asyncio.get_running_loop())
    write_on = batch.writer(Client("a", written))
    for _ in range(MAX_WAITING_WRITES - 1):
        write_on(b"event")
    assert written == []
    write_on(b"event")
    assert len(written) == MAX_WAITING_WRITES


async def test_what_is_large_waits_for_nothing(written):
    batch = WriteBatch(asyncio.get_running_loop())
    write_on = batch.writer(Client("a", written))
    write_on(b"small")
    write_on(b"x" * (MAX_WAITING_BYTES + 1))
    assert len(written) == 2


async def test_who_has_left_is_written_nothing(written):
    batch = WriteBatch(asyncio.get_running_loop())
    one, other = Client("a", written), Client("b", written)
    batch.writer(one)(b"event")
    batch.writer(other)(b"event")
    one.has_left = True
    batch.flush()
    assert written == [("b", b"event")]
