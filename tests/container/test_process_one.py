"""The gateway as process 1 of a container: the kernel hands it only those signals that it has asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workers.system import children, wait_for

NAMESPACE = ["unshare", "--map-root-user", "--pid", "--fork"]


def can_have_namespaces() -> bool:
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def heeds(pid: int, number: signal.Signals) -> bool:
    """Has the process a handler for it?"""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (number - 1) & 1)


@pytest.mark.skipif(not can_have_namespaces(), reason="no process namespaces here")
def test_a_stop_during_the_start_is_not_lost(tmp_path: Path) -> None:
    config = tmp_path / "spillway.yaml"
    os.mkfifo(config)  # a start that takes long: nobody writes into it
    command = [*NAMESPACE, sys.executable, "-m", "gateway.cli", "serve", "-c", str(config)]
    with subprocess.Popen(command) as outer:
        assert wait_for(lambda: bool(children(outer.pid)))
        (first,) = children(outer.pid)
        try:
            assert wait_for(lambda: heeds(first, signal.SIGTERM))
            os.kill(first, signal.SIGTERM)
            assert outer.wait(15) == 128 + signal.SIGTERM
        finally:
            if outer.poll() is None:
                os.kill(first, signal.SIGKILL)
