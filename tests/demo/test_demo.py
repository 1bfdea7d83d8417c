"""The demo as a newcomer runs it, only shorter."""

import re
import signal
import socket
import subprocess
import sys
import time

import pytest

DEMO = (sys.executable, "-m", "gateway.cli", "demo")


def test_every_tier_serves_and_the_demo_ends_by_itself():
    done = subprocess.run(
        [*DEMO, "--seconds", "4", "--port", "0"], capture_output=True, text=True, timeout=40
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.search(r"^  curl -i 127\.0\.0\.1:\d+/v1/chat/completions", done.stdout, re.MULTILINE)
    last_word = re.search(r"\(primary (\d+), backup (\d+), spot (\d+)\), shed \d+\.$", done.stdout.rstrip())
    assert last_word is not None, done.stdout
    assert all(int(served) > 0 for served in last_word.groups())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_and_its_ports_are_free_again(number):
    command = [*DEMO, "--no-load", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None and demo.stderr is not None
        lines = iter(demo.stdout.readline, "")
        curls = (found for line in lines if (found := re.search(r"curl -i 127\.0\.0\.1:(\d+)", line)))
        first = next(curls, None)
        assert first is not None, demo.stderr.read()
        port = int(first[1])
        demo.send_signal(number)
        _, errors = demo.communicate(timeout=20)
    assert (demo.returncode, errors) == (0, "")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_a_port_in_use_is_said_at_once():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        started_s = time.monotonic()
        done = subprocess.run([*DEMO, "--port", str(port)], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert done.stderr == f"spillway demo: port {port} is in use\n"
    assert time.monotonic() - started_s < 5
