"""Traces: what is read, and what is said of each mistake."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from threading import Thread

import pytest

from gateway.sim.arrivals import Arrival, TraceError, read_trace

HEADER = "t_seconds,input_tokens,output_tokens\n"


def written(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_trace_is_read_with_and_without_gzip(tmp_path):
    text = HEADER + "0.0,374,44\n4.3146,396,109\n"
    expected = [Arrival(0.0, 374, 44), Arrival(4.3146, 396, 109)]
    assert read_trace(written(tmp_path, text)) == expected
    assert read_trace(written(tmp_path, gzip.compress(text.encode()), "no-suffix")) == expected


def test_more_columns_in_any_order_and_a_byte_order_mark(tmp_path):
    header = "\ufeffmodel,output_tokens,t_seconds,input_tokens,tenant,residency\n"
    text = header + "llama,5,1,2,team-a,eu\n,5,2,2,,\n\n"
    assert read_trace(written(tmp_path, text)) == [
        Arrival(1.0, 2, 5, "llama", "team-a", "eu"),
        Arrival(2.0, 2, 5),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ": is empty; the first row must be t_seconds"),
        (HEADER, ": has no rows below its header"),
        ("t,input_tokens,output_tokens\n1,2,3\n", ":1: the header lacks the column t_seconds"),
        ("t_seconds,input_tokens,output_tokens,colour\n", ":1: the header has an unknown column 'colour'"),
        ("t_seconds,t_seconds,input_tokens,output_tokens\n", ":1: the header names a column twice"),
        (HEADER + "0,1,1\n1,2\n", ":3: has 2 values for 3 columns; give each column one"),
        (HEADER + "soon,1,1\n", ":2: t_seconds must be a number, not 'soon'; write seconds"),
        (HEADER + "nan,1,1\n", ":2: t_seconds must be 0 or more, not 'nan'; count from the start"),
        (HEADER + "-1,1,1\n", ":2: t_seconds must be 0 or more, not '-1'"),
        (HEADER + "5,1,1\n4,1,1\n", ":3: t_seconds 4 is before that of the row above (5); sort the rows"),
        (HEADER + "0,-3,1\n", ":2: input_tokens must be from 0 to 10000000, not -3"),
        (HEADER + "0,1,-1\n", ":2: output_tokens must be from 0 to 10000000, not -1"),
        (HEADER + "0,1.5,1\n", ":2: input_tokens must be a whole number, not '1.5'"),
        (HEADER + "0,1_0,1\n", ":2: input_tokens must be a whole number, not '1_0'"),
        (HEADER + "1_0,1,1\n", ":2: t_seconds must be a number, not '1_0'"),
        (HEADER + "inf,1,1\n", ":2: t_seconds must be 0 or more, not 'inf'"),
        (HEADER + f"0,{'9' * 30},1\n", ":2: input_tokens must be from 0 to 10000000, not 999"),
        (HEADER + "0;1;1\n", ":2: has 1 value for 3 columns; give each column one, between commas"),
        (
            HEADER + "1700158546,1,1\n",
            ":2: t_seconds '1700158546' is more than 31 days; count from the start",
        ),
        (HEADER + f"{'x' * 50},1,1\n", f":2: t_seconds must be a number, not '{'x' * 40}...'; write"),
        ("0,374,44\n4,3,2\n", ":1: there is no header above the values; put one there: t_seconds"),
        ("t_seconds;input_tokens\n", ":1: the header lacks the column t_seconds, it has 't_seconds;input_to"),
        (b"PK\x03\x04\x14", ": is not a CSV file; give one, plain or gzip"),
        (b"\0" * 99, ": is not a CSV file; give one, plain or gzip"),
        (HEADER + '0,"1,1\n', ":2: is not valid CSV"),
        (b"\xff\xfe\x00a", ": is not UTF-8 text"),
        (gzip.compress(b"t_seconds", mtime=0)[:-4], ": is damaged or cut off gzip data"),
    ],
)
def test_a_mistake_is_one_line_with_file_row_and_fix(tmp_path, text, said):
    with pytest.raises(TraceError) as raised:
        read_trace(written(tmp_path, text))
    message = str(raised.value)
    assert message.startswith(f"{tmp_path}/t.csv{said}")
    assert "\n" not in message
    assert ";" in message


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(TraceError, match="does not exist"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(TraceError, match="is a directory; name the file in it"):
        read_trace(tmp_path)


def test_lines_may_end_as_on_windows_and_values_have_spaces(tmp_path):
    text = HEADER.replace("\n", "\r\n") + " 0.5 , 3 , 4 \r\n\r\n1e1,5,6\r\n"
    assert read_trace(written(tmp_path, text)) == [Arrival(0.5, 3, 4), Arrival(10.0, 5, 6)]


def test_a_trace_may_come_through_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = Thread(target=pipe.write_bytes, args=(gzip.compress(f"{HEADER}0,1,1\n".encode()),))
    writer.start()
    assert read_trace(pipe) == [Arrival(0.0, 1, 1)]
    writer.join()
