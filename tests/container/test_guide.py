"""What docs/how-to/run-in-a-container.md and config/container.yaml tell is so."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.config import load
from tests.container.conftest import ROOT

GUIDE = (ROOT / "docs/how-to/run-in-a-container.md").read_text()
EXAMPLE = (ROOT / "config/container.yaml").read_text()


def loaded(text: str, folder: Path) -> None:
    (folder / "admin.token").write_text("secret")
    (folder / "spillway.yaml").write_text(text.replace("${REDIS_PASSWORD}", "secret"))
    config = load(folder / "spillway.yaml")
    assert not config.listen.is_loopback


def test_the_configuration_for_pods_loads(tmp_path: Path) -> None:
    (text,) = [block for block in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL) if "listen" in block]
    loaded(text, tmp_path)


def test_the_example_loads_with_its_commented_settings_too(tmp_path: Path) -> None:
    shown = re.sub(r"(?m)^# (admin|state):", r"\1:", EXAMPLE)
    assert shown.count("# ") == EXAMPLE.count("# ") - 2
    loaded(shown, tmp_path)
