"""Alerts, dashboard and autoscalers ask for metrics and labels that the gateway has."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from gateway.telemetry.catalogue import CATALOGUE
from tests.helm.expressions import TARGET_LABELS, labels_of, problems
from tests.helm.release import CHART, Manifest, Release, values

ALL = values(
    region="eu-west-1",
    monitoring={section: {"enabled": True} for section in ("serviceMonitor", "alerts", "dashboard")},
)
OF_THIS_INSTALL = 'namespace="inference",job="spillway-admin"'


@pytest.fixture(scope="module")
def monitored(render: Any) -> Release:
    return render(ALL)


def alerts(release: Release) -> dict[str, Manifest]:
    groups = release.one("PrometheusRule")["spec"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    return {rule["alert"]: rule for rule in rules}


def panels(release: Release) -> list[Manifest]:
    (text,) = release.one("ConfigMap", "spillway-dashboard")["data"].values()
    return json.loads(text)["panels"]


def test_every_alert_can_be_answered(monitored: Release) -> None:
    wrong = {name: problems(rule["expr"]) for name, rule in alerts(monitored).items()}
    assert {name: found for name, found in wrong.items() if found} == {}


def test_every_alert_says_what_is_wrong_and_what_to_look_at(monitored: Release) -> None:
    for name, rule in alerts(monitored).items():
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), name
        assert rule["labels"]["region"] == "eu-west-1"
        assert rule["annotations"].keys() == {"summary", "description"}, name
        shown = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        assert shown <= labels_of(rule["expr"]), f"{name} shows labels that its result has not"
        assert "<" not in " ".join(rule["annotations"].values())
        assert OF_THIS_INSTALL in rule["expr"]


def test_the_alerts_are_about_what_an_operator_fears(monitored: Release) -> None:
    assert {
        "SpillwaySpillingLong",
        "SpillwayShedding",
        "SpillwayCircuitOpen",
        "SpillwayStoreDegraded",
        "SpillwaySpotInUse",
        "SpillwayConfigRefused",
        "SpillwayClusterDown",
        "SpillwayDown",
    } <= alerts(monitored).keys()


def test_alerts_follow_their_settings(render: Any) -> None:
    settings = {
        "enabled": True,
        "disabled": ["SpillwayDown"],
        "spotTiers": ["spot", "provider"],
        "spillShare": 0.4,
    }
    release = render(values(ALL, config={"workers": 3}, monitoring={"alerts": settings}))
    found = alerts(release)
    assert "SpillwayDown" not in found
    assert 'tier=~"spot|provider"' in found["SpillwaySpotInUse"]["expr"]
    assert found["SpillwaySpillingLong"]["expr"].rstrip().endswith("> 0.4")
    assert found["SpillwayGatewaysApart"]["expr"].endswith("* 3)")
    assert [problems(rule["expr"]) for rule in found.values()] == [[] for _ in found]


def test_without_a_store_no_alert_asks_for_it(render: Any) -> None:
    found = alerts(render(values(ALL, state={"store": "none"})))
    assert not [name for name in found if "Store" in name or "Apart" in name]


def test_every_panel_can_be_answered(monitored: Release) -> None:
    wrong = {
        panel["title"]: found
        for panel in panels(monitored)
        for target in panel.get("targets", [])
        if (found := problems(target["expr"]))
    }
    assert wrong == {}


def test_the_dashboard_is_whole(monitored: Release) -> None:
    shown = panels(monitored)
    assert len({panel["id"] for panel in shown}) == len(shown)
    for panel in shown:
        if panel["type"] == "row":
            continue
        assert panel["description"] and panel["targets"], panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert legend <= labels_of(target["expr"]), panel["title"]
    places = [panel["gridPos"] for panel in shown]
    for index, one in enumerate(places):
        assert one["x"] + one["w"] <= 24
        for other in places[:index]:
            apart = (
                one["x"] >= other["x"] + other["w"]
                or other["x"] >= one["x"] + one["w"]
                or one["y"] >= other["y"] + other["h"]
                or other["y"] >= one["y"] + one["h"]
            )
            assert apart, f"panels overlap: {one} {other}"


def test_the_dashboard_arrives_as_it_is(monitored: Release) -> None:
    """Helm's templates and Grafana's legends use the same braces."""
    (text,) = monitored.one("ConfigMap", "spillway-dashboard")["data"].values()
    assert json.loads(text) == json.loads((CHART / "dashboards" / "spillway.json").read_text())


def test_prometheus_finds_the_admin_port(monitored: Release) -> None:
    monitor = monitored.one("ServiceMonitor")["spec"]
    found = [
        service
        for service in monitored.all("Service")
        if monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    ]
    # The only one, or each pod would be scraped twice; its name is the job that alerts select.
    assert [service["metadata"]["name"] for service in found] == ["spillway-admin"]
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in found[0]["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"
    assert endpoint["relabelings"] == [
        {"targetLabel": "region", "replacement": "eu-west-1", "action": "replace"}
    ]
    assert found[0]["spec"]["publishNotReadyAddresses"] is True


def test_the_hpa_counts_what_is_in_flight(render: Any) -> None:
    release = render(values(autoscaling={"enabled": True, "inFlightPerPod": 300}))
    spec = release.one("HorizontalPodAutoscaler")["spec"]
    pods, cpu = spec["metrics"]
    (metric,) = (one for one in CATALOGUE if one.full_name == pods["pods"]["metric"]["name"])
    assert metric.kind == "gauge"
    assert pods["pods"]["target"] == {"type": "AverageValue", "averageValue": "300"}
    assert cpu["resource"]["name"] == "cpu"
    assert spec["scaleTargetRef"]["name"] == "spillway"
    # Else each upgrade would set the number that the autoscaler has found.
    assert "replicas" not in release.one("Deployment")["spec"]
    assert "custom.metrics.k8s.io" in release.notes


def test_keda_asks_prometheus_for_the_same(render: Any) -> None:
    keda = {"enabled": True, "kind": "keda", "keda": {"prometheusAddress": "http://prometheus:9090"}}
    release = render(values(autoscaling=keda))
    assert release.all("HorizontalPodAutoscaler") == []
    scaled = release.one("ScaledObject")
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    assert scaled["spec"]["scaleTargetRef"]["name"] == "spillway"
    prometheus, cpu = scaled["spec"]["triggers"]
    assert problems(prometheus["metadata"]["query"]) == []
    assert (prometheus["metadata"]["threshold"], cpu["metadata"]["value"]) == ("500", "70")


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("sum(rate(spillway_request_total{<of>}[5m]))", "no metric spillway_request_total"),
        ('spillway_in_flight{<of>,tier="spot"}', "spillway_in_flight has no label tier"),
        ("sum by (tier) (spillway_in_flight{<of>})", "no label tier to group by"),
        ("spillway_store_degraded", "does not select by"),
        ("sum(rate(spillway_ttft_seconds{<of>}[5m]))", "no metric spillway_ttft_seconds"),
        ("sum(rate(spillway_sheds_total{<of>}[5m])", "unclosed left parenthesis"),
    ],
)
def test_an_expression_that_cannot_be_answered_is_found(expression: str, problem: str) -> None:
    found = problems(expression.replace("<of>", OF_THIS_INSTALL))
    assert any(problem in line for line in found), found
    assert "pod" in TARGET_LABELS
