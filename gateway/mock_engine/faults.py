"""Faults the mock engine can be told to have: parsed once into frozen settings, drawn once per request.

| kind | what the client sees | own keys |
|---|---|---|
| refuse | nobody listens; open connections are reset | for_s (default: until cleared), drop_open (true) |
| reset | TCP reset instead of an answer | |
| error | this status at once, OpenAI error body | status (500), retry_after_s |
| hang_before_head | nothing, for ever | |
| hang_after_head | status and headers at once, then nothing | |
| stall | nothing more after n tokens | after_tokens (1) |
| cut | connection closed after n tokens, without the last chunk | after_tokens (1), rst (false) |
| slow | every duration times `factor` | factor (2) |

All but refuse also take `probability` (0..1, drawn from the seed) and `next` (only the next N requests).
The first fault in the list that fires decides; `slow` adds to it. A non-streamed answer has no token on the
wire to count: stall and cut strike in the middle of its body.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson


class FaultError(ValueError):
    """A fault setting that means nothing; the message names the key."""


class FaultKind(StrEnum):
    REFUSE = "refuse"
    RESET = "reset"
    ERROR = "error"
    HANG_BEFORE_HEAD = "hang_before_head"
    HANG_AFTER_HEAD = "hang_after_head"
    STALL = "stall"
    CUT = "cut"
    SLOW = "slow"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault's settings. Durations in seconds."""

    kind: FaultKind
    probability: float = 1.0
    next: int | None = None  # only the next N requests that draw it; None: all
    status: int = 500
    retry_after_s: float | None = None
    after_tokens: int = 1
    rst: bool = False
    factor: float = 2.0
    for_s: float | None = None
    drop_open: bool = True

    def settings(self) -> dict[str, Any]:
        """The keys that matter for this kind, as the control endpoint shows them."""
        return {"kind": self.kind, **{key: getattr(self, key) for key in sorted(_KEYS[self.kind])}}


_EVERY = {"probability", "next"}
_KEYS: dict[FaultKind, set[str]] = {
    FaultKind.REFUSE: {"for_s", "drop_open"},
    FaultKind.RESET: _EVERY,
    FaultKind.ERROR: _EVERY | {"status", "retry_after_s"},
    FaultKind.HANG_BEFORE_HEAD: _EVERY,
    FaultKind.HANG_AFTER_HEAD: _EVERY,
    FaultKind.STALL: _EVERY | {"after_tokens"},
    FaultKind.CUT: _EVERY | {"after_tokens", "rst"},
    FaultKind.SLOW: _EVERY | {"factor"},
}


