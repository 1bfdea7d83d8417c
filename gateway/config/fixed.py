"""Settings that hold from the start of a process to its end."""

from __future__ import annotations

from collections.abc import Callable

from gateway.config.schema import Config

_NOT_NOW = "changes only with a restart"

# What is open, held or told to others by its old name.
FIXED: dict[str, Callable[[Config], object]] = {
    "listen": lambda config: config.listen,
    "admin.listen": lambda config: config.admin.listen,
    "workers": lambda config: config.workers,
    "state.url": lambda config: config.state.url,
    "state.fleet": lambda config: config.state.fleet,
    "access_log": lambda config: config.access_log,
    "tracing": lambda config: config.tracing,
    # Renewed certificates are taken over; a port that speaks TLS can't begin to speak without, nor back.
    "tls": lambda config: config.tls is None,
    # Whether a handshake asks for a client's certificate is decided before the newest one is chosen.
    "tls.client_ca_file": lambda config: config.tls is None or config.tls.client_ca_file is None,
}


def restart_needed(running: Config, wanted: Config) -> dict[str, str]:
    """What says that `wanted` can't take the place of `running` in this process: by setting, why not."""
    found = {setting: _NOT_NOW for setting, of in FIXED.items() if of(running) != of(wanted)}
    if running.keys and not wanted.keys:
        # A section that was lost in an edit must not open the door of a running fleet to everybody.
        found["keys"] = "can be taken away as a whole only with a restart"
    return found
