"""A file that is replaced in all the ways that files are."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from gateway.discovery.backend_file import FileSource
from tests.discovery.telling import following, until

A, B = "http://10.0.0.1:8000", "http://10.0.0.2:8000"


def followed(path: Path) -> FileSource:
    return FileSource(path, look_every_s=0.01, settle_s=0.02)


async def test_a_file_that_is_written_and_one_that_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "backends.yaml"
    path.write_text(f"[{A}]")
    async with following(followed(path)) as told:
        await told.has(A)
        path.write_text(f"- {A}\n- {{url: {B}, limit: 3, weight: 0.5}}\n")
        found = await told.has(A, B)
        assert [(b.limit, b.weight) for b in found.backends] == [(None, 1.0), (3, 0.5)]
        (tmp_path / "new").write_text(f"[{B}]")
        os.replace(tmp_path / "new", path)
        await told.has(B)
        path.write_text("[]")
        await told.has()
        assert told.failures == []
        before = told.confirmations
        await until(lambda: told.confirmations > before)


async def test_a_configmap_swaps_a_link_to_a_directory(tmp_path: Path) -> None:
    for name, url in (("..1", A), ("..2", B)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "backends.yaml").write_text(f"[{url}]")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "backends.yaml").symlink_to("..data/backends.yaml")
    async with following(followed(tmp_path / "backends.yaml")) as told:
        await told.has(A)
        (tmp_path / "..new").symlink_to("..2")
        os.replace(tmp_path / "..new", tmp_path / "..data")
        await told.has(B)


async def test_a_bad_file_names_the_line_and_the_last_good_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "backends.yaml"
    path.write_text(f"[{A}]")
    async with following(followed(path)) as told:
        await told.has(A)
        for text, mistake in (
            (f"- {A}\n- {B[7:]}\n", ":2: [1]: must begin with http:// or https://"),
            ("", ": is empty; write [] where there is no backend"),
            ("backends: []", ":1: must be a list, not a mapping"),
            (f"- {A}\n- {A}/\n", ":2: [1]: is listed twice in the cluster"),
            (f"- {A}\n- {{limit: 3}}\n", ":2: [1].url: is required"),
        ):
            path.write_text(text)
            await told.fails(f"{path}{mistake}")
        path.unlink()
        await told.fails(f"{path} can't be read")
        assert told.urls == [A]
        path.write_text(f"[{B}]")
        await told.has(B)


async def test_a_file_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "backends.yaml"
    path.write_text(f"- {A}\n")
    async with following(FileSource(path, look_every_s=0.01, settle_s=0.1)) as told:
        await told.has(A)
        with path.open("w") as file:
            file.write(f"- {A}\n")
            file.flush()
            await asyncio.sleep(0.03)
            file.write(f"- {B}\n")
        await told.has(A, B)
        assert len(told.answers) == 2, "half of it was never an answer"
