"""What the admin port needs of the gateway: values and callables, so it knows neither store nor proxy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address

from gateway.config.schema import AdminConfig
from gateway.core.admission import KeyRules
from gateway.core.fleet import Event, FleetView
from gateway.ports import Clock, ConfigStatus, ReloadOutcome


class GatewayState(StrEnum):
    """Where the gateway is in its life; only a ready one should get new connections."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """`detail` is shown as it is on the readiness page: plain JSON values."""

    state: GatewayState
    in_flight: int = 0
    detail: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """Where to listen and what a write must present. Raises ValueError for an open door.

    With `socket_path` it is that unix socket: who may open it is up to its directory.
    """

    host: str = "127.0.0.1"
    port: int = 9090
    token: str | None = field(default=None, repr=False)
    socket_path: str | None = None

    def __post_init__(self) -> None:
        if self.token is not None and not self.token.strip():
            raise ValueError("the admin token is empty")
        if self.token is None and not is_loopback(self.host):
            raise ValueError(f"without a token the admin port binds to loopback only, not to {self.host}")


def settings_of(admin: AdminConfig) -> AdminSettings:
    """The admin port that the configuration asks for."""
    token = admin.token.reveal() if admin.token is not None else None
    return AdminSettings(admin.listen.host, admin.listen.port, token)


# Reads the configuration file again: what came of it, and what is in force now.
Reload = Callable[[], Awaitable[tuple[ReloadOutcome, ConfigStatus]]]


@dataclass(frozen=True, slots=True)
class AdminPorts:
    """The gateway as the admin port sees it.

    `apply` raises UnknownName. `drain` begins the end of the whole gateway, or joins one that has begun;
    it is True when nothing is in flight any more, False when its own time limit came first.
    `render_metrics(as_openmetrics)` gives the body, in parts that are short to make, and its content type.
    `reload` is None without a file. `key_rules` are those in force, by the names of client keys.
    """

    view: FleetView
    apply: Callable[[Event], None]
    status: Callable[[], GatewayStatus]
    drain: Callable[[], Awaitable[bool]]
    render_metrics: Callable[[bool], tuple[Iterable[bytes], str]]
    clock: Clock
    reload: Reload | None = None
    key_rules: Callable[[], Mapping[str, KeyRules]] = dict


def is_loopback(host: str) -> bool:
    """Is `host`, a name or an address, this machine and nobody else?"""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
