"""What stands in Redis, all of it. One fleet's keys share one hash tag, so they share one slot of a Cluster.

With FLEET the configured `state.fleet` and BACKEND a backend's id (`cluster@host:port[/prefix]`):

    spillway:{FLEET}:gateways        hash  GATEWAY -> "SEQ:EXPIRES_MS", the heartbeat of a live gateway;
                                           "!clock" -> NOW_MS, the fleet's clock: it follows the server's, but
                                           a leap, or its standing still, counts as 0.3 s and buries nobody;
                                           "!seen" -> the server's time at that; "!born" -> when this was
                                           made; "!known" and "!back" -> COUNT, gateways that there were when
                                           the memory was lost, and that have told since what they hold
    spillway:{FLEET}:grants:BACKEND  hash  GATEWAY -> "GRANTED:IN_USE", slots; void when the gateway is dead;
                                           "?GATEWAY" -> "COUNT:SINCE_MS:UNTIL_MS", requests that wait there,
                                           and since when the first does; void after a quarter of a second;
                                           "!recalled" -> NOW_MS, when the others were last told it is short;
                                           "!back" -> SLOTS that those held who are back after such a loss
    spillway:{FLEET}:latency         hash  GATEWAY -> JSON {BACKEND: [latency_s, samples]};
                                           "@GATEWAY" -> NOW_MS, when it was told
    spillway:{FLEET}:drains          hash  CLUSTER or BACKEND -> UNTIL_MS, 0 for a drain without an end
    spillway:{FLEET}:openings        hash  GATEWAY|BACKEND -> "UNTIL_MS|STREAK|REASON", a circuit it opened
    spillway:{FLEET}:news            channel, msgpack [KIND, GATEWAY, ...]: NewsKind, below

GATEWAY is a random id made at each start, so a process that comes back from the dead writes only its own
fields. All times are in milliseconds, by the fleet's clock or, for drains, the server's. Every key expires by
itself (KEY_TTL_MS) when no gateway writes it any more; lua/exchange.lua is the only writer, each call atomic.
"""

from __future__ import annotations

from enum import StrEnum

# Only garbage collection: whether a grant still counts is decided by its gateway's heartbeat.
KEY_TTL_MS = 60_000
DRAINS_TTL_MS = 7 * 24 * 3600 * 1000


class NewsKind(StrEnum):
    """What is told on the news channel, and what follows the kind in the message."""

    RECALL = "recall"  # backend id...: somebody needs a slot of them and none is free, give back what is idle
    FREED = "freed"  # gateway...: a slot is free that these have requests waiting for, come for it
    FORGOTTEN = "forgotten"  # nothing: the fleet's memory was lost, tell what you hold
    DRAINS = "drains"  # nothing: the drain marks have changed, look at them
    CIRCUITS = "circuits"  # [[backend id, reason, ms, streak], ...] opened, [backend id, ...] closed


class Keys:
    """The names of one fleet's keys."""

    def __init__(self, fleet: str) -> None:
        prefix = f"spillway:{{{fleet}}}:"
        self.gateways = prefix + "gateways"
        self.latency = prefix + "latency"
        self.drains = prefix + "drains"
        self.openings = prefix + "openings"
        self.news = prefix + "news"
        self._grants = prefix + "grants:"

    def grants(self, backend_id: str) -> str:
        return self._grants + backend_id

    def backend_of(self, grants_key: str) -> str:
        """The backend whose grants stand at this key."""
        return grants_key.removeprefix(self._grants)
