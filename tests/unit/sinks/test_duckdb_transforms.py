"""What the warehouse makes of tables that a flow's transforms have shaped: schema changes at the source and
changes of the transforms themselves are followed, or stopped with a remedy."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from cdcflow.errors import Permanent
from cdcflow.model import Batch, Column, Op
from cdcflow.testing.batches import make_batch, make_relation
from cdcflow.testing.history import History
from cdcflow.testing.steps import chain
from cdcflow.transform import Chain
from unit.sinks.test_duckdb import rows_of, with_sink
from unit.sinks.test_duckdb_generations import INT4, Source

ROW: dict[str, str | None] = {"id": "1", "a": "10", "email": "ada@example.com"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "warehouse.duckdb"


@pytest.fixture
def source() -> Source:
    return Source(("id", INT4), ("a", INT4), ("email", 25))


def write(path: Path, made: Chain, source: Source, lsn: int, row: dict[str, str | None]) -> None:
    """Inserts a row through a chain, by a new sink."""
    offset = with_sink(path, lambda sink: sink.checkpoint()) or 0
    batch = make_batch(source.relation(lsn - 10), [("insert", row, None)], base=offset, commit_lsn=lsn)
    with_sink(path, lambda sink: sink.write(made(batch)))


def columns(path: Path) -> list[Any]:
    return [name for (name,) in rows_of(path, "SELECT column_name FROM (DESCRIBE public.t)")]


COMPUTED = ({"set": {"double": "a * 2"}}, {"rename": {"a": "amount"}}, {"mask": {"email": "sha256"}})


def test_ddl_is_followed_under_computed_renamed_and_masked_columns(path: Path, source: Source) -> None:
    write(path, chain(*COMPUTED), source, 20, ROW)
    source.add("b", missing="x")
    source.change("email", name="mail")
    made = chain(*COMPUTED[:2], {"mask": {"mail": "sha256"}})
    with pytest.raises(Permanent, match="column mail: the flow's transforms compute it"):
        # The masked column has another name, so it is another one.
        write(path, made, source, 40, {"id": "2", "a": "1", "mail": "b", "b": "y"})
    source.change("mail", name="email")
    source.change("a", name="price")
    made = chain(
        {"set": {"double": "price * 2"}}, {"rename": {"price": "amount"}}, {"mask": {"email": "sha256"}}
    )
    write(path, made, source, 40, {"id": "2", "price": "1", "email": "b", "b": "y"})
    assert rows_of(path, "SELECT id, amount, double, b FROM public.t ORDER BY id") == [
        (1, 10, 20, "x"),
        (2, 1, 2, "y"),
    ]


def test_a_column_that_the_flow_renames_differently_is_renamed(path: Path, source: Source) -> None:
    write(path, chain({"rename": {"a": "amount"}}), source, 20, ROW)
    write(path, chain({"rename": {"a": "price"}}), source, 40, {**ROW, "id": "2"})
    assert columns(path) == ["id", "price", "email"]
    assert rows_of(path, "SELECT count(price) FROM public.t") == [(2,)]


def test_a_column_that_the_flow_computes_no_longer_is_set_aside(path: Path, source: Source) -> None:
    write(path, chain({"set": {"double": "a * 2"}}), source, 20, ROW)
    write(path, Chain(), source, 40, {**ROW, "id": "2"})
    assert {name.partition(" ")[0] for name in columns(path)} == {"id", "a", "email", "double"}
    assert "double" not in columns(path)


def test_a_column_that_the_flow_computes_from_now_on_stops_until_it_is_filled(
    path: Path, source: Source
) -> None:
    write(path, Chain(), source, 20, ROW)
    made = chain({"set": {"double": "a * 2"}})
    with pytest.raises(Permanent, match="column double: the flow's transforms compute it from now on"):
        write(path, made, source, 40, {**ROW, "id": "2"})
    with duckdb.connect(str(path)) as connection:
        connection.execute("ALTER TABLE public.t ADD COLUMN double INTEGER")
        connection.execute("UPDATE public.t SET double = a * 2")
    write(path, made, source, 40, {**ROW, "id": "2", "a": "7"})
    assert rows_of(path, "SELECT id, double FROM public.t ORDER BY id") == [(1, 20), (2, 14)]


def test_a_column_that_the_flow_takes_up_lacks_its_older_values(path: Path, source: Source) -> None:
    write(path, chain({"exclude": ["email"]}), source, 20, ROW)
    source.add("later")
    write(path, chain({"exclude": ["email"]}), source, 40, {**ROW, "id": "2", "later": "l"})
    assert columns(path) == ["id", "a", "later"]
    with pytest.raises(Permanent, match="column email"):
        write(path, Chain(), source, 60, {**ROW, "id": "3", "later": "l"})


@pytest.mark.parametrize(
    "rule", [{"method": "sha256", "key": "a key of sixteen bytes"}, "sha256_unkeyed", "redact"]
)
def test_another_mask_stops_instead_of_mixing_values(path: Path, source: Source, rule: Any) -> None:
    write(path, chain({"mask": {"email": "sha256"}}), source, 20, ROW)
    with pytest.raises(Permanent, match="which of its columns is which cannot be told"):
        write(path, chain({"mask": {"email": rule}}), source, 40, {**ROW, "id": "2"})


def test_what_is_computed_from_the_change_needs_a_key_under_full(path: Path) -> None:
    full = make_relation(
        "t", [Column("id", INT4, key=True), Column("a", INT4, key=True)], replica_identity="f"
    )
    history = History()
    first = history.batch((full, Op.INSERT, {"id": "1", "a": "1"}, None))
    second = history.batch((full, Op.UPDATE, {"id": "1", "a": "2"}, {"id": "1", "a": "1"}))
    step = {"set": {"was": "old.a"}}
    with pytest.raises(Permanent, match="column was: what a transform computes from a change") as caught:
        with_sink(path, lambda sink: sink.write(chain(step)(first)))
    assert "key: [id]" in caught.value.hint
    made = chain(step, {"key": ["id"]})
    for batch in (first, second):
        with_sink(path, lambda sink, batch=batch: sink.write(made(batch)))  # type: ignore[misc]
    assert rows_of(path, "SELECT * FROM public.t") == [(1, 2, 1)]


def test_rows_that_are_routed_keep_their_tables_apart(path: Path) -> None:
    one, two = (make_relation(name, [Column("id", INT4, key=True), "name"]) for name in ("one", "two"))
    history = History()

    def batch(relation: Any, key: str) -> Batch:
        return history.batch((relation, Op.INSERT, {"id": key, "name": "n"}, None))

    route = chain({"route": "case when id > 9 then 'large' else 'small' end"})
    with_sink(path, lambda sink: sink.write(route(batch(one, "1"))))
    with_sink(path, lambda sink: sink.write(route(batch(one, "10"))))
    assert rows_of(path, "SELECT (SELECT id FROM public.large), (SELECT id FROM public.small)") == [(10, 1)]
    with pytest.raises(Permanent, match="rows of two tables of the source"):
        with_sink(path, lambda sink: sink.write(route(batch(two, "2"))))
    renamed = replace(one, name="uno")
    assert {s.name for s in chain({"route": "'x'"}).output(renamed)} == {"x"}
