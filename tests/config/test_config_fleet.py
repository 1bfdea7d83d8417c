"""Settings in the terms of the core and of the data plane."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import BackendEndpoint, Config, UpstreamTls, clusters_of, endpoints_of, parse
from gateway.config.fleet import breaker_of
from gateway.core.breaker import BreakerSettings
from gateway.core.fleet import Fleet, FleetConfigured
from gateway.core.model import Backend, Cluster, HealthRules

TEXT = """
tiers: [near, far]
clusters:
  - name: eu
    limit: 64
    weight: 2
    models: {llama: org/Llama, "qwen-*": qwen}
    backends:
      - http://10.0.0.1
      - {url: "https://[fd00::1]:8443/engine/", limit: 32, weight: 0.5}
    auth: {header: X-Api-Key, value: hunter2}
    tls: {server_name: engines.example}
  - name: us
    tier: far
    backends: [{url: https://us.example, limit: 4}]
    auth: {pass_client: true}
"""


@pytest.fixture
def config() -> Config:
    return parse(TEXT, "g.yaml", ".", {})


def test_clusters_in_the_terms_of_the_core(config: Config) -> None:
    assert clusters_of(config) == (
        Cluster(
            "eu",
            "near",
            (
                Backend("eu@10.0.0.1:80", "http://10.0.0.1", 64),
                Backend("eu@[fd00::1]:8443/engine", "https://[fd00::1]:8443/engine", 32, 0.5),
            ),
            {"llama": "org/Llama", "qwen-*": "qwen"},
            2.0,
        ),
        Cluster("us", "far", (Backend("us@us.example:443", "https://us.example", 4),)),
    )


def test_endpoints_for_the_data_plane(config: Config) -> None:
    plain, secure, provider = endpoints_of(config).values()
    assert plain == BackendEndpoint(
        "eu@10.0.0.1:80", "http", "10.0.0.1", 80, b"", b"10.0.0.1", None, b"X-Api-Key", b"hunter2"
    )
    assert secure == BackendEndpoint(
        "eu@[fd00::1]:8443/engine",
        "https",
        "fd00::1",
        8443,
        b"/engine",
        b"[fd00::1]:8443",
        UpstreamTls("engines.example"),
        b"X-Api-Key",
        b"hunter2",
    )
    assert provider == BackendEndpoint(
        "us@us.example:443", "https", "us.example", 443, b"", b"us.example", UpstreamTls("us.example"),
        pass_client=True,
    )  # fmt: skip


def test_each_backend_has_its_endpoint_and_the_fleet_takes_them(config: Config) -> None:
    fleet = Fleet()
    fleet.apply(FleetConfigured(clusters_of(config), config.tiers, config.cluster_policy), now_s=0.0)
    assert set(fleet.view.backends) == set(endpoints_of(config))
    assert {id_: endpoint.backend_id for id_, endpoint in endpoints_of(config).items()} == {
        id_: id_ for id_ in fleet.view.backends
    }


def test_no_secret_shows_in_an_endpoint(config: Config) -> None:
    assert "hunter2" not in repr(endpoints_of(config))


def test_one_backend_in_two_clusters_has_two_ids(tmp_path: Path) -> None:
    text = "clusters:\n- {name: a, limit: 1, backends: [http://x]}\n- {name: b, limit: 1, backends: [http://x]}\n"
    assert list(endpoints_of(parse(text, "g.yaml", tmp_path, {}))) == ["a@x:80", "b@x:80"]


@pytest.mark.parametrize(
    ("section", "rules"),
    [
        ("weight: 1", None),
        ("health: {rise: 5, fall: 6}", HealthRules(5, 6, 10.0, True, False)),
        ("health: {synthetic: {}}", HealthRules(2, 3, 10.0, True, True)),
        ("engine_metrics: {stale_after: 4s}", HealthRules(2, 3, 4.0, False, False)),
        ("health:\n  engine_metrics: {}", HealthRules(2, 3, 10.0, True, False)),
    ],
)
def test_rules_of_health_in_the_terms_of_the_core(section: str, rules: HealthRules | None) -> None:
    text = f"clusters:\n- name: a\n  limit: 1\n  backends: [http://x, http://y]\n  {section}\n"
    (cluster,) = clusters_of(parse(text, "g.yaml", ".", {}))
    assert [backend.health for backend in cluster.backends] == [rules, rules]


def test_the_breaker_in_the_terms_of_the_core(config: Config) -> None:
    assert breaker_of(config) == BreakerSettings()
    text = (
        "breaker: {consecutive: 7, ratio: 0.25, min_samples: 9, window: 3s, open: 2s, open_max: 4s, "
        "slow_start: 0s}\n"
    )
    changed = breaker_of(parse(text + TEXT, "g.yaml", ".", {}))
    assert changed == BreakerSettings(
        consecutive=7, ratio=0.25, min_samples=9, window_s=3.0, open_s=2.0, open_max_s=4.0, slow_start_s=0.0
    )


def test_a_hedge_is_off_unless_asked_for(config: Config) -> None:
    assert config.hedge is None
    for text, after_s in (
        ("hedge:\n", 0.0),
        ("hedge: {after: p95}\n", 0.0),
        ("hedge: {after: 80ms}\n", 0.08),
    ):
        hedge = parse(text + TEXT, "g.yaml", ".", {}).hedge
        assert hedge is not None and (hedge.after_s, hedge.budget) == (after_s, 0.05)
