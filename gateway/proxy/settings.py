"""What the data plane takes from the configuration: one frozen value, which a reload replaces as a whole.

An exchange picks it up at its start and keeps it until its end; a connection reads each request by the
newest one.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.config.fleet import hold_of, key_owners_of, key_rules_of, set_budget
from gateway.config.schema import Config, HedgeConfig, RetryConfig, TimeoutsConfig
from gateway.core.admission import KeyUse
from gateway.core.holding import HoldRules
from gateway.core.retries import ExtraAttempts
from gateway.proxy.client_keys import ClientKeys
from gateway.proxy.paths import PathTable


@dataclass(frozen=True, slots=True)
class PlaneSettings:
    """See the keys of the same names in config/schema.py."""

    timeouts: TimeoutsConfig
    retry: RetryConfig
    hedge: HedgeConfig | None
    hold: HoldRules | None
    paths: PathTable
    max_body_bytes: int
    max_buffered_bytes: int
    max_memory_bytes: int | None
    max_connections: int
    max_connections_per_client: int | None
    exposes_routing: bool
    keys: ClientKeys | None = None  # None: no key is asked for

    def set_budget(self, extra: ExtraAttempts) -> None:
        """The one budget of a gateway's second attempts, whatever the route; what is spent stays spent."""
        set_budget(extra, self.retry, self.hedge)


def settings_of(config: Config, before: PlaneSettings | None = None) -> PlaneSettings:
    """`before` is in force until now: a table of paths that stays the same is the same object."""
    known = before.paths if before is not None else None
    wanted = (config.paths, config.websocket_paths)
    is_known = known is not None and (known.extra_paths, known.websocket_paths) == wanted
    return PlaneSettings(
        timeouts=config.timeouts,
        retry=config.retry,
        hedge=config.hedge,
        hold=hold_of(config),
        paths=known if is_known and known is not None else PathTable(*wanted),
        max_body_bytes=config.max_body_bytes,
        max_buffered_bytes=config.max_buffered_bytes,
        max_memory_bytes=config.max_memory_bytes,
        max_connections=config.max_connections,
        max_connections_per_client=config.max_connections_per_client,
        exposes_routing=config.expose_routing,
        keys=_keys_of(config, before.keys if before is not None else None),
    )


def _keys_of(config: Config, before: ClientKeys | None) -> ClientKeys | None:
    """What runs for an owner who has left is counted on, should he come back meanwhile."""
    if not config.keys:
        return None
    known = before.uses if before is not None else {}
    uses = {name: use for name, use in known.items() if use.in_flight}
    for rules in key_rules_of(config):
        uses[rules.name] = use = known.get(rules.name) or KeyUse(rules)
        use.rules = rules
    return ClientKeys(key_owners_of(config), uses)
