"""A Message as lua/exchange.lua reads it, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from gateway.core.fleet import OpeningShared
from gateway.core.latency import LatencySummary, merged
from gateway.state.circuit_news import Opening, opening_heard
from gateway.state.grants import TTL_S
from gateway.state.keys import DRAINS_TTL_MS, KEY_TTL_MS, Keys
from gateway.state.messages import Answer, Message, Result

# How long a drain lasts, on the wire in ms: besides a number of them, for ever and not any more.
FOREVER_MS, LIFTED_MS = 0, -1


class Extras(NamedTuple):
    """What rides on an exchange besides slots. `latency` None: it is not told and not asked for now."""

    is_leaving: bool = False
    drains: Sequence[tuple[str, int]] = ()
    known_drains: Sequence[tuple[str, int]] = ()
    latency: Mapping[str, LatencySummary] | None = None
    openings: Sequence[Opening] = ()
    closings: Sequence[str] = ()


class Reply(NamedTuple):
    """`drains_left_ms` is every drain of the fleet; None there stands for one without an end.

    `openings` are those of other gateways that no closing followed, for who has sent a full report.
    """

    answer: Answer
    drains_left_ms: Mapping[str, int | None]
    latencies: Mapping[str, LatencySummary]
    openings: Sequence[OpeningShared] = ()


def encode(keys: Keys, gateway_id: str, message: Message, extras: Extras) -> tuple[list[str], bytes]:
    """The script's KEYS and its one argument."""
    request: dict[str, Any] = {
        "id": gateway_id,
        "seq": message.seq,
        "ttl_ms": int(TTL_S * 1000),
        "is_full": message.is_full,
        "is_leaving": extras.is_leaving,
        "known_gateways": message.known_gateways,
        "born_ms": message.born_ms,
        "reports": message.reports,
        "asks": message.ask_indexes,
        "wants": message.want_indexes,
        "drains": extras.drains,
        "known_drains": extras.known_drains,
        "openings": extras.openings,
        "closings": extras.closings,
        "key_ttl_ms": KEY_TTL_MS,
        "drains_ttl_ms": DRAINS_TTL_MS,
    }
    if extras.latency is not None:
        told = {backend_id: (one.latency_s, one.samples) for backend_id, one in extras.latency.items()}
        request["latency"] = msgspec.json.encode(told).decode()
    fixed = (keys.gateways, keys.drains, keys.latency, keys.news, keys.openings)
    names = [*fixed, *map(keys.grants, message.backend_ids)]
    return names, msgspec.msgpack.encode(request)


def decode(raw: bytes) -> Reply:
    """What the script returned."""
    fields = msgspec.msgpack.decode(raw)
    status, gateways, born_ms, results, given, drains, latencies, openings = (*fields, *(None,) * 8)[:8]
    slots = [Result(*result) for result in results or ()]
    answer = Answer(status, gateways or 1, born_ms or 0, slots, given or ())
    heard = [opening_heard(gateway_id, tuple(said)) for gateway_id, *said in openings or ()]
    return Reply(
        answer,
        _drains_of(drains or ()),
        _latencies_of(latencies or ()),
        [opening for opening in heard if opening is not None],
    )


def _drains_of(flat: Sequence[Any]) -> dict[str, int | None]:
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return {name: None if left_ms < 0 else left_ms for name, left_ms in pairs}


def _latencies_of(flat: Sequence[Any]) -> dict[str, LatencySummary]:
    """What all others saw of each backend, from pairs of age in ms and JSON."""
    summaries: dict[str, list[LatencySummary]] = {}
    for age_ms, text in zip(flat[::2], flat[1::2], strict=True):
        for backend_id, (latency_s, samples) in msgspec.json.decode(text).items():
            summaries.setdefault(backend_id, []).append(LatencySummary(latency_s, samples, age_ms / 1000))
    return {backend_id: merged(parts) for backend_id, parts in summaries.items()}
