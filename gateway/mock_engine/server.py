"""The mock engine: its ports, its routes, its control endpoint.

Inference paths are every POST outside /mock/; faults and the engine's timing apply to them alone. /health
answers 200 whatever the faults: a hung engine does the same, and that is the point. It fails, hangs or speaks
only when told so: `POST /mock/health {"status": 503, "body": "drain", "hang": false}`.
"""

import asyncio
import contextlib
import hashlib
import itertools
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, Self

import orjson

from gateway.mock_engine import answers
from gateway.mock_engine.answers import Answer, EchoAnswer, error_body
from gateway.mock_engine.connection import Connection, Exchange, Request
from gateway.mock_engine.counters import Counters, EngineGauges, metrics_text
from gateway.mock_engine.exchange import JSON, Immediate, InferenceExchange
from gateway.mock_engine.faults import FaultError, Faults, parse_faults
from gateway.mock_engine.fields import BadRequest, model_of, read_document
from gateway.mock_engine.health import HealthAnswer, Silence, parse_health
from gateway.mock_engine.listening import ListeningPort
from gateway.mock_engine.serving import serving_for
from gateway.mock_engine.settings import Settings

ECHO_HEADER = b"x-mock-echo"
CONTROL_PREFIX = "/mock/"
FAULTS = "/mock/faults"
HEALTH = "/mock/health"
HEALTH_PATHS = frozenset({"/health", "/ping", "/v2/health/live", "/v2/health/ready"})
MODELS = "/v1/models"
TEXT = b"text/plain; version=0.0.4; charset=utf-8"


