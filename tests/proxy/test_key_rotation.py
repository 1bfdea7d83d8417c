# ruff: noqa: F811 - the fixtures of test_reload
"""Client keys come and go while the gateway serves."""

from __future__ import annotations

import asyncio

from tests.proxy.dialogue import BODY, LAST_CHUNK, chunk, event_stream, post, settled
from tests.proxy.test_client_keys import KEY, OTHER, bearer, digest, keys
from tests.proxy.test_reload import quick, start  # noqa: F401 - fixtures

OLD, NEW = ("team-a", KEY, ""), ("team-a", OTHER, "")


async def statuses(client, *shown: str) -> list[int]:
    """Of requests on one connection, one after the other, that differ in the key alone."""
    found = []
    for key in shown:
        await client.send(post(BODY, bearer(key)))
        found.append((await client.answer()).status)
    return found


async def test_an_old_and_a_new_key_overlap_and_then_the_old_one_is_gone(start, start_backend):
    backend = await start_backend()
    gateway = await start(keys(OLD), backend)
    client = await gateway.connect()
    # Twice: the second head is known by heart.
    assert await statuses(client, KEY, KEY) == [200, 200]
    gateway.write(keys(OLD, NEW), backend)
    assert (await gateway.reload())[0] == 200
    assert await statuses(client, KEY, KEY, OTHER) == [200, 200, 200]
    assert {record.key for record in gateway.records} == {"team-a"}
    assert await statuses(client, KEY) == [200]
    gateway.write(keys(NEW), backend)
    assert (await gateway.reload())[0] == 200
    assert await statuses(client, KEY) == [401]
    again = await gateway.connect()
    assert await statuses(again, OTHER) == [200]


async def test_a_head_known_by_heart_is_not_let_in_when_its_key_is_gone(start, start_backend):
    backend = await start_backend()
    gateway = await start(keys(OLD), backend)
    client = await gateway.connect()
    assert await statuses(client, KEY, KEY, KEY) == [200, 200, 200]
    gateway.write(keys(("team-b", OTHER, "")), backend)
    await gateway.reload()
    assert await statuses(client, KEY) == [401]
    assert len(backend.requests) == 3


async def test_a_digest_in_a_file_is_followed(quick, start, start_backend, tmp_path):
    backend = await start_backend()
    file = tmp_path / "team-a.sha256"
    file.write_text(f"{digest(KEY)}  -\n")
    gateway = await start("keys: [{name: team-a, sha256_file: team-a.sha256}]", backend)
    client = await gateway.connect()
    assert await statuses(client, KEY) == [200]
    file.write_text(f"{digest(OTHER)}  -\n")
    assert await settled(lambda: gateway.gateway.config_status().generation == 2)
    assert await statuses(client, OTHER) == [200]
    assert await statuses(client, KEY) == [401]


async def test_keys_begin_at_once_and_do_not_end_by_an_edit(start, start_backend):
    backend = await start_backend()
    gateway = await start(backend)
    client = await gateway.connect()
    await client.send(post())
    assert (await client.answer()).status == 200
    gateway.write(keys(OLD), backend)
    assert (await gateway.reload())[0] == 200
    await client.send(post())
    assert (await client.answer()).status == 401
    gateway.write(backend)
    status, page = await gateway.reload()
    assert status == 422
    assert "keys: can be taken away as a whole only with a restart" in str(page)
    assert (await gateway.ask(post())).status == 401


async def test_what_is_in_flight_is_counted_through_a_reload(start, start_backend):
    backend = await start_backend()
    gateway = await start(keys(("team-a", KEY, ", max_in_flight: 5")), backend)
    goes_on = asyncio.Event()
    backend.will(event_stream() + chunk(b"data: 1\n\n"), goes_on, LAST_CHUNK)
    client = await gateway.connect()
    await client.send(post(BODY, bearer(KEY)))
    await client.head()
    gateway.write(keys(("team-b", OTHER, "")), backend)
    await gateway.reload()
    assert gateway.plane.key_in_flight == {"team-a": 1, "team-b": 0}
    gateway.write(keys(("team-a", KEY, ", max_in_flight: 1")), backend)
    await gateway.reload()
    assert (await gateway.ask(post(BODY, bearer(KEY)))).status == 429
    goes_on.set()
    assert await settled(lambda: gateway.plane.key_in_flight["team-a"] == 0)
    assert (await gateway.ask(post(BODY, bearer(KEY)))).status == 200
