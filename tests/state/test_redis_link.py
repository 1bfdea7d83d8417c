"""The wire to Redis: whatever kind of Redis it is, its failures have one shape, and give nothing away."""

from __future__ import annotations

import pytest
import redis.exceptions

from gateway.state.redis import RedisLink, _brief, _client_of
from gateway.state.shared import LinkFailed, SharedStore
from tests.contract.conftest import lonely_company
from tests.redis_server import free_port

SECRET = "s3cret"
KINDS = ("redis", "rediss", "redis+cluster", "redis+sentinel", "rediss+sentinel")


@pytest.mark.parametrize("kind", KINDS)
async def test_where_nobody_is_it_fails_in_one_shape_and_a_gateway_starts(kind, caplog):
    url = f"{kind}://user:{SECRET}@127.0.0.1:{free_port()}/{'main/0' if 'sentinel' in kind else '0'}"
    link = RedisLink(url, "news")
    with pytest.raises(LinkFailed) as failed:
        await link.exchange(["k"], b"", 1.0)
    with pytest.raises(LinkFailed):
        await anext(link.news())
    store = SharedStore(link, "nobody", lonely_company())
    await store.start()
    assert store.health().is_degraded
    await store.stop()
    assert SECRET not in str(failed.value) + store.health().detail + caplog.text
    assert "127.0.0.1" not in store.health().detail


@pytest.mark.parametrize(
    ("exc", "brief"),
    [
        (redis.exceptions.ConnectionError("Error 111 connecting to 10.0.0.1:6379."), "ConnectionError"),
        (redis.exceptions.ResponseError("BUSY Redis is busy"), "ResponseError: BUSY"),
        (redis.exceptions.AuthenticationError("invalid username-password pair"), "AuthenticationError"),
        (
            redis.exceptions.ConnectionError("HELLO must be called with the client already authenticated"),
            "Auth",
        ),
    ],
)
def test_what_went_wrong_is_said_without_addresses(exc, brief):
    assert _brief(exc).startswith(brief)
    assert "10.0.0.1" not in _brief(exc)


def test_a_sentinel_url_may_hold_several_places_escapes_and_options():
    client = _client_of(
        "rediss+sentinel://me:p%40ss%2Fword@s1,s2:1234,[::1]:26380/main/3?ssl_ca_certs=/ca.pem"
    )
    pool = client.connection_pool
    manager = pool.sentinel_manager
    places = [s.connection_pool.connection_kwargs for s in manager.sentinels]
    assert [(p["host"], p["port"]) for p in places] == [("s1", 26379), ("s2", 1234), ("::1", 26380)]
    assert {p["ssl_ca_certs"] for p in [*places, pool.connection_kwargs]} == {"/ca.pem"}
    assert pool.service_name == "main"
    wanted = {"username": "me", "password": "p@ss/word", "db": 3}
    assert wanted.items() <= pool.connection_kwargs.items()
