"""The store's own script, state/lua/exchange.lua, in an embedded Lua: no server is needed.

Beside it there are only the few commands that it uses, lua/commands.lua; what is decided, the script decides.
tests/sim/test_script_host.py holds the answers against those of a real server.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import msgspec

# Any day: the script wants the time of a server.
EPOCH_US = 1_700_000_000_000_000
_PARAMETERS = "local KEYS, ARGV = ...\n"


class NoLua(Exception):
    """The embedded Lua is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "leases are simulated by the store's own script in an embedded Lua, which is not installed; "
            "pip install 'spillway[sim]'"
        )


class ScriptHost:
    """One store: what it remembers, the script, and what that publishes."""

    def __init__(self) -> None:
        """Raises NoLua."""
        try:
            # The version that servers have. It hashes strings without a seed, so its `pairs` has one order.
            from lupa import lua51
        except ImportError:
            raise NoLua from None
        lua: Any = lua51.LuaRuntime(unpack_returned_tuples=True)
        names = lua.globals()
        commands = files("gateway.sim").joinpath("lua/commands.lua").read_text("utf-8")
        names.redis, names.cmsgpack, self._set_time, self._take_published, self.flush = lua.execute(commands)
        script = files("gateway.state").joinpath("lua/exchange.lua").read_text("utf-8")
        self._script = lua.compile(_PARAMETERS + script)
        self._table_from = lua.table_from

    def run(self, keys: Sequence[str], payload: bytes, now_s: float) -> tuple[bytes, list[bytes]]:
        """Runs the script once: its answer, and what it published."""
        self._set_time(EPOCH_US + int(now_s * 1_000_000))
        request = self._table_from(msgspec.msgpack.decode(payload), recursive=True)
        answer = self._script(self._table_from(keys), self._table_from((request,)))
        published = self._take_published()
        return _packed(answer), [_packed(published[at]) for at in range(1, len(published) + 1)]


def _packed(text: str) -> bytes:
    return msgspec.msgpack.encode(msgspec.json.decode(text))
