import pytest

from cdcflow import types
from cdcflow.model import Column


def column(oid: int, typmod: int = -1, type_name: str = "") -> Column:
    return Column("c", oid, typmod, type_name=type_name)


@pytest.mark.parametrize(
    ("given", "name", "duckdb"),
    [
        (column(20), "bigint", "BIGINT"),
        (column(1700), "numeric", "VARCHAR"),
        (column(1700, (12 << 16 | 2) + 4), "numeric(12,2)", "DECIMAL(12,2)"),
        (column(1700, (38 << 16 | 0) + 4), "numeric(38,0)", "DECIMAL(38,0)"),
        (column(1700, (39 << 16 | 0) + 4), "numeric", "VARCHAR"),
        (column(1700, (5 << 16 | 0x7FE) + 4), "numeric(5,-2)", "DECIMAL(7,0)"),
        (column(1700, (2 << 16 | 4) + 4), "numeric(2,4)", "DECIMAL(4,4)"),
        (column(1184, 3), "timestamptz", "TIMESTAMP WITH TIME ZONE"),
        (column(1231), "numeric[]", "VARCHAR"),
        (column(1042, 9), "bpchar", "VARCHAR"),
    ],
)
def test_a_built_in_type_is_known_by_its_oid_and_modifier(given: Column, name: str, duckdb: str) -> None:
    found = types.of(given)

    assert (found.name, found.duckdb) == (name, duckdb)


@pytest.mark.parametrize(
    ("type_name", "name"),
    [
        (".int4", "integer"),
        ("pg_catalog.int4", "integer"),
        ("int4", "integer"),
        ("pg_catalog._timestamptz", "timestamptz[]"),
        ("pg_catalog.numeric", "numeric"),
    ],
)
def test_a_domain_is_its_base_type(type_name: str, name: str) -> None:
    assert types.of(column(20_000, type_name=type_name)).name == name


def test_a_type_of_the_users_own_named_like_a_built_in_one_is_text() -> None:
    found = types.of(column(20_000, type_name="shop.int4"))

    assert (found.duckdb, found.json("(1,2)")) == ("VARCHAR", "(1,2)")


def test_an_unknown_type_is_text_under_its_own_name() -> None:
    assert types.of(column(20_000, type_name="shop.mood")).name == "shop.mood"
    assert types.of(column(20_000)).json("anything") == "anything"


def test_an_array_of_an_unknown_type_is_a_list_of_texts() -> None:
    found = types.of(column(20_001, type_name="shop._mood"))

    assert found.json('{ok,"so so",NULL}') == ["ok", "so so", None]
    assert found.json("(a,b)") == "(a,b)", "a type whose name only looks like an array's"


def test_the_type_of_a_column_is_looked_up_once() -> None:
    assert types.of(column(1700, 1234567)) is types.of(Column("other", 1700, 1234567, key=True))
