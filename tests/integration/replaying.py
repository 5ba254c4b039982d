"""A warehouse made from a test's journal by the real sink, and its comparison with the source."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb

from cdcflow.delivery.handover import chosen
from cdcflow.demo.compare import compare
from cdcflow.errors import Rejected
from cdcflow.journal import Reader
from cdcflow.model import Batch, Change, join, parse_lsn
from cdcflow.sink import FlowContext, SinkOptions
from cdcflow.testing.database import Database
from cdcflow.testing.journals import read_all
from cdcflow.testing.waiting import TIMEOUT, eventually
from cdcflow_sinks.duckdb import DuckDBSettings, DuckDBSink
from integration.capturing import changes


def captured(postgres: Database, journal: Path, timeout: float = TIMEOUT) -> list[Change]:
    """Waits until the journal holds all that is committed by now, and gives all of its changes."""
    wait_for(postgres, journal, timeout)
    return changes(journal)


def wait_for(
    postgres: Database,
    journal: Path,
    timeout: float = TIMEOUT,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Waits until the journal holds all that is committed by now."""
    # What is committed is flushed; what open transactions wrote need not be.
    [(end,)] = postgres.execute("SELECT pg_current_wal_flush_lsn()::text")
    wanted = parse_lsn(end)

    def reached() -> bool:
        meanwhile()
        with Reader(journal) as reader:
            return reader.head().committed >= wanted

    eventually(reached, timeout=timeout, what="what is committed in the journal")


async def _write(sink: DuckDBSink, batch: Batch, refused: dict[int, str] | None) -> None:
    """As the engine does: what is refused is put aside, by its offset, and the rest comes again."""
    while True:
        try:
            await sink.write(batch)
        except Rejected as error:
            if refused is None:
                raise
            refused.update({batch.base + index: reason for index, reason in error.rows.items()})
            left = [change.index for change in batch.changes() if change.index not in error.rows]
            batch = chosen(batch, left)
        else:
            return


def replay(
    journal: Path,
    file: Path,
    *,
    at_once: int | None = None,
    refused: dict[int, str] | None = None,
    **settings: Any,
) -> Path:
    """Applies the whole journal to a new warehouse: in batches as large as the engine may make them, or of
    so many changes each. Rows that the warehouse refuses go into `refused`; without it they are an error."""

    async def run() -> None:
        sink = DuckDBSink(
            DuckDBSettings(type="duckdb", path=file, **settings),
            SinkOptions(),
            FlowContext("flow", file.parent),
        )
        await sink.open()
        try:
            for batch in join(read_all(journal)):
                for part in _parts(batch, at_once):
                    await sink.prepare([group.relation for group in part.groups])
                    await _write(sink, part, refused)
        finally:
            await sink.close()

    asyncio.run(run())
    return file


def _parts(batch: Batch, at_once: int | None) -> list[Batch]:
    if at_once is None:
        return [batch]
    return [batch.slice(start, start + at_once) for start in range(0, batch.count, at_once)]


def rows(file: Path, query: str) -> list[tuple[object, ...]]:
    """What another program reads in the warehouse."""
    with duckdb.connect(str(file), read_only=True) as connection:
        found: list[tuple[object, ...]] = connection.execute(query).fetchall()
        return found


def assert_equal_to_source(
    postgres: Database,
    journal: Path,
    folder: Path,
    tables: Sequence[str],
    schema: str = "public",
    sizes: Sequence[int | None] = (None, 1, 3),
) -> None:
    """The warehouse equals the source's tables, whether their changes come all in one batch, or each in
    its own, or in small groups."""
    for at_once in sizes:
        file = replay(journal, folder / f"{journal.name}-{at_once}.duckdb", at_once=at_once)
        with duckdb.connect(str(file), read_only=True) as warehouse:

            def ask(query: str) -> list[tuple[str | None, ...]]:
                return warehouse.execute(query).fetchall()

            warehouse.execute("SET TimeZone = 'UTC'")
            found = compare(postgres.connect(), ask, tables, schema)
        wrong = {c.table: c.verdict for c in found if not c.identical}
        assert not wrong, f"in batches of {at_once or 'any size'}: {wrong}"


def generations(found: Sequence[Change], *, layouts: bool = True) -> dict[str, set[str]]:
    """By table, the shapes that its changes came in; without `layouts`, what pgoutput says of them alone:
    a table whose files are other ones (TRUNCATE, a partition more) has another layout."""
    shapes: dict[str, set[str]] = {}
    for change in found:
        relation = change.relation if layouts else replace(change.relation, layout=None)
        shapes.setdefault(relation.qualified, set()).add(relation.fingerprint)
    return shapes
