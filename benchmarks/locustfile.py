"""Load for any Spillway (or OpenAI-compatible server), for Locust: kinds of clients, and shapes of load.

    locust -f benchmarks/locustfile.py -H http://127.0.0.1:8080 -u 20 -r 5
    locust -f benchmarks/locustfile.py -H http://127.0.0.1:8080 --headless --shape spike

Without `--shape` it is Locust's usual closed loop: each user asks, reads, thinks (`--think`). With one it is
an open loop: requests come at the shape's times, whatever became of those before. The classes chosen on the
command line (such as `Chat Batch`; all by default) and their weights are the mix in both.

How it is counted, by Locust's type and the kind of client as the name:
POST  whole answers, and failures: an unexpected status, no connection, a stream cut or without [DONE]
TTFT  until the first text;  GAP  between two texts of a stream
429   refusals for want of room: expected under overload, no failures, and nothing hidden
LEFT  clients whose patience ended first: theirs is the choice
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import gevent
from gevent.pool import Group
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError
from locust import LoadTestShape, User, events, task

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.load import prompts
from benchmarks.load.options import SHAPES, add_shape_options, shape_of
from benchmarks.load.prompts import Mix, Sizes
from benchmarks.load.replies import Failed, Left, Refused, Reply
from benchmarks.load.shapes import Arrival, Replay, Shape
from benchmarks.load.traces import TraceError

CONNECT_S, SILENCE_S = 5.0, 120.0
MAX_CONNECTIONS = 10_000
IS_OVER = "spillway_shape_is_over"
DRAIN_S = 60.0  # how long the last answers of an open loop may take


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    add = parser.add_argument
    add(
        "--gateways",
        default="",
        env_var="SPILLWAY_GATEWAYS",
        help="URLs, by comma, asked in turn (default: -H)",
    )
    add("--model", default="llama-3-8b", env_var="SPILLWAY_MODEL")
    add("--embeddings-model", default="", env_var="SPILLWAY_EMBEDDINGS_MODEL", help="default: the model")
    add("--key", default="", env_var="SPILLWAY_KEY", is_secret=True, help="sent as Authorization: Bearer")
    add("--patience", type=float, default=0.4, help="median seconds until an impatient client leaves")
    add("--think", type=float, default=2.0, help="mean seconds between two requests of a user (closed loop)")
    add("--record", default="", help="a file for one JSON line per request")
    add("--shape", choices=["", *SHAPES], default="", env_var="SPILLWAY_SHAPE")
    add_shape_options(add)


def gateways_of(options: Any, host: str | None) -> list[str]:
    """Raises ValueError when there is none."""
    urls = [url.strip() for url in options.gateways.split(",") if url.strip()] or [host or ""]
    if not all(urls):
        raise ValueError("whom to ask? -H URL, or --gateways URL,URL")
    return urls


class Site:
    """What all users of this process share in a run: gateways, options, numbers, the record."""

    def __init__(self, options: Any, host: str | None) -> None:
        self.options = options
        self.random = Random(f"clients {options.seed}")
        times_s = {"connection_timeout": CONNECT_S, "network_timeout": SILENCE_S}
        self._clients = [
            (url, HTTPClient.from_url(url, concurrency=MAX_CONNECTIONS, **times_s))
            for url in gateways_of(options, host)
        ]
        self.turns = itertools.cycle(self._clients)
        self.numbers = itertools.count(1)
        self.headers = {"content-type": "application/json"}
        if options.key:
            self.headers["authorization"] = f"Bearer {options.key}"
        self._record = open(options.record, "w", buffering=1) if options.record else None  # noqa: SIM115

    def record(self, **fields: object) -> None:
        if self._record is not None:
            self._record.write(json.dumps(fields) + "\n")

    def close(self) -> None:
        for _, client in self._clients:
            client.close()
        if self._record is not None:
            self._record.close()
            self._record = None


class Client(User):
    """One kind of client. `ask` may run many times at once: an open loop has one user object per kind."""

    abstract = True
    kind: ClassVar[str]
    path: ClassVar[str] = "/v1/chat/completions"
    mix: ClassVar[Mix]
    is_streamed: ClassVar[bool] = True
    is_patient: ClassVar[bool] = True
    site: ClassVar[Site]

    def wait_time(self) -> float:
        return self.site.random.expovariate(1 / self.site.options.think)

    @task
    def ask_once(self) -> None:
        self.ask(time.time(), None)

    def body(self, sizes: Sizes) -> bytes:
        return prompts.chat_body(self.site.options.model, sizes)

    def ask(self, due_s: float, sizes: Sizes | None) -> None:
        """One request, counted and recorded. `due_s` is when it should have been sent (Unix seconds)."""
        site = self.site
        drawn = self.mix.draw(site.random)
        patience_s = site.options.patience * site.random.lognormvariate(0, 0.3)
        url, client = next(site.turns)
        request_id = f"load-{site.options.seed}-{next(site.numbers)}"
        body = self.body(sizes or drawn)
        reply = Reply(time.time(), time.perf_counter())
        outcome, error = "ok", None
        try:
            with gevent.Timeout(None if self.is_patient else patience_s, Left):
                headers = {**site.headers, "x-request-id": request_id}
                reply.read(client.request("POST", self.path, body, headers), self.is_streamed)
        except Left:
            outcome = "left"
        except Refused as exc:
            outcome, error = "refused", str(exc)
        except (Failed, OSError, HTTPParseError) as exc:
            # A gateway that can't go on says why in an event, and then cuts: the event tells more.
            why = reply.stream and reply.stream.error
            outcome, error = "failed", why or str(exc) or type(exc).__name__
        took_s = time.perf_counter() - reply.began_s
        self._fire(outcome, error, took_s, reply)
        site.record(
            id=request_id, kind=self.kind, gateway=url, due_s=due_s, sent_s=reply.sent_s,
            took_s=round(took_s, 6), outcome=outcome, error=error, **reply.told(),
        )  # fmt: skip

    def _fire(self, outcome: str, error: str | None, took_s: float, reply: Reply) -> None:
        if outcome == "refused":
            self._count("429", f"{self.kind} {error}", took_s)
        elif outcome == "left":
            self._count("LEFT", self.kind, took_s)
        else:
            # Only the text of the error: Locust counts errors by it.
            failure = Failed(error) if outcome == "failed" else None
            self._count("POST", self.kind, took_s, reply.length, failure)
        stream = reply.stream
        if self.is_streamed and stream is not None and stream.ttft_s is not None:
            self._count("TTFT", self.kind, stream.ttft_s)
            for gap_s in stream.gaps_s:
                self._count("GAP", self.kind, gap_s)

    def _count(
        self, kind: str, name: str, took_s: float, length: int = 0, failure: Exception | None = None
    ) -> None:
        self.environment.events.request.fire(
            request_type=kind, name=name, response_time=took_s * 1000, response_length=length,
            exception=failure, context={},
        )  # fmt: skip


class Chat(Client):
    """Somebody who reads along."""

    weight = 70
    kind = "chat"
    mix = prompts.CHAT


class Impatient(Chat):
    """Closes the connection when it takes too long: see --patience."""

    weight = 5
    kind = "impatient"
    is_patient = False


class LongPrompt(Client):
    """A document and a question."""

    weight = 7
    kind = "long-prompt"
    mix = prompts.LONG_PROMPT


class Batch(Client):
    """A job that wants whole answers."""

    weight = 10
    kind = "batch"
    path = "/v1/completions"
    mix = prompts.BATCH
    is_streamed = False

    def body(self, sizes: Sizes) -> bytes:
        return prompts.completion_body(self.site.options.model, sizes)


class Embeddings(Client):
    weight = 8
    kind = "embeddings"
    path = "/v1/embeddings"
    mix = prompts.EMBEDDINGS
    is_streamed = False

    def body(self, sizes: Sizes) -> bytes:
        return prompts.embeddings_body(self.site.options.embeddings_model or self.site.options.model, sizes)


class OpenLoop(User):
    """Sends a shape's requests at their times, each in a greenlet of its own. There is one such user."""

    abstract = True
    site: ClassVar[Site]
    shape: ClassVar[Shape]
    kinds: ClassVar[list[type[Client]]]

    @task
    def run_all(self) -> None:
        options, asking = self.site.options, Group()
        clients = [kind(self.environment) for kind in self.kinds]
        weights = [kind.weight for kind in self.kinds]
        draw = Random(f"kinds {options.seed}")
        start_s, started_s = time.time(), time.perf_counter()
        self.site.record(start_s=start_s)
        try:
            for arrival in self.shape.arrivals(options.seed):
                gevent.sleep(max(arrival.at_s - (time.perf_counter() - started_s), 0))
                self._send(asking, draw.choices(clients, weights)[0], arrival, start_s)
            gevent.sleep(max(self.shape.duration_s - (time.perf_counter() - started_s), 0))
            asking.join(DRAIN_S)
        finally:
            asking.kill()
        assert self.environment.runner is not None
        self.environment.runner.send_message(IS_OVER)
        gevent.sleep(DRAIN_S)  # nothing is left to do: the shape ends the run, within a second or two

    def _send(self, asking: Group, client: Client, arrival: Arrival, start_s: float) -> None:
        row = arrival.row
        sizes = Sizes(row.input_tokens, row.output_tokens) if row else None
        asking.spawn(client.ask, start_s + arrival.at_s, sizes)


