"""What a good file means: defaults, the environment, files and secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from gateway.config import Config, ConfigError, load, parse
from gateway.config.addresses import Address
from gateway.config.secrets import Secret
from gateway.core.balancing import CLUSTER_POLICIES

CLUSTERS = "clusters: [{name: here, limit: 8, backends: [http://127.0.0.1:9001]}]\n"


def parsed(text: str, base_dir: Path | str = ".", **environment: str) -> Config:
    return parse(text, "g.yaml", base_dir, environment)


def mistakes(text: str, base_dir: Path | str = ".", **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parsed(text, base_dir, **environment)
    return str(caught.value).split("\n")


def with_auth(auth: str) -> str:
    return f"clusters:\n- name: here\n  limit: 8\n  backends: [http://a:1]\n  auth: {auth}\n"


def test_the_defaults_are_those_of_the_design() -> None:
    config = parsed(CLUSTERS)
    assert (str(config.listen), str(config.admin.listen)) == ("127.0.0.1:8080", "127.0.0.1:9090")
    assert (config.max_body_bytes, config.max_buffered_bytes) == (32 * 2**20, 512 * 2**20)
    assert config.max_memory_bytes is None
    assert (config.tiers, config.cluster_policy) == (("primary", "backup", "spot"), "weight")
    assert (config.access_log, config.expose_routing, config.drain_timeout_s) == ("-", True, 30.0)
    assert (config.paths, config.tls, config.admin.token) == ((), None, None)
    t = config.timeouts
    assert (t.connect_s, t.first_byte_s, t.first_byte_per_kib_s, t.stall_s, t.total_s) == (
        1,
        30,
        0.02,
        15,
        600,
    )
    assert (t.request_head_s, t.request_body_s, t.keep_alive_s, t.write_s) == (10, 30, 75, 60)
    assert (config.retry.attempts, config.pool.max_idle) == (3, 128)
    assert (config.pool.idle_s, config.pool.max_age_s) == (30, 600)

    assert (config.workers, config.state.url, config.state.fleet) == (1, None, "default")


@pytest.mark.parametrize(
    "url",
    [
        "redis://a",
        "rediss://user:s3cret@a.example:6380/3?socket_timeout=1",
        "redis://:p@ss/word@[::1]:6379",
        "unix:///run/redis.sock?db=1",
        "unix://user:s3cret@/run/redis.sock",
        "redis+sentinel://:s3cret@a:26379,b,10.0.0.1:26380/main/0",
    ],
)
def test_a_state_url_from_the_file_the_environment_or_a_file_of_its_own(url: str, tmp_path: Path) -> None:
    (tmp_path / "url").write_text(url + "\n")
    for given in (f"{{url: '{url}'}}", "{url: '${URL}'}", "{url_file: url}"):
        state = parsed(f"state: {given}\n{CLUSTERS}", tmp_path, URL=url).state
        assert state.url is not None
        assert state.url.reveal() == url
        assert url not in repr(state)
        assert str(state).count("***") == 1


def test_a_private_url_takes_the_place_of_none_and_keeps_the_fleet(tmp_path: Path) -> None:
    state = parsed(f"state: {{fleet: prod}}\n{CLUSTERS}").state.at(Secret("unix:///x"))
    assert state.url is not None
    assert (state.url.reveal(), state.fleet) == ("unix:///x", "prod")


def test_the_defaults_of_health() -> None:
    lines = "health: {path: /health, interval: 2s}, engine_metrics: {}"
    (cluster,) = parsed(CLUSTERS.replace("limit: 8", f"limit: 8, {lines}")).clusters
    health, metrics = cluster.health, cluster.engine_metrics
    assert health is not None
    assert metrics is not None
    assert (health.path, health.tcp, health.agent, health.synthetic) == ("/health", False, True, None)
    assert (health.interval_s, health.timeout_s, health.rise, health.fall) == (2, 1, 2, 3)
    assert (metrics.path, metrics.port) == ("/metrics", None)
    assert (metrics.interval_s, metrics.timeout_s, metrics.stale_after_s) == (2, 1, 10)
    assert parsed(CLUSTERS).clusters[0].health is None
    assert parsed(CLUSTERS).clusters[0].engine_metrics is None


def test_a_section_without_entries_keeps_its_defaults() -> None:
    assert parsed("timeouts:\n  # stall: 1s\n" + CLUSTERS).timeouts == parsed(CLUSTERS).timeouts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("'[::1]:80'", Address("::1", 80)),
        ("'[0:0::1]:80'", Address("::1", 80)),
        ("0.0.0.0:0", Address("0.0.0.0", 0)),
        ("LOCALHOST:1", Address("localhost", 1)),
        ("gw-1.example.:1", Address("gw-1.example", 1)),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert parsed(f"listen: {text}\n{CLUSTERS}").listen == expected


@pytest.mark.parametrize("address", ["127.0.0.1:9", "127.8.0.1:9", "[::1]:9", "localhost:9"])
def test_loopback_needs_no_token(address: str) -> None:
    assert str(parsed(f"admin: {{listen: '{address}'}}\n{CLUSTERS}").admin.listen) == address


@pytest.mark.parametrize(
    "address", ["0.0.0.0:9", "[::]:9", "10.0.0.1:9", "gw.example:9", "127.0.0.1.example:9"]
)
def test_anywhere_else_needs_one(address: str, tmp_path: Path) -> None:
    (found,) = mistakes(f"admin: {{listen: '{address}'}}\n{CLUSTERS}")
    assert "must be loopback without a token" in found
    (tmp_path / "token").write_text("s3cret\n")
    config = parsed(f"admin: {{listen: '{address}', token_file: token}}\n{CLUSTERS}", tmp_path)
    assert config.admin.token is not None
    assert config.admin.token.reveal() == "s3cret"


@pytest.mark.parametrize(("word", "value"), [("on", True), ("Yes", True), ("FALSE", False), ("off", False)])
def test_words_for_true_and_false(word: str, value: bool) -> None:
    assert parsed(f"expose_routing: {word}\n{CLUSTERS}").expose_routing is value


def test_words_that_yaml_would_take_for_something_else_stay_text(tmp_path: Path) -> None:
    assert parsed(f"access_log: off\n{CLUSTERS}").access_log == "off"
    assert parsed(f"access_log: a.log\n{CLUSTERS}", tmp_path).access_log == f"{tmp_path}/a.log"
    cluster = "{name: no, tier: 1.5, limit: 8, backends: [http://a], models: [3.10, yes]}"
    config = parsed(f"tiers: [on, 10, 1.5]\nclusters: [{cluster}]")
    assert config.tiers == ("on", "10", "1.5")
    assert (config.clusters[0].name, list(config.clusters[0].models)) == ("no", ["3.10", "yes"])


def test_models_as_a_list_and_as_a_map() -> None:
    head = "clusters:\n- {name: a, limit: 1, backends: [http://a], models: "
    assert parsed(head + "[m, 'q-*']}").clusters[0].models == {"m": None, "q-*": None}
    assert parsed(head + "{m: org/M, 'q-*': q}}").clusters[0].models == {"m": "org/M", "q-*": "q"}


def test_the_schema_offers_just_the_policies_of_the_core() -> None:
    for policy in CLUSTER_POLICIES:
        assert parsed(f"cluster_policy: {policy}\n{CLUSTERS}").cluster_policy == policy
    (found,) = mistakes(f"cluster_policy: none\n{CLUSTERS}")
    assert found == f"g.yaml:1: cluster_policy: must be one of {', '.join(sorted(CLUSTER_POLICIES))}"


# --- the environment ---------------------------------------------------------------------------------


def test_variables_are_filled_in_anywhere_and_keep_the_type_of_the_key() -> None:
    text = """
