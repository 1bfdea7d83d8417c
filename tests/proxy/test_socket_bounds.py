"""What the kernel keeps for a connection is bounded, and thrown away with those who read nothing."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from gateway.proxy.socket_bounds import UNREAD_BYTES, UNSENT_BYTES
from tests.proxy.dialogue import BODY, HANG, Client, chunk, event_stream, post, reply, settled

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc/net/tcp")

FIN_WAIT_1, TIME_WAIT = 4, 6
CLIENT_WINDOW = 16_384
BLOCK = bytes(2**16)


class Kept(NamedTuple):
    """One socket as the kernel sees it."""

    state: int
    unsent: int
    unread: int


def kept(*, local: int = 0, remote: int = 0) -> list[Kept]:
    """All that are connected, or were until now, by the port at one end."""
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, here, there, state, queues, *_ = line.split()
        ports = int(here.split(":")[1], 16), int(there.split(":")[1], 16)
        if int(state, 16) == TIME_WAIT:
            continue  # of somebody who had the port before
        if ports[1] and local in (0, ports[0]) and remote in (0, ports[1]):
            unsent, unread = (int(size, 16) for size in queues.split(":"))
            found.append(Kept(int(state, 16), unsent, unread))
    return found


async def who_reads_nothing(gateway) -> Client:
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CLIENT_WINDOW)
    end.setblocking(False)
    await asyncio.get_running_loop().sock_connect(end, ("127.0.0.1", gateway.port))
    client = Client(*await asyncio.open_connection(sock=end))
    gateway._clients.append(client)
    client.stop_reading()
    return client


async def test_an_answer_that_nobody_reads_stays_at_its_backend(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("timeouts: {write: 10s}", backend)
    backend.will(event_stream() + chunk(BLOCK) * 400, HANG)
    client = await who_reads_nothing(gateway)
    await client.send(post())
    assert await settled(lambda: bool(backend.requests))
    await asyncio.sleep(0.3)
    ((_, unsent, _),) = kept(local=gateway.port)
    ((_, _, unread),) = kept(remote=backend.port)
    # A segment of loopback is 64 KiB: the last one may begin below the mark and end above.
    assert 0 < unsent <= UNSENT_BYTES + len(BLOCK) + 2 * CLIENT_WINDOW
    assert 0 < unread <= 2 * UNREAD_BYTES
    assert backend.open_connections[0].transport.get_write_buffer_size() > 100 * len(BLOCK)


async def test_of_who_is_given_up_the_kernel_keeps_nothing(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("timeouts: {write: 300ms}", backend)
    backend.will(event_stream() + chunk(BLOCK) * 400, HANG)
    client = await who_reads_nothing(gateway)
    assert await settled(lambda: bool(gateway.plane._connections))
    (connection,) = gateway.plane._connections
    in_no_hurry_ms = 60_000  # the kernel's own patience, here
    end = connection.transport.get_extra_info("socket")
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, in_no_hurry_ms)
    await client.send(post())
    assert await settled(lambda: gateway.plane.closed["write"] == 1)
    assert await settled(lambda: not kept(local=gateway.port), 0.5)
    assert await settled(lambda: not gateway.plane._connections and gateway.is_clean)


async def test_an_answer_that_went_to_the_kernel_whole_is_not_kept_for_minutes(start_backend, start_gateway):
    """The gateway is done with it and closes; from then on only the kernel looks at the clock."""
    backend = await start_backend()
    gateway = await start_gateway("timeouts: {write: 300ms}", backend)
    backend.will(reply(b"x" * 100_000))
    client = await who_reads_nothing(gateway)
    await client.send(post(BODY, "Connection: close"))
    assert await settled(lambda: gateway.is_clean and kept(local=gateway.port)[0].state == FIN_WAIT_1)
    assert await settled(lambda: not kept(local=gateway.port), 5)


async def test_a_reload_sets_what_new_connections_get(start_backend, start_gateway):
    gateway = await start_gateway("timeouts: {write: 20s}", await start_backend())

    def patience_ms() -> set[int]:
        sockets = (one.transport.get_extra_info("socket") for one in gateway.plane._connections)
        return {one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) for one in sockets}

    await gateway.connect()
    assert await settled(lambda: patience_ms() == {20_000})
    config = gateway.gateway._config
    timeouts = msgspec.structs.replace(config.timeouts, write_s=45.0)
    gateway.gateway.adopt(msgspec.structs.replace(config, timeouts=timeouts))
    await gateway.connect()
    assert await settled(lambda: patience_ms() == {20_000, 45_000})
