"""The store's own script, state/lua/exchange.lua, in an embedded Lua: no server is needed.

Here are only the few commands that the script uses, over dicts, and the way of its argument and answer: packed
and unpacked outside of Lua, and handed through as tables. What is decided, the script decides.
tests/sim/test_script_host.py holds the answers against those of a real server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

import msgspec

# Any day: the script wants the time of a server.
EPOCH_MS = 1_700_000_000_000

_PARAMETERS = "local KEYS, ARGV = ...\n"
_MODULES = """
return { call = ... }, { pack = function(value) return value end, unpack = function(value) return value end }
"""


class NoLua(Exception):
    """The embedded Lua is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "simulating leases runs the store's script in an embedded Lua, which is not installed; "
            "pip install 'spillway[sim]'"
        )


class ScriptHost:
    """One store: hashes that may expire, the script, and what it publishes.

    Hashes keep the order in which fields came, as those of a server do while they are small.
    """

    def __init__(self) -> None:
        """Raises NoLua."""
        try:
            # The version that Redis has; its strings' hashes know no seed, so `pairs` has one order.
            from lupa import lua51
        except ImportError:
            raise NoLua from None
        self._lua: Any = lua51.LuaRuntime(unpack_returned_tuples=True)
        self._is_table: Callable[[Any], bool] = lambda value: lua51.lua_type(value) == "table"
        names = self._lua.globals()
        names.redis, names.cmsgpack = self._lua.compile(_MODULES)(self._call)
        script = files("gateway.state").joinpath("lua/exchange.lua").read_text("utf-8")
        self._script = self._lua.compile(_PARAMETERS + script)
        self._hashes: dict[str, dict[str, str]] = {}
        self._expires_ms: dict[str, int] = {}
        self._now_us = 0
        self._published: list[bytes] = []
        self._commands: dict[str, Callable[..., Any]] = {
            "TIME": self._time,
            "HGETALL": self._hgetall,
            "HSET": self._hset,
            "HSETNX": self._hsetnx,
            "HDEL": self._hdel,
            "PEXPIRE": self._pexpire,
            "PUBLISH": self._publish,
        }

    def run(self, keys: Sequence[str], payload: bytes, now_s: float) -> tuple[bytes, list[bytes]]:
        """Runs the script once: its answer, and what it published."""
        self._now_us = EPOCH_MS * 1000 + int(now_s * 1_000_000)
        table_from = self._lua.table_from
        request = table_from(msgspec.msgpack.decode(payload), recursive=True)
        answer = self._script(table_from(keys), table_from((request,)))
        published, self._published = self._published, []
        return msgspec.msgpack.encode(self._plain(answer)), published

    def flush(self) -> None:
        """All is forgotten."""
        self._hashes.clear()
        self._expires_ms.clear()

    def _plain(self, value: Any) -> Any:
        """Tables are arrays here: the script answers and publishes nothing else."""
        if self._is_table(value):
            return [self._plain(value[at]) for at in range(1, len(value) + 1)]
        return value

    # --- commands ------------------------------------------------------------------------------------

    def _call(self, command: str, *args: Any) -> Any:
        return self._commands[command](*args)

    def _hash(self, key: str) -> dict[str, str]:
        expires_ms = self._expires_ms.get(key)
        if expires_ms is not None and expires_ms * 1000 <= self._now_us:
            self._forget(key)
        return self._hashes.setdefault(key, {})

    def _forget(self, key: str) -> None:
        self._hashes.pop(key, None)
        self._expires_ms.pop(key, None)

    def _time(self) -> Any:
        return self._lua.table_from(map(str, divmod(self._now_us, 1_000_000)))

    def _hgetall(self, key: str) -> Any:
        return self._lua.table_from([text for pair in self._hash(key).items() for text in pair])

    def _hset(self, key: str, *pairs: Any) -> None:
        fields = self._hash(key)
        for at in range(0, len(pairs), 2):
            fields[str(pairs[at])] = _text(pairs[at + 1])

    def _hsetnx(self, key: str, field: Any, value: Any) -> None:
        self._hash(key).setdefault(str(field), _text(value))

    def _hdel(self, key: str, *names: Any) -> None:
        fields = self._hash(key)
        for name in names:
            fields.pop(str(name), None)
        if not fields:
            self._forget(key)  # a hash without fields is gone, and its time with it

    def _pexpire(self, key: str, ttl_ms: Any) -> None:
        if self._hash(key):
            self._expires_ms[key] = self._now_us // 1000 + int(ttl_ms)

    def _publish(self, _channel: str, message: Any) -> None:
        self._published.append(msgspec.msgpack.encode(self._plain(message)))


def _text(value: Any) -> str:
    """As a server writes the numbers of a script."""
    return f"{value:.17g}" if isinstance(value, float) else str(value)
