"""Which regular expressions of Postgres are RE2's, and for which of them the match is the same."""

import pytest

from cdcflow.errors import ExpressionError
from cdcflow.model import Column
from cdcflow.testing.batches import make_relation
from cdcflow.transform.expression import Scope, compile
from cdcflow.transform.expression.function import Refused
from cdcflow.transform.expression.regex import replacement, translate

SCOPE = Scope.of(make_relation("t", [Column("a", 25)], key=()))


@pytest.mark.parametrize(
    ("pattern", "re2"),
    [
        ("^a+$", r"\Aa+\z"),
        ("a.b", "a(?s:.)b"),
        (r"\d{2,3}", "[0-9]{2,3}"),
        ("(a|b)c", "(a|b)c"),
        ("(?:a)", "(?:a)"),
        ("[]a]", r"[\x{5d}a]"),
        ("a{", r"a\x{7b}"),
    ],
)
def test_a_pattern_is_written_for_re2(pattern: str, re2: str) -> None:
    assert translate(pattern).re2 == re2


def test_case_is_ignored_letter_by_letter() -> None:
    # (?i) of RE2 would take the sign of Kelvin for a k, which Postgres does not.
    assert translate("k", ignore_case=True).re2 == "[Kk]"
    assert translate("(?i)é").re2 == r"[\x{c9}\x{e9}]"


@pytest.mark.parametrize(
    "pattern",
    [
        "a*?",
        "a**",
        "(?=a)",
        r"\1",
        r"(a)\1",
        r"\yword",
        "[[.a.]]",
        "[z-a]",
        "a|",
        "(a",
        "a)",
        "[a",
        "***=a",
        "a{256}",
        "^*",
    ],
)
def test_what_does_not_mean_the_same_is_refused(pattern: str) -> None:
    with pytest.raises(Refused):
        translate(pattern)


@pytest.mark.parametrize("pattern", ["a?(ab)?", "a|ab", "(a|ab)(c|bcd)", "a*(abc|b)", "(a+)+"])
def test_where_the_longest_match_may_be_another_it_is_said(pattern: str) -> None:
    assert translate(pattern).why_not


@pytest.mark.parametrize("pattern", ["[a-z]+[0-9]*", "foo|bar", "(x|y)z*", r"(\w+)@(\w+)", "a{2}b?"])
def test_where_the_first_match_is_the_longest_it_is_taken(pattern: str) -> None:
    assert not translate(pattern).why_not


def test_a_refused_pattern_shows_its_place_and_a_way_out() -> None:
    with pytest.raises(ExpressionError, match="Postgres may take another match") as caught:
        compile("regexp_replace(a, 'a|ab', '')", SCOPE)
    assert "~" in caught.value.hint


def test_a_pattern_must_be_a_constant() -> None:
    with pytest.raises(ExpressionError, match="the pattern of ~ must be a constant"):
        compile("a ~ a", SCOPE)


def test_replacements_keep_what_is_no_reference() -> None:
    assert replacement(r"<\1-\2-\&>\\ \q", groups=1) == r"<\1--\0>\\ \\q"
