"""A state of the fleet out of a file: what `/api/v1/fleet` printed, or a few names with what is so of them.

The short form is a mapping from names of clusters or backends to words and figures:

    eu-primary: full
    eu-primary@10.0.0.1:8000: {in_flight: 12, circuit: open}
    there: drained
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import yaml
from msgspec import Meta

from gateway.core.breaker import Circuit, Trigger
from gateway.core.model import Cluster, Reason
from gateway.core.restoring import BackendTold, ClusterTold

WORDS = ("full", "drained", "ejected", "half_open", "unhealthy", "down")

Count = Annotated[int, Meta(ge=0, le=1_000_000)]


class BadState(ValueError):
    """The file cannot be used: which, and why."""


class GivenState(NamedTuple):
    clusters: dict[str, ClusterTold]
    backends: dict[str, BackendTold]


class Figures(msgspec.Struct, forbid_unknown_fields=True):
    """What the short form may say of a name."""

    in_flight: Count | None = None
    limit: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    drained: bool = False
    healthy: bool = True
    circuit: Circuit = Circuit.CLOSED
    down: bool = False
    latency_ms: Annotated[float, Meta(ge=0)] | None = None


def read_state(path: Path, clusters: Sequence[Cluster]) -> GivenState:
    """The state in a file, for these clusters. Raises BadState."""
    try:
        content = _read(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise BadState(f"{path}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    except (ValueError, yaml.YAMLError, RecursionError) as exc:
        raise BadState(f"{path}: is neither JSON nor YAML: {str(exc).splitlines()[0]}") from exc
    if not isinstance(content, dict):
        raise BadState(f"{path}: must be what /api/v1/fleet printed, or names with what is so of them")
    try:
        return _from_page(content) if "tiers" in content else _from_names(content, clusters)
    except msgspec.ValidationError as exc:
        raise BadState(f"{path}: {exc}") from exc
    except BadState as exc:
        raise BadState(f"{path}: {exc}") from exc
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise BadState(f"{path}: is no whole page of /api/v1/fleet: {exc!r}") from exc


def _read(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return yaml.safe_load(text)  # it would read JSON too, and take long


# --- the page of a gateway ---------------------------------------------------------------------------------


def _from_page(page: Mapping[str, Any]) -> GivenState:
    clusters = [cluster for tier in page["tiers"] for cluster in tier["clusters"]]
    return GivenState(
        {c["name"]: ClusterTold(c["drained"] is True, c["down"] is True) for c in clusters},
        {b["id"]: _backend_of(b) for c in clusters for b in c["backends"]},
    )


def _backend_of(told: Mapping[str, Any]) -> BackendTold:
    circuit, health = told["circuit"], told["health"] or {}
    failing = [
        health[kind] for kind in ("probe", "synthetic") if (health.get(kind) or {}).get("state") == "down"
    ]
    return BackendTold(
        in_flight=msgspec.convert(told["in_flight"], Count),
        limit=msgspec.convert(told["limit"], Count),
        is_drained=told["drained"] is True,
        drains_itself=bool((health.get("advice") or {}).get("drained")),
        fails_probes=failing[0]["reason"] if failing else "",
        circuit=Circuit(circuit["state"]),
        trigger=Trigger(circuit["trigger"] or Trigger.TOLD),
        reason=Reason(circuit["reason"] or Reason.RESET),
        latency_s=told["latency_ewma_ms"] / 1000,
    )


# --- the short form ----------------------------------------------------------------------------------------


def _from_names(content: Mapping[Any, Any], clusters: Sequence[Cluster]) -> GivenState:
    """What is said of a backend wins over what is said of its cluster."""
    by_cluster = {cluster.name: cluster for cluster in clusters}
    limits = {backend.id: backend.limit for cluster in clusters for backend in cluster.backends}
    told = GivenState({}, {})
    for name in sorted(content, key=lambda name: name not in by_cluster):
        if name not in by_cluster and name not in limits:
            raise BadState(
                f"{name!r} is no cluster or backend of the configuration{_near(name, [*by_cluster, *limits])}"
            )
        figures, word = _figures(name, content[name])
        members = [b.id for b in by_cluster[name].backends] if name in by_cluster else [name]
        if name in by_cluster:
            told.clusters[name] = ClusterTold(figures.drained, figures.down)
        told.backends.update(_members(members, figures, word, limits, is_cluster=name in by_cluster))
    return told


def _figures(name: str, said: object) -> tuple[Figures, str]:
    if isinstance(said, dict):
        return msgspec.convert(said, Figures), ""
    if said not in WORDS:
        raise BadState(f"{name}: must be one of {', '.join(WORDS)}, or a mapping, not {said!r}")
    word = str(said)
    circuit = {"ejected": Circuit.OPEN, "half_open": Circuit.HALF_OPEN}.get(word, Circuit.CLOSED)
    return Figures(
        drained=word == "drained", healthy=word != "unhealthy", circuit=circuit, down=word == "down"
    ), word


def _members(
    ids: Sequence[str], figures: Figures, word: str, limits: Mapping[str, int], *, is_cluster: bool
) -> Iterator[tuple[str, BackendTold]]:
    for id_ in ids:
        in_flight = limits[id_] if word == "full" else figures.in_flight or 0
        yield (
            id_,
            BackendTold(
                in_flight=in_flight,
                limit=figures.limit,
                is_drained=figures.drained and not is_cluster,
                fails_probes="" if figures.healthy else "as given",
                circuit=figures.circuit,
                latency_s=None if figures.latency_ms is None else figures.latency_ms / 1000,
            ),
        )


def _near(name: object, known: Sequence[str]) -> str:
    near = get_close_matches(str(name), known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(known)}"
