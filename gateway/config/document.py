"""YAML text to a tree of nodes that is safe to walk: bounded, without cycles, each node knowing its line.

Nodes keep the text as written. What it means is decided by the type that the schema expects there, so
YAML 1.1's own guesses (`off` is false, `10:30` is 630, `010` is 8) never reach a setting.
"""

from __future__ import annotations

import re
from typing import NamedTuple, cast

from yaml import MappingNode, Node, SafeLoader, ScalarNode, SequenceNode, YAMLError, compose
from yaml.error import MarkedYAMLError
from yaml.reader import ReaderError
from yaml.tokens import Token

from gateway.config.problems import ConfigError, Problem

# PyYAML reads some 100 KiB/s: a larger file is no configuration but a mistake or an attack.
MAX_CHARS = 2**20
# Nodes after every alias is followed. A thousand clusters of ten backends stay far below.
MAX_NODES = 200_000
MAX_DEPTH = 50

# To YAML, a bracket begins a list.
_BARE_IPV6 = re.compile(r"[ /]\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\]")
_TAG = "tag:yaml.org,2002:"
_KNOWN_TAGS = frozenset(
    _TAG + kind
    for kind in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge", "map", "seq")
)
SMALLEST = "the smallest file is: clusters: [{name: here, limit: 8, backends: [http://127.0.0.1:9001]}]"


class _TooDeep(Exception):
    """More brackets are open than levels are allowed; `line` counts from 1."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _Loader(SafeLoader):
    """PyYAML looks at every open bracket twice for each token: 3 KiB of them took 1.4 s."""

    def fetch_flow_collection_start(self, TokenClass: type[Token]) -> None:
        if self.flow_level >= MAX_DEPTH:
            raise _TooDeep(self.line + 1)
        super().fetch_flow_collection_start(TokenClass)


def parse_document(text: str, source: str) -> MappingNode:
    """The tree of one YAML mapping. Raises ConfigError."""
    root = parse_tree(text, source, SMALLEST)
    if not isinstance(root, MappingNode):
        raise _refused(source, line_of(root), "must be a mapping of settings at the top", SMALLEST)
    return root


def parse_tree(text: str, source: str, example: str) -> Node:
    """The tree of whatever one YAML document holds; of an empty one `example` says what to write.

    Raises ConfigError.
    """
    if len(text) > MAX_CHARS:
        raise _refused(source, 0, "is larger than 1 MiB", "this is no Spillway configuration")
    try:
        root = _compose(text, source)
        if root is None or is_null(root):
            raise _refused(source, 0, "is empty", example)
        _measure(root, source, {})
    except RecursionError:
        raise _refused(source, 0, "is nested too deeply") from None
    return root


def line_of(node: Node) -> int:
    """The line where a node starts, from 1."""
    return cast(int, node.start_mark.line) + 1


def is_null(node: Node) -> bool:
    """Is nothing written there (or `null`, or `~`)?"""
    return isinstance(node, ScalarNode) and node.tag == _TAG + "null"


def is_merge(key: Node) -> bool:
    """Is it the key `<<`, which takes over the entries of another mapping?"""
    return key.tag == _TAG + "merge"


def children_of(node: Node) -> list[Node]:
    """What is directly below a node; of a mapping, keys and values in turn."""
    if isinstance(node, MappingNode):
        return [part for entry in node.value for part in entry]
    return list(node.value) if isinstance(node, SequenceNode) else []


def _compose(text: str, source: str) -> Node | None:
    try:
        return compose(text, Loader=_Loader)
    except _TooDeep as exc:
        raise _refused(source, exc.line, "is nested too deeply") from None
    except MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = mark.line + 1 if mark else 0
        raise _refused(source, line, *_explain(exc.problem or "invalid", _line(text, line))) from None
    except ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        raise _refused(
            source, line, f"holds the character U+{_code(exc.character):04X}", "remove it"
        ) from None
    except (YAMLError, ValueError, OverflowError, IndexError):
        # PyYAML lets some of its own slips out: chr() of "\UFFFFFFFF", int() of a huge %YAML version.
        raise _refused(source, 0, "is not valid YAML") from None


def _explain(problem: str, line: str) -> tuple[str, str]:
    """PyYAML's words, and what to do where we know."""
    if "\\t" in problem:
        return "not valid YAML: a tab", "indent with spaces"
    if "single document" in problem or "another document" in problem:
        return "holds more than one YAML document", "remove all from the second '---' on"
    if "${" in line and "'{'" in problem:
        return f"not valid YAML: {problem}", 'inside { } and [ ] write "${NAME}" in quotes'
    if _BARE_IPV6.search(line):
        return f"not valid YAML: {problem}", 'write an IPv6 address in quotes: "[::1]:8080"'
    return f"not valid YAML: {problem}", ""


class _Extent(NamedTuple):
    """How many nodes a walk over a subtree meets, and how deep it gets."""

    nodes: int
    depth: int


def _measure(node: Node, source: str, known: dict[int, _Extent | None]) -> _Extent:
    """Looks at each node once, however often it is met: a bomb of aliases costs nothing to refuse."""
    if id(node) in known:
        if (extent := known[id(node)]) is None:
            raise _refused(source, line_of(node), "an alias (*) refers to what it is part of")
        return extent
    if node.tag not in _KNOWN_TAGS:
        raise _refused(source, line_of(node), f"has the YAML tag {str(node.tag)[:60]!a}", "remove the tag")
    known[id(node)] = None
    below = [_measure(child, source, known) for child in children_of(node)]
    extent = _Extent(1 + sum(e.nodes for e in below), 1 + max((e.depth for e in below), default=0))
    if extent.nodes > MAX_NODES:
        raise _refused(source, line_of(node), f"aliases (*) make more than {MAX_NODES} values of it")
    if extent.depth > MAX_DEPTH:
        raise _refused(source, line_of(node), "is nested too deeply")
    known[id(node)] = extent
    return extent


def _line(text: str, line: int) -> str:
    lines = text.splitlines()
    return lines[line - 1] if 0 < line <= len(lines) else ""


def _code(character: object) -> int:
    return ord(character) if isinstance(character, str) else int(cast(int, character))


def _refused(source: str, line: int, message: str, fix: str = "") -> ConfigError:
    return ConfigError([Problem(source, line, "", message, fix)])