listen: ${HOST}:${PORT}
drain_timeout: ${WAIT}
clusters:
- {name: "${NAME}", limit: "${LIMIT}", backends: ["http://${HOST}:1"], auth: {value: "Bearer ${KEY}"}}
"""
    config = parsed(text, HOST="10.0.0.1", PORT="80", WAIT="5s", NAME="here", LIMIT="8", KEY="k")
    assert (str(config.listen), config.drain_timeout_s) == ("10.0.0.1:80", 5.0)
    (cluster,) = config.clusters
    assert (cluster.name, cluster.limit, str(cluster.backends[0].url)) == ("here", 8, "http://10.0.0.1:1")
    assert cluster.auth is not None
    assert cluster.auth.value is not None
    assert cluster.auth.value.reveal() == "Bearer k"


def test_a_variable_is_filled_in_once_and_can_be_escaped() -> None:
    config = parsed(with_auth('{value: "$${A} ${A} $5 $$"}'), A="${B}")
    assert config.clusters[0].auth is not None
    assert config.clusters[0].auth.secret is not None
    assert config.clusters[0].auth.secret.reveal() == "${A} ${B} $5 $$"


def test_a_variable_that_is_not_set_is_named() -> None:
    write = "write ${NAME} for a variable, $${ for a plain ${"
    assert mistakes("listen: ${HOST}:80\n" + CLUSTERS) == [
        f"g.yaml:1: listen: environment variable HOST is not set; set it; {write}"
    ]
    for text in ("${}", "${a-b}", "${A", "${A:-x}"):
        assert mistakes(f"listen: '{text}'\n{CLUSTERS}", A="x") == [
            f"g.yaml:1: listen: holds a ${{ that names no variable; {write}"
        ]


@pytest.mark.parametrize(
    "line",
    [
        "listen: ${KEY}",
        "access_log: ${KEY}/x/y",
        "expose_routing: ${KEY}",
        "max_body: ${KEY}",
        "drain_timeout: ${KEY}",
        "tiers: ['${KEY}']",
        "cluster_policy: ${KEY}",
        "paths: ['${KEY}']",
        "retry: {attempts: '${KEY}'}",
        "admin: {token_file: '${KEY}'}",
    ],
)
def test_no_message_shows_what_came_from_the_environment(line: str) -> None:
    (found,) = mistakes(f"{line}\n{CLUSTERS}", KEY="sk-Very_Secret")
    assert "secret" not in found.lower()


@pytest.mark.parametrize("line", ["max_body: ${KEY}", "drain_timeout: ${KEY}", "listen: ${KEY}"])
def test_nor_a_part_of_it(line: str) -> None:
    (found,) = mistakes(f"{line}\n{CLUSTERS}", KEY="123Secret")
    assert "secret" not in found.lower()
    assert "'${KEY}" in found


# --- files and secrets -------------------------------------------------------------------------------


def test_files_are_relative_to_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "key").write_text("Bearer k\r\n")
    (tmp_path / "etc" / "g.yaml").write_text(with_auth("{value_file: key}"))
    monkeypatch.chdir(tmp_path)
    auth = load("etc/g.yaml").clusters[0].auth
    assert auth is not None
    assert auth.secret is not None
    assert auth.secret.reveal() == "Bearer k"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "file 'key' is empty; a secret needs at least one character"),
        (b"\n", "file 'key' is empty; a secret needs at least one character"),
        (b"a\n\n", "file 'key' holds a line break; only visible ASCII may go into a header"),
        (b"a\nb\n", "file 'key' holds a line break; only visible ASCII may go into a header"),
        (b"a\0b", "file 'key' holds a control character; only visible ASCII may go into a header"),
        (b"\xff", "file 'key' holds a character outside ASCII; only visible ASCII may go into a header"),
        (b"a \n", "file 'key' begins or ends with a space; remove the space"),
        (b"a" * 70_000, "file 'key' is too large for a secret"),
    ],
    ids=lambda value: ascii(value[:12]),
)
def test_a_secret_that_cannot_go_into_a_header(content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(content)
    assert mistakes(with_auth("{value_file: key}"), tmp_path) == [
        f"g.yaml:5: clusters[0].auth.value_file: {expected}"
    ]


def test_one_way_to_give_a_secret(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k")
    assert mistakes(with_auth("{value: v, value_file: key}"), tmp_path) == [
        "g.yaml:5: clusters[0].auth.value: must not stand beside value_file; keep one of them"
    ]


def test_no_secret_shows_in_a_repr(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hunter2")
    config = parsed("admin: {token_file: key}\n" + with_auth("{value: Bearer hunter2}"), tmp_path)
    assert "hunter2" not in repr(config)
    assert "Secret(***)" in repr(config)


def test_a_token_is_compared_whole(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hunter2")
    token = parsed("admin: {token_file: key}\n" + CLUSTERS, tmp_path).admin.token
    assert token is not None
    assert token.matches(b"hunter2")
    assert not any(token.matches(offered) for offered in (b"", b"hunter", b"hunter22", b"Hunter2", b"\xff"))


# --- certificates ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    for name in ("one", "two"):
        leaf = authority.issue_cert(f"{name}.example")
        leaf.private_key_pem.write_to_path(str(directory / f"{name}.key"))
        leaf.cert_chain_pems[0].write_to_path(str(directory / f"{name}.crt"))
    (directory / "junk").write_text("junk")
    return directory


def test_certificates_that_can_be_used(pem: Path) -> None:
    text = f"tls: {{cert_file: one.crt, key_file: one.key}}\n{CLUSTERS}"
    tls = parsed(text, pem).tls
    assert tls is not None
    assert (tls.cert_file.path, tls.key_file.path) == (pem / "one.crt", pem / "one.key")


@pytest.mark.parametrize(
    "files", ["cert_file: one.crt, key_file: two.key", "cert_file: junk, key_file: junk"]
)
def test_certificates_that_cannot(files: str, pem: Path) -> None:
    (found,) = mistakes(f"tls: {{{files}}}\n{CLUSTERS}", pem)
    assert found.startswith("g.yaml:1: tls.cert_file: is no certificate with the key of key_file: ")


def test_authorities(pem: Path) -> None:
    head = "clusters:\n- {name: a, limit: 1, backends: [https://a], tls: {ca_file: "
    tls = parsed(head + "ca.pem}}", pem).clusters[0].tls
    assert tls is not None
    assert tls.ca_file.path == pem / "ca.pem"
    assert mistakes(head + "junk}}", pem) == ["g.yaml:2: clusters[0].tls.ca_file: holds no PEM certificates"]
