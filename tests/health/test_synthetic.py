"""Completions of one token: what is asked, what each answer teaches, and that limits hold."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.core.fleet import Drained
from gateway.core.health import ProbeReported, SyntheticProbeReported, read_agent_words
from gateway.core.model import Candidate, Plan, PlanReason, Reason
from gateway.health.synthetic import SyntheticProber
from tests.health.asking import Asked, config_of, target_of
from tests.proxy.dialogue import CHAT, HANG, Arrived, Ending, ScriptedBackend, reply, settled

GOOD = reply(b'{"choices":[{"text":"t0"}]}')
MODELS = reply(b'{"object":"list","data":[{"id":"its-own"},{"id":"another"}]}')


class Completing:
    """One backend, its slots and a prober."""

    def __init__(self, client, asked: Asked, backend: ScriptedBackend, synthetic: str, more) -> None:
        sections = {"health": f"{{synthetic: {{{synthetic}}}}}", **more}
        asked.configure(config_of(backend, **sections))
        self.target = target_of(backend, **sections)
        self.asked, self.backend = asked, backend
        self._prober = SyntheticProber(client, asked.around)

    async def ask(self) -> SyntheticProbeReported | None:
        assert self.target.health is not None
        assert self.target.health.synthetic is not None
        event = await self._prober.probe(self.target, self.target.health.synthetic)
        assert self.held == 0, "the slot was not given back"
        return event

    async def reason(self) -> Reason:
        event = await self.ask()
        assert event is not None
        assert event.backend_id == self.target.backend_id
        return event.outcome.reason

    @property
    def held(self) -> int:
        return self.asked.store.leases_held(self.target.backend_id)


@pytest.fixture
def completing(client, asked, start_backend):
    async def make(synthetic: str = "model: m", **more: str) -> Completing:
        backend = await start_backend()
        backend.default = [GOOD]
        return Completing(client, asked, backend, synthetic, more)

    return make


def sent(request: Arrived) -> dict[str, object]:
    return json.loads(request.body)


async def test_a_completion_of_one_token(completing) -> None:
    one = await completing()
    assert await one.reason() is Reason.COMPLETED
    (request,) = one.backend.requests
    assert (request.method, request.target) == ("POST", "/v1/completions")
    assert request.header("content-type") == "application/json"
    assert sent(request) == {"model": "m", "prompt": "Hi", "max_tokens": 1, "stream": False}


async def test_or_a_chat(completing) -> None:
    one = await completing(f"model: m, path: {CHAT}")
    assert await one.reason() is Reason.COMPLETED
    (request,) = one.backend.requests
    assert request.target == CHAT
    assert sent(request)["messages"] == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("models", "expected"),
    [("[m, n]", "m"), ("['q-*', n]", "n"), ("{a: org/A, b: org/B}", "org/A"), ("{'q-*': org/Q}", "org/Q")],
)
async def test_the_model_is_taken_from_the_cluster(completing, models, expected) -> None:
    one = await completing("timeout: 5s", models=models)
    assert await one.reason() is Reason.COMPLETED
    assert [sent(request)["model"] for request in one.backend.requests] == [expected]


async def test_else_it_is_learned_from_the_backend_once(completing) -> None:
    one = await completing("timeout: 5s", models="['*']")
    one.backend.will(MODELS)
    assert [await one.reason() for _ in range(2)] == [Reason.COMPLETED] * 2
    assert [request.target for request in one.backend.requests] == [
        "/v1/models",
        "/v1/completions",
        "/v1/completions",
    ]
    assert {sent(request)["model"] for request in one.backend.requests[1:]} == {"its-own"}


async def test_and_again_when_the_backend_no_longer_knows_it(completing) -> None:
    one = await completing("timeout: 5s")
    one.backend.will(MODELS)
    one.backend.will(reply(b"{}", status="404 Not Found"))
    assert await one.reason() is Reason.CLIENT_ERROR
    one.backend.will(MODELS.replace(b"its-own", b"its-new"))
    assert await one.reason() is Reason.COMPLETED
    assert sent(one.backend.requests[-1])["model"] == "its-new"


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data":[]}', b'{"data":[{"id":5}]}', b'{"data":{}}'])
async def test_a_backend_that_lists_no_model_is_not_blamed(completing, body) -> None:
    one = await completing("timeout: 5s")
    one.backend.will(reply(body))
    assert await one.reason() is Reason.CLIENT_ERROR
    assert len(one.backend.requests) == 1


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([reply(b"{}", status="429 Full")], Reason.BACKEND_FULL),
        ([reply(b"{}", status="503 Full")], Reason.BACKEND_FULL),
        ([reply(b"{}", status="400 Bad")], Reason.CLIENT_ERROR),
        ([reply(b"{}", status="500 Bad")], Reason.SERVER_ERROR),
        ([reply(b"", "Location: /", status="307 Elsewhere")], Reason.BAD_RESPONSE),
        ([reply(b"")], Reason.BAD_RESPONSE),
        ([reply(b'{"choices":[]}')], Reason.BAD_RESPONSE),
        ([reply(b'{"error":"CUDA"}')], Reason.BAD_RESPONSE),
        ([HANG], Reason.FIRST_BYTE_TIMEOUT),
        ([GOOD[:-3], HANG], Reason.TOTAL_TIMEOUT),
        ([GOOD[:-3], Ending.FIN], Reason.TRUNCATED),
        ([Ending.RST], Reason.RESET),
    ],
)
async def test_what_an_answer_teaches(completing, script, reason) -> None:
    one = await completing("model: m, timeout: 100ms")
    one.backend.will(*script)
    assert await one.reason() is reason
    assert len(one.backend.requests) == 1, "never repeated"


async def test_a_backend_that_is_gone_while_its_model_is_learned(completing) -> None:
    one = await completing("timeout: 5s")
    await one.backend.refuse()
    assert await one.reason() is Reason.CONNECT_FAILED


# --- slots -------------------------------------------------------------------------------------------


async def test_it_takes_a_slot_and_without_a_free_one_it_is_left_out(completing) -> None:
    one = await completing(limit="1")
    go_on = asyncio.Event()
    one.backend.will(go_on, GOOD)
    asking = asyncio.ensure_future(one.ask())
    assert await settled(lambda: len(one.backend.requests) == 1)
    assert one.held == 1
    go_on.set()
    await asking
    state = one.asked.state(one.backend)
    seat = Candidate(state.backend, "here", "primary", PlanReason.FIRST_CHOICE)
    lease = one.asked.store.lease_now(Plan((seat,), "primary"))
    assert lease is not None
    held = one._prober.probe(one.target, one.target.health.synthetic)
    assert await held is None
    assert len(one.backend.requests) == 1
    one.asked.store.release(lease)
    assert await one.reason() is Reason.COMPLETED


async def test_cancelled_in_the_middle_it_gives_its_slot_back(completing) -> None:
    one = await completing()
    one.backend.will(HANG)
    asking = asyncio.ensure_future(one.ask())
    assert await settled(lambda: len(one.backend.requests) == 1)
    asking.cancel()
    await asyncio.wait([asking])
    assert one.held == 0
    assert await settled(lambda: not one.backend.open_connections), "the engine goes on generating"


@pytest.mark.parametrize("how", ["cluster", "backend", "word", "gone"])
async def test_a_drained_backend_is_left_to_become_idle(completing, how) -> None:
    one = await completing()
    match how:
        case "cluster":
            one.asked.apply(Drained("here"))
        case "backend":
            one.asked.apply(Drained(one.target.backend_id))
        case "word":
            one.asked.apply(
                ProbeReported(one.target.backend_id, True, "completed", read_agent_words("drain"))
            )
        case "gone":
            one.asked.configure(config_of(1))
    assert await one.ask() is None
    assert not one.backend.requests
