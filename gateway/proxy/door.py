"""Who may have a connection: so many in all, and so many for each client address.

One over a cap gets a clear answer and is closed. Its answer costs a socket for a moment too, so only a few at
a time get one: in a flood the rest are closed without a word.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.proxy.errors import Refusal, out_of_memory

if TYPE_CHECKING:
    from gateway.proxy.downstream import DownstreamConnection
    from gateway.proxy.memory import MemoryGuard
    from gateway.proxy.settings import PlaneSettings

MAX_ANSWERED = 256
# The settings that turn connections away.
REASONS = ("max_connections", "max_connections_per_client", "max_memory")
# An IPv6 client has a whole /64 to come from. An IPv4 one may be told in the form of the other kind.
_NETWORK_BYTES = 8
_MAPPED = bytes(10) + b"\xff\xff"
_RETRY_AFTER = b"retry-after: 1\r\n"


class Door:
    """Counts connections. `refused` has how many were turned away, by reason."""

    def __init__(self, settings: Callable[[], PlaneSettings], memory: MemoryGuard) -> None:
        self._settings = settings
        self._memory = memory
        self.inside: set[DownstreamConnection] = set()
        self.answered: set[DownstreamConnection] = set()  # turned away, and not gone yet
        self.refused: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self._by_client: Counter[str | bytes] = Counter()

    def enter(self, connection: DownstreamConnection) -> Refusal | None:
        """None: it is in, until it leaves. Else why not; whom nobody has time to tell is closed at once."""
        settings = self._settings()
        client = client_of(connection.peer)
        if self._memory.is_over:
            self.refused["max_memory"] += 1
            refusal = out_of_memory()
        elif len(self.inside) >= settings.max_connections:
            self.refused["max_connections"] += 1
            refusal = Refusal(503, "too_many_connections", "Too many connections.", headers=_RETRY_AFTER)
        elif 0 < (settings.max_connections_per_client or 0) <= self._by_client[client]:
            self.refused["max_connections_per_client"] += 1
            message = "Too many connections from this address."
            refusal = Refusal(429, "too_many_connections", message, headers=_RETRY_AFTER)
        else:
            self.inside.add(connection)
            self._by_client[client] += 1
            return None
        if len(self.answered) < MAX_ANSWERED:
            self.answered.add(connection)
        else:
            connection.transport.abort()
        return refusal

    def leave(self, connection: DownstreamConnection) -> None:
        self.answered.discard(connection)
        if connection not in self.inside:
            return
        self.inside.remove(connection)
        client = client_of(connection.peer)
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]

    def __repr__(self) -> str:
        return f"<Door {len(self.inside)} inside, {len(self._by_client)} clients>"


def client_of(peer: str) -> str | bytes:
    """Who counts as one client: an IPv4 address, or the first half of an IPv6 one."""
    if ":" not in peer:
        return peer
    try:
        packed = socket.inet_pton(socket.AF_INET6, peer.partition("%")[0])
    except OSError:
        return peer
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return packed[:_NETWORK_BYTES]
