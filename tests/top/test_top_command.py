"""`spillway top` as a person or a script runs it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gateway import cli
from gateway.top.following import Follower, session
from tests.top.gateway_pages import Pages

TOP = (sys.executable, "-m", "gateway.cli", "top")


class Served:
    """Two pages on a port of their own. `status` for all answers."""

    def __init__(self) -> None:
        self.pages = Pages()
        self.status = 200
        self.tokens: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fleet, metrics = outer.pages.bodies()
                outer.tokens.append(self.headers.get("Authorization"))
                body = fleet if self.path == "/api/v1/fleet" else metrics
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(body)))
                if outer.status == 302:
                    self.send_header("Location", "/api/v1/fleet")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.stop()


def top(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TOP, *words], capture_output=True, text=True, timeout=20)


def test_once_prints_plain_text_and_sends_the_token(served, tmp_path):
    token = tmp_path / "token"
    token.write_text("hush\n")
    done = top("--once", "--interval", "100ms", "--admin", served.url, "--token-file", str(token))
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines()[1:8]] == [
        "primary", "here", "10.0.0.1:8000", "10.0.0.2:8000", "spot", "cheap", "10.0.1.1:8000",
    ]  # fmt: skip
    assert served.tokens == ["Bearer hush"] * 4
    assert "hush" not in done.stdout


def test_once_shows_who_is_there_and_fails_for_who_is_not(served):
    done = top("--once", "--interval", "100ms", "--admin", served.url, "--admin", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert "http://127.0.0.1:1: Connection refused" in done.stdout
    assert "primary" in done.stdout


@pytest.mark.parametrize(
    "words", [("--admin", "nonsense"), ("--interval", "soon"), ("--interval", "1ms"), ("--interval", "0s")]
)
def test_mistakes_in_the_arguments(words):
    with pytest.raises(SystemExit) as ended:
        cli.main(["top", *words])
    assert ended.value.code == 2


def test_a_token_that_cannot_be_read(capsys):
    assert cli.main(["top", "--once", "--token-file", "/nowhere/token"]) == 1
    assert capsys.readouterr().err.startswith("spillway top: cannot read the token")


async def test_a_gateway_goes_away_and_comes_back(served):
    now_s = 100.0
    follower = Follower(served.url, 10.0, lambda: now_s)
    async with session(None) as asking:
        await follower.look(asking)
        assert follower.now.sample is not None
        served.status = 503
        await follower.look(asking)
        now_s = 107.0
        assert follower.now.problem == "it answers 503 at /api/v1/fleet"
        assert follower.now.since_s == 7.0
        served.status = 200
        await follower.look(asking)
        assert not follower.now.problem
        assert not follower.now.rates.finished


async def test_a_redirect_is_not_followed(served):
    served.status = 302
    follower = Follower(served.url, 10.0, lambda: 0.0)
    async with session("hush") as asking:
        await follower.look(asking)
    assert follower.now.problem == "it answers 302 at /api/v1/fleet"
    assert len(served.tokens) == 1


@pytest.mark.parametrize("ends", ["q", "SIGINT"])
def test_the_live_screen_ends_cleanly(served, ends):
    """On a real terminal; afterwards its modes are as they were."""
    process, terminal = pty.fork()
    if process == 0:
        os.environ["TERM"] = "xterm"
        os.execv(sys.executable, [*TOP, "--admin", served.url])
    seen = b""
    while b"primary" not in seen:
        seen += os.read(terminal, 65536)
    if ends == "q":
        os.write(terminal, b"q")
    else:
        os.kill(process, signal.SIGINT)
    try:
        while more := os.read(terminal, 65536):
            seen += more
    except OSError:  # how Linux says that nobody holds the other end
        pass
    os.close(terminal)
    assert os.waitpid(process, 0)[1] == 0
    assert seen.index(b"\x1b[?1049h") < seen.index(b"primary") < seen.rindex(b"\x1b[?1049l")


def test_to_a_pipe_it_prints_snapshots_until_told_to_stop(served):
    command = [*TOP, "--interval", "100ms", "--admin", served.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        headings = 0
        while headings < 2:
            headings += process.stdout.readline().startswith("tier / cluster")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_a_reader_that_has_seen_enough_is_no_failure(served):
    command = [*TOP, "--interval", "100ms", "--admin", served.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
