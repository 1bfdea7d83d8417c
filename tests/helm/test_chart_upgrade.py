"""Between installs: what is kept, and what the chart's archive carries."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.helm.release import CHART, SMALLEST, Manifest, Release, values

SECRETS_PATH = "/api/v1/namespaces/inference/secrets/"
DISCOVERY: dict[str, Manifest] = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [
            {
                "name": "secrets",
                "singularName": "secret",
                "namespaced": True,
                "kind": "Secret",
                "verbs": ["get"],
            }
        ],
    },
    "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
}
NOT_FOUND = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}


class FakeApi(ThreadingHTTPServer):
    """As much of a Kubernetes API as Helm's `lookup` of a Secret needs."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.secrets: dict[str, Manifest] = {}

    def take(self, release: Release) -> None:
        """Keeps the Secrets of an install, stored as the real one stores them."""
        for secret in release.all("Secret"):
            given = secret.get("stringData", {}).items()
            data = {name: b64encode(text.encode()).decode() for name, text in given}
            stored = {"apiVersion": "v1", "kind": "Secret", "metadata": secret["metadata"]}
            self.secrets[secret["metadata"]["name"]] = {**stored, "data": {**secret.get("data", {}), **data}}

    @property
    def kubeconfig(self) -> str:
        context = {"name": "fake", "context": {"cluster": "fake", "user": "fake"}}
        cluster = {"name": "fake", "cluster": {"server": f"http://127.0.0.1:{self.server_port}"}}
        user: Manifest = {"name": "fake", "user": {}}
        kubeconfig = {"apiVersion": "v1", "kind": "Config", "current-context": "fake"}
        return json.dumps({**kubeconfig, "contexts": [context], "clusters": [cluster], "users": [user]})


class _Answers(BaseHTTPRequestHandler):
    server: FakeApi

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        found = DISCOVERY.get(path) or self.server.secrets.get(path.removeprefix(SECRETS_PATH))
        content = json.dumps(found or NOT_FOUND).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def upgraded(api: FakeApi) -> Iterator[Callable[[Any], Release]]:
    """Renders as an upgrade does, with the objects at hand that are there."""
    from helm_python import Chart, Config

    with (
        Chart.load(CHART) as chart,
        Config(kubeconfig_content=api.kubeconfig, namespace="inference", storage_driver="memory") as cluster,
    ):
        yield lambda chosen: Release(
            cluster.render(chart, chosen, name="spillway", namespace="inference", is_upgrade=True)
        )


def made(release: Release) -> dict[str, Manifest]:
    return {
        secret["metadata"]["name"]: {**secret.get("data", {}), **secret.get("stringData", {})}
        for secret in release.all("Secret")
    }


def test_an_upgrade_keeps_token_and_password(api: FakeApi, upgraded: Callable[[Any], Release]) -> None:
    first = upgraded(SMALLEST)
    assert made(upgraded(SMALLEST)) != made(first), "nothing is there yet, so each render makes its own"
    api.take(first)
    assert made(upgraded(values(replicaCount=5))) == made(first)


def test_a_secret_that_lost_its_key_gets_a_new_one(api: FakeApi, upgraded: Callable[[Any], Release]) -> None:
    api.take(upgraded(SMALLEST))
    for secret in api.secrets.values():
        secret["data"] = None
    assert made(upgraded(SMALLEST))["spillway-admin"]["token"]
    assert len(made(upgraded(SMALLEST))["spillway-valkey"]["password"]) == 40


def test_the_archive_carries_all_that_the_folder_does(render: Any, tmp_path: Path) -> None:
    from helm_python import Chart, package

    chosen = values(monitoring={name: {"enabled": True} for name in ("alerts", "dashboard")})
    with Chart.load(package(CHART, destination=tmp_path)) as packed:
        release = Release(packed.render(chosen, name="spillway", namespace="inference"))
    assert without_secrets(release) == without_secrets(render(chosen))


def without_secrets(release: Release) -> list[Manifest]:
    """What does not differ from one render to the next."""
    return [manifest for manifest in release.manifests if manifest["kind"] != "Secret"]
