"""Clients that leave at every stage of a request, and what has to be in the access log because of it.

A client stays until its answer is whole, or leaves by a close, a reset or a half-close: in the middle of the
head, in the middle of the body, before the answer, or in the middle of it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from tests.chaos.misbehaving_backend import END_MARK, POISON
from tests.proxy.dialogue import Answer, Client

STAY, PIECES, LATE, PAIR = "stays", "stays, sends in pieces", "never ends its request", "pipelines"
HEAD, BODY, BEFORE, WITHIN = "in the head", "in the body", "before the answer", "in the answer"
CLOSE, RESET, HALF = "closes", "resets", "half-closes"
LEAVING = [f"{ending} {stage}" for ending in (CLOSE, RESET, HALF) for stage in (HEAD, BODY, BEFORE, WITHIN)]
MANNERS = [STAY, PIECES, LATE, PAIR, *LEAVING]
WEIGHTS = [40.0, 8.0, 0.2, 2.0, *([4.0] * len(LEAVING))]
# Longer than any deadline of the gateway's: who waits so long waits for ever.
HUNG_S = 20.0
BACK_OFF_S = 0.05
# Added to a request's number for the one that is pipelined behind it.
SECOND = 10_000_000

_NUMBER = re.compile(rb'"number":(\d+)[,}]')  # not one that was cut


@dataclass
class Ledger:
    """What clients know. A request is in exactly one of `must`, `may` and `never`, by its id."""

    must: dict[str, int | None] = field(default_factory=dict)  # the status, when the client saw one
    may: set[str] = field(default_factory=set)  # sent whole, then reset: the gateway may not have read it
    never: set[str] = field(default_factory=set)  # not sent whole
    manners: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    cut: int = 0
    unanswered: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)

    def answered(self, name: str, answer: Answer) -> None:
        """The answer to a request that was sent whole."""
        self.must[name] = answer.status
        self.statuses[answer.status] += 1
        self.cut += not answer.is_whole
        if (why := _what_is_wrong(name, answer)) is not None:
            self.wrong[name] = why

    @property
    def requests(self) -> int:
        return len(self.must) + len(self.may) + len(self.never)


def _what_is_wrong(name: str, answer: Answer) -> str | None:
    if answer.header("x-request-id") != name:
        return f"the answer to {answer.header('x-request-id')}"
    if POISON.encode() in answer.head + answer.body:
        return "bytes of no answer"
    if answer.status != 200:
        return None
    own = name.removeprefix("soak-").encode()
    if any(number != own for number in _NUMBER.findall(answer.body)):
        return "bytes of another's answer"
    is_complete = answer.body.endswith((END_MARK.encode(), b"data: [DONE]\n\n"))
    return None if is_complete or not answer.is_whole else "a truncated answer that looks whole"


class Clients:
    """`users` of them at once, until all numbers are used up."""

    def __init__(self, port: int, requests: int, seed: int) -> None:
        self._port = port
        self._numbers = iter(range(requests))
        self._random = Random(seed)
        self.ledger = Ledger()
        self.done = 0

    async def run(self, users: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(users):
                group.create_task(self._user(self._numbers))

    async def _user(self, numbers: Iterator[int]) -> None:
        client: Client | None = None
        for number in numbers:
            client = await self._ask(client or await Client.connect(self._port), f"soak-{number}")
            self.done += 1
        if client is not None:
            client.close()

    async def _ask(self, client: Client, name: str) -> Client | None:
        """One request; the connection, if another may follow on it."""
        manner = self._random.choices(MANNERS, WEIGHTS)[0]
        self.ledger.manners[manner] += 1
        keeps = False
        try:
            async with asyncio.timeout(HUNG_S):
                keeps = await self._in_a_manner(client, name, manner)
        except TimeoutError:
            self.ledger.hung.append(f"{name} {manner}")
            self.ledger.may.add(name)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self.ledger.unanswered.append(f"{name} {manner}: {error!r}")
            self.ledger.may.add(name)
        if not keeps:
            client.close()
        return client if keeps else None

    async def _in_a_manner(self, client: Client, name: str, manner: str) -> bool:
        head, body = self._request(name)
        if manner in (STAY, PIECES):
            pieces = self._pieces(head + body) if manner == PIECES else [head + body]
            await client.send(*pieces)
            return await self._note(name, await client.answer(HUNG_S))
        if manner == LATE:
            return await self._wait_for_408(client, name, head)
        if manner == PAIR:
            return await self._pair(client, name)
        ending, _, stage = manner.partition(" ")
        if stage in (HEAD, BODY):
            await client.send(self._part(head, body, stage))
            await asyncio.sleep(self._random.uniform(0.0, 0.003))
            self.ledger.never.add(name)
        elif stage == BEFORE:
            await client.send(head + body)
            await asyncio.sleep(self._random.choice((0.0, self._random.uniform(0.0, 0.03))))
            # A reset may overtake what was sent; what stands before a close is read.
            self.ledger.may.add(name) if ending == RESET else self.ledger.must.update({name: None})
        else:
            await client.send(head + body)
            await self._begin_to_read(client, name)
        await self._leave(client, ending)
        return False

    def _request(self, name: str) -> tuple[bytes, bytes]:
        random = self._random
        size = random.choice((20, 200, 2_000, 2_000, 60_000))
        fields = {"model": "m", "stream": random.random() < 0.4, "prompt": "x" * size}
        body = json.dumps(fields, separators=(",", ":")).encode()
        lines = f"host: gw\r\nx-request-id: {name}\r\ncontent-type: application/json\r\n"
        head = f"POST /v1/completions HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n"
        return head.encode(), body

    def _pieces(self, data: bytes) -> list[bytes | float]:
        first, second = sorted(self._random.sample(range(len(data)), 2))
        return [data[:first], 0.001, data[first:second], 0.001, data[second:]]

    def _part(self, head: bytes, body: bytes, stage: str) -> bytes:
        if stage == HEAD:
            return head[: self._random.randrange(len(head))]
        return head + body[: self._random.randrange(len(body))]

    async def _note(self, name: str, answer: Answer) -> bool:
        self.ledger.answered(name, answer)
        if answer.status == 429:  # as it is told to, though not for so long
            await asyncio.sleep(self._random.uniform(0.0, 2 * BACK_OFF_S))
        return answer.is_whole and answer.header("connection") != "close"

    async def _wait_for_408(self, client: Client, name: str, head: bytes) -> bool:
        """Its head is whole, so that the answer and the log know its name."""
        await client.send(head)
        answer = await client.answer(HUNG_S)
        self.ledger.answered(name, answer)
        if answer.status != 408:
            self.ledger.wrong[name] = f"{answer.status} without a body"
        return False

    async def _pair(self, client: Client, name: str) -> bool:
        """Two requests in one segment, and gone after the first answer at half of the times."""
        second = f"soak-{SECOND + int(name.removeprefix('soak-'))}"
        await client.send(b"".join((*self._request(name), *self._request(second))))
        if not await self._note(name, await client.answer(HUNG_S)) or self._random.random() < 0.5:
            self.ledger.may.add(second)
            return False
        return await self._note(second, await client.answer(HUNG_S))

    async def _begin_to_read(self, client: Client, name: str) -> None:
        head = await client.head(HUNG_S)
        self.ledger.must[name] = int(head[9:12])
        self.ledger.statuses[int(head[9:12])] += 1
        if b"x-request-id: %b\r\n" % name.encode() not in head.lower():
            self.ledger.wrong[name] = "the answer to another"
        if self._random.random() < 0.5:
            await client.reader.read(self._random.randint(1, 200))

    async def _leave(self, client: Client, ending: str) -> None:
        if ending == RESET:
            client.reset()
        elif ending == HALF:
            client.writer.write_eof()
            await client.rest(HUNG_S)
