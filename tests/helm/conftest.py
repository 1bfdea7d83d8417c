"""The chart, in Helm's own engine."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helm.release import CHART, EXAMPLES, SMALLEST, Release

HAS_ENGINE = (sys.platform, platform.machine()) == ("linux", "x86_64")

Render = Callable[[Any], Release]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Elsewhere there is no engine to ask; here, where the test extra brings it, it must be there."""
    if HAS_ENGINE:
        return
    no_engine = pytest.mark.skip(reason="helm-python-sdk has wheels for Linux on x86-64 only")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(no_engine)


@pytest.fixture(scope="session")
def render() -> Render:
    """Renders as `helm install spillway --namespace inference`. Raises HelmError."""
    from helm_python import Chart

    chart = Chart.load(CHART)
    return lambda values: Release(chart.render(values, name="spillway", namespace="inference"))


def read_values(path: Path) -> Any:
    """A values file as Helm reads it."""
    from helm_python import values_from_yaml

    return values_from_yaml(path.read_text())


@pytest.fixture(scope="module", params=EXAMPLES, ids=lambda path: path.stem)
def example(request: pytest.FixtureRequest, render: Render) -> Release:
    return render(read_values(request.param))


@pytest.fixture(scope="module", params=[None, *EXAMPLES], ids=lambda path: path.stem if path else "defaults")
def release(request: pytest.FixtureRequest, render: Render) -> Release:
    """Each example, and the defaults."""
    return render(read_values(request.param) if request.param else SMALLEST)
