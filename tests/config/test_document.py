"""What is wrong with a file before any setting is looked at: one clear line each."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import ConfigError, load, parse
from gateway.config.document import SMALLEST

GOOD = "clusters: [{name: here, limit: 8, backends: [http://127.0.0.1:9001]}]\n"


def the_mistake(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, "g.yaml", ".", {})
    (problem,) = caught.value.problems
    return str(problem)


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", f"g.yaml: is empty; {SMALLEST}"),
        ("# nothing\n---\n", f"g.yaml: is empty; {SMALLEST}"),
        ("just text", f"g.yaml:1: must be a mapping of settings at the top; {SMALLEST}"),
        ("\n- a\n- b\n", f"g.yaml:2: must be a mapping of settings at the top; {SMALLEST}"),
        ("listen: a\n\tadmin: b\n", "g.yaml:2: not valid YAML: a tab; indent with spaces"),
        ("a: b\n\n\nc: d: e\n", "g.yaml:4: not valid YAML: mapping values are not allowed here"),
        ("a: 'b\n", "g.yaml:2: not valid YAML: found unexpected end of stream"),
        (
            "listen: [::1]:80\n",
            "g.yaml:1: not valid YAML: expected the node content, but found ':'; "
            'write an IPv6 address in quotes: "[::1]:8080"',
        ),
        ("a: *b\n", "g.yaml:1: not valid YAML: found undefined alias 'b'"),
        (
            "clusters:\n- {limit: ${N}}\n",
            "g.yaml:2: not valid YAML: expected ',' or '}', but got '{'; "
            'inside { } and [ ] write "${NAME}" in quotes',
        ),
        (
            "a: b\n---\nc: d\n",
            "g.yaml:2: holds more than one YAML document; remove all from the second '---' on",
        ),
        ("a: b\nc: \x00\n", "g.yaml:2: holds the character U+0000; remove it"),
        ("a: \ud800\n", "g.yaml:1: holds the character U+D800; remove it"),
        (
            "a:\n  - !!python/object:os.system x\n",
            "g.yaml:2: has the YAML tag 'tag:yaml.org,2002:python/object:os.system'; remove the tag",
        ),
        ("a: !secret x\n", "g.yaml:1: has the YAML tag '!secret'; remove the tag"),
        ("a:\n  &x [1, *x]\n", "g.yaml:2: an alias (*) refers to what it is part of"),
        ('a: "\\UFFFFFFFF"\n', "g.yaml: is not valid YAML"),
        ("%YAML 1." + "9" * 5000 + "\n--- a\n", "g.yaml: is not valid YAML"),
        ("a: " + "[" * 60 + "]" * 60, "g.yaml:1: is nested too deeply"),
        ("[" * 20_000, "g.yaml:1: is nested too deeply"),
        ("a: " + "[\n " * 60, "g.yaml:51: is nested too deeply"),
        ("#" * (2**20 + 1), "g.yaml: is larger than 1 MiB; this is no Spillway configuration"),
        (bomb(9), "g.yaml:6: aliases (*) make more than 200000 values of it"),
    ],
    ids=lambda value: ascii(value[:20]),
)
def test_a_text_that_is_no_configuration(text: str, expected: str) -> None:
    assert the_mistake(text) == expected


def test_a_key_given_twice_names_the_first() -> None:
    assert the_mistake(f"listen: 127.0.0.1:1\nretry: {{}}\nlisten: 127.0.0.1:2\n{GOOD}") == (
        "g.yaml:3: listen: is given twice, first in line 1; remove one"
    )
    text = "clusters:\n  - name: a\n    limit: 1\n    limit: 2\n    backends: [http://a]\n"
    assert the_mistake(text) == "g.yaml:4: clusters[0].limit: is given twice, first in line 3; remove one"
    text = "clusters:\n  - {name: a, limit: 1, backends: [http://a], models: {m: x, m: y}}\n"
    assert the_mistake(text) == "g.yaml:2: clusters[0].models.m: is given twice, first in line 2; remove one"


def test_keys_are_text() -> None:
    assert the_mistake(f"? [a]\n: b\n{GOOD}") == "g.yaml:1: has a key that is not plain text"


def test_anchors_and_merge_keys() -> None:
    text = """\
clusters:
  - &near {name: a, limit: 8, weight: 2, backends: [http://a]}
  - {<<: *near, name: b, limit: 4}
"""
    first, second = parse(text, "g.yaml", ".", {}).clusters
    assert (first.name, first.limit, first.weight) == ("a", 8, 2.0)
    assert (second.name, second.limit, second.weight) == ("b", 4, 2.0)
    assert second.backends == first.backends


def test_of_merged_mappings_the_first_wins() -> None:
    text = """\
clusters:
  - &x {name: a, limit: 8, backends: [http://a]}
  - &y {name: b, limit: 4, weight: 3, backends: [http://b]}
  - {<<: [*x, *y], name: c}
"""
    third = parse(text, "g.yaml", ".", {}).clusters[2]
    assert (third.limit, third.weight, third.backends[0].url.host) == (8, 3.0, "a")


def test_a_merge_of_no_mapping() -> None:
    text = "clusters:\n  - {<<: x, name: a, limit: 1, backends: [http://a]}\n"
    assert the_mistake(text) == "g.yaml:2: clusters[0]: '<<' takes a mapping or a list of them"


def the_mistake_in(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return str(caught.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    assert the_mistake_in(tmp_path / "gone.yaml") == f"{tmp_path}/gone.yaml: does not exist"
    assert the_mistake_in(tmp_path) == f"{tmp_path}: is a directory; name the file in it"
    assert "cannot be read" in the_mistake_in(tmp_path / ("x" * 300))
    assert "cannot be read" in the_mistake_in(Path("a\0b"))


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_bytes(b"listen: 127.0.0.1:1\n# caf\xe9\n")
    assert the_mistake_in(path) == f"{path}:2: is not valid UTF-8; save the file as UTF-8"


def test_an_endless_device_is_not_read_to_its_end() -> None:
    assert (
        the_mistake_in(Path("/dev/zero"))
        == "/dev/zero: is larger than 1 MiB; this is no Spillway configuration"
    )


def test_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load(path).clusters[0].name == "here"
