"""Backends that hang with a green /health, die all at once, or come back: what the clients see of it.

Real processes: the gateway's command, mock engines, a redis-server for the fleets. A circuit that is not
closed shows as a tenth of the limit on the fleet page, unless a probe is wanted; what reached an engine is
told by its own counters.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from random import Random

import pytest

from tests.chaos.open_loop import POLL_S, Load, Told, completion, fleet_page
from tests.proxy.dialogue import settled
from tests.proxy.processes import Engine, GatewayProcess, running, start_engine, start_gateway_process
from tests.redis_server import running_redis

ENGINE = ("--ttft", "100ms", "--tpot", "5ms")
LIMIT = 8  # less than the load needs: when a hang begins, all of these are in use
RATE = 60
STAGE_S = 1.0  # both the first-byte and the stall timeout
CONSECUTIVE = 5  # BreakerSettings.consecutive
HANGS = {
    "before the head": {"kind": "hang_before_head"},
    "after the head": {"kind": "hang_after_head"},
    "after five tokens": {"kind": "stall", "after_tokens": 5},
}


def is_ejected(limits: list[int]) -> bool:
    return limits[0] <= LIMIT // 8


def hung_primary(primary: Engine, backup: Engine, timeouts: str, more: str = "") -> str:
    return (
        f"timeouts: {{{timeouts}}}\n{more}clusters:\n"
        f"- {{name: primary, limit: {LIMIT}, backends: ['{primary.url}'], "
        "health: {path: /health, interval: 200ms}}\n"
        f"- {{name: backup, tier: backup, limit: 200, backends: ['{backup.url}']}}\n"
    )


def affected(told: list[Told]) -> list[Told]:
    """Those that had to wait longer than a first byte may take, or were cut."""
    return [one for one in told if not one.is_good or one.ttft_s is None or one.ttft_s > STAGE_S]


async def warmed_up(load: Load, *clusters: str) -> None:
    """Good answers came from each of these."""
    assert await settled(lambda: {t.cluster for t in load.told if t.is_good} >= set(clusters), 10)


@pytest.mark.timeout(40)
@pytest.mark.parametrize("hang", HANGS)
async def test_a_hang_costs_what_was_in_flight_and_is_found_out_in_time(hang, tmp_path):
    primary, backup = start_engine(*ENGINE), start_engine(*ENGINE)
    text = hung_primary(primary, backup, f"first_byte: {STAGE_S}s, stall: {STAGE_S}s")
    gateway = start_gateway_process(text, tmp_path)
    loop = asyncio.get_running_loop()
    with running(gateway, backup, primary):
        async with fleet_page(gateway) as page, Load(gateway.port, RATE) as load:
            await warmed_up(load, "primary", "backup")
            primary.set_faults(HANGS[hang])
            hung_s = loop.time()
            found_out_s = await page.when(is_ejected, STAGE_S + 5)
            assert found_out_s - hung_s <= STAGE_S + 1
            (state,) = await page.backends()
            assert state["health"]["probe"]["state"] == "up", "its /health is green all the while"
            reached = primary.counter("requests_total")
            assert await settled(lambda: len(load.began(found_out_s + 0.1)) >= 10, 5)
            # The probe of the half-open circuit may have come before the last of the others is gone.
            assert await settled(lambda: primary.counter("in_flight") <= 1, STAGE_S + 2)
            assert primary.counter("requests_total") <= reached + 1, "nothing but the probe goes there"
        assert {one.cluster for one in load.began(found_out_s + 0.1, found_out_s + 0.9)} == {"backup"}
        assert 0 < len(affected(load.told)) <= LIMIT + CONSECUTIVE, affected(load.told)
        assert not [one for one in load.bad if not one.had_bytes], (
            "an error without a byte: it could have moved on"
        )
        if "head" in hang:
            assert not load.bad, "none of these had a byte"
        assert gateway.fleet()["in_flight"] <= 1, "more than a probe"


# --- a fleet of three -----------------------------------------------------------------------------


@contextmanager
def three_gateways(text: str, folder: Path) -> Iterator[list[GatewayProcess]]:
    with running_redis(folder) as redis:
        gateways: list[GatewayProcess] = []
        for name in "abc":
            place = folder / name
            place.mkdir()
            gateways.append(start_gateway_process(f"state: {{url: '{redis.url}'}}\n{text}", place))
        with running(*gateways):
            yield gateways


@pytest.mark.timeout(40)
async def test_three_gateways_stop_using_a_hung_backend_at_once(tmp_path):
    """The first byte may take longer than an answer counts as fresh: nobody can speak against the verdict."""
    first_byte_s = 1.5
    primary, backup = start_engine(*ENGINE), start_engine(*ENGINE)
    text = hung_primary(primary, backup, f"first_byte: {first_byte_s}s")
    with running(backup, primary), three_gateways(text, tmp_path) as gateways:
        async with AsyncExitStack() as stack:
            pages = [await stack.enter_async_context(fleet_page(gateway)) for gateway in gateways]
            rates = (40, 4, 4)  # the other two could hardly find out by themselves
            loads = [
                await stack.enter_async_context(Load(gateway.port, rate))
                for gateway, rate in zip(gateways, rates, strict=True)
            ]
            for load in loads:
                await warmed_up(load, "primary")
            primary.set_faults(HANGS["before the head"])
            found = [page.when(is_ejected, first_byte_s + 1) for page in pages]
            found_out_s = await asyncio.gather(*found)
            spread_s = max(found_out_s) - min(found_out_s)
            assert spread_s <= 0.1 + POLL_S
        assert not [one for load in loads for one in load.bad]


@pytest.mark.timeout(60)
async def test_one_probe_in_the_whole_fleet(tmp_path):
    """A probe that hangs for long gives every gateway the chance to send another. The backend counts."""
    first_byte_s = 2.0
    primary, backup = start_engine(*ENGINE), start_engine(*ENGINE)
    text = hung_primary(primary, backup, f"first_byte: {first_byte_s}s")
    with running(backup, primary), three_gateways(text, tmp_path) as gateways:
        async with AsyncExitStack() as stack:
            pages = [await stack.enter_async_context(fleet_page(gateway)) for gateway in gateways]
            loads = [await stack.enter_async_context(Load(gateway.port, 15)) for gateway in gateways]
            for load in loads:
                await warmed_up(load, "primary")
            primary.kill()
            await asyncio.gather(*(page.when(is_ejected, 5) for page in pages))
            # A new one in its place, which hangs: its counters know of probes alone.
            reborn = start_engine(*ENGINE, "--fault", "hang_before_head", port=primary.port)
            stack.enter_context(running(reborn))
            assert await settled(lambda: reborn.counter("requests_total") > 0, 15), "nobody tries it"
            assert await settled(lambda: reborn.counter("in_flight") == 0, first_byte_s + 5)
            assert reborn.counter("peak_in_flight") == 1
            reborn.set_faults()
            healed_s = asyncio.get_running_loop().time()
            for load in loads:
                # Three are more than a probe and its luck: this gateway uses it again, beside the others.
                assert await settled(lambda load=load: load.clusters(healed_s)["primary"] >= 3, 20)


# --- the whole primary dies -----------------------------------------------------------------------


@pytest.mark.timeout(40)
async def test_kill_9_of_all_primaries_costs_only_answers_that_had_begun(tmp_path):
    engine = ("--ttft", "30ms", "--tpot", "4ms")
    primaries, backup = [start_engine(*engine) for _ in range(3)], start_engine(*engine)
    urls = ", ".join(f"'{one.url}'" for one in primaries)
    text = (
        f"clusters:\n- {{name: primary, limit: 100, backends: [{urls}]}}\n"
        f"- {{name: backup, tier: backup, limit: 300, backends: ['{backup.url}']}}\n"
    )
    gateway = start_gateway_process(text, tmp_path)
    loop = asyncio.get_running_loop()
    with running(gateway, backup, *primaries):
        async with Load(gateway.port, 200, lambda number: completion(number, tokens=10)) as load:
            assert await settled(lambda: len(load.told) >= 200, 15)
            assert not load.bad and set(load.clusters(0)) == {"primary"}
            for one in primaries:
                one.child.kill()
            killed_s = loop.time()
            assert await settled(lambda: len(load.began(killed_s)) >= 200, 15)
        assert load.clusters(killed_s)["backup"] >= 195
        assert all(one.had_bytes for one in load.bad), "an error without a byte: it could have moved on"
        # 200/s x 40 ms of an answer after its first byte, half of them streams.
        assert len(load.bad) <= 16
        assert gateway.fleet()["in_flight"] == 0


# --- coming back, and never having been away ------------------------------------------------------

SLOW_START_S = 3.0
QUICK = f"breaker: {{open: 500ms, slow_start: {SLOW_START_S}s}}"


@pytest.mark.timeout(60)
async def test_a_recovered_backend_has_its_full_share_after_its_slow_start(tmp_path):
    limit = 60
    mortal, other, backup = (start_engine(*ENGINE) for _ in range(3))
    urls = f"'{mortal.url}', '{other.url}'"
    text = (
        f"{QUICK}\nclusters:\n- {{name: primary, limit: {limit}, backends: [{urls}]}}\n"
        f"- {{name: backup, tier: backup, limit: 200, backends: ['{backup.url}']}}\n"
    )
    gateway = start_gateway_process(text, tmp_path)
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        stack.enter_context(running(gateway, backup, other, mortal))
        async with fleet_page(gateway) as page, Load(gateway.port, RATE) as load:

            def served(from_s: float, to_s: float = float("inf")) -> list[bool]:
                """Whether `mortal` did, for each request that began then."""
                return [one.backend.endswith(f":{mortal.port}") for one in load.began(from_s, to_s)]

            assert await settled(lambda: any(served(0)), 10)
            mortal.kill()
            await page.when(lambda limits: limits[0] <= limit // 10, 5)
            stack.enter_context(running(start_engine(*ENGINE, port=mortal.port)))
            reborn_s = loop.time()
            assert await settled(lambda: sum(served(reborn_s)) >= 2, 10)
            back_s = loop.time()
            await page.when(lambda limits: limits[0] == limit, SLOW_START_S + 1)
            # No burst at the moment it is back: a tenth of the slots is six, of the weight less.
            first = served(back_s, back_s + 0.3)
            assert sum(first) <= 0.5 * len(first)
            # Peak EWMA remembers a slow first answer of a new process for its ten seconds.
            assert await settled(lambda: sum(served(loop.time() - 1.3)) >= 0.35 * RATE, 12)
        assert not [one for one in load.bad if one.at_s >= reborn_s], "no error while it comes back"
        assert set(load.clusters(back_s)) == {"primary"}, "no tier change for one of two"


@pytest.mark.slow
@pytest.mark.timeout(90)
async def test_long_prompts_trip_nothing(tmp_path):
    """Prompts of 1 to 126 k tokens at an H100's pace: seconds without a byte are healthy."""
    engines = [start_engine("--preset", "h100-80") for _ in range(2)]
    urls = ", ".join(f"'{one.url}'" for one in engines)
    text = f"clusters:\n- {{name: primary, limit: 64, backends: [{urls}]}}\n"
    gateway = start_gateway_process(text, tmp_path)
    draw = Random(4)

    def body(number: int) -> bytes:
        tokens = 1000 * math.exp(draw.uniform(0, math.log(126)))
        return completion(number, prompt_bytes=int(tokens * 4), tokens=draw.randint(1, 200))

    seen: set[tuple[int, ...]] = set()
    with running(gateway, *engines):
        async with fleet_page(gateway) as page, Load(gateway.port, 1.5, body) as load:
            while len(load.told) < 30:  # the test's own timeout ends what does not come to that
                seen.add(tuple(await page.limits()))
                await asyncio.sleep(0.1)
        assert seen == {(64, 64)}, "a circuit was not closed"
        assert not load.bad
        assert max(one.ttft_s or 0 for one in load.told) > 1.0, "long prompts did take their time"
        assert sum(one.counter("requests_total") for one in engines) == len(load.told), "nothing was retried"
