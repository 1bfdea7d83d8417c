"""One target under atheris: `python -m tests.fuzz.by_coverage TARGET [libFuzzer's arguments]`."""

from __future__ import annotations

import sys

import atheris

# What is under test, and nothing of the test itself: its branches would look like new code.
with atheris.instrument_imports(include=["gateway", "yaml"]):
    import gateway.app
    import gateway.config.document
    import gateway.config.reading  # noqa: F401

from tests.fuzz.targets import open_target
from tests.fuzz.trying import Trial


def main() -> None:
    name = sys.argv.pop(1)
    with open_target(name) as target:
        trial = Trial(name, target)
        atheris.Setup(sys.argv, lambda data: trial(bytes(data)))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
