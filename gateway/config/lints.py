"""What a configuration means and its author may not: settings that are right each, and wrong together.

A lint is a plain function from a Config to findings, each with its place, the reason in numbers, and a fix.
LINTS is the one table of them; docs/how-to/check-a-configuration.md lists the same names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from gateway.config.fleet import clusters_of
from gateway.config.schema import DEFAULT_DRAIN_S, DEFAULT_TIERS, ClusterConfig, Config, TimeoutsConfig
from gateway.config.schema_keys import ClientKeyConfig
from gateway.config.units import AT_P95, format_duration
from gateway.core.constraints import match_cluster, match_model
from gateway.core.model import Cluster

# vLLM's default of max_num_seqs on a GPU of 80 GB: above it the engine queues instead of batching.
MAX_BATCHED = 256
# A prompt of 126 k tokens is about 500 KiB; an A100-80 reads 1,000 tokens in 75 ms (0.075 ms each).
LONG_PROMPT_TOKENS, LONG_PROMPT_BYTES, PREFILL_S_PER_TOKEN = 126_000, 500 * 1024, 0.000_075
SPOT = "spot"


class Level(StrEnum):
    """A warning is most likely a mistake; a note is a choice with a price. `--strict` fails for warnings."""

    WARNING = "warning"
    NOTE = "note"


class Finding(NamedTuple):
    """`setting` is where it stands in the file, such as `clusters[0].limit`."""

    lint: str
    level: Level
    setting: str
    message: str
    fix: str


class Found(NamedTuple):
    """What a lint says, before its name is put to it."""

    setting: str
    message: str
    fix: str
    level: Level = Level.WARNING


Lint = Callable[[Config], Iterator[Found]]


def findings_of(config: Config) -> list[Finding]:
    """All lints, in the order of the table."""
    return [
        Finding(name, found.level, found.setting, found.message, found.fix)
        for name, lint in LINTS.items()
        for found in lint(config)
    ]


# --- tiers and models --------------------------------------------------------------------------------------


def unreachable_tier(config: Config) -> Iterator[Found]:
    """A tier that was named and has no cluster. The default names three and means nothing by it."""
    used = {_tier(config, cluster) for cluster in config.clusters}
    if config.tiers == DEFAULT_TIERS:
        return
    for at, tier in enumerate(config.tiers):
        if tier not in used:
            yield Found(
                f"tiers[{at}]",
                f"the tier {tier} can never be reached: no cluster is in it",
                f"give a cluster `tier: {tier}`, or take it off the list",
            )


def single_cluster(config: Config) -> Iterator[Found]:
    """A model with nowhere to spill to, or without even a second backend."""
    by_rule = _by_rule(config)
    for rule, serving in by_rule.items():
        if len(serving) > 1:
            continue
        ((at, cluster),) = serving.items()
        slots = sum(backend.limit for backend in cluster.backends)
        what = _what(rule, by_rule)
        if not cluster.backends:
            message = f"{what} is served by this cluster only: there is nowhere to spill to"
        elif len(cluster.backends) == 1:
            message = (
                f"{what} has one backend in all: request {slots + 1} at a time is refused, and when it "
                f"fails nobody can try again (retry.attempts: {config.retry.attempts} has no effect)"
            )
        else:
            message = (
                f"{what} is served by this cluster only: request {slots + 1} at a time is refused, for there "
                "is nowhere to spill to"
            )
        yield Found(f"clusters[{at}]", message, "let a cluster of a lower tier serve it too", Level.NOTE)


def only_spot(config: Config) -> Iterator[Found]:
    """All of a model's capacity may be taken away at once."""
    by_rule = _by_rule(config)
    for rule, serving in by_rule.items():
        if all(cluster.tier == SPOT for cluster in serving.values()):
            slots = sum(backend.limit for cluster in serving.values() for backend in cluster.backends)
            what = _what(rule, by_rule)
            yield Found(
                f"clusters[{next(iter(serving))}].tier",
                f"all {slots or 'the'} slots for {what} are in the tier {SPOT}: one preemption, announced 30 "
                "to 120 s ahead, can take all of them",
                "add a cluster in another tier that serves it",
            )


def residency_without_cluster(config: Config) -> Iterator[Found]:
    """A key that may ask for a model and may not be answered: whoever serves it is elsewhere."""
    by_rule = _by_rule(config)
    for at, key in enumerate(config.keys):
        residency = frozenset(key.residency) or None
        lost = [
            (rule, serving)
            for rule, serving in _allowed_to(key, by_rule, clusters_of(config)).items()
            if serving and not any(match_cluster(c, rule, residency) for c in serving)
        ]
        if not lost:
            continue
        whats = ", ".join(_what(rule, by_rule) for rule, _ in lost)
        clusters = ", ".join(sorted({cluster.name for _, serving in lost for cluster in serving}))
        yield Found(
            f"keys[{at}].residency",
            f"{key.name} is kept to {', '.join(key.residency)} and may ask for {whats}, which only clusters "
            f"elsewhere serve ({clusters}): each such request gets 503 residency_unavailable",
            f"give one of them `residency: [{key.residency[0]}]` if it is there, add a cluster that is, or "
            "list under `models` what the key may have",
        )


