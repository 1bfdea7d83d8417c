"""Every pod passes the pod security standard "restricted", and no pod may more than it needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import VERBS
from tests.helm.release import ROOT, Pod, Release, values

# The volumes that "restricted" allows.
VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
NOT_THESE = ("hostNetwork", "hostPID", "hostIPC")


def violations(pod: Pod) -> list[str]:
    """The rules of the standard, as its page has them, that a pod breaks."""
    found = []
    whole = pod.spec.get("securityContext", {})
    found += [key for key in NOT_THESE if pod.spec.get(key)]
    found += [
        f"volume {volume['name']}"
        for volume in pod.spec.get("volumes", [])
        if not set(volume) - {"name"} <= VOLUMES
    ]
    for container in pod.spec.get("initContainers", []) + pod.spec["containers"]:
        own = container.get("securityContext", {})
        both = {**whole, **own}
        capabilities = own.get("capabilities", {})
        rules = {
            "runAsNonRoot": both.get("runAsNonRoot") is True,
            "runAsUser": both.get("runAsUser") != 0,
            "seccompProfile": both.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities.drop": "ALL" in capabilities.get("drop", []),
            "capabilities.add": set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
            "privileged": not own.get("privileged"),
            "procMount": own.get("procMount", "Default") == "Default",
            "hostPort": not any("hostPort" in port for port in container.get("ports", [])),
        }
        found += [f"{container['name']}: {rule}" for rule, holds in rules.items() if not holds]
    return found


def test_every_pod_is_restricted(release: Release) -> None:
    pods = list(release.pods())
    assert {"Deployment", "Job", "Pod"} <= {pod.kind for pod in pods}
    assert {pod.name: violations(pod) for pod in pods} == {pod.name: [] for pod in pods}


def test_every_pod_reads_only(release: Release) -> None:
    """And states what it uses, so that a quota of the namespace does not refuse it."""
    for pod in release.pods():
        assert pod.container["securityContext"]["readOnlyRootFilesystem"] is True
        assert pod.container["resources"]["requests"].keys() >= {"cpu", "memory"}
        assert "memory" in pod.container["resources"]["limits"]


def test_the_pods_fit_the_image(release: Release) -> None:
    """Its user and its interpreter, as the Dockerfile has them."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    user = release.gateway.spec["securityContext"]
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}" in lines
    (entry,) = (line for line in lines if line.startswith("ENTRYPOINT"))
    interpreter, _ = release.pod("Pod", "spillway-reach").container["command"]
    assert Path(interpreter).parent == Path(json.loads(entry.removeprefix("ENTRYPOINT"))[0]).parent
    # What follows the entry point is a verb of the command.
    for pod in (release.gateway, release.pod("Job", "spillway-config-check")):
        assert "command" not in pod.container
        assert pod.container["args"][0] in VERBS


def test_a_pod_that_is_not_is_found_out(render: Any) -> None:
    release = render(
        values(
            podSecurityContext={"runAsNonRoot": False},
            securityContext={"allowPrivilegeEscalation": True},
            extraVolumes=[{"name": "host", "hostPath": {"path": "/"}}],
        )
    )
    assert violations(release.gateway) == [
        "volume host",
        "spillway: runAsNonRoot",
        "spillway: allowPrivilegeEscalation",
    ]


def test_on_openshift_the_platform_gives_user_and_group(render: Any) -> None:
    """The restricted SCC refuses ids outside the namespace's own range."""
    nothing = {"runAsUser": None, "runAsGroup": None, "fsGroup": None}
    release = render(values(podSecurityContext=nothing))
    for pod in release.pods():
        assert pod.spec["securityContext"] == {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }


def cluster(name: str, **kubernetes: Any) -> dict[str, Any]:
    return {"name": name, "limit": 8, "discovery": {"kubernetes": {"service": "vllm", **kubernetes}}}


def test_the_gateway_reads_endpoint_slices_where_it_discovers_and_nowhere_else(render: Any) -> None:
    elsewhere = {"url": "https://10.9.9.9:6443"}
    found = [
        cluster("a"),
        cluster("b", namespace="models"),
        cluster("c", namespace="models"),
        cluster("d", namespace="other-cluster", api=elsewhere),
        {"name": "e", "limit": 8, "backends": ["http://10.0.0.1:8000"]},
    ]
    release = render({"config": {"clusters": found}})
    roles = {role["metadata"]["namespace"]: role["rules"] for role in release.all("Role")}
    only = [
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["get", "list", "watch"],
        }
    ]
    assert roles == {"inference": only, "models": only}
    bindings = {binding["metadata"]["namespace"]: binding for binding in release.all("RoleBinding")}
    assert bindings.keys() == roles.keys()
    for namespace, binding in bindings.items():
        (role,) = (role for role in release.all("Role") if role["metadata"]["namespace"] == namespace)
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "spillway", "namespace": "inference"}
        ]
    assert release.gateway.spec["automountServiceAccountToken"] is True
    assert release.gateway.spec["serviceAccountName"] == release.one("ServiceAccount")["metadata"]["name"]


def test_who_discovers_nothing_gets_no_token(render: Any) -> None:
    release = render(values())
    assert (release.all("Role"), release.all("ClusterRole")) == ([], [])
    assert [pod.name for pod in release.pods() if pod.spec["automountServiceAccountToken"]] == []


def test_no_secret_stands_in_a_config_map(release: Release) -> None:
    """Only in Secrets: a ConfigMap is read by many."""
    secrets = {
        text
        for manifest in release.all("Secret")
        for text in (*manifest.get("data", {}).values(), *manifest.get("stringData", {}).values())
    }
    others = str([manifest for manifest in release.manifests if manifest["kind"] != "Secret"])
    assert [secret for secret in secrets if secret in others] == []


@pytest.mark.parametrize("clients", [[], [{"podSelector": {"matchLabels": {"app": "web"}}}]])
def test_the_admin_port_and_the_store_are_fenced(render: Any, clients: Any) -> None:
    release = render(values(networkPolicy={"clients": clients}))
    data, admin = release.one("NetworkPolicy")["spec"]["ingress"]
    assert (data["ports"][0]["port"], admin["ports"][0]["port"]) == ("http", "admin")
    assert ("from" in data) is bool(clients)
    instance = {"app.kubernetes.io/name": "spillway", "app.kubernetes.io/instance": "spillway"}
    assert admin["from"] == [
        {"podSelector": {"matchLabels": instance}},
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}},
    ]
    store = release.one("NetworkPolicy", "spillway-valkey")["spec"]
    assert store["egress"] == []
    (rule,) = store["ingress"]
    assert rule["from"] == [
        {"podSelector": {"matchLabels": {**instance, "app.kubernetes.io/component": "gateway"}}}
    ]


def test_egress_leaves_the_way_to_dns_and_to_the_store(render: Any) -> None:
    backends = {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}
    policy = render(values(networkPolicy={"egress": [backends]})).one("NetworkPolicy")["spec"]
    dns, store, own = policy["egress"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert {(port["port"], port["protocol"]) for port in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert store["ports"] == [{"port": 6379, "protocol": "TCP"}]
    assert own == backends
