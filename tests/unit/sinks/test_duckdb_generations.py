"""What the warehouse does with a new generation: what it can know, it follows; for the rest it stops."""

from pathlib import Path
from typing import Any

import duckdb
import pytest

from cdcflow.errors import Permanent, Rejected
from cdcflow.model import Attribute, Column, Layout, Relation
from cdcflow.testing.batches import make_batch, make_relation
from unit.sinks.test_duckdb import rows_of, with_sink

INT4, INT8, TEXT, NUMERIC, DATE, TIMESTAMP, VARCHAR = 23, 20, 25, 1700, 1082, 1114, 1043
OID = 500


def numeric(precision: int, scale: int) -> int:
    return (precision << 16 | scale) + 4


class Source:
    """A table whose catalog is written by hand. `seen` makes a generation of it as it is."""

    def __init__(self, *columns: tuple[str, int]) -> None:
        self.storage, self.count, self.lsn = str(OID), 0, 0
        self.columns: list[Attribute] = []
        for name, kind in columns:
            self.add(name, kind)

    def add(self, name: str, kind: int = TEXT, missing: str | None = None) -> None:
        self.count += 1
        self.columns.append(Attribute(self.count, name, kind, -1, 700 + self.count, missing))

    def drop(self, name: str) -> None:
        self.columns = [column for column in self.columns if column.name != name]

    def change(self, which: str, *, rewrite: bool = False, version: int = 800, **values: Any) -> None:
        fields = ("number", "name", "type_oid", "typmod", "version", "missing")
        for i, column in enumerate(self.columns):
            if column.name == which:
                known = {field: getattr(column, field) for field in fields}
                self.columns[i] = Attribute(**{**known, "version": version, **values})
        if rewrite:
            self.storage += "1"

    def relation(self, lsn: int, *, name: str = "t", message: "Source | None" = None) -> Relation:
        """Announced as `message` says, looked up at `lsn` in the state of this one."""
        columns = (message or self).columns
        layout = Layout(self.storage, self.count, tuple(self.columns), lsn)
        made = tuple(Column(c.name, c.type_oid, c.typmod, key=c.name == "id") for c in columns)
        return Relation(OID, "public", name, "d", made, layout)


def write(path: Path, *generations: tuple[Relation, int, dict[str, str | None]], **settings: Any) -> None:
    """Inserts one row in each generation, each by a new sink, as though restarted in between."""
    for relation, lsn, row in generations:
        with_sink(path, lambda sink: sink.checkpoint(), **settings)
        offset = with_sink(path, lambda sink: sink.checkpoint()) or 0
        batch = make_batch(relation, [("insert", row, None)], base=offset, commit_lsn=lsn)
        with_sink(path, lambda sink, batch=batch: sink.write(batch), **settings)  # type: ignore[misc]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "warehouse.duckdb"


@pytest.fixture
def source(path: Path) -> Source:
    """A table with the columns id and a, and one row in the warehouse: 1, '10'."""
    source = Source(("id", INT4), ("a", INT4))
    write(path, (source.relation(10), 20, {"id": "1", "a": "10"}))
    return source


def test_a_default_that_postgres_filled_older_rows_with_is_in_them(path: Path, source: Source) -> None:
    source.add("b", INT4, missing="7")
    source.add("c")
    write(path, (source.relation(40), 30, {"id": "2", "a": "1", "b": None, "c": "x"}))

    assert rows_of(path, "SELECT id, b, c FROM public.t ORDER BY id") == [(1, 7, None), (2, None, "x")]


@pytest.mark.parametrize(("setting", "kept"), [("keep", [(10, None)]), ("drop", None)])
def test_a_dropped_column_is_kept_under_another_name_or_dropped(
    path: Path, source: Source, setting: str, kept: list[tuple[Any, ...]] | None
) -> None:
    source.drop("a")
    write(path, (source.relation(40), 30, {"id": "2"}), dropped_columns=setting)
    source.add("a", TEXT)
    write(path, (source.relation(60), 50, {"id": "3", "a": "new"}), dropped_columns=setting)

    assert rows_of(path, "SELECT id, a FROM public.t ORDER BY id") == [(1, None), (2, None), (3, "new")]
    if kept is not None:
        assert rows_of(path, 'SELECT "a (dropped 2)" FROM public.t ORDER BY id') == [(10,), (None,), (None,)]
    else:
        with pytest.raises(duckdb.BinderException):
            rows_of(path, 'SELECT "a (dropped 2)" FROM public.t')