def idle_weight(config: Config) -> Iterator[Found]:
    """A weight that nothing reads."""
    members = defaultdict(list)
    for at, cluster in enumerate(config.clusters):
        members[_tier(config, cluster)].append((at, cluster))
    for tier, clusters in members.items():
        for at, cluster in clusters:
            if cluster.weight == 1.0:
                continue
            why = f"it is alone in the tier {tier}" if len(clusters) == 1 else ""
            if config.cluster_policy != "weight":
                why = f"cluster_policy is {config.cluster_policy}"
            if why:
                yield Found(
                    f"clusters[{at}].weight", f"{cluster.weight:g} has no effect: {why}", "remove the weight"
                )


# --- limits ------------------------------------------------------------------------------------------------


def limit_above_batch(config: Config) -> Iterator[Found]:
    """More in flight than engines batch: the rest waits inside the engine, where nobody can spill it."""
    for at, cluster in enumerate(config.clusters):
        places = [
            (f"clusters[{at}].backends[{number}].limit", backend.limit)
            for number, backend in enumerate(cluster.backends)
            if backend.limit is not None
        ]
        is_used = not cluster.backends or any(backend.limit is None for backend in cluster.backends)
        if cluster.limit is not None and is_used:
            places.append((f"clusters[{at}].limit", cluster.limit))
        for setting, limit in places:
            if limit > MAX_BATCHED:
                yield Found(
                    setting,
                    f"{limit} is more than an engine batches by default ({MAX_BATCHED} on 80 GB GPUs, 64 on "
                    f"an L4): {limit - MAX_BATCHED} would wait inside the engine, whoever else has room",
                    f"at most {MAX_BATCHED}, or the engine's own max_num_seqs",
                )


def listed_twice(config: Config) -> Iterator[Found]:
    """One endpoint in two clusters has two limits, and two circuits."""
    seen: dict[tuple[str, str], tuple[str, int]] = {}
    for at, (cluster, built) in enumerate(zip(config.clusters, clusters_of(config), strict=True)):
        for number, (backend, known) in enumerate(zip(cluster.backends, built.backends, strict=True)):
            place = (backend.url.authority.lower(), backend.url.prefix)
            if place in seen:
                other, limit = seen[place]
                yield Found(
                    f"clusters[{at}].backends[{number}]",
                    f"is in {other} too: it may get {limit} + {known.limit} = {limit + known.limit} requests "
                    "at a time",
                    "list it once, or share its limit out between the two",
                )
            else:
                seen[place] = (cluster.name, known.limit)


# --- time --------------------------------------------------------------------------------------------------


def first_byte_below_prefill(config: Config) -> Iterator[Found]:
    """A long prompt would be taken for a hang, and be read again elsewhere."""
    times = config.timeouts
    allowed_s = times.first_byte_for_s(LONG_PROMPT_BYTES)
    needed_s = LONG_PROMPT_TOKENS * PREFILL_S_PER_TOKEN
    if allowed_s < needed_s:
        kib = LONG_PROMPT_BYTES // 1024
        missing_s = (needed_s - times.first_byte_s) / kib
        yield Found(
            "timeouts.first_byte",
            f"a prompt of {LONG_PROMPT_TOKENS // 1000} k tokens ({kib} KiB) takes an idle A100 "
            f"{needed_s:.1f} s to read, and may take {allowed_s:.1f} s ({_shown(times.first_byte_s)} + "
            f"{kib} x {_shown(times.first_byte_per_kib_s)})",
            f"first_byte_per_kib: {max(missing_s * 2000, 1):.0f}ms leaves time for it, and as much again",
        )


def attempts_beyond_total(config: Config) -> Iterator[Found]:
    """Attempts that the deadline leaves no time for."""
    times, attempts = config.timeouts, config.retry.attempts
    each_s = times.connect_s + times.first_byte_s
    if attempts > 1 and attempts * each_s > times.total_s:
        yield Found(
            "retry.attempts",
            f"{attempts} attempts may take {_shown(attempts * each_s)} to fail ({attempts} x (connect "
            f"{_shown(times.connect_s)} + first_byte {_shown(times.first_byte_s)})), and timeouts.total is "
            f"{_shown(times.total_s)}: the last would be cut",
            f"attempts: {max(int(times.total_s / each_s), 1)}, a shorter first_byte, or a longer total",
        )


