"""What the comparison makes of rows that are already text: it finds the smallest difference."""

import pytest

from cdcflow.demo.compare import RULES, Column, Row, Rule, judge

TEXT = Rule("", "")
KEYED = (
    Column("id", "int8", TEXT, True),
    Column("name", "text", TEXT, False),
    Column("note", "text", TEXT, False),
)
KEYLESS = tuple(Column(column.name, column.kind, TEXT, False) for column in KEYED)
ROWS: tuple[Row, ...] = (("1", "Ada", None), ("2", "Björn", ""), ("3", "O'Neill", "x"))


@pytest.mark.parametrize("columns", [KEYED, KEYLESS])
def test_equal_rows_in_another_order_are_identical(columns: tuple[Column, ...]) -> None:
    found = judge("t", columns, ROWS, ROWS[::-1])
    assert found.identical
    assert (found.source, found.warehouse, found.verdict) == (3, 3, "identical")


@pytest.mark.parametrize("row", range(3))
@pytest.mark.parametrize("column", [1, 2])
def test_one_character_in_one_value_is_a_difference_in_its_column(row: int, column: int) -> None:
    changed = [list(values) for values in ROWS]
    changed[row][column] = f"{changed[row][column]}." if changed[row][column] is not None else "."
    found = judge("t", KEYED, ROWS, [tuple(values) for values in changed])
    assert not found.identical
    assert (found.missing, found.extra, found.differing) == (0, 0, 1)
    assert found.columns == {KEYED[column].name: 1}


def test_null_is_not_an_empty_string() -> None:
    assert judge("t", KEYED, [("1", "a", None)], [("1", "a", "")]).columns == {"note": 1}
    assert not judge("t", KEYLESS, [("1", "a", None)], [("1", "a", "")]).identical


def test_a_missing_row_an_extra_row_and_a_changed_key_are_told_apart() -> None:
    assert (judge("t", KEYED, ROWS, ROWS[1:]).missing, judge("t", KEYED, ROWS[1:], ROWS).extra) == (1, 1)
    found = judge("t", KEYED, ROWS, [*ROWS[:2], ("4", "O'Neill", "x")])
    assert (found.missing, found.extra, found.differing) == (1, 1, 0)
    assert found.verdict == "DIFFERENT: 1 missing; 1 too many"


def test_a_row_that_the_warehouse_holds_twice_is_one_too_many() -> None:
    assert judge("t", KEYED, ROWS, [*ROWS, ROWS[0]]).extra == 1


def test_in_a_table_without_a_key_equal_rows_count() -> None:
    twice = [ROWS[0], ROWS[0], ROWS[1]]
    assert judge("t", KEYLESS, twice, twice).identical
    found = judge("t", KEYLESS, twice, [ROWS[0], ROWS[1], ROWS[1]])
    assert (found.missing, found.extra) == (1, 1)


def test_a_verdict_never_holds_a_value() -> None:
    found = judge("t", KEYED, [("1", "secret", "x")], [("1", "other", "x")])
    assert found.verdict == "DIFFERENT: 1 different in name (1)"
    assert "secret" not in repr(found)


def test_a_float_is_the_number_that_its_text_reads_back_as() -> None:
    number = RULES["float8"].normalise
    assert number("1e+20") == number("1e20") == number("100000000000000000000.0")
    assert number("0.1") != number("0.10000000000000002")
    assert number("-0") == number("-0.0") != number("0")
    assert number("NaN") == number("nan")