class MockEngine:
    """One mock engine. Use as `async with MockEngine(settings) as engine`, inside a running loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.counters = Counters()
        self.faults = Faults(settings.seed, settings.faults)
        self.health = HealthAnswer()
        self._loop = asyncio.get_running_loop()
        self._serving = serving_for(settings, self._loop)
        self._numbers = itertools.count(1)
        self._live: set[Connection] = set()
        self._control_live: set[Connection] = set()
        self._port = self._listening_port(settings.port, self._live)
        self._control: ListeningPort | None = None
        if settings.control_port is not None:
            self._control = self._listening_port(settings.control_port, self._control_live)
        self._changed = asyncio.Event()
        self._spared: Connection | None = None
        self._refusal_end: asyncio.TimerHandle | None = None
        self._keeper: asyncio.Task[None] | None = None

    def _listening_port(self, port: int, live: set[Connection]) -> ListeningPort:
        return ListeningPort(
            partial(Connection, self._open_exchange, self.counters, live), self.settings.host, port
        )

    async def __aenter__(self) -> Self:
        if self._control is not None:
            await self._control.accept()
        await self._port.accept()
        self._follow_refuse()
        self._keeper = self._loop.create_task(self._keep_port())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._keeper is not None
        self._keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._keeper
        if self._refusal_end is not None:
            self._refusal_end.cancel()
        for port in filter(None, (self._port, self._control)):
            port.close()
        for connection in [*self._live, *self._control_live]:
            connection.drop()

    @property
    def port(self) -> int:
        """The data port's real number."""
        return self._port.number

    @property
    def control_port(self) -> int | None:
        """The control port's real number, if there is one."""
        return None if self._control is None else self._control.number

    @property
    def url(self) -> str:
        """The data port's base URL."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"http://{host}:{self.port}"

    @property
    def gauges(self) -> EngineGauges:
        """The engine's state now."""
        return self._serving.gauges

    def toggle_refuse(self) -> None:
        """Refuse connections, or accept them again (the signal's meaning)."""
        if self.faults.refuse is None:
            self.faults.replace([*self.faults.settings, parse_faults({"faults": [{"kind": "refuse"}]})[0]])
        else:
            self.faults.lift_refuse()
        self._follow_refuse()

    # Routes.

    def _open_exchange(self, request: Request, connection: Connection) -> Exchange:
        is_echo = request.has_header(ECHO_HEADER)
        if request.method == "POST" and not request.path.startswith(CONTROL_PREFIX):
            return self._inference(request, connection, is_echo)
        if is_echo:
            return Immediate(connection, 200, orjson.dumps(echo_document(request)))
        if request.path in HEALTH_PATHS and self.health.hang:
            return Silence()
        status, body, content_type = self._answer_at_once(request, connection)
        return Immediate(connection, status, body, content_type)

    def _inference(self, request: Request, connection: Connection, is_echo: bool) -> Exchange:
        self.counters.requests += 1
        try:
            answer = self._read_answer(request, is_echo)
        except BadRequest as exc:
            return Immediate(connection, 400, error_body(400, str(exc), exc.param))
        except UnknownModel as exc:
            return Immediate(connection, 404, error_body(404, str(exc), "model", "model_not_found"))
        return InferenceExchange(connection, answer, self._serving, self.counters, self.faults.draw())

    def _read_answer(self, request: Request, is_echo: bool) -> Answer:
        if is_echo or request.path not in answers.MODEL_PATHS:
            return EchoAnswer(echo_document(request), len(request.body))
        document = read_document(request.body)
        model = model_of(document, self.settings.models[0])
        if self.settings.strict_model and model not in self.settings.models:
            raise UnknownModel(f"The model `{model}` does not exist.")
        stamp = answers.Stamp(next(self._numbers), int(datetime.now(UTC).timestamp()))
        return answers.read_answer(request.path, document, model, stamp)

    def _answer_at_once(self, request: Request, connection: Connection) -> tuple[int, bytes, bytes]:
        path = request.path
        if path == FAULTS:
            return self._control_faults(request, connection)
        if path == HEALTH:
            return self._control_health(request)
        if path in HEALTH_PATHS:
            return self.health.status, self.health.body.encode(), TEXT
        if request.method != "GET":
            return 405, b"", JSON  # no body: it may be HEAD
        if path == "/metrics":
            return 200, metrics_text(self.counters, self.gauges, self.settings.models[0]), TEXT
        if path == MODELS:
            return 200, answers.models_body(self.settings.models, self.settings.name), JSON
        model = path.removeprefix(f"{MODELS}/")
        if model in self.settings.models:
            return 200, orjson.dumps(answers.model_entry(model, self.settings.name)), JSON
        return 404, error_body(404, f"{path} does not exist"), JSON

    # Faults.

    def _control_faults(self, request: Request, connection: Connection) -> tuple[int, bytes, bytes]:
        if request.method == "POST":
            try:
                self.faults.replace(parse_faults(orjson.loads(request.body)))
            except (FaultError, orjson.JSONDecodeError) as exc:
                return 400, error_body(400, str(exc)), JSON
            self._follow_refuse(connection)
        elif request.method != "GET":
            return 405, error_body(405, "GET or POST"), JSON
        return 200, orjson.dumps(self.faults.report()), JSON

    def _control_health(self, request: Request) -> tuple[int, bytes, bytes]:
        if request.method == "POST":
            try:
                self.health = parse_health(orjson.loads(request.body))
            except (FaultError, orjson.JSONDecodeError) as exc:
                return 400, error_body(400, str(exc)), JSON
        return 200, orjson.dumps(self.health), JSON

    def _follow_refuse(self, asking: Connection | None = None) -> None:
        """Bring the port in line with the refuse fault; `asking` is spared, since it awaits its answer."""
        if self._refusal_end is not None:
            self._refusal_end.cancel()
            self._refusal_end = None
        fault = self.faults.refuse
        if fault is not None and fault.for_s is not None:
            self._refusal_end = self._loop.call_later(fault.for_s, self._lift_refuse)
        self._spared = asking
        self._changed.set()

    def _lift_refuse(self) -> None:
        self.faults.lift_refuse()
        self._follow_refuse()

    async def _keep_port(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            fault = self.faults.refuse
            if fault is None:
                await self._port.accept()
                continue
            await self._port.refuse()
            # Only now: what was accepted while the listener closed must go too.
            if fault.drop_open:
                for connection in self._live - {self._spared}:
                    connection.drop()


class UnknownModel(Exception):
    """A model this engine does not serve, under --strict-model."""


def echo_document(request: Request) -> dict[str, Any]:
    """What arrived, byte for byte: header names and values as latin-1 text, the head as one string."""
    return {
        "method": request.method,
        "path": request.path,
        "head": request.raw_head.decode("latin-1"),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers],
        "body_length": len(request.body),
        "body_sha256": hashlib.sha256(request.body).hexdigest(),
    }
