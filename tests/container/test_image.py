"""The steps of the Dockerfile in a clean Debian, and what comes of them, run as a container engine would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from http.client import HTTPResponse
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.container.conftest import PIP_OF_BASE, ROOT
from tests.container.lock import pins
from tests.container.running import Container
from tests.container.steps import Image
from tests.proxy.processes import Engine, running, start_engine
from tests.redis_server import free_port, running_redis
from tests.workers.system import children, is_reaped, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LOOPBACK = "admin: {listen: '127.0.0.1:0'}"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = start_engine()
    with running(engine):
        yield engine


def config(folder: Path, engine: Engine, *more: str, admin: str = LOOPBACK) -> Path:
    """A folder that anybody may read, as a mounted one is."""
    folder.chmod(0o755)
    lines = ["listen: 127.0.0.1:0", admin, *more]
    lines.append(f"clusters: [{{name: here, limit: 8, backends: ['{engine.url}']}}]")
    (folder / "spillway.yaml").write_text("\n".join(lines) + "\n")
    return folder


def ask(port: int, **more: object) -> HTTPResponse:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello"}], **more}).encode(),
        {"content-type": "application/json"},
    )
    answer: HTTPResponse = urllib.request.urlopen(request, timeout=30)
    return answer


def test_it_serves_without_privilege_on_a_read_only_root(
    image: Image, engine: Engine, tmp_path: Path
) -> None:
    with Container(image, config(tmp_path, engine)) as container:
        container.wait_until_ready()
        assert ask(container.port).status == 200
        status = container.status
        assert status["NSpid"].split()[1:] == ["1"]
        assert status["Uid"].split() == ["65532"] * 4
        assert (status["CapEff"], status["CapBnd"], status["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1")
        written = container.execute(["python", "-c", "open('/opt/spillway/new', 'w')"])
        assert "Read-only file system" in written.stderr
        # There is no shell to be had either.
        shell = container.execute(["python", "-c", "import os; raise SystemExit(os.system('true') == 0)"])
        assert shell.returncode == 0
        assert container.stop() == 0


def test_the_health_check_sees_life_and_a_hang(image: Image, engine: Engine, tmp_path: Path) -> None:
    with Container(image, config(tmp_path, engine)) as container:
        container.wait_until_ready()
        assert container.execute(image.healthcheck).returncode == 0
        container.send(signal.SIGSTOP)
        hung = container.execute(image.healthcheck)
        assert (hung.returncode, "timed out" in hung.stderr) == (1, True)
        container.send(signal.SIGCONT)
        assert container.execute(image.healthcheck).returncode == 0


def test_a_stop_lets_a_stream_end(image: Image, engine: Engine, tmp_path: Path) -> None:
    with Container(image, config(tmp_path, engine)) as container:
        container.wait_until_ready()
        with ask(container.port, stream=True, max_tokens=100) as answer:
            begun = answer.readline()
            container.send(signal.Signals[image.stop_signal])
            assert (begun + answer.read()).endswith(b"data: [DONE]\n\n")
        assert container.ended()[0] == 0


def test_the_admin_port_can_drain_it_before_the_stop(image: Image, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "admin.token").write_text("secret\n")
    (tmp_path / "admin.token").chmod(0o644)
    admin = "admin: {listen: '0.0.0.0:0', token_file: admin.token}"
    with Container(image, config(tmp_path, engine, admin=admin)) as container:
        container.wait_until_ready()
        # As a preStop hook: from inside the container it needs no token.
        drained = container.execute(["python", "-m", "gateway.admin.ask", "/health/drain", "--within", "20"])
        assert container.ended()[0] == 0
        # What is left in a container ends with its process 1, perhaps before it could say that all is done.
        assert drained.returncode in (0, -signal.SIGKILL), drained.stderr


def test_workers_need_a_redis_from_outside(image: Image, engine: Engine, tmp_path: Path) -> None:
    with Container(image, config(tmp_path, engine, "workers: 2")) as container:
        code, errors = container.ended()
    assert code == 1
    assert "there is no redis-server or valkey-server" in errors
    assert "set state.url" in errors


def test_process_1_replaces_workers_and_leaves_no_zombie(
    image: Image, engine: Engine, tmp_path: Path
) -> None:
    port = free_port()
    with running_redis(tmp_path / "redis", port=port):
        url = f"state: {{url: 'redis://127.0.0.1:{port}/0'}}"
        with Container(image, config(tmp_path, engine, "workers: 2", url)) as container:
            container.wait_until_ready()
            first, second = children(container.pid)
            os.kill(first, signal.SIGKILL)
            assert wait_for(lambda: is_reaped(first) and len(children(container.pid)) == 2)
            assert second in children(container.pid)
            assert ask(container.port).status == 200
            assert container.stop() == 0


def test_without_a_configuration_it_says_so(image: Image, tmp_path: Path) -> None:
    with Container(image, tmp_path) as container:
        code, errors = container.ended()
    assert code == 2
    assert "/etc/spillway/spillway.yaml" in errors


def test_it_knows_what_it_is_made_of(image: Image) -> None:
    """The metadata that a bill of materials is made from: all that is locked for this Python, and no more."""
    listing = (
        "from importlib.metadata import distributions as all\nfor one in all(): print(one.name, one.version)"
    )
    python = ["chroot", str(image.place.path("/")), "/opt/spillway/bin/python", "-c", listing]
    told = subprocess.run(python, capture_output=True, text=True, check=True).stdout
    found = {canonicalize_name(name): version for name, version in map(str.split, told.splitlines())}
    python_3_13 = {"python_full_version": "3.13.0", "python_version": "3.13"}
    locked = pins(ROOT / "container/image.lock").items()
    wanted = {name: pin.version for name, pin in locked if pin.holds(python_3_13)}
    assert found == {**wanted, "spillway": version("spillway")}


def test_the_pip_of_the_base_is_gone(image: Image) -> None:
    assert not [name for name in PIP_OF_BASE if image.place.path(name).exists()]


def test_no_module_of_ours_or_of_python_is_compiled_at_a_start(image: Image) -> None:
    packages = image.place.path("/opt/spillway/lib")
    sources = list(packages.rglob("gateway/**/*.py"))
    assert sources
    assert all(list((path.parent / "__pycache__").glob(f"{path.stem}.*.pyc")) for path in sources)
    unchecked = next(packages.rglob("gateway/__pycache__/cli.*.pyc")).read_bytes()[4:8]
    assert unchecked == b"\x01\x00\x00\x00"
