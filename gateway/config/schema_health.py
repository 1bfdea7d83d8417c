"""The settings of probes and engine metrics."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from gateway.config.sections import MIN_INTERVAL_S, Section, duration, kind


class SyntheticConfig(Section, frozen=True, kw_only=True):
    """Completions of one token through the real path: they fail on a hung engine whose health is green."""

    path: Annotated[
        Literal["/v1/completions", "/v1/chat/completions"],
        Meta(description="Which of the two shapes of request is sent."),
    ] = "/v1/completions"
    model: Annotated[
        str | None,
        kind(
            "model_name",
            "The backends' name of the model; default: the first plain name in `models`, else the first that "
            "the backend lists under `/v1/models`.",
        ),
    ] = None
    interval_s: Annotated[
        float,
        duration(
            "Between two of them, ± 10 %; one is left out while the backend has no free slot.",
            ge=MIN_INTERVAL_S,
        ),
    ] = field(default=30.0, name="interval")
    timeout_s: Annotated[float, duration("For the whole answer; never longer than `interval`.")] = field(
        default=10.0, name="timeout"
    )


class HealthConfig(Section, frozen=True, kw_only=True):
    """Probes: what fails them gets no new work. Without this section nobody asks."""

    path: Annotated[
        str, kind("plain_path", "What is asked with GET, behind the path of the backend's URL; 2xx passes.")
    ] = "/health"
    tcp: Annotated[bool, Meta(description="Only open a connection; ask nothing.")] = False
    interval_s: Annotated[float, duration("Between two probes of a backend, ± 10 %.", ge=MIN_INTERVAL_S)] = (
        field(default=2.0, name="interval")
    )
    timeout_s: Annotated[
        float, duration("For the whole probe, connecting included; never longer than `interval`.")
    ] = field(default=1.0, name="timeout")
    rise: Annotated[
        int, Meta(ge=1, le=1000, description="Passed probes in a row that bring a backend back.")
    ] = 2
    fall: Annotated[
        int, Meta(ge=1, le=1000, description="Failed probes in a row that take a backend out.")
    ] = 3
    agent: Annotated[
        bool,
        Meta(
            description="Obey the words `drain`, `maint`, `ready`, `down`, `up`, `75%` and `maxconn:30` in "
            "the first line of a passed probe's body."
        ),
    ] = True
    synthetic: SyntheticConfig | None = None


class EngineMetricsConfig(Section, frozen=True, kw_only=True):
    """The engines' own metrics: requests running and waiting there, whoever sent them. Only for balancing."""

    path: Annotated[
        str,
        kind("plain_path", "Behind the path of the backend's URL; `trtllm-serve` has `/prometheus/metrics`."),
    ] = "/metrics"
    port: (
        Annotated[int, Meta(ge=1, le=65535, description="Default: the backend's own; Triton has 8002.")]
        | None
    ) = None
    interval_s: Annotated[
        float, duration("Between two readings of a backend, ± 10 %.", ge=MIN_INTERVAL_S)
    ] = field(default=2.0, name="interval")
    timeout_s: Annotated[float, duration("For one reading; never longer than `interval`.")] = field(
        default=1.0, name="timeout"
    )
    stale_after_s: Annotated[float, duration("The age from which on a reading counts for nothing.")] = field(
        default=10.0, name="stale_after"
    )
