"""Which models a cluster serves, and by what name."""

from __future__ import annotations

import pytest

from gateway.core.constraints import ModelMatch, match_model

ANY = ModelMatch(None, None)


@pytest.mark.parametrize(
    ("models", "model", "expected"),
    [
        ({}, "anything", ANY),
        ({}, None, ANY),
        ({"llama": None}, None, None),
        ({"*": None}, None, None),
        ({"llama": None}, "llama", ModelMatch("llama", None)),
        ({"llama": None}, "Llama", None),
        ({"llama": None}, "llama-3", None),
        ({"llama": "meta/llama"}, "llama", ModelMatch("llama", "meta/llama")),
        ({"llama": "meta/llama"}, "meta/llama", None),
        ({"qwen-*": None}, "qwen-7b", ModelMatch("qwen-*", None)),
        ({"qwen-*": None}, "qwen-", ModelMatch("qwen-*", None)),
        ({"qwen-*": None}, "qwen", None),
        ({"qwen-*": None}, "my-qwen-7b", None),
        ({"*-instruct": "one"}, "llama/3-instruct", ModelMatch("*-instruct", "one")),
        ({"a*": "first", "ab*": "second"}, "abc", ModelMatch("a*", "first")),
        ({"a*": "pattern", "abc": "name"}, "abc", ModelMatch("abc", "name")),
        ({"abc": "name", "a*": "pattern"}, "abd", ModelMatch("a*", "pattern")),
        ({"llama-?": None}, "llama-3", None),
        ({"llama-[3]": None}, "llama-3", None),
        ({"llama-[3]": None}, "llama-[3]", ModelMatch("llama-[3]", None)),
        ({"llama-*": None}, "", None),
    ],
)
def test_match_model(models, model, expected):
    assert match_model(models, model) == expected


@pytest.mark.parametrize(
    ("pattern", "model", "matches"),
    [
        ("org/llama-[3]-*", "org/llama-[3]-8b", True),
        ("org/llama-[3]-*", "org/llama-3-8b", False),
        ("what?-*", "what?-7b", True),
        ("what?-*", "whatx-7b", False),
        ("a*b*c", "a--b--c", True),
        ("a*b*c", "a--c--b", False),
        ("a.*", "ab", False),
    ],
)
def test_in_a_pattern_only_the_star_is_special(pattern, model, matches):
    assert (match_model({pattern: None}, model) is not None) is matches
