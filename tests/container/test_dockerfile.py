"""What a careful reader of a Dockerfile looks for; that its steps work is seen in test_image.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.container.conftest import ROOT
from tests.container.context import Context
from tests.container.dockerfile import Dockerfile, NotUnderstood, parse
from tests.container.test_lock import PROJECT

LABELS = ("title", "description", "version", "revision", "licenses", "base.name")
SECRET_NAMES = re.compile(r"token|secret|passw|credential|api_?key|index_url", re.IGNORECASE)


def test_all_stages_stand_on_one_pinned_base(dockerfile: Dockerfile) -> None:
    (base,) = {stage.base for stage in dockerfile.stages}
    # Python's minor version and Debian's release: what a digest is looked up by.
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+", base)
    assert list(dockerfile.arguments) == ["PYTHON_IMAGE"]


def test_the_final_stage_runs_as_a_number_that_is_not_root(dockerfile: Dockerfile) -> None:
    user, _, group = dockerfile.final.last("USER").value.partition(":")
    assert int(user) > 0
    assert int(group) > 0
    later = dockerfile.final.instructions[
        dockerfile.final.instructions.index(dockerfile.final.last("USER")) :
    ]
    assert not {"RUN", "COPY"} & {one.word for one in later}


@pytest.mark.parametrize("word", ["ENTRYPOINT", "CMD", "HEALTHCHECK"])
def test_nothing_that_runs_needs_a_shell(dockerfile: Dockerfile, word: str) -> None:
    one = dockerfile.final.last(word)
    assert one.is_exec_form
    assert not {"sh", "/bin/sh", "bash", "curl", "wget"} & set(one.arguments)


def test_it_is_stopped_by_the_signal_that_drains(dockerfile: Dockerfile) -> None:
    assert dockerfile.final.last("STOPSIGNAL").value == "SIGTERM"


def test_folders_are_absolute(dockerfile: Dockerfile) -> None:
    for stage in dockerfile.stages:
        assert all(one.value.startswith("/") for one in stage.all("WORKDIR"))


def test_no_secret_comes_in(dockerfile: Dockerfile) -> None:
    for stage in dockerfile.stages:
        for one in stage.all("ARG") + stage.all("ENV"):
            assert not SECRET_NAMES.search(one.value), one
    assert not any("://" in one.value for stage in dockerfile.stages for one in stage.instructions)


def test_packages_come_from_the_locks_only(dockerfile: Dockerfile) -> None:
    runs = [
        command
        for stage in dockerfile.stages
        for one in stage.all("RUN")
        for command in one.value.split("&&")
    ]
    installs = [command for command in runs if "pip" in command and " install " in command]
    assert installs
    for command in installs:
        assert "--require-hashes" in command or "--no-index" in command, command
    assert all("--no-build-isolation" in command for command in runs if "pip wheel" in command)
    assert not any("apt" in command for command in runs)


def test_labels_tell_what_it_is(dockerfile: Dockerfile) -> None:
    project = PROJECT["project"]
    known = {"REVISION": "abc", "PYTHON_IMAGE": "python:x"}
    labels = dockerfile.final.last("LABEL").pairs(known)
    assert set(labels) == {f"org.opencontainers.image.{name}" for name in LABELS}
    assert labels["org.opencontainers.image.version"] == project["version"]
    assert labels["org.opencontainers.image.licenses"] == project["license"]


def test_what_is_copied_is_sent_and_little_else(dockerfile: Dockerfile) -> None:
    context = Context(ROOT)
    copies = [one for stage in dockerfile.stages for one in stage.all("COPY") if "from" not in one.flags]
    for one in copies:
        for source in one.value.split()[:-1]:
            assert list(context.files(source)), source
    refused = (
        ".git/config",
        ".env",
        "config/admin.token",
        "tests/conftest.py",
        "gateway/__pycache__/cli.pyc",
    )
    assert all(context.is_ignored(Path(path)) for path in refused)


@pytest.mark.parametrize(
    "text",
    [
        "FROM a AS b\nADD http://x /y",
        "FROM a AS b\nCOPY --chown=1 x /y",
        "RUN true\nFROM a AS b",
        "FROM a AS b\nRUN true \\",
        "FROM ${UNKNOWN} AS b",
        "# syntax=docker/dockerfile:1\nFROM a AS b",
    ],
)
def test_the_reader_passes_nothing_over(text: str) -> None:
    with pytest.raises(NotUnderstood):
        parse(text)
