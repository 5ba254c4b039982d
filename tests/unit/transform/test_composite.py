"""The step `composite`, and the text that it takes apart."""

import pytest

from cdcflow.errors import ConfigurationError
from cdcflow.model import Column, Relation
from cdcflow.testing.history import History, delete, insert, update
from cdcflow.testing.steps import chain, rows
from cdcflow.types.composite import fields

PLACES = Relation(
    oid=77,
    schema="public",
    name="places",
    replica_identity="d",
    columns=(
        Column("at", 20_001, key=True, type_name="public.point_of"),
        Column("address", 20_002, type_name="public._address"),
        Column("note", 25),
    ),
)
AT = {"x": "int4", "big": "int8"}
ADDRESS = {"street": "text", "since": "date"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(1,)", ["1", None]),
        ('(1,"")', ["1", ""]),
        ('("a,b","x""y","\\\\",)', ["a,b", 'x"y', "\\", None]),
        ("()", [None]),
        ('("(1,2)",3)', ["(1,2)", "3"]),
        ('("a\nb", )', ["a\nb", " "]),
    ],
)
def test_a_composite_s_text_is_taken_apart_as_it_was_put_together(
    text: str, expected: list[str | None]
) -> None:
    assert fields(text) == expected


@pytest.mark.parametrize(
    "text", ["", "(1", "1)", '("a)', '(a"b)', '("a"b)', "(a\\b)", '("\\a")', "{1,2}", "(()"]
)
def test_what_is_no_composite_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        fields(text)


def test_values_become_objects_in_new_rows_old_rows_and_keys() -> None:
    made = chain({"composite": {"at": AT, "address": ADDRESS}})
    batch = History().batch(
        insert(PLACES, at="(1,9007199254740993)", address='{"(a,)",NULL}', note="n"),
        update(PLACES, {"at": "(1,2)"}, at="(3,)", address=None, note=None),
        delete(PLACES, at="(3,)"),
    )
    found = rows(made(batch))
    assert [row[0] for row in found] == ["insert", "update", "delete"]
    assert found[0][1] == {
        "at": '{"x":1,"big":"9007199254740993"}',
        "address": '[{"street":"a","since":null},null]',
        "note": "n",
    }
    assert (found[1][2] or {})["at"] == '{"x":1,"big":2}'
    assert (found[2][2] or {})["at"] == '{"x":3,"big":null}'
    [output] = made.output(PLACES)
    assert [column.type_oid for column in output.columns] == [3802, 3802, 25]
    assert output.key == (0,)


@pytest.mark.parametrize("value", ["(1)", "(1,2,3)", "(x,2)", "1,2", "{1,2}"])
def test_a_value_of_another_shape_is_refused_without_a_word_of_it(value: str) -> None:
    batch = History().batch(insert(PLACES, at=value, address=None, note=None))
    made = chain({"composite": {"at": AT}})(batch)
    assert rows(made) == []
    [reason] = made.refused.values()
    assert reason.startswith("the value of at ")
    assert value not in reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"att": AT}, "no column 'att'"),
        ({"note": AT}, "of the built-in type text, and no composite"),
        ({"at": "text"}, "must be a mapping of attributes"),
        ({"at": {"x": {}}}, "must be a mapping of attributes"),
    ],
)
def test_what_does_not_fit_the_table_is_said_before_any_row(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        chain({"composite": options}).output(PLACES)
