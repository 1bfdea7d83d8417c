"""The command: its line on stdout, its signals, its exit codes."""

import argparse
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from gateway.mock_engine.command import add_arguments, run, settings_from
from gateway.mock_engine.settings import Settings


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


def test_the_defaults_of_the_command_are_those_of_the_settings() -> None:
    assert settings_from(parsed()) == Settings()


def test_durations_carry_their_unit() -> None:
    settings = settings_from(parsed("--ttft", "1.5s", "--tpot", "250us", "--model", "a", "--model", "b"))
    assert (settings.ttft_s, settings.tpot_s, settings.models) == (1.5, pytest.approx(250e-6), ("a", "b"))
    with pytest.raises(SystemExit):
        parsed("--ttft", "50")


def test_a_process_serves_until_it_is_told_to_stop() -> None:
    command = [sys.executable, "-m", "gateway.mock_engine", "--name", "eu-1", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.fullmatch(r"mock engine eu-1 on (http://127\.0\.0\.1:\d+)\n", line)
        assert match is not None
        with urllib.request.urlopen(f"{match[1]}/health") as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 0


def test_a_taken_port_and_bad_settings_have_their_own_exit_codes(capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run(parsed("--port", str(taken.getsockname()[1]))) == 1
    assert run(parsed("--fault", "flood")) == 2
    assert run(parsed("--preset", "h100-80", "--max-num-seqs", "100000")) == 2
    assert "unknown kind 'flood'" in capsys.readouterr().err