def test_renamed_columns_and_tables_keep_their_rows_even_where_names_are_exchanged(
    path: Path, source: Source
) -> None:
    source.add("b", INT4, missing="7")
    write(path, (source.relation(40), 30, {"id": "2", "a": "1", "b": "2"}))
    source.change("b", name="c")
    write(path, (source.relation(60), 50, {"id": "3", "a": "1", "c": "2"}))
    source.change("a", name="b")
    write(path, (source.relation(80, name="u"), 70, {"id": "4", "b": "1", "c": "2"}))

    assert rows_of(path, "SELECT id, b, c FROM public.u ORDER BY id") == [
        (1, 10, 7),
        (2, 1, 2),
        (3, 1, 2),
        (4, 1, 2),
    ]
    assert rows_of(path, "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'public'") == [("u",)]


def test_a_table_that_was_made_anew_is_empty_and_the_old_one_stays_beside_it(
    path: Path, source: Source
) -> None:
    columns = (Column("id", INT4, key=True),)
    anew = Relation(
        501, "public", "t", "d", columns, Layout("501", 1, (Attribute(1, "id", INT4, -1, 900),), 40)
    )
    write(path, (anew, 30, {"id": "9"}))
    assert rows_of(path, "SELECT id FROM public.t") == [(9,)]
    assert rows_of(path, 'SELECT id, a FROM public."t (was 500)"') == [(1, 10)]

    # It was only renamed: it says so with its next change.
    write(path, (source.relation(60, name="t_old"), 50, {"id": "2", "a": "3"}))
    assert rows_of(path, "SELECT id, a FROM public.t_old ORDER BY id") == [(1, 10), (2, 3)]


@pytest.mark.parametrize(
    ("old", "new", "rewrite", "text", "found"),
    [
        ((INT4, -1), (INT8, -1), True, "10", "10"),
        ((INT4, -1), (NUMERIC, -1), True, "10", "10"),
        ((INT4, -1), (TEXT, -1), True, "10", "10"),
        ((VARCHAR, 9), (TEXT, -1), False, "ten", "ten"),
        ((NUMERIC, numeric(4, 2)), (NUMERIC, numeric(9, 2)), False, "-0.50", "-0.50"),
        ((NUMERIC, numeric(4, 2)), (NUMERIC, numeric(9, 3)), True, "-0.50", "-0.500"),
        ((NUMERIC, numeric(2, 2)), (NUMERIC, -1), False, "-0.50", "-0.50"),
        ((NUMERIC, numeric(38, 0)), (NUMERIC, numeric(40, 0)), False, "9" * 38, "9" * 38),
    ],
)
def test_wider_types_are_followed_exactly(
    path: Path, old: tuple[int, int], new: tuple[int, int], rewrite: bool, text: str, found: str
) -> None:
    source = Source(("id", INT4), ("a", old[0]))
    source.change("a", typmod=old[1])
    write(path, (source.relation(10), 20, {"id": "1", "a": text}))
    source.change("a", rewrite=rewrite, version=900, type_oid=new[0], typmod=new[1])
    write(path, (source.relation(40), 30, {"id": "2", "a": found}))

    assert rows_of(path, "SELECT a::VARCHAR FROM public.t") == [(found,), (found,)]


def test_a_setting_stops_at_every_rewrite_since_it_may_have_changed_values(
    path: Path, source: Source
) -> None:
    source.change("a", rewrite=True, type_oid=INT8)
    row: dict[str, str | None] = {"id": "2", "a": "1"}
    with pytest.raises(Permanent, match=r"the warehouse has INTEGER.*bigint needs BIGINT") as caught:
        write(path, (source.relation(40), 30, row), type_changes="stop")

    remedy = caught.value.hint.partition(": ")[2].partition(" (with")[0]
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"{remedy} USING a * 1000")
    write(path, (source.relation(40), 30, row), type_changes="stop")
    assert rows_of(path, "SELECT id, a FROM public.t ORDER BY id") == [(1, 10_000), (2, 1)]


def unsure(source: Source, which: str) -> Relation:
    """A generation that older rows may differ in, unknown to us."""
    now = source.relation(40)
    if which == "dropped and made again under one name":
        source.drop("a")
        source.add("a", INT4)
    elif which == "a rewrite with USING":
        source.change("a", rewrite=True)
    elif which == "a volatile default":
        source.add("b", INT4)
        source.storage += "1"
    elif which == "narrower":
        source.change("a", rewrite=True, type_oid=21)
    elif which == "a column that came and went":
        source.add("x")
        source.drop("x")
        source.add("b")
    elif which == "announced before, looked up after":
        source.drop("a")
        source.add("a", INT4)
        return Relation(OID, "public", "t", "d", now.columns, source.relation(40).layout)
    return source.relation(40)


