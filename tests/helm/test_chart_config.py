"""The ConfigMap is a configuration that the gateway takes, and says what the chart promises."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from gateway.config import Config, load, parse
from gateway.config.fixed import FIXED
from tests.helm.release import ROOT, Release, values

MARGIN_S = 10
DELAY_S = 10


@pytest.fixture(scope="module")
def given() -> dict[str, dict[str, bytes]]:
    """The Secrets that the examples expect to be there."""
    issued = trustme.CA().issue_cert("llm.site.example")
    return {
        "spillway-redis": {"url": b"rediss+cluster://:secret@redis.example:6379"},
        "provider-credential": {"authorization": b"Bearer secret"},
        "llm-site-example": {
            "tls.crt": b"".join(pem.bytes() for pem in issued.cert_chain_pems),
            "tls.key": issued.private_key_pem.bytes(),
        },
    }


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_REGION_KEY", "secret")


def gateways_config(release: Release) -> Any:
    return yaml.safe_load(release.one("ConfigMap")["data"]["config.yaml"])


def test_the_gateway_takes_it(release: Release, tmp_path: Path, given: Any) -> None:
    config = release.config(tmp_path, given)
    assert config.admin.token is not None
    assert config.state.url is not None


def test_the_check_before_an_install_takes_it_too(release: Release, tmp_path: Path, given: Any) -> None:
    """That pod has only the user's own Secrets: the chart's are not there yet."""
    pod = release.pod("Job", "spillway-config-check")
    checked = load(release.mounted(pod, tmp_path / "check", given))
    assert checked.clusters == release.config(tmp_path / "served", given).clusters
    mine = {manifest["metadata"]["name"] for manifest in release.all("Secret")}
    named = {volume["secret"]["secretName"] for volume in pod.spec["volumes"] if "secret" in volume}
    assert not mine & named


def test_a_pod_ends_later_than_its_longest_stream(release: Release, tmp_path: Path, given: Any) -> None:
    config = release.config(tmp_path, given)
    assert config.drain_timeout_s >= config.timeouts.total_s
    grace_s = release.gateway.spec["terminationGracePeriodSeconds"]
    assert config.drain_delay_s >= DELAY_S
    assert grace_s >= config.drain_delay_s + config.drain_timeout_s + MARGIN_S


@pytest.mark.parametrize(
    ("total", "drain", "seconds"),
    [("250ms", None, 1), ("1.5m", None, 90), ("2h", None, 7200), ("2h", "45s", 45), ("10 m", None, 600)],
)
def test_the_end_follows_the_timeouts(render: Any, total: str, drain: str | None, seconds: int) -> None:
    given = {"timeouts": {"total": total}, **({"drain_timeout": drain} if drain else {})}
    release = render(values(config=given))
    assert release.gateway.spec["terminationGracePeriodSeconds"] == DELAY_S + seconds + 15
    assert gateways_config(release)["drain_timeout"] == (drain or f"{seconds}s")
    assert ("WARNING: config.drain_timeout" in release.notes) is (drain is not None)


def test_what_is_given_wins(render: Any) -> None:
    config = gateways_config(
        render(
            values(
                config={
                    "listen": "0.0.0.0:8088",
                    "admin": {"listen": "0.0.0.0:9191"},
                    "state": {"fleet": "all"},
                    "access_log": False,
                }
            )
        )
    )
    assert config["listen"] == "0.0.0.0:8088"
    assert config["admin"] == {
        "listen": "0.0.0.0:9191",
        "token_file": "/etc/spillway/secrets/admin/token",
    }
    assert config["state"] == {"fleet": "all", "url_file": "/etc/spillway/secrets/state/url"}
    assert config["access_log"] == "off"  # YAML 1.1 made a boolean of it


def test_numbers_and_words_arrive_as_they_were_written(render: Any, tmp_path: Path) -> None:
    """Templates print large numbers as 1e+06, and YAML guesses at words."""
    config: Config = render(
        values(
            config={
                "max_body": 33554432,
                "paths": ["/my/*"],
                "clusters": [
                    {"name": "no", "limit": 1000000, "weight": 0.05, "backends": ["http://a:1"]},
                    {"name": "1.5", "limit": 8, "models": {"yes": "on"}, "backends": ["http://a:1"]},
                ],
            }
        )
    ).config(tmp_path)
    first, second = config.clusters
    assert (config.max_body_bytes, first.name, first.limit, first.weight) == (2**25, "no", 10**6, 0.05)
    assert (second.name, second.models) == ("1.5", {"yes": "on"})


def test_variables_are_left_to_the_gateway(render: Any) -> None:
    release = render(
        values(
            state={"store": "external"},
            config={"state": {"url": "redis://:${PASSWORD}@redis:6379"}},
            env=[{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}}],
        )
    )
    assert gateways_config(release)["state"]["url"] == "redis://:${PASSWORD}@redis:6379"
    assert release.gateway.container["env"][0]["name"] == "PASSWORD"
    assert "secret-state" not in {volume["name"] for volume in release.gateway.spec["volumes"]}
    # The check before the install needs it as much.
    assert release.pod("Job", "spillway-config-check").container["env"][0]["name"] == "PASSWORD"


def test_a_change_that_is_taken_over_restarts_nothing(render: Any) -> None:
    before = render(values())
    after = render(
        values(
            config={
                "clusters": [{"name": "there", "limit": 9, "backends": ["http://10.0.0.2:8000"]}],
                "timeouts": {"stall": "5s"},
                "retry": {"attempts": 2},
            }
        )
    )
    assert before.one("ConfigMap")["data"] != after.one("ConfigMap")["data"]
    assert before.one("Deployment") == after.one("Deployment")


CHANGES: dict[str, Any] = {
    "listen": {"config": {"listen": "0.0.0.0:8088"}},
    "admin.listen": {"config": {"admin": {"listen": "0.0.0.0:9191"}}},
    "workers": {"config": {"workers": 2}},
    "state.url": {"state": {"store": "none"}},
    "state.fleet": {"state": {"fleet": "other"}},
    "access_log": {"config": {"access_log": "/tmp/access.log"}},
    "tracing": {"config": {"tracing": {"endpoint": "http://collector:4318/v1/traces"}}},
    "tls": {"tls": {"secretName": "certificate"}},
    "tls.client_ca_file": {
        "config": {"tls": {"cert_file": "c.pem", "key_file": "k.pem", "client_ca_file": "ca.pem"}}
    },
}


@pytest.mark.parametrize("setting", FIXED)
def test_a_change_that_a_running_gateway_refuses_replaces_the_pods(render: Any, setting: str) -> None:
    before, after = render(values()), render(values(**CHANGES[setting]))
    assert restart_mark(before) != restart_mark(after)


def test_client_keys_that_end_as_a_whole_replace_the_pods(render: Any) -> None:
    def mark(*names: str) -> str:
        keys = [{"name": name, "sha256": "0" * 64} for name in names]
        return restart_mark(render(values(config={"keys": keys} if keys else {})))

    assert mark() != mark("team-a") == mark("team-a", "team-b")


def restart_mark(release: Release) -> str:
    template = release.one("Deployment")["spec"]["template"]
    return template["metadata"]["annotations"]["checksum/restart"]


def test_secrets_of_the_users_are_used_and_none_is_made(render: Any, tmp_path: Path) -> None:
    release = render(
        values(
            admin={"existingSecret": "mine", "secretKey": "admin-token"},
            valkey={"existingSecret": "valkey-mine"},
        )
    )
    assert release.all("Secret") == []
    given = {
        "mine": {"admin-token": b"t0ken"},
        "valkey-mine": {"url": b"redis://:pw@v:6379", "valkey.conf": b""},
    }
    config = release.config(tmp_path, given)
    assert config.admin.token is not None and config.admin.token.reveal() == "t0ken"
    assert config.state.url is not None and config.state.url.reveal() == "redis://:pw@v:6379"


def test_a_made_token_is_long_and_new_each_time(render: Any) -> None:
    tokens = {render(values()).one("Secret", "spillway-admin")["data"]["token"] for _ in range(3)}
    assert len(tokens) == 3
    assert all(len(token) >= len(b64encode(b"x" * 40)) for token in tokens)


def test_without_a_store_the_notes_say_what_that_means(render: Any, tmp_path: Path) -> None:
    release = render(values(state={"store": "none"}))
    assert "WARNING: state.store is none" in release.notes
    assert release.config(tmp_path).state.url is None
    assert {pod.name for pod in release.pods() if pod.kind == "Deployment"} == {"spillway"}


def test_the_example_configurations_are_values_too(render: Any, tmp_path: Path) -> None:
    """There is one language: a file of config/ fits under `config`."""
    text = (ROOT / "config" / "full.yaml").read_text()
    given = yaml.safe_load(text)
    for owned in ("listen", "admin", "state"):
        given.pop(owned)
    config = render(values({"config": given})).config(tmp_path)
    alone = parse(text, "full.yaml", ROOT / "config")
    assert (config.clusters, config.timeouts, config.breaker) == (
        alone.clusters,
        alone.timeouts,
        alone.breaker,
    )


def test_the_guides_smallest_values_are_enough(render: Any, tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "how-to" / "install-with-helm.md").read_text()
    smallest = guide.partition("```yaml\n")[2].partition("```")[0]
    release = render(yaml.safe_load(smallest))
    assert [cluster.name for cluster in release.config(tmp_path).clusters] == ["here"]
    assert release.gateway.container["image"].startswith("registry.example/spillway:")
