"""What can be switched on: the ways in, and the other regions."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.helm.release import Manifest, values

TOTAL_S = 600


def annotations(render: Any, controller: str, **more: Any) -> Manifest:
    ingress = {"enabled": True, "controller": controller, "hosts": ["llm.example"], **more}
    return render(values(ingress=ingress)).one("Ingress")["metadata"]["annotations"]


def test_ingress_nginx_neither_buffers_nor_cuts_a_stream(render: Any) -> None:
    found = annotations(render, "nginx")
    prefix = "nginx.ingress.kubernetes.io"
    assert found[f"{prefix}/proxy-buffering"] == "off"
    assert found[f"{prefix}/proxy-request-buffering"] == "off"
    assert int(found[f"{prefix}/proxy-read-timeout"]) > TOTAL_S
    assert int(found[f"{prefix}/proxy-send-timeout"]) > TOTAL_S


@pytest.mark.parametrize(
    ("controller", "annotation", "pattern"),
    [
        ("haproxy", "haproxy.org/timeout-server", r"(\d+)s"),
        ("alb", "alb.ingress.kubernetes.io/load-balancer-attributes", r"idle_timeout.timeout_seconds=(\d+)"),
    ],
)
def test_other_controllers_wait_as_long(render: Any, controller: str, annotation: str, pattern: str) -> None:
    match = re.fullmatch(pattern, annotations(render, controller)[annotation])
    assert match is not None and int(match[1]) > TOTAL_S


def test_the_users_annotations_win(render: Any) -> None:
    body_size = "nginx.ingress.kubernetes.io/proxy-body-size"
    assert annotations(render, "nginx", annotations={body_size: "8m"})[body_size] == "8m"


def test_an_ingress_leads_to_the_data_port_and_nowhere_else(render: Any) -> None:
    release = render(values(ingress={"enabled": True, "hosts": ["a.example", "b.example"]}))
    rules = release.one("Ingress")["spec"]["rules"]
    assert [rule["host"] for rule in rules] == ["a.example", "b.example"]
    for rule in rules:
        assert [path["path"] for path in rule["http"]["paths"]] == ["/v1", "/v2"]
        for path in rule["http"]["paths"]:
            assert path["backend"]["service"] == {"name": "spillway", "port": {"name": "http"}}
    assert "http://a.example/v1" in release.notes


@pytest.mark.parametrize(("total", "timeout"), [("10m", "0h10m15s"), ("168h", "168h0m15s")])
def test_an_http_route_waits_for_the_longest_stream(render: Any, total: str, timeout: str) -> None:
    release = render(
        values(
            config={"timeouts": {"total": total}},
            httpRoute={
                "enabled": True,
                "parentRefs": [{"name": "public", "namespace": "gateways"}],
                "hostnames": ["llm.example"],
            },
        )
    )
    route = release.one("HTTPRoute")
    assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert route["spec"]["parentRefs"] == [{"name": "public", "namespace": "gateways"}]
    (rule,) = route["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": "spillway", "port": 80}]
    assert rule["timeouts"] == {"request": timeout, "backendRequest": timeout}
    # The form that the Gateway API asks for (GEP-2257).
    assert re.fullmatch(r"([0-9]{1,5}(h|m|s|ms)){1,4}", timeout)
    assert [match["path"]["value"] for match in rule["matches"]] == ["/v1", "/v2"]


def test_tls_goes_all_the_way(render: Any) -> None:
    release = render(
        values(tls={"secretName": "certificate"}, ingress={"enabled": True, "hosts": ["a.example"]})
    )
    assert release.one("Service")["spec"]["ports"][0]["appProtocol"] == "https"
    found = release.one("Ingress")["metadata"]["annotations"]
    assert found["nginx.ingress.kubernetes.io/backend-protocol"] == "HTTPS"
    data, _, _ = release.pod("Pod", "spillway-reach").container["args"][1:]
    assert data.startswith("https://spillway.inference:80/")


def test_a_load_balancer_never_carries_the_admin_port(render: Any) -> None:
    release = render(values(service={"type": "LoadBalancer"}))
    assert [port["name"] for port in release.one("Service")["spec"]["ports"]] == ["http"]
    assert release.one("Service", "spillway-admin")["spec"]["clusterIP"] == "None"


def test_other_regions_are_clusters(render: Any, tmp_path: Any) -> None:
    """One install per region, each with the others as its last tiers."""
    regions = [
        {"name": "us-east-1", "tier": "backup", "limit": 64, "backends": ["https://llm.us.example"]},
        {"name": "ap-south-1", "tier": "spot", "limit": 32, "backends": ["https://llm.ap.example"]},
    ]
    config = values()["config"]
    release = render({"config": {"clusters": config["clusters"] + regions}})
    assert [cluster.tier for cluster in release.config(tmp_path).clusters] == [None, "backup", "spot"]


@pytest.mark.parametrize(("delay", "grace_s"), [("0s", TOTAL_S + 15), ("1m", TOTAL_S + 60 + 15)])
def test_slow_load_balancers_get_their_time(render: Any, delay: str, grace_s: int) -> None:
    release = render(values(config={"drain_delay": delay}))
    assert release.gateway.spec["terminationGracePeriodSeconds"] == grace_s
    # SIGTERM does it all.
    assert "lifecycle" not in release.gateway.container


def test_an_image_by_digest(render: Any) -> None:
    digest = "sha256:" + "a" * 64
    release = render(values(image={"repository": "registry.example/spillway", "digest": digest}))
    images = {pod.container["image"] for pod in release.pods() if "valkey" not in pod.name}
    assert images == {f"registry.example/spillway@{digest}"}


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ("podDisruptionBudget", "PodDisruptionBudget"),
        ("networkPolicy", "NetworkPolicy"),
        ("configCheck", "Job"),
    ],
)
def test_what_is_on_can_be_switched_off(render: Any, section: str, kind: str) -> None:
    assert render(values()).all(kind)
    assert render(values(**{section: {"enabled": False}})).all(kind) == []
