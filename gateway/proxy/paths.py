"""The allow-list of the data port: what is not in this table does not exist.

Paths are compared as raw bytes against exact entries, so an encoded slash, a dot segment or a double
slash can't reach anything: it simply is not in the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from gateway.proxy.errors import Refusal


class ModelSource(Enum):
    """Where the model's name is read from. `x-spillway-model` may stand in where the others are silent."""

    BODY = "body"  # JSON or multipart field, required
    BODY_OPTIONAL = "body_optional"
    PATH = "path"
    QUERY = "query"


class LocalPath(Enum):
    """Paths that the gateway answers itself."""

    MODELS = "models"
    ALIVE = "alive"
    READY = "ready"
    MODEL_READY = "model_ready"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One allowed path. `name` is bounded: it may be logged and counted."""

    name: str
    method: bytes
    model_source: ModelSource = ModelSource.BODY
    local_path: LocalPath | None = None
    model: str | None = None
    is_tunnel: bool = False


_REQUIRED = ("chat/completions", "completions", "responses", "messages", "embeddings")
_OPTIONAL = ("rerank", "score", "moderations")
_SEGMENT = re.compile(rb"[A-Za-z0-9_~-][A-Za-z0-9._~-]*")
_WILD = {b"/v1/images/": "/v1/images/*", b"/v1/audio/": "/v1/audio/*"}
_MODEL_PATH = re.compile(rb"/v2/models/([A-Za-z0-9_~-][A-Za-z0-9._~:-]{0,255})/(infer|ready)")
# Enough for "images/generations" and deeper ones of the kind.
_MAX_WILD_SEGMENTS = 4
_INFER, _READY = _MODEL_PATHS = ("/v2/models/*/infer", "/v2/models/*/ready")
# A path may be thousands of segments long; the served ones are not, and so far it is looked at.
_MAX_OUTLINE_SEGMENTS = 8


class PathTable:
    """Finds the endpoint of a request, or refuses it."""

    def __init__(self, extra_paths: Iterable[str] = (), websocket_paths: Iterable[str] = ()) -> None:
        self.extra_paths = tuple(extra_paths)
        self.websocket_paths = tuple(websocket_paths)
        self._exact: dict[bytes, Endpoint] = {
            f"/v1/{name}".encode(): Endpoint(f"/v1/{name}", b"POST") for name in _REQUIRED
        }
        self._exact |= {
            f"/v1/{name}".encode(): Endpoint(f"/v1/{name}", b"POST", ModelSource.BODY_OPTIONAL)
            for name in _OPTIONAL
        }
        self._exact |= {
            b"/v1/models": Endpoint("/v1/models", b"GET", local_path=LocalPath.MODELS),
            b"/v2/health/live": Endpoint("/v2/health/live", b"GET", local_path=LocalPath.ALIVE),
            b"/v2/health/ready": Endpoint("/v2/health/ready", b"GET", local_path=LocalPath.READY),
        }
        self._wild = dict(_WILD)
        for path in self.extra_paths:
            if path.endswith("/*"):
                self._wild[path[:-1].encode()] = path
            else:
                self._exact[path.encode()] = Endpoint(path, b"POST", ModelSource.BODY_OPTIONAL)
        self._tunnels = {
            path.removesuffix("*").encode(): Endpoint(path, b"GET", ModelSource.QUERY, is_tunnel=True)
            for path in self.websocket_paths
        }
        self._heads, self._tails = self._outlines()

    def find(self, method: bytes, path: bytes) -> Endpoint:
        """Raises Refusal 404 for an unknown path, 405 for a known one with another method."""
        if method not in (b"GET", b"POST"):
            raise Refusal(
                405, "method_not_allowed", "GET and POST are taken here.", headers=b"allow: GET, POST\r\n"
            )
        endpoint = self._exact.get(path) or self._find_pattern(path)
        if endpoint is None or method != endpoint.method:
            endpoint = self._find_tunnel(path) or endpoint
        if endpoint is None:
            raise Refusal(404, "not_found", "There is no such path on this port.")
        if method != endpoint.method:
            allowed = endpoint.method
            raise Refusal(
                405,
                "method_not_allowed",
                f"This path takes {allowed.decode()} only.",
                headers=b"allow: %b\r\n" % allowed,
            )
        return endpoint

    def shown(self, path: bytes) -> str:
        """What may be logged of the path of a request that was refused: bounded, and nothing of its own.

        The endpoint's name, whatever the method; of any other path only what a served one begins or ends
        with too, the longer of both: `/v1/chat/*` of a slip in the last word, `/*/chat/completions` behind
        the prefix of another API.
        """
        endpoint = self._exact.get(path) or self._find_pattern(path) or self._find_tunnel(path)
        if endpoint is not None:
            return endpoint.name
        first = path.split(b"/", _MAX_OUTLINE_SEGMENTS + 1)[1:]
        last = path.rsplit(b"/", _MAX_OUTLINE_SEGMENTS)[1:]
        head = _longest(self._heads, lambda count: first[:count])
        tail = _longest(self._tails, lambda count: last[-count:])
        return f"/*{tail}" if tail.count("/") > head.count("/") else f"{head}/*"

    def _outlines(self) -> tuple[dict[bytes, str], dict[bytes, str]]:
        """How served paths begin and how they end, in whole segments, by the bytes of a path."""
        names = {endpoint.name for endpoint in (*self._exact.values(), *self._tunnels.values())}
        names |= {*self._wild.values(), *_MODEL_PATHS}
        heads: dict[bytes, str] = {}
        tails: dict[bytes, str] = {}
        for name in names:
            segments = name.split("/")[1:]
            for count in range(1, len(segments) + 1):
                head, tail = segments[:count], segments[-count:]
                if "*" not in head:
                    heads["/".join(head).encode()] = "/" + "/".join(head)
                if "*" not in tail:
                    tails["/".join(tail).encode()] = "/" + "/".join(tail)
        return heads, tails

    def _find_pattern(self, path: bytes) -> Endpoint | None:
        if (match := _MODEL_PATH.fullmatch(path)) is not None:
            model = match[1].decode()
            if match[2] == b"infer":
                return Endpoint(_INFER, b"POST", ModelSource.PATH, model=model)
            return Endpoint(_READY, b"GET", local_path=LocalPath.MODEL_READY, model=model)
        for prefix, name in self._wild.items():
            if _is_below(prefix, path):
                return Endpoint(name, b"POST", ModelSource.BODY_OPTIONAL)
        return None

    def _find_tunnel(self, path: bytes) -> Endpoint | None:
        for start, endpoint in self._tunnels.items():
            if path == start or (start.endswith(b"/") and _is_below(start, path)):
                return endpoint
        return None


def _longest(known: Mapping[bytes, str], part: Callable[[int], list[bytes]]) -> str:
    """The longest known part of a path, of which `part` gives so many segments; empty without one."""
    counts = range(_MAX_OUTLINE_SEGMENTS, 0, -1)
    return next((found for count in counts if (found := known.get(b"/".join(part(count))))), "")


def _is_below(prefix: bytes, path: bytes) -> bool:
    if not path.startswith(prefix):
        return False
    segments = path[len(prefix) :].split(b"/")
    return len(segments) <= _MAX_WILD_SEGMENTS and all(map(_SEGMENT.fullmatch, segments))
