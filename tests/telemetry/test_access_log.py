"""One line per request, whatever is in it, and no waiting for whoever reads it."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.model import Outcome, Reason, Verdict
from gateway.ports import Hedged, Held, RequestRecord
from gateway.telemetry.access_log import MAX_REMEMBERED_KINDS, AccessLog, open_access_log
from gateway.telemetry.line_writer import LineWriter
from gateway.telemetry.log_fields import FIELDS

Record = Callable[..., RequestRecord]
NOON_S = 1_700_000_000.5


class Lines:
    """A writer that keeps the lines."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.dropped = 0

    def write(self, line: bytes) -> None:
        self.written.append(line)


def logged(record: RequestRecord, now_s: float = NOON_S) -> dict[str, Any]:
    lines = Lines()
    AccessLog(lines, lambda: now_s).record(record)  # type: ignore[arg-type]
    (line,) = lines.written
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    content: dict[str, Any] = json.loads(line)
    return content


def test_a_line_tells_the_whole_request(record: Record) -> None:
    assert logged(record()) == {
        "ts": "2023-11-14T22:13:20.500Z",
        "request_id": "req-1",
        "client": "10.0.0.9",
        "method": "POST",
        "path": "/v1/chat/completions",
        "model": "llama-3-8b",
        "route_model": "llama-*",
        "stream": True,
        "status": 200,
        "error_code": None,
        "outcome": "success",
        "reason": "completed",
        "cluster": "here",
        "tier": "primary",
        "backend": "here@10.0.0.1:8000",
        "attempts": 1,
        "hedged": False,
        "preferred_tier": "primary",
        "spill_reason": None,
        "ttft_ms": 40.0,
        "duration_ms": 300.0,
        "overhead_ms": 0.15,
        "queue_ms": 0.0,
        "bytes_in": 700,
        "bytes_out": 500,
    }


def test_the_second_is_formatted_again_when_it_changes(record: Record) -> None:
    now_s = [1.0]
    lines = Lines()
    log = AccessLog(lines, lambda: now_s[0])  # type: ignore[arg-type]
    for now_s[0] in (0.0, 59.9994, 60.0, 59.0):
        log.record(record())
    assert [json.loads(line)["ts"][17:] for line in lines.written] == [
        "00.000Z",
        "59.999Z",
        "00.000Z",
        "59.000Z",
    ]


def test_what_a_client_chooses_is_bounded(record: Record) -> None:
    line = logged(record(path="/" + "p" * 5000, model="m" * 5000, request_id="r" * 5000))
    assert (len(line["path"]), len(line["model"]), len(line["request_id"])) == (256, 128, 128)


def test_a_query_never_reaches_the_log(record: Record) -> None:
    assert logged(record(path="/v1/models?api_key=secret"))["path"] == "/v1/models"


def test_no_line_can_be_forged(record: Record) -> None:
    forged = 'x"}\n{"ts":"now","status":200}\r\n\x00\u2028'
    line = logged(record(model=forged, path="/" + forged, request_id=forged))
    assert line["model"] == forged
    assert line["status"] == 200


def test_bytes_that_are_not_utf8_do_not_raise(record: Record) -> None:
    assert logged(record(model="caf\udce9", path="/\ud800"))["model"] == "caf?"


any_text = st.text(st.characters(codec=None), max_size=300)
times_s = st.floats(0, 1e6)
RECORDS = st.builds(
    RequestRecord,
    request_id=any_text,
    method=any_text,
    path=any_text,
    client=any_text,
    started_s=times_s,
    model=st.none() | any_text,
    route_model=any_text,
    stream=st.booleans(),
    status=st.integers(-1, 99999),
    error_code=st.none() | any_text,
    refused=st.none() | any_text,
    param=st.none() | any_text,
    outcome=st.none() | st.builds(Outcome, st.sampled_from(Verdict), st.sampled_from(Reason)),
    cluster=any_text,
    tier=any_text,
    backend=any_text,
    preferred_tier=any_text,
    spill_reason=st.none() | any_text,
    attempts=st.integers(0, 10),
    ttft_s=st.none() | times_s,
    duration_s=times_s,
    overhead_s=times_s,
    bytes_in=st.integers(0, 2**62),
    bytes_out=st.integers(0, 2**62),
)


def test_a_request_that_waited_says_how_long(record: Record) -> None:
    assert logged(record(held=Held("primary", 0.1234567, "spilled")))["queue_ms"] == 123.456


def test_a_refused_request_says_what_was_wrong(record: Record) -> None:
    line = logged(record(refused="invalid", param="model"))
    assert (line["refused"], line["param"]) == ("invalid", "model")


def test_a_hedged_request_says_so(record: Record) -> None:
    line = logged(record(attempts=2, hedge=Hedged("there", "lost")))
    assert (line["attempts"], line["hedged"]) == (2, True)


