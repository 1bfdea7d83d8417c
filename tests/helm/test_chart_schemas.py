"""Would a cluster take the manifests? Asked of Helm's linter and of Kubernetes' own schemas."""

from __future__ import annotations

from functools import cache
from typing import Any

import kubernetes_validate
import pytest
from packaging.version import Version

from tests.helm.conftest import read_values
from tests.helm.release import CHART, EXAMPLES, SMALLEST, Release, values

# The oldest that Chart.yaml names, and the newest that is known; those between: see the slow test.
OLDEST, NEWEST = "1.27", kubernetes_validate.utils.major_minor(kubernetes_validate.latest_version())
BETWEEN = sorted(
    {
        version
        for version in map(kubernetes_validate.utils.major_minor, kubernetes_validate.utils.all_versions())
        if Version(OLDEST) < Version(version) < Version(NEWEST)
    }
)
# Of other projects: their shape is asserted in test_chart_toggles.py and test_chart_monitoring.py.
WITHOUT_SCHEMA = {"HTTPRoute", "PrometheusRule", "ScaledObject", "ServiceMonitor"}
EVERYTHING = values(
    ingress={"enabled": True, "hosts": ["a.example"], "tls": [{"secretName": "s", "hosts": ["a.example"]}]},
    autoscaling={"enabled": True},
    networkPolicy={"clients": [{"podSelector": {}}], "egress": [{"to": [{"podSelector": {}}]}]},
    monitoring={"dashboard": {"enabled": True}},
    tls={"secretName": "certificate"},
    secretFiles=[{"name": "provider", "secretName": "provider"}],
    env=[{"name": "A", "value": "b"}],
    envFrom=[{"secretRef": {"name": "s"}}],
    imagePullSecrets=[{"name": "registry"}],
    priorityClassName="high",
    nodeSelector={"pool": "web"},
    tolerations=[{"key": "web", "operator": "Exists"}],
    affinity={"nodeAffinity": {}},
    extraVolumes=[{"name": "ca", "configMap": {"name": "ca"}}],
    extraVolumeMounts=[{"name": "ca", "mountPath": "/ca"}],
    podAnnotations={"a": "b"},
    podLabels={"team": "inference"},
    service={"annotations": {"a": "b"}},
    serviceAccount={"annotations": {"a": "b"}},
    region="eu-west-1",
)


@pytest.fixture(scope="module", autouse=True)
def _schemas_read_once() -> Any:
    """A hundred manifests would read the same megabytes a hundred times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            kubernetes_validate.utils, "schema_contents", cache(kubernetes_validate.utils.schema_contents)
        )
        yield


def problems(release: Release, version: str) -> list[str]:
    found = []
    for manifest in release.manifests:
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{name}: {'.'.join(map(str, error.path))}: {error.message}")
        except kubernetes_validate.utils.SchemaNotFoundError:
            if manifest["kind"] not in WITHOUT_SCHEMA:
                found.append(f"{name}: {manifest['apiVersion']} is not in Kubernetes {version}")
    return found


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_takes_every_manifest(release: Release, version: str) -> None:
    assert problems(release, version) == []


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_takes_every_option(render: Any, version: str) -> None:
    assert problems(render(EVERYTHING), version) == []


def test_the_newest_takes_what_the_oldest_does_not_know(render: Any) -> None:
    close = values(service={"trafficDistribution": "PreferClose"})
    assert problems(render(close), NEWEST) == []
    assert problems(render(close), OLDEST)


@pytest.mark.slow
@pytest.mark.parametrize("version", BETWEEN)
def test_kubernetes_takes_every_manifest_of_every_version(render: Any, version: str) -> None:
    for chosen in [EVERYTHING, *map(read_values, EXAMPLES)]:
        assert problems(render(chosen), version) == []


def test_a_mistake_in_a_manifest_is_found(render: Any) -> None:
    release = render(SMALLEST)
    release.gateway.container["ports"][0]["containerPort"] = "http"
    assert [line for line in problems(release, NEWEST) if line.startswith("Deployment spillway: ")]


@pytest.mark.parametrize("path", [None, *EXAMPLES], ids=lambda path: path.stem if path else "defaults")
def test_helm_has_nothing_to_complain_about(path: Any) -> None:
    from helm_python import lint

    report = lint(CHART, read_values(path) if path else SMALLEST, strict=True, kube_version=f"v{NEWEST}")
    complaints = [message for message in report["messages"] if message["error"] != "icon is recommended"]
    assert (complaints, report["errors"]) == ([], [])
