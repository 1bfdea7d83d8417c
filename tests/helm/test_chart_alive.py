"""The rendered files in real processes: the store, a gateway, and the pod of `helm test`."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from tests.helm.release import MOUNTED_AT, Release, project, values
from tests.proxy.processes import GatewayProcess, running, serve
from tests.redis_server import binary, free_port

PAUSE = "PAUSE_S = 2.0"
# No load balancer needs time to turn away.
NO_DELAY = {"drain_delay": "0s"}


@pytest.fixture(scope="module")
def release(render: Any) -> Release:
    return render(values(config=NO_DELAY))


@pytest.fixture(scope="module")
def store_url(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the rendered valkey.conf, and the rendered URL, which leads to it."""
    folder = tmp_path_factory.mktemp("store")
    secret = release.one("Secret", "spillway-valkey")["stringData"]
    (folder / "valkey.conf").write_text(secret["valkey.conf"])
    port = free_port()
    # Not to all addresses of this machine, as in a pod of its own.
    server = subprocess.Popen(
        [binary(), folder / "valkey.conf", "--port", str(port), "--bind", "127.0.0.1"],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        for line in server.stdout:
            if "eady to accept connections" in line:
                break
        yield secret["url"].replace("spillway-valkey:6379", f"127.0.0.1:{port}")
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


class PodHere(NamedTuple):
    """A gateway that runs with the files of a pod, below `folder`."""

    folder: Path
    process: GatewayProcess

    def update(self, release: Release) -> None:
        """What kubelet does some time after the ConfigMap has changed."""
        (text,) = release.one("ConfigMap")["data"].values()
        project(self.folder / "config", {"config.yaml": at_home(text, self.folder)})


def at_home(text: str, folder: Path) -> bytes:
    """Ports of a pod are its own; here they must be free ones. Paths lead below `folder`."""
    for port in ("0.0.0.0:8080", "0.0.0.0:9090"):
        assert port in text
        text = text.replace(port, "127.0.0.1:0")
    return text.replace(MOUNTED_AT, str(folder)).encode()


@pytest.fixture(scope="module")
def pod(release: Release, store_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodHere]:
    folder = tmp_path_factory.mktemp("pod")
    path = release.mounted(release.gateway, folder, {})
    project(folder / "secrets" / "state", {"url": store_url.encode()})
    project(path.parent, {path.name: at_home(path.read_text(), folder)})
    process = serve(path)
    with running(process):
        yield PodHere(folder, process)


@pytest.fixture
def gateway(pod: PodHere) -> GatewayProcess:
    return pod.process


def test_the_store_lets_in_who_has_the_password(store_url: str) -> None:
    with redis.Redis.from_url(store_url) as client:
        assert client.ping()
        # Leases must not be evicted, and nothing is written to a file system that can't be written to.
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("save") == {"save": ""}
    stranger = store_url.partition("@")[2]
    with redis.Redis.from_url(f"redis://{stranger}") as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_the_gateway_serves_with_the_rendered_files(gateway: GatewayProcess) -> None:
    with urllib.request.urlopen(f"{gateway.admin_url}/readyz", timeout=5) as answer:
        assert answer.status == 200
    with urllib.request.urlopen(f"{gateway.admin_url}/metrics", timeout=5) as answer:
        metrics = answer.read().decode()
    assert "\nspillway_store_degraded 0" in metrics
    assert "\nspillway_store_gateways 1" in metrics


def test_a_changed_config_map_is_adopted_without_a_restart(render: Any, pod: PodHere) -> None:
    fewer = {"name": "here", "limit": 5, "backends": ["http://10.0.0.1:8000"]}
    pod.update(render(values(config={**NO_DELAY, "clusters": [fewer]})))
    deadline = time.monotonic() + 10
    while limits(pod.process.fleet()) != [5]:
        assert time.monotonic() < deadline, "the file was not looked at"
        time.sleep(0.05)
    assert pod.process.child.poll() is None


def limits(fleet: Any) -> list[int]:
    return [
        backend["limit"]
        for tier in fleet["tiers"]
        for cluster in tier["clusters"]
        for backend in cluster["backends"]
    ]


def asked(release: Release, *urls: str) -> subprocess.CompletedProcess[str]:
    """What the pod of `helm test` does, with other URLs and no pauses."""
    container = release.pod("Pod", "spillway-reach").container
    _, flag = container["command"]
    script, *_ = container["args"]
    assert PAUSE in script
    command = [sys.executable, flag, script.replace(PAUSE, "PAUSE_S = 0.0"), *urls]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def test_helm_test_passes_on_a_gateway_that_serves(release: Release, gateway: GatewayProcess) -> None:
    paths = [url.split("/", 3)[3] for url in release.pod("Pod", "spillway-reach").container["args"][1:]]
    assert paths == ["v2/health/ready", "v1/models", "livez"]
    done = asked(
        release, f"{gateway.url}/{paths[0]}", f"{gateway.url}/{paths[1]}", f"{gateway.admin_url}/{paths[2]}"
    )
    assert (done.returncode, done.stdout.count("ok 200")) == (0, 3), done.stdout + done.stderr


def test_helm_test_fails_where_nobody_answers_or_with_an_error(
    release: Release, gateway: GatewayProcess
) -> None:
    done = asked(release, f"{gateway.url}/nowhere", f"http://127.0.0.1:{free_port()}/livez")
    assert done.returncode == 1
    assert "status 404" in done.stdout
    assert "no answer" in done.stdout
