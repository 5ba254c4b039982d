"""Says whether everything is equal: every table of the source in the warehouse, the same again in a second
warehouse that the journal alone has filled, and what webhook, files and journal hold."""

import asyncio
import random
from pathlib import Path

import psycopg

from cdcflow.journal import Reader
from cdcflow.model import MESSAGES, Op, join
from cdcflow.sink import FlowContext, SinkOptions, TransactionalSink, registry
from cdcflow.testing.journals import batches
from faults.project import Named, Project, assert_identical, assert_whole

#: The tables as they are published: partitions as their root, except where it is not published.
_TABLES = """
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE CASE n.nspname WHEN 'public' THEN c.relkind IN ('r', 'p') AND NOT c.relispartition
        WHEN 'leafwise' THEN c.relkind = 'r' END
    ORDER BY 1, 2
"""


def tables(project: Project) -> list[Named]:
    with psycopg.connect(project.dsn, autocommit=True) as connection:
        return list(connection.execute(_TABLES))


def judge(project: Project, record: Path, draw: random.Random) -> None:
    """Everything, once the engine is stopped and has delivered all there was. Raises AssertionError."""
    known = tables(project)
    assert_whole(project, record, known)
    assert_heard(project)
    second = project.directory / "second.duckdb"
    asyncio.run(replay(project.journal, second, draw))
    assert_identical(project, second, known)


def assert_heard(project: Project) -> None:
    """Every transactional message came, once, and no other: each is sent with a row that says the same."""
    heard: list[str] = []
    said: list[str] = []
    for batch in batches(project.journal):
        for group in batch.groups:
            if group.relation == MESSAGES:
                prefixes, contents = group.new(0).to_pylist(), group.new(1).to_pylist()
                heard += [c for p, c in zip(prefixes, contents, strict=True) if p == "stress.said"]
            elif group.relation.qualified == "public.said":
                # What was said before the backfill is among its rows, and was not heard.
                ops, ids = group.meta("op").to_pylist(), group.new(0).to_pylist()
                said += [i for op, i in zip(ops, ids, strict=True) if op == Op.INSERT]
    assert sorted(heard) == sorted(said), f"{len(said)} messages were sent, {len(heard)} came"


async def replay(journal: Path, path: Path, draw: random.Random) -> None:
    """The whole journal into another warehouse, in batches of other sizes."""
    plugin = registry.load("duckdb")
    settings = plugin.settings.model_validate(
        {"type": "duckdb", "path": str(path), "dropped_columns": "drop"}
    )
    state = path.with_suffix(".state")
    state.mkdir()
    sink = plugin.create(settings, SinkOptions(), FlowContext(path.stem, state))
    assert isinstance(sink, TransactionalSink)
    await sink.open()
    try:
        with Reader(journal) as reader:
            offset = 0
            while found := reader.read(offset, max_changes=draw.randint(1, 60_000), max_bytes=16 << 20):
                for batch in join(found):
                    await sink.write(batch)
                offset = found[-1].end
    finally:
        await sink.close()
