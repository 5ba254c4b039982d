"""The sink: current-state tables in a DuckDB file, and the flow's checkpoint in the same transaction."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.errors import Permanent, Rejected
from cdcflow.model import BACKFILLS, MESSAGES, Batch, Group, Mark, Op, Position, Relation, marks
from cdcflow.sink import ExpectedTable, Finding, FlowContext, Rendered, SinkOptions
from cdcflow_sinks.duckdb import database
from cdcflow_sinks.duckdb.apply import Refused, apply, generations
from cdcflow_sinks.duckdb.backfills import Backfills
from cdcflow_sinks.duckdb.failures import is_fatal, translated
from cdcflow_sinks.duckdb.judging import judge
from cdcflow_sinks.duckdb.messages import append
from cdcflow_sinks.duckdb.moving import Replays, move, unrepeatable
from cdcflow_sinks.duckdb.preview import preview
from cdcflow_sinks.duckdb.probe import probe
from cdcflow_sinks.duckdb.query import run_query
from cdcflow_sinks.duckdb.redelivered import Redelivered, fitted, older
from cdcflow_sinks.duckdb.relations import Relations
from cdcflow_sinks.duckdb.settings import DuckDBSettings
from cdcflow_sinks.duckdb.target import Target, bind, fold, table_name

Result = TypeVar("Result")

#: Seconds between two interrupts of a query that goes on while the sink closes.
INTERRUPT_EVERY = 0.02


class DuckDBSink:
    """Implements Sink, PositionedSink, Converges, Redelivers, SchemaSink, QuerySink, Probe, Judges, Claims
    and Previews.

    DuckDB blocks while it works, so every call of it runs in a thread of the sink's own; queries run in
    others, beside it.
    """

    def __init__(self, settings: DuckDBSettings, _options: SinkOptions, context: FlowContext) -> None:
        self._settings = settings
        self._flow = context.flow
        self._thread: ThreadPoolExecutor | None = None
        self._connection: Any = None
        self._database = ""
        self._checkpoints: database.Checkpoints | None = None
        #: Table → the generation it has.
        self._targets: dict[str, Target] = {}
        #: The checkpoint in the file, where this sink knows it.
        self._end: int | None = None
        #: Before this offset changes come a second time.
        self._repeats_until = 0
        self._file = database.file_of(settings)
        #: The connections of queries under way.
        self._asked: set[Any] = set()

    async def open(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"duckdb-{self._flow}")
        await self._run(self._open)

    async def close(self) -> None:
        if self._thread is None:
            return
        # The file is not closed under a query. One between two statements does not feel an interrupt.
        while self._asked:
            for cursor in list(self._asked):
                cursor.interrupt()
            await asyncio.sleep(INTERRUPT_EVERY)
        await self._run(self._close)
        self._thread.shutdown()
        self._thread = None

    async def checkpoint(self) -> int | None:
        return await self._run(lambda: self._stored().read())

    async def position(self) -> Position | None:
        return await self._run(lambda: self._stored().position())

    async def move(self, offset: int, position: Position, *, whole: bool) -> None:
        await self._run(lambda: self._move(offset, position, whole=whole))

    def unrepeatable(self, batches: Iterable[Batch]) -> str:
        return unrepeatable(batches)

    async def prepare(self, relations: Sequence[Relation]) -> None:
        await self._run(lambda: self._prepare(relations))

    async def write(self, batch: Batch) -> None:
        await self._run(lambda: self._write(batch))

    async def redeliver(self, batch: Batch, offsets: Sequence[int]) -> None:
        await self._run(lambda: self._redeliver(batch, offsets))

    async def query(self, sql: str) -> pa.Table:
        return await asyncio.to_thread(self._query, sql)

    async def probe(self) -> Sequence[Finding]:
        return await asyncio.to_thread(probe, self._settings)

    def claim(self, relation: Relation) -> str:
        schema = self._settings.schemas.get(relation.schema, relation.schema)
        return f"the table {fold(schema)}.{fold(relation.name)} of {self._settings.path.resolve()}"

    def preview(self, batch: Batch) -> Sequence[Rendered]:
        return preview(batch, self._settings)

    def judge(self, tables: Sequence[ExpectedTable]) -> Sequence[Finding]:
        return judge(f"flow {self._flow}", tables, self._settings.schemas)

    async def _run(self, work: Callable[[], Result]) -> Result:
        if self._thread is None:
            raise Permanent("the sink is not open")
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(self._guarded, work))

    def _guarded(self, work: Callable[[], Result]) -> Result:
        try:
            if self._connection is not None and not self._file.has(self._connection):
                self._close()
                self._open()
            return work()
        except duckdb.Error as error:
            if is_fatal(error):
                self._file.give_up()
            elif isinstance(error, duckdb.OutOfMemoryException):
                self._free_memory()
            raise translated(error, f"flow {self._flow}, warehouse {self._settings.path}") from error

    # Everything below runs in the sink's thread.

    def _free_memory(self) -> None:
        """DuckDB keeps in memory which rows are gone, for every row group that has lost one, and cannot put
        that on the disk but by a checkpoint, which it makes only after so many bytes."""
        try:
            with self._file.writing:
                self._connection.execute("CHECKPOINT")
        except duckdb.Error as error:
            if is_fatal(error):
                self._file.give_up()

    def _open(self) -> None:
        self._connection = self._file.connect(self._settings)
        [(self._database,)] = self._connection.execute("SELECT current_database()").fetchall()
        self._checkpoints = database.Checkpoints(self._connection, self._database, self._flow)
        with self._file.writing:
            made = self._checkpoints.create()
            Relations(self._connection, self._database).create()
            self._backfills().create()
            self._redelivered().create()
            replays = Replays(self._connection, self._database, self._flow)
            replays.create()
            self._repeats_until = replays.until()
            if made:
                self._settle()

    def _close(self) -> None:
        connection, self._connection, self._checkpoints = self._connection, None, None
        self._targets.clear()
        self._end = None
        if connection is not None and self._file.has(connection):
            self._file.close(connection)

    def _stored(self) -> database.Checkpoints:
        if self._checkpoints is None:
            raise Permanent("the sink is not open")
        return self._checkpoints

    def _move(self, offset: int, position: Position, *, whole: bool) -> None:
        self._end = None
        self._targets.clear()
        with self._file.writing, self._transaction():
            move(self._connection, self._database, self._flow, self._stored(), offset, position, whole=whole)
            self._redelivered().forget(offset)
        self._repeats_until = Replays(self._connection, self._database, self._flow).until()
        self._settle()

    def _backfills(self) -> Backfills:
        return Backfills(self._connection, self._database, self._flow)

    def _redelivered(self) -> Redelivered:
        return Redelivered(self._connection, self._database, self._flow)

    def _settle(self) -> None:
        """DDL goes to the file at once: replaying it from DuckDB's own log has failed (duckdb#19712)."""
        try:
            self._connection.execute("CHECKPOINT")
        except duckdb.TransactionException:
            pass  # somebody's query is running: DuckDB does it by itself later

    def _prepare(self, relations: Sequence[Relation]) -> None:
        """Makes tables that the warehouse does not know yet. A later generation of one that it knows waits
        for its place among the rows: see `_write`."""
        known = Relations(self._connection, self._database)
        new: dict[int, Relation] = {}
        for relation in relations:
            if relation not in (MESSAGES, BACKFILLS) and known.of(relation.oid) is None:
                new.setdefault(relation.oid, relation)
        if not new:
            return
        with self._file.writing, self._transaction():
            changed = [self._bind(relation) for relation in new.values()]
        if any(changed):
            self._settle()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        bound = dict(self._targets)
        try:
            with database.transaction(self._connection):
                yield
        except BaseException:
            self._targets = bound  # the tables are as they were
            raise

    def _bind(self, relation: Relation, *, lsn: int = 0, emptied: bool = False) -> bool:
        """Makes `relation` the generation that its table has, and says whether that took DDL."""
        table = table_name(self._database, relation, self._settings.schemas)
        other = self._targets.get(table)
        if other is not None and other.relation.qualified != relation.qualified:
            raise Permanent(
                f"{relation.qualified} and {other.relation.qualified} would go to the same table",
                hint="map their schemas to different ones with the sink's setting `schemas`",
            )
        target, changed = bind(
            self._connection, self._database, relation, self._settings, lsn=lsn, emptied=emptied
        )
        Relations(self._connection, self._database).claim(relation.oid, self._flow)
        # Whatever table this one was before, or this name had before.
        self._targets = {name: t for name, t in self._targets.items() if t.relation.oid != relation.oid}
        self._targets[target.table] = target
        return changed

    def _apply(self, target: Target, group: Group, seen: Sequence[str]) -> Refused:
        return apply(self._connection, target, group, seen, self._settings.compression)

    def _target(self, relation: Relation) -> Target | None:
        """The table of exactly this generation, if it is bound."""
        table = table_name(self._database, relation, self._settings.schemas)
        target = self._targets.get(table)
        return target if target is not None and target.relation == relation else None

    def _write(self, batch: Batch) -> None:
        stored = self._end if self._end is not None else self._stored().read()
        # Unknown until this transaction is known to be durable: a failed COMMIT says nothing.
        self._end = None
        start = 0
        if stored is not None:
            if batch.base > stored:
                raise Permanent(
                    f"the changes from offset {stored} to {batch.base} are missing: "
                    f"the warehouse ends at {stored}, the batch starts at {batch.base}",
                    hint="rewind the flow to the warehouse's own checkpoint",
                )
            if batch.end <= stored:
                self._end = stored
                return
            start = stored - batch.base
        refused: dict[int, str] = {}
        changed = False
        with self._file.writing, self._transaction():
            # DDL is part of the transaction and comes right before the first row that needs it, so that
            # the tables always have the shape that they had at the checkpoint.
            rest = batch.slice(start, batch.count)
            marked = [mark for group in rest.groups if group.relation == BACKFILLS for mark in marks(group)]
            backfills = self._backfills()
            backfills.begin(marked)
            under_way = backfills.open()
            for group in generations(rest):
                if group.relation == MESSAGES:
                    changed = append(self._connection, self._database, self._flow, rest, group) or changed
                    continue
                if group.relation == BACKFILLS:
                    continue
                target = self._target(group.relation)
                if target is None:
                    changed |= self._bind(
                        group.relation,
                        lsn=group.meta("commit_lsn")[0].as_py(),
                        emptied=pc.any(group.is_op(Op.TRUNCATE)).as_py(),
                    )
                    target = self._target(group.relation)
                    assert target is not None
                of_it = under_way.get(group.relation.oid, [])
                seen = backfills.kept(of_it, target)
                index = group.meta("index")
                for row, reason in self._apply(target, group, seen).items():
                    place = start + index[row].as_py()
                    # Else the row comes whole later, or is gone further on.
                    if not of_it and batch.base + place >= self._repeats_until:
                        refused[place] = reason
            if refused:
                # Nothing is stored: they are to be kept elsewhere before the checkpoint moves past them.
                raise Rejected(refused)
            self._end_backfills(backfills, marked)
            self._stored().store(batch.end, str(batch.last))
        self._end = batch.end
        if changed:
            self._settle()

    def _redeliver(self, batch: Batch, offsets: Sequence[int]) -> None:
        refused: dict[int, str] = {}
        changed = False
        with self._file.writing, self._transaction():
            backfills = self._backfills()
            under_way = backfills.open()
            for group in generations(self._redelivered().new(batch, offsets)):
                target, made = self._present(group.relation)
                changed |= made
                now = None if target is None else fitted(group, target.relation)
                index = group.meta("index")
                if target is None or now is None:
                    name = group.relation.qualified
                    reason = f"{name} has another shape in the warehouse by now: backfill the table"
                    refused |= dict.fromkeys(index.to_pylist(), reason)
                    continue
                of_it = under_way.get(group.relation.oid, [])
                seen = backfills.kept(of_it, target)
                for row, reason in self._apply(target, now, seen).items():
                    refused[index[row].as_py()] = reason
            if refused:
                raise Rejected(refused)
        if changed:
            self._settle()

    def _present(self, relation: Relation) -> tuple[Target | None, bool]:
        """The table as it is, brought to this shape where that is no older one; whether that took DDL."""
        had = Relations(self._connection, self._database).of(relation.oid)
        if had is not None and older(relation, had.generation.relation):
            relation = had.generation.relation
        made = self._bind(relation) if self._target(relation) is None else False
        return self._target(relation), made

    def _end_backfills(self, backfills: Backfills, marked: Sequence[Mark]) -> None:
        """What the marks of a batch mean behind its rows."""
        if not marked:
            return
        known = Relations(self._connection, self._database)
        bound = {target.relation.oid for target in self._targets.values()}
        for mark in marked:
            had = known.of(mark.oid)
            if mark.phase == "end" and mark.replace and mark.oid not in bound and had is not None:
                self._bind(had.generation.relation)
        backfills.end(marked, self._targets.values())

    def _query(self, sql: str) -> pa.Table:
        schema = self._settings.schemas.get("public", "public")
        if self._connection is None:
            with database.looking(self._settings) as connection:
                return run_query(connection, sql, schema)
        cursor = self._file.beside(self._connection)
        self._asked.add(cursor)
        try:
            return run_query(cursor, sql, schema)
        finally:
            cursor.close()
            self._asked.discard(cursor)
