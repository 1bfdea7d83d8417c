"""Reading traces: what is wrong is named with file and row."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from benchmarks.load.traces import Row, TraceError, read_trace

HEADER = "t_seconds,input_tokens,output_tokens\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_text(text)
    return path


def test_rows_are_read_as_they_stand(tmp_path: Path):
    path = written(tmp_path, HEADER + "0,374,44\n0.25,396,109\n")
    assert read_trace(path) == [Row(0.0, 374, 44), Row(0.25, 396, 109)]


def test_columns_are_found_by_name(tmp_path: Path):
    path = written(tmp_path, "output_tokens,source,t_seconds,input_tokens\n44,x,1.5,374\n")
    assert read_trace(path) == [Row(1.5, 374, 44)]


def test_gzip_is_read_too(tmp_path: Path):
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress((HEADER + "0,1,2\n").encode()))
    assert read_trace(path) == [Row(0.0, 1, 2)]


def test_a_slice_begins_at_zero(tmp_path: Path):
    path = written(tmp_path, HEADER + "1,1,1\n2,2,2\n3,3,3\n4,4,4\n")
    assert read_trace(path, first_s=2, last_s=4) == [Row(0.0, 2, 2), Row(1.0, 3, 3)]
    with pytest.raises(TraceError, match=r"trace\.csv: no rows in this slice"):
        read_trace(path, first_s=9)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "row 1: the header has no column t_seconds, input_tokens, output_tokens"),
        ("t_seconds,input_tokens\n", "row 1: the header has no column output_tokens"),
        (HEADER, "no rows"),
        (HEADER + "0,1,1\nsoon,1,1\n", "row 3: t_seconds: 'soon' is not a time of 0 or more"),
        (HEADER + "nan,1,1\n", "row 2: t_seconds: 'nan'"),
        (HEADER + "-1,1,1\n", "row 2: t_seconds: '-1'"),
        (HEADER + "0,1.5,1\n", "row 2: input_tokens: '1.5' is not a whole number of 0 or more"),
        (HEADER + "0,1,-3\n", "row 2: output_tokens: '-3'"),
        (HEADER + "0,1\n", "row 2: 2 cells, which is too few"),
        (HEADER + "0,1,1\n\n5,1,1\n4,1,1\n", "row 5: t_seconds goes back to 4"),
    ],
)
def test_a_mistake_names_file_and_row(tmp_path: Path, text: str, problem: str):
    path = written(tmp_path, text)
    with pytest.raises(TraceError) as raised:
        read_trace(path)
    assert str(raised.value).startswith(str(path))
    assert problem in str(raised.value)


WHOLE = gzip.compress((HEADER + "0,1,2\n" * 99).encode())


@pytest.mark.parametrize("content", [b"not gzip", WHOLE[:-12]], ids=["no gzip", "cut"])
def test_what_is_not_whole_gzip_is_told_so(tmp_path: Path, content: bytes):
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=r"trace\.csv\.gz: can't be read"):
        read_trace(path)


def test_a_missing_file_is_told_so(tmp_path: Path):
    with pytest.raises(TraceError, match="can't be read"):
        read_trace(tmp_path / "none.csv")
