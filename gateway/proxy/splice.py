"""Two connections joined: what comes on one goes out on the other, until both have ended.

Back-pressure: a side that does not take what is written stops the reading of the other. A side that says it
has no more to send (half-closed) is believed, and the other one told; from then on it has LINGER_S without a
byte to end too. A side that is gone takes the other with it at once.

No byte sets a timer: the owner looks at `is_stuck` in its sweep.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from gateway.core.model import Reason
from gateway.proxy.websocket import FrameCount, close_frame

LINGER_S = 2.0


class SpliceOwner(Protocol):
    """Who joined the two."""

    def on_client_gone(self, exc: Exception | None) -> None:
        """The client's connection is closed, whyever."""

    def on_splice_over(self, reason: Reason) -> None:
        """Told once: the backend's connection carries nothing any more.

        COMPLETED when the two ended it between them; CLIENT_LEFT and TRUNCATED tell who was gone without.
        """

    def close_client(self) -> None:
        """To be closed when what waits for it is written."""


class _Side(asyncio.Protocol):
    """One of the two connections."""

    __slots__ = ("frames", "has_ended", "is_lost", "other", "read_bytes", "splice", "transport")

    def __init__(self, splice: Splice, transport: asyncio.Transport) -> None:
        self.splice = splice
        self.transport = transport
        self.other = cast(_Side, None)
        self.frames = FrameCount()
        self.read_bytes = 0
        self.has_ended = False
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        self.read_bytes += len(data)
        self.frames.follow(data)
        transport = self.other.transport
        if not transport.is_closing():
            transport.write(data)

    def eof_received(self) -> bool:
        self.has_ended = True
        self.splice.ended(self)
        return self.transport.can_write_eof()  # over TLS there is no half of a connection

    def pause_writing(self) -> None:
        other = self.other
        if not (other.has_ended or other.transport.is_closing()):
            other.transport.pause_reading()

    def resume_writing(self) -> None:
        other = self.other
        if not (other.has_ended or other.transport.is_closing()):
            other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self.splice.lost(self, exc)


class Splice:
    """The client's and the backend's connection. It has both from `join` on."""

    __slots__ = ("_backend", "_client", "_is_closing", "_is_over", "_moved", "_moved_s", "_owner")

    def __init__(
        self, owner: SpliceOwner, client: asyncio.Transport, backend: asyncio.Transport, now_s: float
    ) -> None:
        self._owner = owner
        self._client = _Side(self, client)
        self._backend = _Side(self, backend)
        self._client.other, self._backend.other = self._backend, self._client
        self._is_closing = False
        self._is_over = False
        self._moved = (0, 0, 0, 0)
        self._moved_s = now_s

    def join(self, from_client: bytes, from_backend: bytes, *, client_is_choked: bool) -> None:
        """Takes over; what each side has sent already goes first."""
        client, backend = self._client, self._backend
        client.transport.set_protocol(client)
        backend.transport.set_protocol(backend)
        if client_is_choked:
            client.pause_writing()
        if from_backend:
            backend.data_received(from_backend)
        if from_client:
            client.data_received(from_client)

    @property
    def bytes_in(self) -> int:
        """From the client."""
        return self._client.read_bytes

    @property
    def bytes_out(self) -> int:
        """From the backend."""
        return self._backend.read_bytes

    # --- time ----------------------------------------------------------------------------------------

    def is_stuck(self, idle_s: float, now_s: float) -> bool:
        """Whether nothing has moved for as long as it may: `idle_s`, or LINGER_S once a side has ended."""
        client, backend = self._client, self._backend
        moved = (
            client.read_bytes,
            backend.read_bytes,
            client.transport.get_write_buffer_size() if not client.is_lost else 0,
            backend.transport.get_write_buffer_size() if not backend.is_lost else 0,
        )
        if moved != self._moved:
            self._moved, self._moved_s = moved, now_s
            return False
        return now_s - self._moved_s > (min(LINGER_S, idle_s) if self.is_ending else idle_s)

    @property
    def is_ending(self) -> bool:
        return self._is_closing or self._client.has_ended or self._backend.has_ended

    # --- ends ----------------------------------------------------------------------------------------

    def ended(self, side: _Side) -> None:
        """`side` sends no more."""
        other = side.other
        if self._is_closing:
            return
        if other.has_ended or not (side.transport.can_write_eof() and other.transport.can_write_eof()):
            self._close()
        elif not other.transport.is_closing():
            other.transport.write_eof()

    def lost(self, side: _Side, exc: Exception | None) -> None:
        if side is self._backend:
            was_ending, self._is_closing = self.is_ending, True
            self._owner.close_client()
            self._over(Reason.COMPLETED if was_ending and exc is None else Reason.TRUNCATED)
            return
        if not self._is_closing:
            self._backend.transport.abort()
            self._over(Reason.CLIENT_LEFT)
        self._owner.on_client_gone(exc)

    def close_with(self, code: int, why: bytes, mask: int) -> None:
        """Says goodbye to both, where a Close frame has its place and can go out at once, and closes.

        The owner is told nothing more of the backend: for it this is the end.
        """
        client, backend = self._client, self._backend
        self._is_closing = self._is_over = True
        for side, frame in ((client, close_frame(code, why)), (backend, close_frame(code, why, mask))):
            transport, sent = side.transport, side.other.frames
            is_free = not (transport.is_closing() or transport.get_write_buffer_size())
            if sent.is_between and is_free and not side.other.has_ended:
                transport.write(frame)
            elif side is backend:
                transport.abort()
        backend.transport.close()
        self._owner.close_client()

    def abort(self) -> None:
        """Both at once, whatever is still to be written."""
        self._is_closing = self._is_over = True
        self._backend.transport.abort()
        self._client.transport.abort()

    def _close(self) -> None:
        """Both have ended: what was read is written yet."""
        self._is_closing = True
        self._backend.transport.close()
        self._owner.close_client()

    def _over(self, reason: Reason) -> None:
        if not self._is_over:
            self._is_over = True
            self._owner.on_splice_over(reason)

    def __repr__(self) -> str:
        state = "over" if self._is_over else "ending" if self.is_ending else "open"
        return f"<Splice {state}, {self.bytes_in} in, {self.bytes_out} out>"
