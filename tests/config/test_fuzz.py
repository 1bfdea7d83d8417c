"""Whatever the text, reading it ends in a Config or a ConfigError whose lines can be printed."""

from __future__ import annotations

from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.config import Config, ConfigError, clusters_of, endpoints_of, parse

FULL = (Path(__file__).parents[2] / "config" / "full.yaml").read_text()
TOKENS = st.sampled_from(
    [
        *(
            "clusters",
            "name",
            "limit",
            "backends",
            "tier",
            "tiers",
            "auth",
            "tls",
            "models",
            "timeouts",
            "listen",
        ),
        *(
            ": ",
            "\n",
            "\n  ",
            "\n- ",
            "{",
            "}",
            "[",
            "]",
            ", ",
            "? ",
            "&a ",
            "*a",
            "<<: ",
            "!x ",
            "!!int ",
            "| ",
            "\t",
        ),
        *(
            "http://a:1",
            "8",
            "1s",
            "${A}",
            "$${",
            "'",
            '"',
            "~",
            "\\u0000",
            "\\ud800",
            "#",
            "---",
            "...",
            "%YAML",
        ),
    ]
)


def read_it(text: str) -> None:
    try:
        config = parse(text, "g.yaml", "/nonexistent", {"A": "\udcff\n"})
    except ConfigError as exc:
        assert exc.problems
        assert all(len(str(problem)) < 1000 and "\n" not in str(problem) for problem in exc.problems)
        str(exc).encode("utf-8")
    else:
        assert isinstance(config, Config)
        assert len(endpoints_of(config)) == sum(len(cluster.backends) for cluster in clusters_of(config))


@settings(max_examples=200, deadline=None)
@given(st.text())
@example("\ufeff")
@example("a: &a\n <<: *a")
@example("clusters: &a [*a]")
def test_any_text(text: str) -> None:
    read_it(text)


@settings(max_examples=300, deadline=None)
@given(st.lists(TOKENS, max_size=25).map("".join))
def test_any_sequence_of_tokens(text: str) -> None:
    read_it(text)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(FULL)), st.integers(0, 40), TOKENS)
def test_a_good_file_with_a_hole_or_something_put_in(start: int, length: int, token: str) -> None:
    read_it(FULL[:start] + token + FULL[start + length :])
