"""A mistake in the values is refused before anything is installed, in words that name it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.release import SMALLEST, values

HERE = {"name": "here", "limit": 8, "backends": ["http://10.0.0.1:8000"]}


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        (values(replicas=3), "additional properties 'replicas' not allowed"),
        (values(autoscaling={"enable": True}), "at '/autoscaling': additional properties 'enable'"),
        (values(ingress={"controller": "ngnix"}), "at '/ingress/controller'"),
        (values(replicaCount="three"), "at '/replicaCount': got string, want integer"),
        (values(service={"port": 0}), "at '/service/port'"),
        (values(secretFiles=[{"name": "admin", "secretName": "x"}]), "at '/secretFiles/0/name'"),
        # The gateway's own keys, from the gateway's own schema.
        (values(config={"timeout": {"total": "5m"}}), "at '/config': additional properties 'timeout'"),
        (
            {"config": {"clusters": [{**HERE, "limits": 9}]}},
            "at '/config/clusters/0': additional properties 'limits'",
        ),
        ({"config": {"clusters": [{"limit": 8, "backends": ["http://a:1"]}]}}, "missing property 'name'"),
        (values(config={"cluster_policy": "weigth"}), "at '/config/cluster_policy'"),
        (values(config={"clusters": {"name": "here"}}), "at '/config/clusters': got object, want array"),
    ],
)
def test_a_typo_is_named(render: Any, chosen: Any, told: str) -> None:
    from helm_python import HelmValuesError

    with pytest.raises(HelmValuesError) as caught:
        render(chosen)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({}, "config.clusters: at least one cluster is needed"),
        (values(config={"timeouts": {"total": "600"}}), "config.timeouts.total: must be a duration"),
        (values(config={"listen": "everywhere"}), "config.listen: must be host:port"),
        (
            values(config={"state": {"url": "redis://r"}}),
            "state.store is bundled, but a URL of a store is given",
        ),
        (values(state={"store": "external"}), "state.store is external: give state.external.secretName"),
        (
            values(
                state={"store": "external", "external": {"secretName": "s"}},
                config={"state": {"url": "redis://r"}},
            ),
            "keep one of them",
        ),
        (values(state={"store": "none"}, config={"workers": 2}), "config.workers above 1 needs a store"),
        (values(autoscaling={"enabled": True, "minReplicas": 20}), "minReplicas must be at most maxReplicas"),
        (values(autoscaling={"enabled": True, "kind": "keda"}), "give autoscaling.keda.prometheusAddress"),
        (values(httpRoute={"enabled": True}), "httpRoute.enabled needs httpRoute.parentRefs"),
    ],
)
def test_what_does_not_go_together_is_refused(render: Any, chosen: Any, told: str) -> None:
    from helm_python import HelmRenderError

    with pytest.raises(HelmRenderError) as caught:
        render(chosen)
    assert told in str(caught.value)


def test_a_choice_may_come_from_the_environment(render: Any) -> None:
    """What the gateway would take, the chart's schema must not refuse."""
    assert render(values(SMALLEST, config={"cluster_policy": "${POLICY}", "workers": "${WORKERS}"}))