@settings(max_examples=80, deadline=None)
@given(RECORDS, st.floats(0, 4e9))
def test_any_record_becomes_one_line_of_json(any_record: RequestRecord, now_s: float) -> None:
    line = logged(any_record, now_s)
    assert line["status"] == any_record.status
    noted = {name for name in ("refused", "param") if getattr(any_record, name) is not None}
    assert list(line) == [field.name for field in FIELDS if not field.is_optional or field.name in noted]


@settings(max_examples=40, deadline=None)
@given(RECORDS)
def test_every_value_has_the_type_that_the_reference_says(any_record: RequestRecord) -> None:
    line = logged(any_record)
    for field in FIELDS:
        value = line.get(field.name)
        if value is None:
            assert "null" in field.when_null or field.is_optional, field.name
        else:
            assert type(value) is field.kind, field.name


def test_the_reference_says_null_of_exactly_what_may_be_null(record: Record) -> None:
    bare = dict.fromkeys(("model", "error_code", "outcome", "spill_reason", "ttft_s"))
    line = logged(record(**bare))
    nulls = {field.name for field in FIELDS if "null" in field.when_null}
    assert {name for name, value in line.items() if value is None} == nulls


# --- what is remembered ------------------------------------------------------------------------------

ANOTHER: dict[str, Any] = {
    "method": "PUT",
    "path": "/v1/responses",
    "model": "llama-3-70b",
    "route_model": "other",
    "stream": False,
    "status": 502,
    "error_code": "bad_gateway",
    "outcome": Outcome.of(Reason.RESET),
    "cluster": "there",
    "tier": "spot",
    "backend": "there@10.0.0.2:8000",
    "attempts": 2,
    "hedge": Hedged("there", "won"),
    "preferred_tier": "backup",
    "spill_reason": "full",
}


@pytest.mark.parametrize("name", ANOTHER)
def test_requests_that_differ_in_one_thing_have_their_own_lines(record: Record, name: str) -> None:
    lines = Lines()
    log = AccessLog(lines, lambda: NOON_S)  # type: ignore[arg-type]
    changed = record(**{name: ANOTHER[name]})
    for each in (record(), changed, record()):
        log.record(each)
    assert [json.loads(line) for line in lines.written] == [
        logged(record()),
        logged(changed),
        logged(record()),
    ]


@settings(max_examples=40, deadline=None)
@given(st.lists(RECORDS, min_size=2, max_size=5))
def test_a_line_does_not_depend_on_those_before_it(records: list[RequestRecord]) -> None:
    lines = Lines()
    log = AccessLog(lines, lambda: NOON_S)  # type: ignore[arg-type]
    for each in (*records, *records):
        log.record(each)
    assert [json.loads(line) for line in lines.written] == [logged(each) for each in (*records, *records)]


def test_names_that_clients_make_up_are_not_remembered_for_ever(record: Record) -> None:
    log = AccessLog(Lines(), lambda: NOON_S)  # type: ignore[arg-type]
    for number in range(3 * MAX_REMEMBERED_KINDS):
        log.record(record(model=f"m{number}"))
    assert len(log._kinds) <= MAX_REMEMBERED_KINDS


# --- the sink ----------------------------------------------------------------------------------------


def test_lines_reach_the_file_in_order(tmp_path: Path, record: Record) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(b"before\n")
    log = open_access_log(str(path), lambda: NOON_S)
    assert log is not None
    for number in range(3000):
        log.record(record(attempts=number))
    assert log.close()
    before, *lines = path.read_bytes().splitlines()
    assert before == b"before"
    assert [json.loads(line)["attempts"] for line in lines] == list(range(3000))
    assert log.dropped == 0


def test_lines_written_from_the_loop_while_the_thread_writes_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    writer = LineWriter(lambda: os.open(path, os.O_WRONLY | os.O_CREAT))
    line = b"x" * 999 + b"\n"
    for _ in range(20_000):  # 20 MB: the thread is hurried many times meanwhile
        while writer._queued_bytes - writer._done_bytes > 8_000_000:
            time.sleep(0.001)
        writer.write(line)
    assert writer.close()
    assert path.stat().st_size == 20_000 * 1000
    assert writer.dropped == 0