def _number(low: float, high: float) -> Any:
    def accepts(value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high

    return accepts, f"a number from {low:g} to {high:g}"


def _integer(low: int, high: int) -> Any:
    def accepts(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return accepts, f"an integer from {low} to {high}"


_VALUES: dict[str, Any] = {
    "probability": _number(0, 1),
    "next": _integer(1, 1_000_000_000),
    "status": _integer(400, 599),
    "retry_after_s": _number(0, 86_400),
    "after_tokens": _integer(0, 1_000_000_000),
    "rst": (lambda value: isinstance(value, bool), "true or false"),
    "factor": _number(0.001, 1_000_000),
    "for_s": _number(0.001, 86_400),
    "drop_open": (lambda value: isinstance(value, bool), "true or false"),
}
_NULLABLE = {"next", "retry_after_s", "for_s"}


def parse_fault(settings: object, where: str = "fault") -> Fault:
    """One fault from decoded JSON, such as ``{"kind": "error", "status": 503}``. Raises FaultError."""
    if not isinstance(settings, Mapping):
        raise FaultError(f"{where}: must be an object")
    kinds = ", ".join(FaultKind)
    if "kind" not in settings:
        raise FaultError(f"{where}.kind: missing; one of {kinds}")
    if settings["kind"] not in list(FaultKind):
        raise FaultError(f"{where}.kind: unknown kind {settings['kind']!r}; one of {kinds}")
    kind = FaultKind(settings["kind"])
    values = {key: value for key, value in settings.items() if key != "kind"}
    for key, value in values.items():
        if key not in _KEYS[kind]:
            known = ", ".join(sorted(_KEYS[kind]))
            raise FaultError(f"{where}.{key}: unknown key for {kind}; known are {known}")
        accepts, expected = _VALUES[key]
        if not (accepts(value) or (value is None and key in _NULLABLE)):
            raise FaultError(f"{where}.{key}: must be {expected}")
    return Fault(kind, **values)


def parse_faults(document: object) -> tuple[Fault, ...]:
    """The control endpoint's body, ``{"faults": [...]}``, decoded. Raises FaultError."""
    if not isinstance(document, Mapping):
        raise FaultError('the body must be an object such as {"faults": []}')
    for key in document:
        if key != "faults":
            raise FaultError(f"{key}: unknown key; known is faults")
    faults = document.get("faults")
    if not isinstance(faults, list):
        raise FaultError("faults: must be a list")
    return tuple(parse_fault(fault, f"faults[{index}]") for index, fault in enumerate(faults))


def parse_flag(text: str) -> Fault:
    """A command line's ``error,status=503,retry_after_s=2``. Raises FaultError."""
    kind, *pairs = text.split(",")
    settings: dict[str, Any] = {"kind": kind}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            settings[key] = orjson.loads(value)
        except orjson.JSONDecodeError as exc:
            raise FaultError(f"{key}: {value!r} is neither a number nor true or false") from exc
    return parse_fault(settings)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What one request has to suffer."""

    fault: Fault | None = None
    slow_factor: float = 1.0


UNHARMED = Drawn()


class Faults:
    """The faults now in force and how often each has fired. The same seed gives the same draws."""

    def __init__(self, seed: int, faults: Iterable[Fault] = ()) -> None:
        self._seed = seed
        self.replace(faults)

    def replace(self, faults: Iterable[Fault]) -> None:
        """Put these in force instead; counters and the random sequence start anew."""
        self.settings = tuple(faults)
        self._fired = [0] * len(self.settings)
        self._random = random.Random(self._seed)
        self._drawable = any(fault.kind is not FaultKind.REFUSE for fault in self.settings)

    @property
    def refuse(self) -> Fault | None:
        """The refuse fault in force, if any."""
        return next((fault for fault in self.settings if fault.kind is FaultKind.REFUSE), None)

    def lift_refuse(self) -> None:
        """End a refuse fault; the others and their counts stay."""
        kept = [
            (fault, fired)
            for fault, fired in zip(self.settings, self._fired, strict=True)
            if fault.kind is not FaultKind.REFUSE
        ]
        self.settings = tuple(fault for fault, _ in kept)
        self._fired = [fired for _, fired in kept]

    def draw(self) -> Drawn:
        """Decide what the next request suffers."""
        if not self._drawable:
            return UNHARMED
        chosen: Fault | None = None
        slow_factor = 1.0
        for index, fault in enumerate(self.settings):
            is_slow = fault.kind is FaultKind.SLOW
            if (chosen is not None and not is_slow) or not self._fires(index, fault):
                continue
            if is_slow:
                slow_factor *= fault.factor
            else:
                chosen = fault
        return Drawn(chosen, slow_factor)

    def _fires(self, index: int, fault: Fault) -> bool:
        if fault.kind is FaultKind.REFUSE or (fault.next is not None and self._fired[index] >= fault.next):
            return False
        if fault.probability < 1.0 and self._random.random() >= fault.probability:
            return False
        self._fired[index] += 1
        return True

    def report(self) -> dict[str, Any]:
        """The control endpoint's view: settings and how often each fired."""
        return {
            "faults": [
                {**fault.settings(), "fired": fired}
                for fault, fired in zip(self.settings, self._fired, strict=True)
            ]
        }
