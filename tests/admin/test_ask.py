"""`python -m gateway.admin.ask`: what a health check and a preStop hook start."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.admin import ask

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


@contextmanager
def admin_port(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """One connection that gets `answer`, and stays open until the end; what it asked."""
    asked: list[bytes] = []
    done = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(65536))
            connection.sendall(answer)
            done.wait(10)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv(ask.ADMIN_VARIABLE, f"127.0.0.1:{listener.getsockname()[1]}")
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        try:
            yield asked
        finally:
            done.set()
            server.join()


def test_a_success_is_0_and_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with admin_port(OK, monkeypatch) as asked:
        assert ask.main(["/livez"]) == 0
    assert asked[0].startswith(b"GET /livez HTTP/1.1\r\n")
    assert capsys.readouterr().out == "200 hi\n"


def test_another_status_is_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with admin_port(OK.replace(b"200 OK", b"503 No"), monkeypatch):
        assert ask.main(["/readyz"]) == 1
    assert capsys.readouterr().err == "503 hi\n"


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", OK[:-1]], ids=["silence", "no HTTP", "cut"])
def test_what_is_no_whole_answer_is_1(
    answer: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with admin_port(answer, monkeypatch):
        assert ask.main(["/livez", "--within", "0.2"]) == 1
    assert "no admin port answers at 127.0.0.1:" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["127.0.0.1:1", "127.0.0.1:port", ""])
def test_nobody_there_is_1(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ask.ADMIN_VARIABLE, place)
    assert ask.main(["/livez", "--within", "0.2"]) == 1
    assert capsys.readouterr().err.startswith(f"no admin port answers at {place}")


def test_it_imports_nothing_of_the_gateway() -> None:
    code = (
        "import sys, gateway.admin.ask; print(*sorted({'aiohttp', 'asyncio', 'msgspec'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "\n"