def full_pipe() -> tuple[int, int]:
    """A pipe into which nothing fits any more, as a blocking one: who writes, hangs."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writing, b"f" * 65536)
    os.set_blocking(writing, True)
    return reading, writing


def test_a_blocked_pipe_drops_lines_and_never_blocks(record: Record) -> None:
    reading, writing = full_pipe()
    log = AccessLog(LineWriter(lambda: writing, max_waiting_bytes=20_000), lambda: NOON_S)
    longest_s = 0.0
    for _ in range(2000):
        before_s = time.perf_counter()
        log.record(record())
        longest_s = max(longest_s, time.perf_counter() - before_s)
    assert longest_s < 0.1
    assert 1900 < log.dropped < 2000
    dropped_before_close = log.dropped
    began_s = time.perf_counter()
    assert not log.close(deadline_s=0.05)
    assert time.perf_counter() - began_s < 1.0
    assert log.dropped >= dropped_before_close
    os.close(reading)  # ends the write that hangs, and with it the thread
    wait_for_writers()


def test_a_pipe_that_is_read_again_gets_what_waited(record: Record) -> None:
    reading, writing = full_pipe()
    log = AccessLog(LineWriter(lambda: writing), lambda: NOON_S)
    for number in range(10):
        log.record(record(attempts=number))
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.extend(iter(lambda: os.read(reading, 65536), b"")))
    reader.start()
    assert log.close()
    reader.join(2)
    os.close(reading)
    lines = b"".join(got).lstrip(b"f").splitlines()
    assert [json.loads(line)["attempts"] for line in lines] == list(range(10))
    assert log.dropped == 0


def test_a_pipe_made_non_blocking_by_somebody_else_is_waited_for(record: Record) -> None:
    reading, writing = full_pipe()
    os.set_blocking(writing, False)
    log = AccessLog(LineWriter(lambda: writing), lambda: NOON_S)
    log.record(record())
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.extend(iter(lambda: os.read(reading, 65536), b"")))
    reader.start()
    assert log.close()
    reader.join(2)
    os.close(reading)
    assert json.loads(b"".join(got).lstrip(b"f"))["status"] == 200


def test_a_reader_that_left_costs_lines_not_the_gateway(
    record: Record, caplog: pytest.LogCaptureFixture
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    log = AccessLog(LineWriter(lambda: writing), lambda: NOON_S)
    for _ in range(5):
        log.record(record())
    assert log.close()
    assert log.dropped == 5
    assert len(caplog.records) == 1


def test_a_line_after_a_torn_one_starts_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "access.log"
    writer = LineWriter(lambda: os.open(path, os.O_WRONLY | os.O_CREAT))
    answers = iter([3, OSError(28, "disk full")])

    def disk_full_after_three_bytes(fd: int, data: memoryview) -> int:
        answer = next(answers, None)
        if isinstance(answer, OSError):
            raise answer
        return real_write(fd, data[:answer])

    real_write = os.write
    monkeypatch.setattr(os, "write", disk_full_after_three_bytes)
    writer._write_batch(b"first\nsecond\n")
    writer._write_batch(b"third\n")
    assert path.read_bytes() == b"fir\nthird\n"
    assert writer.dropped == 2
    writer.close()


def test_reopen_follows_a_rotated_file(tmp_path: Path, record: Record) -> None:
    path = tmp_path / "access.log"
    log = open_access_log(str(path), lambda: NOON_S)
    assert log is not None
    path.rename(tmp_path / "access.log.1")
    log.reopen()
    log.record(record())
    assert log.close()
    assert json.loads(path.read_bytes())["status"] == 200
    assert (tmp_path / "access.log.1").read_bytes() == b""


def test_reopen_keeps_the_old_file_when_the_new_one_cannot_be_opened(tmp_path: Path, record: Record) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log = open_access_log(str(folder / "access.log"), lambda: NOON_S)
    assert log is not None
    moved = folder.rename(tmp_path / "moved")
    log.reopen()
    log.record(record())
    assert log.close()
    assert json.loads((moved / "access.log").read_bytes())["status"] == 200


def test_after_close_lines_are_counted_as_dropped(tmp_path: Path, record: Record) -> None:
    log = open_access_log(str(tmp_path / "access.log"), lambda: NOON_S)
    assert log is not None
    assert log.close()
    log.record(record())
    assert log.dropped == 1


def test_off_is_no_log_and_a_bad_path_says_so(tmp_path: Path) -> None:
    assert open_access_log("off", time.time) is None
    with pytest.raises(FileNotFoundError):
        open_access_log(str(tmp_path / "missing" / "access.log"), time.time)


def test_standard_output_stays_open(capfd: pytest.CaptureFixture[str], record: Record) -> None:
    log = open_access_log("-", lambda: NOON_S)
    assert log is not None
    log.record(record())
    assert log.close()
    os.write(1, b"still here\n")
    line, after = capfd.readouterr().out.splitlines()
    assert json.loads(line)["status"] == 200
    assert after == "still here"


def test_an_idle_log_has_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    log = open_access_log(str(tmp_path / "access.log"), lambda: NOON_S)
    assert threading.active_count() == before
    assert log is not None and log.close()


def wait_for_writers() -> None:
    for thread in threading.enumerate():
        if thread.name == "access-log":
            thread.join(2)
            assert not thread.is_alive()


def test_lines_of_several_processes_in_one_pipe_stay_whole() -> None:
    """Each worker has a writer of its own; the pipe is small and read slowly, so that writes must wait."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    names = (b"a", b"b", b"c")
    writers = [LineWriter(lambda: os.dup(writing), is_shared=True) for _ in names]
    for writer, name in zip(writers, names, strict=True):
        for _ in range(400):
            writer.write(name * 700 + b"\n")
    expected = 400 * 701 * len(names)
    read = bytearray()
    while len(read) < expected:
        read += os.read(reading, 1000)
    assert Counter(bytes(read).splitlines()) == {name * 700: 400 for name in names}
    assert all(writer.close() for writer in writers)
    os.close(reading)
    os.close(writing)
