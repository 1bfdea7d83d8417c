"""What refers to something else refers to something that is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.helm.release import Manifest, Release, values


def fits(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return selector.items() <= labels.items()


def selected(release: Release, selector: Mapping[str, str]) -> list[str]:
    return [f"{pod.kind} {pod.name}" for pod in release.pods() if fits(selector, pod.labels)]


def test_selectors_find_the_pods_that_they_mean(release: Release) -> None:
    gateway = ["Deployment spillway"]
    for name in ("spillway", "spillway-admin"):
        assert selected(release, release.one("Service", name)["spec"]["selector"]) == gateway
    assert selected(release, release.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"]) == gateway
    assert selected(release, release.one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"]) == gateway
    for spread in release.gateway.spec["topologySpreadConstraints"]:
        assert selected(release, spread["labelSelector"]["matchLabels"]) == gateway
    for deployment in release.all("Deployment"):
        selector = deployment["spec"]["selector"]["matchLabels"]
        assert selected(release, selector) == [f"Deployment {deployment['metadata']['name']}"]


def test_the_store_is_found_by_its_service(render: Any) -> None:
    release = render(values())
    assert selected(release, release.one("Service", "spillway-valkey")["spec"]["selector"]) == [
        "Deployment spillway-valkey"
    ]
    url = release.one("Secret", "spillway-valkey")["stringData"]["url"]
    assert url.endswith("@spillway-valkey:6379/0")
    # Never two of them: each would count for itself.
    deployment = release.one("Deployment", "spillway-valkey")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})


def test_named_ports_are_there(release: Release) -> None:
    for service in release.all("Service"):
        (pod,) = (pod for pod in release.pods() if fits(service["spec"]["selector"], pod.labels))
        ports = {port["name"] for port in pod.container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    container = release.gateway.container
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports


def test_ports_follow_the_configuration(render: Any) -> None:
    release = render(values(config={"listen": "0.0.0.0:8443", "admin": {"listen": "[::]:9191"}}))
    ports = {port["name"]: port["containerPort"] for port in release.gateway.container["ports"]}
    assert ports == {"http": 8443, "admin": 9191}


def test_every_mount_has_its_volume_and_every_secret_its_origin(release: Release) -> None:
    made = {manifest["metadata"]["name"] for manifest in release.all("Secret")}
    maps = {manifest["metadata"]["name"] for manifest in release.all("ConfigMap")}
    for pod in release.pods():
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        mounts = pod.container.get("volumeMounts", [])
        assert {mount["name"] for mount in mounts} == volumes.keys()
        assert not [mount for mount in mounts if "subPath" in mount], "kubelet does not update these"
        assert {v["configMap"]["name"] for v in volumes.values() if "configMap" in v} <= maps
        for volume in volumes.values():
            if volume.get("secret", {}).get("secretName", "") in made:
                secret = release.one("Secret", volume["secret"]["secretName"])
                keys = {**secret.get("data", {}), **secret.get("stringData", {})}.keys()
                assert {item["key"] for item in volume["secret"]["items"]} <= keys


def test_each_object_says_whose_it_is(release: Release) -> None:
    for manifest in release.manifests:
        labels = manifest["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "spillway", manifest["kind"]
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert len(manifest["metadata"]["name"]) <= 63


def test_names_are_unique(release: Release) -> None:
    names = [identity(manifest) for manifest in release.manifests]
    assert len(names) == len(set(names))


def identity(manifest: Manifest) -> tuple[str, str, str]:
    metadata = manifest["metadata"]
    return manifest["kind"], metadata.get("namespace", "inference"), metadata["name"]


def test_the_longest_name_still_fits() -> None:
    from helm_python import Chart

    from tests.helm.release import CHART, SMALLEST

    with Chart.load(CHART) as chart:
        release = Release(chart.render(SMALLEST, name="n" * 53, namespace="n" * 63))
    for manifest in release.manifests:
        assert len(manifest["metadata"]["name"]) <= (253 if "Role" in manifest["kind"] else 63)
        assert all(len(str(label)) <= 63 for label in manifest["metadata"]["labels"].values())


def test_a_new_version_of_the_chart_alone_replaces_no_pod(render: Any) -> None:
    labels = render(values()).gateway.labels
    assert not {"helm.sh/chart", "app.kubernetes.io/version"} & labels.keys()