@pytest.mark.parametrize(
    "which",
    [
        "dropped and made again under one name",
        "a rewrite with USING",
        "a volatile default",
        "narrower",
        "a column that came and went",
        "announced before, looked up after",
    ],
)
def test_what_cannot_be_known_of_older_rows_stops_and_changes_nothing(
    path: Path, source: Source, which: str
) -> None:
    relation = unsure(source, which)
    with pytest.raises(Permanent) as caught:
        write(path, (relation, 30, {"id": "2", "a": "1"}))

    assert "read everything anew" in caught.value.hint
    assert rows_of(path, "SELECT * FROM public.t") == [(1, 10)]
    assert rows_of(path, 'SELECT "offset" FROM cdcflow.checkpoint') == [(1,)]


@pytest.mark.parametrize(
    "which", ["dropped and made again under one name", "a rewrite with USING", "narrower"]
)
def test_a_table_that_is_emptied_takes_any_shape(path: Path, source: Source, which: str) -> None:
    relation = unsure(source, which)
    rows: Any = [("truncate", None, None), ("insert", {"id": "2", "a": "1"}, None)]
    with_sink(path, lambda sink: sink.write(make_batch(relation, rows, base=1, commit_lsn=30)))

    assert rows_of(path, "SELECT id, a FROM public.t") == [(2, 1)]


def test_in_a_backlog_an_alteration_waits_for_the_change_that_shows_it(path: Path, source: Source) -> None:
    early = Source(("id", INT4), ("a", INT4))
    source.change("a", rewrite=True, type_oid=INT8)
    source.add("b", missing="x")
    write(path, (source.relation(90, message=early), 30, {"id": "2", "a": "1"}))
    assert rows_of(path, "SELECT * FROM public.t ORDER BY id") == [(1, 10), (2, 1)]

    write(path, (source.relation(90), 50, {"id": "3", "a": "1", "b": "y"}))
    assert rows_of(path, "SELECT * FROM public.t ORDER BY id") == [(1, 10, "x"), (2, 1, "x"), (3, 1, "y")]


def test_a_source_table_that_is_gone_is_followed_by_its_names(path: Path, source: Source) -> None:
    gone = make_relation("t", [Column("id", INT4, key=True), "b"], oid=OID)
    write(path, (gone, 30, {"id": "2", "b": "x"}))

    assert rows_of(path, 'SELECT id, "a (dropped 2)", b FROM public.t ORDER BY id') == [
        (1, 10, None),
        (2, None, "x"),
    ]


def test_a_dead_letter_of_an_earlier_shape_changes_no_table(path: Path, source: Source) -> None:
    before = source.relation(10)
    write(path, (before, 20, {"id": "1", "a": "1"}))
    source.add("b")
    write(path, (source.relation(30), 40, {"id": "2", "a": "2", "b": "x"}))

    def redeliver(relation: Relation, row: dict[str, str | None]) -> None:
        letter = make_batch(relation, [("insert", row, None)], commit_lsn=20)
        with_sink(path, lambda sink: sink.redeliver(letter, [7]))

    with pytest.raises(Rejected) as caught:
        redeliver(before, {"id": "3", "a": "3"})
    assert "public.t has another shape in the warehouse by now: backfill" in caught.value.rows[0]
    redeliver(source.relation(30), {"id": "4", "a": "4", "b": "y"})
    assert rows_of(path, "SELECT id, b FROM public.t ORDER BY id") == [(1, None), (2, "x"), (4, "y")]


def test_a_dead_letter_may_be_the_first_of_a_later_shape(path: Path, source: Source) -> None:
    """As when the flow's transforms were mended, and nothing else has come since."""
    write(path, (source.relation(10), 20, {"id": "1", "a": "1"}))
    source.add("b")
    letter = make_batch(
        source.relation(30), [("insert", {"id": "2", "a": "2", "b": "x"}, None)], commit_lsn=40
    )
    with_sink(path, lambda sink: sink.redeliver(letter, [7]))
    assert rows_of(path, "SELECT id, b FROM public.t ORDER BY id") == [(1, None), (2, "x")]
