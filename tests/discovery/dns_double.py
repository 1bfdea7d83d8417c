"""A name server on UDP and TCP that answers as it is told."""

from __future__ import annotations

import asyncio
import struct

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from gateway.config.addresses import Address


class DnsDouble:
    """`address` after `start`. What it says may be changed at any time."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self.rcode = dns.rcode.NOERROR
        self.ttl_s = 0
        self.asked = 0
        self.is_silent = False
        self.is_truncated = False
        self.aliases: dict[str, str] = {}
        self.address = Address("127.0.0.1", 0)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tcp = await asyncio.start_server(self._serve_tcp, "127.0.0.1", 0)
        port = self._tcp.sockets[0].getsockname()[1]
        double = self

        class Protocol(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
                self._transport = transport

            def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
                if (answer := double._answer(data, double.is_truncated)) is not None:
                    self._transport.sendto(answer, address)

        self._udp, _ = await loop.create_datagram_endpoint(Protocol, ("127.0.0.1", port))
        self.address = Address("127.0.0.1", port)

    async def stop(self) -> None:
        self._udp.close()
        self._tcp.close()
        await self._tcp.wait_closed()

    def say(self, name: str, kind: str, *values: str) -> None:
        self.records[name, kind] = list(values)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        answer = self._answer(await reader.readexactly(length), False)
        assert answer is not None
        writer.write(struct.pack("!H", len(answer)) + answer)
        writer.close()

    def _answer(self, data: bytes, is_truncated: bool) -> bytes | None:
        self.asked += 1
        if self.is_silent:
            return None
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        answer.set_rcode(self.rcode)
        if is_truncated:
            answer.flags |= dns.flags.TC
            return answer.to_wire()
        question = query.question[0]
        name, kind = question.name.to_text().rstrip("."), question.rdtype.name
        if name in self.aliases:
            target = self.aliases[name]
            answer.answer.append(dns.rrset.from_text(question.name, self.ttl_s, "IN", "CNAME", f"{target}."))
            name = target
        if values := self.records.get((name, kind)):
            answer.answer.append(dns.rrset.from_text(f"{name}.", self.ttl_s, "IN", kind, *values))
        return answer.to_wire()