class Driver(LoadTestShape):
    """Lets Locust run the one user of an open loop, until all its requests have ended."""

    abstract = True  # so that Locust does not take it unasked

    def __init__(self, duration_s: float) -> None:
        super().__init__()
        self._last_s = duration_s + DRAIN_S
        self.is_over = False

    def reset_time(self) -> None:
        super().reset_time()
        self.is_over = False

    def end(self, **_: Any) -> None:
        """Heard from the one user, who may be in another process."""
        self.is_over = True

    def tick(self) -> tuple[int, float] | None:
        return None if self.is_over or self.get_run_time() > self._last_s else (1, 1.0)


@events.init.add_listener
def choose_shape(environment: Any, **_: Any) -> None:
    """Once, before Locust runs or shows its page. What is wrong ends it."""
    options = environment.parsed_options
    try:
        if not (options.patience > 0 and options.think > 0):
            raise ValueError("--patience and --think must be above 0")
        shape = shape_of(options)
        if options.headless and not options.master:
            gateways_of(options, environment.host)
    except (TraceError, ValueError) as exc:
        sys.exit(f"locustfile: {exc}")
    if shape is None:
        return
    chosen = [kind for kind in environment.user_classes if issubclass(kind, Client)]
    OpenLoop.shape, OpenLoop.kinds = shape, [Chat] if isinstance(shape, Replay) else chosen
    environment.user_classes[:] = [OpenLoop]
    environment.shape_class = Driver(shape.duration_s)
    environment.shape_class.runner = environment.runner
    if not options.worker:
        environment.runner.register_message(IS_OVER, environment.shape_class.end)


@events.test_start.add_listener
def open_site(environment: Any, **_: Any) -> None:
    """Anew for each run: the page's host may be another one, and so may its options."""
    Client.site = OpenLoop.site = Site(environment.parsed_options, environment.host)


@events.test_stop.add_listener
def close_site(environment: Any, **_: Any) -> None:
    Client.site.close()
