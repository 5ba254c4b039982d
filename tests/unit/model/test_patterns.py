"""Table patterns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcflow.errors import ConfigurationError
from cdcflow.model.patterns import TablePattern, TablePatterns, all_of, exactly

NAMES = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=12
)
ORDINARY = NAMES.filter(lambda name: not name.startswith("pg_") and name != "information_schema")


@pytest.mark.parametrize(
    ("patterns", "schema", "table", "expected"),
    [
        (["public.*"], "public", "orders", True),
        (["public.*"], "shop", "orders", False),
        (["orders"], "public", "orders", True),
        (["orders"], "shop", "orders", False),
        (["public.order?"], "public", "orders", True),
        (["public.order?"], "public", "order", False),
        (["*.orders"], "shop", "orders", True),
        (["*.*"], "a", "b", True),
        (["public.Orders"], "public", "orders", False),
        (["public.Orders"], "public", "Orders", True),
        (["public.a+b"], "public", "a+b", True),
        (["public.a[bc]"], "public", "ab", False),
        (['"My Schema"."T.x"'], "My Schema", "T.x", True),
        (['public."a*"'], "public", "ab", False),
        (['public."a*"'], "public", "a*", True),
        (['public."a"*'], "public", "ab", True),
        (['public."say ""hi"""'], "public", 'say "hi"', True),
        (["public.*"], "public", "two\nlines", True),
    ],
)
def test_a_pattern_means_these_tables(patterns: list[str], schema: str, table: str, expected: bool) -> None:
    assert TablePatterns(patterns).matches(schema, table) is expected


def test_an_exclusion_wins_wherever_it_stands() -> None:
    for order in (["public.*", "!public.audit_*"], ["!public.audit_*", "public.*"]):
        patterns = TablePatterns(order)
        assert patterns.matches("public", "orders")
        assert not patterns.matches("public", "audit_2026")


def test_only_exclusions_mean_everything_else() -> None:
    patterns = TablePatterns(["!public.audit_*"])
    assert patterns.matches("shop", "orders")
    assert not patterns.matches("public", "audit_x")


def test_no_pattern_means_no_table() -> None:
    assert not TablePatterns([]).matches("public", "orders")


@pytest.mark.parametrize("schema", ["pg_catalog", "pg_toast", "information_schema"])
def test_system_schemas_never_match(schema: str) -> None:
    assert not TablePatterns(["*.*"]).matches(schema, "tables")
    assert not TablePatterns(["!public.x"]).matches(schema, "tables")
    assert TablePatterns([f"{schema}.*"]).unmatched([(schema, "tables")]) == [f"{schema}.*"]


def test_patterns_that_fit_nothing_are_named_exclusions_too() -> None:
    patterns = TablePatterns(["public.*", "public.order", "!public.audti_*", "!public.audit_*"])
    tables = [("public", "orders"), ("public", "audit_x")]
    assert patterns.unmatched(tables) == ["public.order", "!public.audti_*"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a.b.c", "3 parts"),
        ("", "lacks a name"),
        ("!", "lacks a name"),
        ("public.", "lacks a name"),
        (".orders", "lacks a name"),
        ('public."orders', "never closes"),
        ('public."orders""', "never closes"),
        ('public.""', "empty name"),
    ],
)
def test_what_is_not_a_pattern_is_told_with_its_text(text: str, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what) as caught:
        TablePatterns([text])
    assert repr(text) in str(caught.value)


def test_a_pattern_without_wildcards_says_which_table_it_names() -> None:
    assert TablePattern.parse("!orders").literal == ("public", "orders")
    assert TablePattern.parse('"My Schema"."T.*"').literal == ("My Schema", "T.*")
    assert TablePattern.parse("public.*").literal is None


@given(schema=NAMES, table=NAMES)
def test_every_table_has_a_pattern_that_means_it_exactly(schema: str, table: str) -> None:
    assert TablePattern.parse(exactly(schema, table)).literal == (schema, table)


@given(schema=ORDINARY, table=NAMES)
def test_the_pattern_of_a_schema_means_all_of_it(schema: str, table: str) -> None:
    assert TablePatterns([all_of(schema)]).matches(schema, table)


def test_equal_patterns_are_equal_values() -> None:
    assert TablePatterns(["a", "!b"]) == TablePatterns(["a", "!b"])
    assert hash(TablePatterns(["a"])) == hash(TablePatterns(["a"]))
    assert TablePatterns(["a"]) != TablePatterns(["b"])
    assert TablePatterns(["a"]) != "a"
