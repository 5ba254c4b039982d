"""What the end of a backfill that replaces takes away in a warehouse, where the table's key is another one by
then: nothing that is at the source."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from cdcflow.model import Batch, Mark, Position, Relation, mark_batch
from cdcflow.model.backfill import MarkPhase
from cdcflow.sink import FlowContext, SinkOptions
from cdcflow.testing.batches import make_batch, make_relation
from cdcflow_sinks.duckdb import DuckDBSettings, DuckDBSink

KEYED = make_relation("t", ("id", "n"))
FULL = make_relation("t", ("id", "n"), replica_identity="f")
BOTH = make_relation("t", ("id", "n"), key=("id", "n"))
OTHER = make_relation("t", ("id", "n"), key=("n",))


def mark(phase: MarkPhase) -> Batch:
    return mark_batch(Mark("repair", phase, KEYED.oid, "public", "t", replace=True), Position(8, 1), 0)


def rows(relation: Relation, op: str, *ids: int) -> Batch:
    return make_batch(relation, [(op, {"id": str(i), "n": str(100 + i)}, None) for i in ids])


def emptied(relation: Relation) -> Batch:
    return make_batch(relation, [("truncate", None, None)])


@pytest.mark.parametrize(
    ("came", "left"),
    [
        ([rows(KEYED, "read", 1, 2)], [1, 2]),
        ([], []),
        ([emptied(FULL), rows(FULL, "read", 1, 2)], [1, 2]),
        ([rows(KEYED, "read", 1), emptied(FULL), rows(FULL, "read", 1, 2)], [1, 2]),
        ([rows(KEYED, "read", 1), rows(BOTH, "read", 2)], [1, 2, 9]),
        ([rows(KEYED, "read", 1), rows(OTHER, "read", 2), rows(KEYED, "read", 3)], [1, 2, 3, 9]),
    ],
    ids=["keyed", "empty", "full", "became full", "longer key", "another key and back"],
)
def test_the_rows_of_a_table_whose_key_is_altered_stay(
    tmp_path: Path, came: Sequence[Batch], left: list[int]
) -> None:
    path = tmp_path / "warehouse.duckdb"
    before = FULL if came and came[0].groups[0].relation == FULL else KEYED

    async def run() -> None:
        sink = DuckDBSink(
            DuckDBSettings(type="duckdb", path=path), SinkOptions(), FlowContext("flow", tmp_path)
        )
        await sink.open()
        base = 0
        for batch in (rows(before, "insert", 9), mark("begin"), *came, mark("end")):
            await sink.write(replace(batch, base=base))
            base += batch.count
        await sink.close()

    asyncio.run(run())
    with duckdb.connect(str(path), read_only=True) as connection:
        found = connection.execute("SELECT id::int FROM public.t ORDER BY 1").fetchall()
        kept = connection.execute("SELECT table_name FROM duckdb_tables() WHERE table_name LIKE 'seen %'")
        assert not kept.fetchall()
    assert [row[0] for row in found] == left
