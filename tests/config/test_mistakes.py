"""Each mistake gives one exact line: file, line, path, what is wrong, what to write instead."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
import trustme

from gateway.config import ConfigError, parse

RELATIVE = "paths are relative to the configuration file"
WRITE_DURATION = "write a number and a unit: 250ms, 2s, 5m or 1h"
NO_SEGMENTS = "no empty or dot segments, '%', query, fragment or spaces"
KNOWN_AT_TOP = (
    "known here: access_log, admin, allow_backends_in, breaker, cluster_policy, clusters, drain_delay, "
    "drain_timeout, expose_routing, hedge, hold, keys, listen, max_body, max_buffered, max_connections, "
    "max_connections_per_client, max_memory, paths, pool, retry, state, tiers, timeouts, tls, tracing, "
    "watch, websocket_paths, workers"
)
STATE_SCHEMES = (
    "redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, redis+cluster://, rediss+cluster://"
)
GOOD_CLUSTERS = "clusters: [{name: here, limit: 8, backends: [http://127.0.0.1:9001]}]\n"


def mistakes(text: str, base_dir: Path | str = ".", **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(dedent(text), "g.yaml", base_dir, environment)
    return str(caught.value).split("\n")


def at_top(line: str) -> str:
    return f"{line}\n{GOOD_CLUSTERS}"


def in_cluster(line: str) -> str:
    return f"clusters:\n  - name: here\n    limit: 8\n    {line}\n    backends: [http://a:1]\n"


def with_backend(backend: str) -> str:
    return f"clusters:\n  - name: here\n    limit: 8\n    backends:\n      - {backend}\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lissten: 1", "lissten: unknown key; did you mean 'listen'?"),
        ("listen: 8080", "listen: must be host:port; did you mean '127.0.0.1:8080'?"),
        ("listen: :8080", "listen: must be host:port; did you mean '127.0.0.1:8080'?"),
        ("listen: localhost", "listen: has no port: 'localhost'; did you mean 'localhost:8080'?"),
        (
            "listen: '::1:8080'",
            "listen: must be host:port, not '::1:8080'; write 127.0.0.1:8080 or '[::1]:8080'",
        ),
        ("listen: 127.0.0.1:65536", "listen: has a port outside 0-65535: 65536"),
        ("listen: 127.0.0.300:80", "listen: is not an IPv4 address: '127.0.0.300'"),
        ("listen: [127.0.0.1:80]", "listen: must be one value, not a list"),
        ("listen:", "listen: has no value; give it one, or remove the key"),
        ("listen: ~", "listen: has no value; give it one, or remove the key"),
        ("listen: 0.0.0.0:9090", "listen: must differ from the admin port's 127.0.0.1:9090"),
        ("access_log: false", "access_log: must be '-', 'off' or a file, not false; did you mean 'off'?"),
        ("access_log: stdout", "access_log: must be '-', 'off' or a file, not stdout; did you mean '-'?"),
        (
            "access_log: nowhere/a.log",
            "access_log: file 'nowhere/a.log' is in a directory that does not exist",
        ),
        ("access_log: .", "access_log: file '.' is a directory"),
        ("expose_routing: maybe", "expose_routing: must be true or false, not maybe"),
        (
            'expose_routing: "true"',
            "expose_routing: must be true or false, not the text 'true'; remove the quotes",
        ),
        ("max_body: 32MB", "max_body: has an unknown unit 'MB'; did you mean '32MiB'?"),
        ("max_body: 32x", "max_body: has an unknown unit 'x'; use KiB, MiB or GiB"),
        ("max_body: -1", "max_body: must be a size, not '-1'; write bytes, or a number with KiB, MiB or GiB"),
        ("max_body: 0", "max_body: must be at least 1, not 0"),
        ("max_body: 0.3", "max_body: must be a whole number of bytes, not '0.3'"),
        ("max_body: 2GiB", "max_buffered: must be at least max_body, 2GiB"),
        (
            "max_memory: 575MiB",
            "max_memory: must be at least 576MiB: max_buffered, and 64MiB besides; "
            "give more, or make max_buffered smaller",
        ),
        ("drain_timeout: 30", "drain_timeout: must have a unit, not '30'; did you mean '30s'?"),
        ("drain_timeout: 10:30", f"drain_timeout: must be a duration, not '10:30'; {WRITE_DURATION}"),
        ("drain_timeout: .inf", f"drain_timeout: must be a duration, not '.inf'; {WRITE_DURATION}"),
        ("drain_timeout: 30sec", "drain_timeout: has an unknown unit 'sec'; use ms, s, m or h"),
        ("drain_timeout: 169h", "drain_timeout: must be at most 168h, not 169h"),
        ("tiers: primary", "tiers: must be a list, not one value; begin each entry with '- '"),
        ("tiers: []", "tiers: must have at least 1 entry"),
        ("tiers: [a, b, a]", "tiers[2]: is listed twice; remove one"),
        (
            "tiers: [primary, Spot]",
            "tiers[1]: must be of a-z, 0-9, '.', '_' and '-', starting with a letter or digit",
        ),
        (
            "cluster_policy: wieght",
            "cluster_policy: must be one of least_loaded, weight; did you mean 'weight'?",
        ),
        ("paths: [my/x]", "paths[0]: must start with '/', not 'my/x'; did you mean '/my/x'?"),
        ("paths: [/a/*/b]", "paths[0]: may hold '*' only as its last segment, not '/a/*/b'; write /my/*"),
        ("paths: [/a*]", "paths[0]: may hold '*' only as its last segment, not '/a*'; write /my/*"),
        ("paths: [/a/../b]", f"paths[0]: is not a plain path: '/a/../b'; {NO_SEGMENTS}"),
        ("paths: [/a//b]", f"paths[0]: is not a plain path: '/a//b'; {NO_SEGMENTS}"),
        ("paths: [/a/%2e%2e]", f"paths[0]: is not a plain path: '/a/%2e%2e'; {NO_SEGMENTS}"),
        ("paths: ['/a?b']", f"paths[0]: is not a plain path: '/a?b'; {NO_SEGMENTS}"),
        ("timeouts: {stall: 0s}", "timeouts.stall: must be at least 1ms, not 0s"),
        ("timeouts: 30s", "timeouts: must be a mapping, not one value"),
        ("retry: {attempts: 0}", "retry.attempts: must be at least 1, not 0"),
        ("pool: {max_idle: -1}", "pool.max_idle: must be at least 0, not -1"),
        (
            "admin: {listen: 0.0.0.0:9091}",
            "admin.listen: must be loopback without a token, not 0.0.0.0:9091; "
            "add token_file, or listen on 127.0.0.1:9091",
        ),
        (
            "admin: {token_file: gone}",
            "admin.token_file: file 'gone' does not exist; paths are relative to the configuration file",
        ),
        ("admin: {token_file: .}", "admin.token_file: '.' is not a file"),
        ("workers: 0", "workers: must be at least 1, not 0"),
        ("workers: 257", "workers: must be at most 256, not 257"),
        ("workers: auto", "workers: must be a whole number, not auto"),
        ("worker: 2", "worker: unknown key; did you mean 'workers'?"),
        ("state: redis://a", "state: must be a mapping, not one value"),
        (
            "state: {fleet: Prod}",
            "state.fleet: must be of a-z, 0-9, '.', '_' and '-', starting with a letter or digit",
        ),
        (
            "state: {url_file: gone}",
            "state.url_file: file 'gone' does not exist; paths are relative to the configuration file",
        ),
        ("retry: {budget: 1.5}", "retry.budget: must be at most 1, not 1.5"),
        ("retry: {budget: 20%}", "retry.budget: must be a number, not 20%"),
        (
            "hedge: {after: p99}",
            "hedge.after: must be p95 or a duration, not p99; write a number and a unit: 250ms, 2s, 5m or 1h",
        ),
        ("hedge: {after: 0s}", "hedge.after: must be p95 or at least 1ms, not 0s"),
        ("hedge: {after: 200}", "hedge.after: must be p95 or a duration, not 200; did you mean '200s'?"),
        ("hedge: {after: 200h}", "hedge.after: must be at most 168h, not 200h"),
        ("hedge: {budget: 0}", "hedge.budget: must be above 0, not 0"),
        ("hedge: {budget: 0.3}", "hedge.budget: must be at most retry.budget, 0.2"),
        ("breaker: {consecutive: 0}", "breaker.consecutive: must be at least 1, not 0"),
        ("breaker: {ratio: 0}", "breaker.ratio: must be above 0, not 0"),
        ("breaker: {open: 5s, open_max: 2s}", "breaker.open_max: must be at least open, 5s"),
        ("breaker: {open: 2m}", "breaker.open: must be at most open_max, 1m; raise open_max too"),
        ("hold: {max_waits: 1s}", "hold.max_waits: unknown key; did you mean 'max_wait'?"),
        ("on: 1", f"on: unknown key; {KNOWN_AT_TOP}"),
    ],
)
def test_a_mistake_at_the_top(line: str, expected: str, tmp_path: Path) -> None:
    assert mistakes(at_top(line), tmp_path) == [f"g.yaml:1: {expected}"]


DIGEST = "ab" * 32
HASH = "run: printf %s KEY | sha256sum"
NOT_A_DIGEST = "must be the SHA-256 of the key, 64 hexadecimal digits"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("[]", ": must have at least 1 entry"),
        (f"[{{sha256: {DIGEST}}}]", "[0].name: is required"),
        ("[{name: a}]", "[0].sha256: is required; or sha256_file"),
        ("[{name: a, sha256: sk-my-own-key}]", f"[0].sha256: {NOT_A_DIGEST}; {HASH}"),
        ("[{name: a, sha256: '${KEY}'}]", f"[0].sha256: {NOT_A_DIGEST}; {HASH}"),
        (
            "[{name: a, sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855}]",
            f"[0].sha256: is the SHA-256 of nothing; {HASH}",
        ),
        ("[{name: a, sha256_file: plain}]", f"[0].sha256_file: file 'plain' {NOT_A_DIGEST}; {HASH}"),
        ("[{name: a, sha256_file: void}]", f"[0].sha256_file: file 'void' {NOT_A_DIGEST}; {HASH}"),
        (
            f"[{{name: a, sha256: {DIGEST}, sha256_file: good}}]",
            "[0].sha256: must not stand beside sha256_file; keep one of them",
        ),
        (
            f"[{{name: a, sha256: {DIGEST}}}, {{name: b, sha256_file: good}}]",
            "[1].sha256_file: is listed twice: it is a key of a already",
        ),
        (
            f"[{{name: a, sha256: {DIGEST}, rate: 5/s}}, {{name: a, sha256: {'cd' * 32}}}]",
            "[1].rate: must be the same for all keys of a",
        ),
        (
            f"[{{name: a, sha256: {DIGEST}, rate: 50}}]",
            "[0].rate: must be a rate, not '50'; did you mean '50/s'?",
        ),
        (f"[{{name: a, sha256: {DIGEST}, rate: 5/d}}]", "[0].rate: has an unknown unit 'd'; use s, m or h"),
        (
            f"[{{name: a, sha256: {DIGEST}, rate: 0/s}}]",
            "[0].rate: must be at least 1 request; remove the key to take all its access away",
        ),
        (
            f"[{{name: a, sha256: {DIGEST}, max_in_flight: 0}}]",
            "[0].max_in_flight: must be at least 1, not 0",
        ),
        (
            f"[{{name: a, sha256: {DIGEST}, residency: [eu]}}]",
            "[0].residency: no cluster has the residency eu",
        ),
        (f"[{{name: a, sha256: {DIGEST}, models: []}}]", "[0].models: must have at least 1 entry"),
        (f"[{{name: a, sha256: {DIGEST}, models: [x, x]}}]", "[0].models[1]: is listed twice; remove one"),
        (
            f"[{{name: a, sha256: {DIGEST}, priority: batch}}]",
            "[0].priority: unknown key; known here: max_in_flight, models, name, rate, residency, sha256, "
            "sha256_file",
        ),
    ],
)
def test_a_mistake_in_a_client_key_that_no_message_shows(keys: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("sk-my-own-key\n")
    (tmp_path / "void").write_text("\n")
    (tmp_path / "good").write_text(f"{DIGEST}  -\n")
    text = f"keys: {keys}\n{GOOD_CLUSTERS}"
    assert mistakes(text, tmp_path, KEY="sk-my-own-key") == [f"g.yaml:1: keys{expected}"]


def test_mistakes_in_certificates(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("nothing")
    tls = in_cluster("tls: {cert_file: x.pem}").replace("http:", "https:")
    assert mistakes(tls, tmp_path) == ["g.yaml:4: clusters[0].tls.key_file: is required beside cert_file"]
    tls = in_cluster("tls: {cert_file: x.pem, key_file: x.pem}").replace("http:", "https:")
    (found,) = mistakes(tls, tmp_path)
    assert found.startswith("g.yaml:4: clusters[0].tls.cert_file: is no certificate with the key of key_file")
    issued = trustme.CA().issue_cert("a")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "good.pem"))
    text = at_top("tls: {cert_file: good.pem, key_file: good.pem, client_ca_file: x.pem}")
    assert mistakes(text, tmp_path) == ["g.yaml:1: tls.client_ca_file: holds no PEM certificates"]


def test_a_hedge_is_a_second_attempt() -> None:
    assert mistakes(at_top("hedge: {after: 100ms}\nretry: {attempts: 1}")) == [
        "g.yaml:1: hedge: has no effect with retry.attempts: 1; a hedge is a second attempt: allow 2"
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lmit: 8", "lmit: unknown key; did you mean 'limit'?"),
        ("health: {pth: /health}", "health.pth: unknown key; did you mean 'path'?"),
        ("health: true", "health: must be a mapping, not one value"),
        ("health: {path: health}", "health.path: must start with '/', not 'health'; did you mean '/health'?"),
        ("health: {path: /a/*}", "health.path: must be one path, not '/a/*'; remove the '*'"),
        ("health: {rise: 0}", "health.rise: must be at least 1, not 0"),
        ("health: {fall: 0}", "health.fall: must be at least 1, not 0"),
        ("health: {interval: 1ms}", "health.interval: must be at least 10ms, not 1ms"),
        ("health: {interval: 1s, timeout: 2s}", "health.timeout: must be at most interval, 1s"),
        ("health: {interval: 0s, timeout: 2s}", "health.interval: must be at least 10ms, not 0s"),
        (
            "health: {tcp: true, path: /health}",
            "health.path: has no effect with tcp: true; remove one of the two",
        ),
        (
            "health: {tcp: true, agent: true}",
            "health.agent: has no effect with tcp: true; remove one of the two",
        ),
        (
            "health: {synthetic: {path: /v1/embeddings}}",
            "health.synthetic.path: must be one of /v1/chat/completions, /v1/completions; "
            "did you mean '/v1/completions'?",
        ),
        (
            "health: {synthetic: {model: 'm-*'}}",
            "health.synthetic.model: must be one model, not the pattern 'm-*'",
        ),
        ("health: {synthetic: {timeout: 31s}}", "health.synthetic.timeout: must be at most interval, 30s"),
        ("engine_metrics: {port: 0}", "engine_metrics.port: must be at least 1, not 0"),
        ("engine_metrics: {stale_after: 1s}", "engine_metrics.stale_after: must be at least interval, 2s"),
        ("engine_metrics: {timeout: 3s}", "engine_metrics.timeout: must be at most interval, 2s"),
        ("Tier: spot", "Tier: unknown key; did you mean 'tier'?"),
        ("tier: spt", "tier: must be one of the tiers (primary, backup, spot), not spt"),
        ("weight: 0", "weight: must be above 0, not 0"),
        ("weight: .nan", "weight: must be a number, not .nan"),
        ("weight: .inf", "weight: must be a number, not .inf"),
        ("weight: 1e999", "weight: must be a number, not 1e999"),
        ('weight: "2"', "weight: must be a number, not the text '2'; remove the quotes"),
        ("weight: 2e6", "weight: must be at most 1000000, not 2000000"),
        ("models: []", "models: must have at least 1 entry; leave the key out to serve any model"),
        ("models: llama", "models: must be a list of names, or a map, not one value; write [name]"),
        ("models: [a, a]", "models[1]: is listed twice; remove one"),
        ("models: ['q[ab]*']", "models[0]: pattern 'q[ab]*' holds '?', '[' or ']'; only '*' is a wildcard"),
        ("models: {a: 'b-*'}", "models.a: must be one model, not the pattern 'b-*'"),
        ("models: {a: }", "models.a: has no value; write the name that the backends know"),
        ("models: [[a]]", "models[0]: must be one value, not a list"),
        ("auth: {}", "auth: has no effect; give value_file or value, or set pass_client: true"),
        ("auth: {header: X-Key}", "auth: has no effect; give value_file or value, or set pass_client: true"),
        (
            "auth: {value: x, header: Host}",
            "auth.header: must not be Host; the gateway writes that header itself",
        ),
        ("auth: {value: x, header: 'A B'}", "auth.header: must be a header name, not A B"),
        (
            'auth: {value: "a\\r\\nb: c"}',
            "auth.value: holds a line break; only visible ASCII may go into a header",
        ),
        (
            'auth: {value: "a\\0"}',
            "auth.value: holds a control character; only visible ASCII may go into a header",
        ),
        (
            "auth: {value: schlüssel}",
            "auth.value: holds a character outside ASCII; only visible ASCII may go into a header",
        ),
        ("auth: {value: ''}", "auth.value: is empty; a secret needs at least one character"),
        ("tls: {server_name: a.example}", "tls: has no effect; no backend of the cluster has an https URL"),
    ],
)
def test_a_mistake_in_a_cluster(line: str, expected: str) -> None:
    assert mistakes(in_cluster(line)) == [f"g.yaml:4: clusters[0].{expected}"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", "must be at least 1, not 0"),
        ("-3", "must be at least 1, not -3"),
        ("1000001", "must be at most 1000000, not 1000001"),
        ('"8"', "must be a whole number, not the text '8'; remove the quotes"),
        ("'many'", "must be a whole number, not the text 'many'"),
        ("8.0", "must be a whole number, not 8.0; did you mean 8?"),
        ("8.5", "must be a whole number, not 8.5"),
        ("1e3", "must be a whole number, not 1e3; did you mean 1000?"),
        ("010", "must be a whole number, not 010; did you mean 10?"),
        ("0o10", "must be a whole number, not 0o10"),
        ("1_000", "must be a whole number, not 1_000; did you mean 1000?"),
        ("10:30", "must be a whole number, not 10:30"),
        (".nan", "must be a whole number, not .nan"),
        (".inf", "must be a whole number, not .inf"),
        ("1e999", "must be a whole number, not 1e999"),
        ("yes", "must be a whole number, not yes"),
        ("{auto: {min: 4}}", "must be one value, not a mapping"),
        ("9" * 5000, "must be a whole number, not " + "9" * 57 + "..."),
        ("", "has no value; give it one, or remove the key"),
    ],
)
def test_a_limit_that_is_none(value: str, expected: str) -> None:
    text = f"clusters:\n  - name: here\n    limit: {value}\n    backends: [http://a:1]\n"
    assert mistakes(text) == [f"g.yaml:3: clusters[0].limit: {expected}"]


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ("a:1", "must begin with http:// or https://; did you mean 'http://a:1'?"),
        ("ftp://a:1", "must begin with http:// or https://"),
        ("http://", "has no valid host; write http://host:port, an IPv6 address in brackets"),
        ("http://u:secret@a:1", "must not hold a user or password; put credentials under 'auth'"),
        ("u:secret@a:1", "must begin with http:// or https://"),
        ("http://a:1?x=secret", "must not hold a query or fragment; remove all from '?' or '#' on"),
        ("http://a:1/#x", "must not hold a query or fragment; remove all from '?' or '#' on"),
        ("http://a:0", "has a port outside 1-65535: 0"),
        ("http://a:port", "has no valid host; write http://host:port, an IPv6 address in brackets"),
        ("http://::1:80", "has no valid host; write http://host:port, an IPv6 address in brackets"),
        ('"http://[::g]:80"', "has no valid host; write http://host:port, an IPv6 address in brackets"),
        ('"http://[1:2]:80"', "is not an IPv6 address: '1:2'"),
        ("http://a_b..c:1", "has no valid host: 'a_b..c'"),
        ('"http://a b:1"', "has no valid host: 'a b'"),
        ("http://a:1/v1", "must not end in /v1; drop /v1: the client's path is passed on"),
        ("http://a:1/x/v1/", "must not end in /v1; drop /v1: the client's path is passed on"),
        (
            "http://a:1/v1/chat/completions",
            "must not end in /v1/chat/completions; drop /v1: the client's path is passed on",
        ),
        ("http://a:1/x/../y", "has no plain path: '/x/../y'; no empty or dot segments, '%' or spaces"),
        ("http://a:1//x", "has no plain path: '//x'; no empty or dot segments, '%' or spaces"),
        ('"http://a:1/\\r\\nx"', "holds a control character or one that cannot be shown; remove it"),
        ('"\\ud800"', "holds a control character or one that cannot be shown; remove it"),
        ("''", "must not be empty"),
        ("[http://a:1]", "must be a mapping, not a list"),
    ],
)
def test_a_url_that_is_none(backend: str, expected: str) -> None:
    assert mistakes(with_backend(backend)) == [f"g.yaml:5: clusters[0].backends[0]: {expected}"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("''", "is empty; a secret needs at least one character"),
        ("s3cret@a:1", f"must begin with one of {STATE_SCHEMES}; write redis://host:6379/0 or unix:///path"),
        (
            "http://:s3cret@a:1",
            f"must begin with one of {STATE_SCHEMES}; write redis://host:6379/0 or unix:///path",
        ),
        ("redis://:s3cret@", "has no valid host and port; write redis://host:port"),
        ("rediss://:s3cret@a:0/0", "has no valid host and port; write rediss://host:port"),
        ("redis://:s3cret@a:6379/main", "has a database that is no number; write redis://host:6379/0"),
        ("redis://:s3cret#@a", "holds a '#'; write it as %23 where it belongs to a password"),
        ("unix://s3cret/x", "must hold the absolute path of a socket; write unix:///run/redis.sock"),
        ("unix:///", "must hold the absolute path of a socket; write unix:///run/redis.sock"),
        (
            "redis+sentinel://:s3cret@a:1,b/",
            "has no name of a primary; write redis+sentinel://host:26379/name",
        ),
        ("redis+sentinel://:s3cret@a:1,,b/x", "has no valid host and port; write redis+sentinel://host:port"),
    ],
)
def test_a_state_url_that_is_none_and_no_message_shows_it(url: str, expected: str, tmp_path: Path) -> None:
    (found,) = mistakes(at_top(f'state: {{url: "{url}"}}' if url != "''" else "state: {url: ''}"))
    assert found == f"g.yaml:1: state.url: {expected}"
    assert "s3cret" not in found
    (tmp_path / "url").write_text("" if url == "''" else url)
    (found,) = mistakes(at_top("state: {url_file: url}"), tmp_path)
    assert found == f"g.yaml:1: state.url_file: file 'url' {expected}"


def test_a_state_url_from_the_environment_is_not_shown_either() -> None:
    (found,) = mistakes(at_top("state: {url: 'redis://:${PASSWORD}@a b'}"), PASSWORD="s3cret")
    assert found == "g.yaml:1: state.url: has no valid host and port; write redis://host:port"


def test_a_state_url_is_given_once(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://a\n")
    (found,) = mistakes(at_top("state: {url: redis://b, url_file: url}"), tmp_path)
    assert found == "g.yaml:1: state.url: must not stand beside url_file; keep one of them"


def test_the_url_in_a_mapping_is_named_by_its_key() -> None:
    found = mistakes(with_backend("{url: ftp://a, weight: 0}"))
    assert found == [
        "g.yaml:5: clusters[0].backends[0].url: must begin with http:// or https://",
        "g.yaml:5: clusters[0].backends[0].weight: must be above 0, not 0",
    ]


def test_a_backend_listed_twice_whatever_its_spelling() -> None:
    text = """\
        clusters:
          - name: here
            limit: 8
            backends:
              - http://a/x
              - http://b
              - url: http://A:80/x/
                weight: 2
        """
    assert mistakes(text) == [
        "g.yaml:7: clusters[0].backends[2]: is listed twice in the cluster; "
        "raise its weight and limit instead"
    ]


def test_what_is_required() -> None:
    assert mistakes("listen: 127.0.0.1:1\n") == ["g.yaml:1: clusters: is required"]
    assert mistakes("clusters: []\n") == ["g.yaml:1: clusters: must have at least 1 entry"]
    assert mistakes("clusters:\n  - {}\n") == [
        "g.yaml:2: clusters[0].name: is required",
    ]
    assert mistakes("clusters:\n  - {name: a, limit: 1}\n") == [
        "g.yaml:2: clusters[0].backends: is required; or discovery, which finds them"
    ]
    assert mistakes("clusters:\n  - {name: a, backends: ['http://a', {url: 'http://b', limit: 1}]}\n") == [
        "g.yaml:2: clusters[0].limit: is required; or give every backend its own limit"
    ]
    assert mistakes(with_backend("{limit: 3}")) == ["g.yaml:5: clusters[0].backends[0].url: is required"]


def test_a_misspelled_required_key_is_one_mistake_not_two() -> None:
    text = "clusters:\n  - nmae: here\n    lmit: 8\n    backends: [http://a:1]\n"
    assert mistakes(text) == [
        "g.yaml:2: clusters[0].nmae: unknown key; did you mean 'name'?",
        "g.yaml:3: clusters[0].lmit: unknown key; did you mean 'limit'?",
    ]


def test_a_bad_limit_does_not_count_as_missing() -> None:
    text = "clusters:\n  - {name: a, limit: 0, backends: [http://a]}\n"
    assert mistakes(text) == ["g.yaml:2: clusters[0].limit: must be at least 1, not 0"]


def test_names_and_tiers_are_compared_across_clusters() -> None:
    text = """\
        tiers: [near, far]
        clusters:
          - {name: a, limit: 1, backends: [http://a]}
          - {name: b, limit: 1, backends: [ftp://b]}
          - {name: a, limit: 1, backends: [http://c], tier: spot}
        """
    assert mistakes(text) == [
        "g.yaml:4: clusters[1].backends[0]: must begin with http:// or https://",
        "g.yaml:5: clusters[2].name: must be unique: there is another cluster a",
        "g.yaml:5: clusters[2].tier: must be one of the tiers (near, far), not spot",
    ]


def test_bad_tiers_make_no_cluster_wrong() -> None:
    text = "tiers: [Near]\nclusters:\n  - {name: a, limit: 1, tier: near, backends: [http://a]}\n"
    assert [one.split(": ")[1] for one in mistakes(text)] == ["tiers[0]"]


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    text = """\
        listen: 8080
        timeouts: {stall: 0s, frist_byte: 1s}
        clusters:
          - name: Here
            limit: "8"
            backends: [http://a:1/v1, http://b]
        max_body: 1KB
        """
    assert [int(one.split(":")[1]) for one in mistakes(text)] == [1, 2, 2, 4, 5, 6, 7]


def test_a_long_value_makes_no_long_message() -> None:
    (found,) = mistakes(with_backend("http://" + "a" * 10_000))
    assert len(found) < 300


# --- discovery ---------------------------------------------------------------------------------------


def with_discovery(how: str, before: str = "limit: 8") -> str:
    return f"clusters:\n  - name: here\n    {before}\n    discovery: {how}\n"


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("{}", ": says not where; give one of kubernetes, dns, file"),
        ("", ": says not where; give one of kubernetes, dns, file"),
        (
            "{dns: {name: a.b, port: 1}, kubernetes: {service: a}}",
            ".dns: must not stand beside kubernetes; keep one of them",
        ),
        ("{file: nowhere.yaml}", ".file: file 'nowhere.yaml' does not exist; " + RELATIVE),
        ("{dns: {name: a.b}}", ".dns.port: is required with record: a"),
        (
            "{dns: {name: a.b, record: srv, port: 1}}",
            ".dns.port: has no effect with record: srv; SRV records have their own",
        ),
        (
            "{dns: {name: 10.0.0.1, port: 1}}",
            ".dns.name: must be a name, not the address 10.0.0.1; list addresses under 'backends'",
        ),
        ("{dns: {name: a.b, port: 1, record: mx}}", ".dns.record: must be one of a, aaaa, srv"),
        (
            "{dns: {name: a.b, port: 1, servers: ['dns.example:53']}}",
            ".dns.servers: must be addresses, not dns.example:53",
        ),
        (
            "{dns: {name: a.b, port: 1, prefix: x}}",
            ".dns.prefix: must start with '/', not 'x'; did you mean '/x'?",
        ),
        (
            "{dns: {name: a.b, port: 1, prefix: /v1}}",
            ".dns.prefix: must not end in /v1; drop /v1: the client's path is passed on",
        ),
        ("{kubernetes: {}}", ".kubernetes.service: is required"),
        (
            "{kubernetes: {service: a.b}}",
            ".kubernetes.service: must be of a-z, 0-9 and '-', with a letter or digit first and last",
        ),
        (
            "{kubernetes: {service: a, port: http_1}}",
            ".kubernetes.port: must be the name or the number of a port, not 'http_1'",
        ),
        ("{kubernetes: {service: a, port: 70000}}", ".kubernetes.port: has a port outside 1-65535: 70000"),
        ("{kubernetes: {service: a, api: {}}}", ".kubernetes.api.url: is required"),
        (
            "{kubernetes: {service: a, api: {url: 'http://10.0.0.1', token_file: token}}}",
            ".kubernetes.api.url: must be https where a token is sent; or remove token_file",
        ),
        (
            "{kubernetes: {service: a, api: {url: 'http://10.0.0.1', ca_file: token}}}",
            ".kubernetes.api.ca_file: has no effect; the API's URL is not https",
        ),
        ("{kubernetes: {service: a}, expected: 0}", ".expected: must be at least 1, not 0"),
    ],
)
def test_a_mistake_in_discovery(how: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    assert mistakes(with_discovery(how), tmp_path) == [f"g.yaml:4: clusters[0].discovery{expected}"]


def test_a_mistake_beside_discovery() -> None:
    how = "{dns: {name: a.b, port: 1}}"
    assert mistakes(with_discovery(how, "limit: 1\n    backends: ['http://a']")) == [
        "g.yaml:5: clusters[0].discovery: must not stand beside backends; keep one of them"
    ]
    assert mistakes(with_discovery(how, "weight: 1")) == [
        "g.yaml:2: clusters[0].limit: is required with discovery; backends are found without one"
    ]
    assert mistakes(with_discovery(how, "limit: 1\n    tls: {server_name: a}")) == [
        "g.yaml:4: clusters[0].tls: has no effect; no backend of the cluster has an https URL"
    ]


@pytest.mark.parametrize(
    ("host", "what"),
    [
        ("169.254.169.254", "a link-local address"),
        ("[fe80::1]", "a link-local address"),
        ("[::ffff:a9fe:a9fe]", "a link-local address"),
        ("[64:ff9b::a9fe:a9fe]", "a link-local address"),
        ("[2002:a9fe:a9fe::1]", "a link-local address"),
        ("[fd00:ec2::254]", "the address of a cloud's metadata service"),
        ("100.100.100.200", "the address of a cloud's metadata service"),
        ("224.0.0.1", "a multicast address"),
        ("255.255.255.255", "a multicast address"),
        ("[ff02::1]", "a multicast address"),
        ("0.0.0.0", "an unspecified address"),
        ("0.1.2.3", "an unspecified address"),
        ("[::]", "an unspecified address"),
    ],
)
def test_where_no_backend_may_be(host: str, what: str) -> None:
    text = with_backend(f"'http://{host}:8000'")
    (found,) = mistakes(text)
    assert found.startswith(f"g.yaml:5: clusters[0].backends[0].url: is {what}; allow_backends_in: [")
    allowed = f"allow_backends_in: ['{host.strip('[]')}']"
    assert parse(f"{allowed}\n{text}", "g.yaml", ".", {}).clusters


def test_where_backends_may_be() -> None:
    for host in (
        "127.0.0.1",
        "10.0.0.1",
        "[::1]",
        "[fd00::1]",
        "[2001:db8::1]",
        "100.64.0.1",
        "metadata.example",
    ):
        assert parse(with_backend(f"'http://{host}'"), "g.yaml", ".", {}).clusters
    assert mistakes(at_top("allow_backends_in: [169.254.10.1/24]")) == [
        "g.yaml:1: allow_backends_in[0]: has bits set behind its prefix: '169.254.10.1/24'; "
        "did you mean '169.254.10.0/24'?"
    ]
    assert mistakes(at_top("allow_backends_in: [all]")) == [
        "g.yaml:1: allow_backends_in[0]: must be a network, not 'all'; write 169.254.10.0/24"
    ]
