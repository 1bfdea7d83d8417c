"""Runs the very steps of a Dockerfile, without a container engine, in places that can run a command."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.container.context import Context
from tests.container.dockerfile import Dockerfile, Instruction, NotUnderstood, Stage, fill_in

# As the official Python images have it.
BASE_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
STEP_TIMEOUT_S = 300.0


class StepFailed(Exception):
    """A RUN that ended with another exit code than 0; its output is the message."""


class Place(Protocol):
    """Where a stage is built."""

    def path(self, inside: str) -> Path:
        """Where the absolute path `inside` is on this machine."""

    def run(
        self, command: str, environment: Mapping[str, str], workdir: str
    ) -> subprocess.CompletedProcess[str]:
        """/bin/sh -c COMMAND, as root."""


@dataclass
class Image:
    """What a stage has become: its place, and what its instructions say about running it."""

    place: Place
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": BASE_PATH})
    workdir: str = "/"
    user: str = "0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    stop_signal: str = "SIGTERM"
    labels: dict[str, str] = field(default_factory=dict)


def build(
    dockerfile: Dockerfile, context: Context, place_of: Callable[[Stage], Place], until: str = ""
) -> Image:
    """Runs every stage, or those up to the one named `until`; the image of the last. Raises StepFailed."""
    images: dict[str, Image] = {}
    for stage in dockerfile.stages:
        image = images[stage.name] = Image(place_of(stage))
        variables: dict[str, str] = {}
        for one in stage.instructions:
            _carry_out(one, image, variables | image.environment, images, context)
            if one.word == "ARG":
                variables |= _arguments(one, dockerfile.arguments)
        if stage.name == until:
            break
    return image


def _arguments(one: Instruction, outer: Mapping[str, str]) -> dict[str, str]:
    """An ARG without a value takes that of the ARG before the first FROM."""
    return {name: value or outer[name] for name, value in one.pairs(outer).items()}


def _carry_out(
    one: Instruction,
    image: Image,
    variables: Mapping[str, str],
    images: Mapping[str, Image],
    context: Context,
) -> None:
    match one.word:
        case "RUN":
            _run(one, image, variables)
        case "COPY" if "from" in one.flags:
            _copy_between(one, images[one.flags["from"]], image)
        case "COPY":
            _copy_in(one, image, context)
        case "ENV":
            image.environment |= one.pairs(variables)
        case "LABEL":
            image.labels |= one.pairs(variables)
        case "WORKDIR":
            image.workdir = fill_in(one.value, variables)
            image.place.path(image.workdir).mkdir(parents=True, exist_ok=True)
        case "USER":
            image.user = one.value
        case "ENTRYPOINT":
            image.entrypoint = one.arguments
        case "CMD":
            image.command = one.arguments
        case "HEALTHCHECK":
            image.healthcheck = one.arguments
        case "STOPSIGNAL":
            image.stop_signal = one.value
        case "EXPOSE" | "ARG":
            pass
        case word:
            raise NotUnderstood(f"line {one.line}: {word}")


def _run(one: Instruction, image: Image, variables: Mapping[str, str]) -> None:
    if image.user != "0" or one.is_exec_form:
        raise NotUnderstood(f"line {one.line}: only RUN in shell form, as root")
    ended = image.place.run(one.value, variables, image.workdir)
    if ended.returncode != 0:
        raise StepFailed(f"line {one.line}: exit code {ended.returncode}\n{ended.stdout}{ended.stderr}")


def _copy_in(one: Instruction, image: Image, context: Context) -> None:
    *sources, target = one.value.split()
    inside = Path(image.workdir) / target
    if not target.endswith("/") and (len(sources) > 1 or not (context.folder / sources[0]).is_dir()):
        raise NotUnderstood(f"line {one.line}: COPY of files into a folder needs a / at the end")
    for source in sources:
        files = list(context.files(source))
        if not files:
            raise StepFailed(f"line {one.line}: {source} is not in the build context")
        # The contents of a folder, but a file under its own name.
        top = Path(source) if (context.folder / source).is_dir() else Path(source).parent
        for file in files:
            copied = image.place.path(str(inside / file.relative_to(top)))
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(context.folder / file, copied)


def _copy_between(one: Instruction, origin: Image, image: Image) -> None:
    source, target = one.value.split()
    shutil.copytree(origin.place.path(source), image.place.path(target), symlinks=True, dirs_exist_ok=True)