def stage_beyond_total(config: Config) -> Iterator[Found]:
    """A stage that is longer than the whole never ends anything."""
    times = config.timeouts
    for key, stage_s in (("first_byte", times.first_byte_s), ("stall", times.stall_s)):
        if stage_s >= times.total_s:
            yield Found(
                f"timeouts.{key}",
                f"{_shown(stage_s)} can never pass: timeouts.total ends all after {_shown(times.total_s)}",
                "make it shorter than total: a backend that hangs is then left for another",
            )


def hold_beyond_patience(config: Config) -> Iterator[Found]:
    """`first_byte` tells what a client bears until its first token; a wait for a slot comes on top."""
    hold_s, first_byte_s = config.hold.max_wait_s, config.timeouts.first_byte_s
    if hold_s > first_byte_s:
        yield Found(
            "hold.max_wait",
            f"a request may wait {_shown(hold_s)} for a slot, and then timeouts.first_byte, "
            f"{_shown(first_byte_s)}, for its first byte: {_shown(hold_s + first_byte_s)} in all, more "
            "than twice what it may be where there is room; clients may well have left",
            "hold for a second or less: what would wait longer is better spilled",
        )


def drain_below_total(config: Config) -> Iterator[Found]:
    """Streams that a shutdown cuts. Silent where both are defaults: nobody has said how long streams are."""
    drain_s, total_s = config.drain_timeout_s, config.timeouts.total_s
    is_default = (drain_s, total_s) == (DEFAULT_DRAIN_S, TimeoutsConfig().total_s)
    if drain_s < total_s and not is_default:
        yield Found(
            "drain_timeout",
            f"a shutdown waits {_shown(drain_s)}, and a stream may last {_shown(total_s)} (timeouts.total)",
            f"drain_timeout: {_shown(total_s)}, or a total as long as your longest answer",
        )


def late_hedge(config: Config) -> Iterator[Found]:
    """A second attempt that begins when the first is given up already."""
    hedge, first_byte_s = config.hedge, config.timeouts.first_byte_s
    if hedge is not None and hedge.after_s != AT_P95 and hedge.after_s >= first_byte_s:
        yield Found(
            "hedge.after",
            f"{_shown(hedge.after_s)} never comes for a short prompt: the first attempt is given up after "
            f"{_shown(first_byte_s)} (timeouts.first_byte)",
            "make it shorter, or p95",
        )


LINTS: dict[str, Lint] = {
    "unreachable-tier": unreachable_tier,
    "single-cluster": single_cluster,
    "only-spot": only_spot,
    "residency-without-cluster": residency_without_cluster,
    "idle-weight": idle_weight,
    "limit-above-batch": limit_above_batch,
    "listed-twice": listed_twice,
    "first-byte-below-prefill": first_byte_below_prefill,
    "attempts-beyond-total": attempts_beyond_total,
    "stage-beyond-total": stage_beyond_total,
    "hold-beyond-patience": hold_beyond_patience,
    "drain-below-total": drain_below_total,
    "late-hedge": late_hedge,
}


def _tier(config: Config, cluster: ClusterConfig) -> str:
    return cluster.tier or config.tiers[0]


def _by_rule(config: Config) -> Mapping[str | None, dict[int, Cluster]]:
    """For every model or pattern that is named, None for any other model: who serves it, by its place."""
    clusters = clusters_of(config)
    rules: list[str | None] = list(dict.fromkeys(rule for cluster in clusters for rule in cluster.models))
    if any(not cluster.models for cluster in clusters):
        rules.append(None)
    return {
        rule: {at: c for at, c in enumerate(clusters) if match_model(c.models, rule) is not None}
        for rule in rules
    }


def _allowed_to(
    key: ClientKeyConfig, by_rule: Mapping[str | None, object], clusters: Sequence[Cluster]
) -> Mapping[str | None, list[Cluster]]:
    """Who serves what a key may ask for, in any residency: the models it names, or those of the clusters."""
    allowed = dict.fromkeys(key.models)
    named = [model for model in key.models if "*" not in model]
    asked = dict.fromkeys([*named, *(rule for rule in by_rule if match_model(allowed, rule) is not None)])
    return {rule: [c for c in clusters if match_model(c.models, rule) is not None] for rule in asked}


def _what(rule: str | None, by_rule: Mapping[str | None, object]) -> str:
    if rule is not None:
        return f"the model {rule}"
    return "any other model" if len(by_rule) > 1 else "any model"


def _shown(seconds: float) -> str:
    return format_duration(round(seconds, 3))
