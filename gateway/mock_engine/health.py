"""What the mock engine's health paths answer: 200 without a word, unless it is told otherwise."""

from dataclasses import dataclass
from typing import Any

from gateway.mock_engine.faults import FaultError


@dataclass(frozen=True, slots=True)
class HealthAnswer:
    """The answer of every health path. With `hang` there is none."""

    status: int = 200
    body: str = ""
    hang: bool = False


_TYPES: dict[str, type] = {"status": int, "body": str, "hang": bool}


def parse_health(settings: Any) -> HealthAnswer:
    """A HealthAnswer from decoded JSON; what is not named has its default. Raises FaultError."""
    if not isinstance(settings, dict):
        raise FaultError("health: must be an object")
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in _TYPES:
            raise FaultError(f"health.{key}: unknown key; known are {', '.join(sorted(_TYPES))}")
        if type(value) is not _TYPES[key]:
            raise FaultError(f"health.{key}: not {value!r}")
        values[key] = value
    answer = HealthAnswer(**values)
    if not 200 <= answer.status <= 599:
        raise FaultError(f"health.status: not {answer.status}")
    return answer


class Silence:
    """An exchange that is never answered."""

    def start(self) -> None:
        """Says nothing."""

    def on_writable(self) -> None:
        """Has nothing to say."""

    def on_abandoned(self) -> None:
        """Has nothing to end."""
