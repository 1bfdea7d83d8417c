"""Data that stays where the key, or the request itself, says."""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.dialogue import BODY, get, post, settled
from tests.proxy.test_client_keys import KEY, OTHER, bearer, keys

HEADER = "x-spillway-residency"


@pytest.fixture
async def regions(start_backend):
    """Clusters in the US and, a tier below, in the EU."""
    us, eu = await start_backend(), await start_backend()
    clusters = (
        "clusters:\n"
        f"- {{name: us, limit: 1, residency: [us], models: [m], backends: ['{us.url}']}}\n"
        f"- {{name: eu, limit: 1, residency: [eu], models: [m, n], tier: backup, backends: ['{eu.url}']}}\n"
    )
    return us, eu, clusters


async def test_a_key_keeps_its_requests_where_they_may_be(regions, start_gateway):
    us, eu, clusters = regions
    known = keys(("team-eu", KEY, ", residency: [eu]"), ("team-all", OTHER, ""))
    gateway = await start_gateway(known, clusters, good_request=post(BODY, bearer(OTHER)))
    for lines, expected in (
        ((bearer(KEY),), "eu"),
        ((bearer(KEY), f"{HEADER}: us, eu"), "eu"),
        ((bearer(OTHER),), "us"),
        ((bearer(OTHER), f"{HEADER}: EU"), "eu"),
    ):
        answer = await gateway.ask(post(BODY, *lines))
        assert (answer.status, answer.header("x-spillway-cluster")) == (200, expected)
        assert answer.header("x-spillway-spill-reason") is None, "it is where it best runs"
    for lines in ((bearer(KEY), f"{HEADER}: us"), (bearer(OTHER), f"{HEADER}: mars")):
        refused = await gateway.ask(post(BODY, *lines))
        assert (refused.status, refused.error["code"]) == (503, "residency_unavailable")
    assert (await gateway.ask(get("/v2/models/m/ready", bearer(KEY)))).status == 200
    assert all(not request.all(HEADER) for request in us.requests + eu.requests)


async def test_without_keys_a_request_may_keep_itself(regions, start_gateway):
    _, _, clusters = regions
    gateway = await start_gateway(clusters)
    assert (await gateway.ask(post(BODY, f"{HEADER}: eu"))).header("x-spillway-cluster") == "eu"
    unavailable = await gateway.ask(post(b'{"model":"n"}', f"{HEADER}: us"))
    assert (unavailable.status, unavailable.error["code"]) == (503, "residency_unavailable")
    assert (await gateway.ask(post(b'{"model":"z"}', f"{HEADER}: us"))).status == 404
    empty = await gateway.ask(post(BODY, f"{HEADER}: ,"))
    assert (empty.status, empty.error["code"]) == (400, "invalid_request")
    twice = await gateway.ask(post(BODY, f"{HEADER}: us", f"{HEADER}: eu"))
    assert twice.status == 400


async def test_who_is_full_or_failing_is_not_helped_out_from_elsewhere(regions, start_gateway):
    us, eu, clusters = regions
    gateway = await start_gateway("hold: {max_wait: 0s}", clusters)
    goes_on = asyncio.Event()
    eu.will(goes_on, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    client = await gateway.connect()
    await client.send(post(BODY, f"{HEADER}: eu"))
    assert await settled(lambda: len(eu.requests) == 1)
    full = await gateway.ask(post(BODY, f"{HEADER}: eu"))
    assert (full.status, full.error["code"]) == (429, "no_capacity")
    goes_on.set()
    assert (await client.answer()).status == 200
    await eu.refuse()
    assert (await gateway.ask(post(BODY, f"{HEADER}: eu"))).status == 502
    assert not us.requests


async def test_who_waits_is_woken_for_a_slot_where_he_may_be(regions, start_gateway):
    us, eu, clusters = regions
    gateway = await start_gateway("hold: {max_wait: 2s}", clusters)
    waiting = []
    for backend, label in ((us, "us"), (eu, "eu")):
        assert (await gateway.ask(post(BODY, f"{HEADER}: {label}"))).status == 200
        backend.will(0.1, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        for _ in range(2):
            client = await gateway.connect()
            await client.send(post(BODY, f"{HEADER}: {label}"))
            waiting.append((label, client))
    for label, client in waiting:
        answer = await client.answer()
        assert (answer.status, answer.header("x-spillway-cluster")) == (200, label)
