"""What only a restart changes."""

from __future__ import annotations

import pytest

from gateway.config.fixed import restart_needed
from gateway.config.loading import parse

KEYS = f"keys: [{{name: a, sha256: '{'0' * 64}'}}]"
CLUSTERS = "clusters: [{name: a, limit: 1, backends: ['http://b']}]\n"


@pytest.mark.parametrize(
    ("before", "after", "needed"),
    [
        ("", "listen: 127.0.0.1:8081\n", ["listen"]),
        ("", "admin: {listen: '127.0.0.1:1'}\nworkers: 2\n", ["admin.listen", "workers"]),
        ("", "state: {url: 'redis://h:1'}\n", ["state.url"]),
        ("state: {url: 'redis://h:1'}\n", "state: {url: 'redis://h:1', fleet: x}\n", ["state.fleet"]),
        ("", "access_log: 'off'\n", ["access_log"]),
        ("", "KEYS\n", []),
        ("KEYS\n", "", ["keys"]),
        ("", "max_body: 1MiB\nwatch: false\npool: {max_idle: 1}\nbreaker: {open: 2s}\n", []),
        ("", "timeouts: {total: 1s}\nretry: {attempts: 2}\nhedge: {}\npaths: [/x]\ntiers: [primary]\n", []),
    ],
)
def test_it_is_named(before, after, needed):
    running, wanted = (
        parse(text.replace("KEYS", KEYS) + CLUSTERS, "g.yaml", ".", {}) for text in (before, after)
    )
    assert list(restart_needed(running, wanted)) == needed
    assert restart_needed(wanted, wanted) == {}
