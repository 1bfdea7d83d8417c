"""One request to the mock engine, from its last byte to the end of the answer, faults included."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.mock_engine.answers import Answer, error_body
from gateway.mock_engine.connection import Connection
from gateway.mock_engine.counters import Counters
from gateway.mock_engine.faults import Drawn, Fault, FaultKind
from gateway.mock_engine.serving import Generation, Serving

JSON = b"application/json"


@dataclass(slots=True)
class Immediate:
    """An answer that needs no engine: health, metrics, models, control, refusals."""

    connection: Connection
    status: int
    body: bytes
    content_type: bytes = JSON

    def start(self) -> None:
        """Answer."""
        self.connection.respond(self.status, self.body, self.content_type)

    def on_writable(self) -> None:
        """Nothing is kept back."""

    def on_abandoned(self) -> None:
        """Never under way."""


class InferenceExchange:
    """Generates one answer and writes it, or suffers its fault.

    Invariant: `counters.in_flight` counts it from `start` until it is answered, cut, reset or abandoned.
    """

    __slots__ = (
        "_answer",
        "_breaks_after",
        "_connection",
        "_counters",
        "_drawn",
        "_generation",
        "_has_all_tokens",
        "_is_hung",
        "_owed_tokens",
        "_sent_tokens",
        "_serving",
    )

    def __init__(
        self, connection: Connection, answer: Answer, serving: Serving, counters: Counters, drawn: Drawn
    ) -> None:
        self._connection = connection
        self._answer = answer
        self._serving = serving
        self._counters = counters
        self._drawn = drawn
        self._generation: Generation | None = None
        self._breaks_after: int | None = None  # tokens, for stall and cut
        self._sent_tokens = 0
        self._owed_tokens = 0  # generated while the client did not read
        self._has_all_tokens = False
        self._is_hung = False

    def start(self) -> None:
        """Suffer the fault drawn for this request, or generate."""
        self._counters.opened()
        fault = self._drawn.fault
        if fault is None:
            self._generate()
            return
        self._counters.faulted[fault.kind] += 1
        _STARTS[fault.kind](self, fault)

    # What the engine calls.

    def on_token(self) -> None:
        """One more token of a stream: on its way at once unless the client does not read."""
        if self._breaks_after == self._sent_tokens + self._owed_tokens:
            self._break()
            return
        self._counters.output_tokens += 1
        if self._owed_tokens or not self._connection.is_writable:
            self._owed_tokens += 1
            return
        self._connection.write_chunk(self._answer.chunk(self._sent_tokens))
        self._sent_tokens += 1

    def on_finish(self) -> None:
        """The last token has appeared."""
        self._generation = None
        if self._answer.is_streamed:
            self._has_all_tokens = True
            if not self._owed_tokens:
                self._end_stream()
        elif self._breaks_after is not None:
            body = self._answer.body()
            self._connection.write(self._connection.head(200, len(body)) + body[: len(body) // 2])
            self._break()
        else:
            self._counters.output_tokens += self._answer.output_tokens
            self._counters.finished[self._answer.finish_reason] += 1
            self._close()
            self._connection.respond(200, self._answer.body())

    # What the connection calls.

    def on_writable(self) -> None:
        """Write what was generated meanwhile, as long as the client keeps reading."""
        while self._owed_tokens and self._connection.is_writable:
            self._connection.write_chunk(self._answer.chunk(self._sent_tokens))
            self._sent_tokens += 1
            self._owed_tokens -= 1
        if self._has_all_tokens and not self._owed_tokens:
            self._end_stream()

    def on_abandoned(self) -> None:
        """The client left: stop generating at once, as vLLM does, and count it."""
        self._cancel()
        self._counters.aborted += 1
        self._close()

    # The exchange's own steps.

    def _generate(self) -> None:
        answer = self._answer
        self._counters.input_tokens += answer.input_tokens
        generation = Generation(
            self, answer.input_tokens, answer.output_tokens, answer.is_streamed, self._drawn.slow_factor
        )
        if not self._serving.can_hold(generation):
            self._close()
            message = f"{answer.input_tokens + answer.output_tokens} tokens exceed the context length"
            self._connection.respond(400, error_body(400, message, code="context_length_exceeded"))
            return
        if answer.is_streamed:
            # Like vLLM: the head goes out at once, long before the first token.
            self._connection.write(self._connection.stream_head())
        self._generation = generation
        self._serving.submit(generation)

    def _end_stream(self) -> None:
        if self._breaks_after == self._sent_tokens:
            self._break()
            return
        self._counters.finished[self._answer.finish_reason] += 1
        self._close()
        tail = self._answer.tail()
        self._connection.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(tail), tail))
        self._connection.done()

    def _break(self) -> None:
        fault = self._drawn.fault
        assert fault is not None
        self._cancel()
        if fault.kind is FaultKind.STALL:
            self._hang()
            return
        self._close()
        if fault.rst:
            self._connection.reset()
        else:
            self._connection.cut()

    def _cancel(self) -> None:
        generation, self._generation = self._generation, None
        if generation is not None:
            self._serving.cancel(generation)

    def _hang(self) -> None:
        self._is_hung = True
        self._counters.hung += 1

    def _close(self) -> None:
        self._counters.in_flight -= 1
        if self._is_hung:
            self._counters.hung -= 1

    # How each fault begins.

    def _start_reset(self, fault: Fault) -> None:
        self._close()
        self._connection.reset()

    def _start_error(self, fault: Fault) -> None:
        self._close()
        extra = b""
        if fault.retry_after_s is not None:
            extra = b"retry-after: %d\r\n" % -(-fault.retry_after_s // 1)  # whole seconds, rounded up
        self._connection.respond(fault.status, error_body(fault.status, "mock fault"), JSON, extra)

    def _start_hang_before_head(self, fault: Fault) -> None:
        self._hang()

    def _start_hang_after_head(self, fault: Fault) -> None:
        self._hang()
        connection = self._connection
        is_streamed = self._answer.is_streamed
        connection.write(
            connection.stream_head() if is_streamed else connection.head(200, len(self._answer.body()))
        )

    def _start_breaking(self, fault: Fault) -> None:
        self._breaks_after = fault.after_tokens
        self._generate()


_STARTS: dict[FaultKind, Callable[[InferenceExchange, Fault], None]] = {
    FaultKind.RESET: InferenceExchange._start_reset,
    FaultKind.ERROR: InferenceExchange._start_error,
    FaultKind.HANG_BEFORE_HEAD: InferenceExchange._start_hang_before_head,
    FaultKind.HANG_AFTER_HEAD: InferenceExchange._start_hang_after_head,
    FaultKind.STALL: InferenceExchange._start_breaking,
    FaultKind.CUT: InferenceExchange._start_breaking,
}
