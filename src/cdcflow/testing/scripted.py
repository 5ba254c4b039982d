"""A journal's source and sinks that do what a test tells them, in the test's own process."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cdcflow.errors import Rejected
from cdcflow.journal import Identity, Writer
from cdcflow.model import Batch, Op, Relation
from cdcflow.testing.batches import make_batch, make_relation
from cdcflow.testing.waiting import TIMEOUT

IDENTITY = Identity("7000000000000000001", 1, "shop", "cdcflow", "cdcflow")
#: Not one of those that are reserved for what is no table.
ORDERS = make_relation("orders", oid=16_401)


class JournalSource:
    """Writes transactions into a journal, as capture would."""

    def __init__(self, path: Path, *, segment_bytes: int = 128 << 20) -> None:
        self.path = path
        self.writer = Writer.open(path, IDENTITY, segment_bytes=segment_bytes)
        self._lsn = self.writer.tail.last.commit_lsn

    def commit(self, ids: Sequence[int], relation: Relation = ORDERS) -> Batch:
        """One transaction of inserts as one frame, committed now and durable."""
        return self.change([(i, f"note {i}") for i in ids], relation)

    def change(self, notes: Sequence[tuple[int, str]], relation: Relation = ORDERS) -> Batch:
        """As `commit`, of the same row as often as wanted: pairs of `id` and `note`."""
        self._lsn += 8
        now = time.time_ns() // 1000
        rows = [(Op.INSERT, {"id": str(i), "note": note}, None) for i, note in notes]
        batch = self.writer.append(make_batch(relation, rows, commit_lsn=self._lsn, commit_time=now))
        self.writer.sync()
        return batch


class ScriptedSink:
    """Keeps the ids that it is given, batch by batch.

    What is in `failures` is raised first, one per write, and what is in `open_failures` one per open.
    Writes wait while `gate` is not set; `entered` says that one has begun.
    """

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        #: Base and end of each batch.
        self.runs: list[tuple[int, int]] = []
        self.failures: list[Exception] = []
        self.open_failures: list[Exception] = []
        self.opened = 0
        self.closed = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()

    @property
    def ids(self) -> list[int]:
        return [i for batch in self.batches for i in batch]

    async def open(self) -> None:
        if self.open_failures:
            raise self.open_failures.pop(0)
        self.opened += 1

    async def write(self, batch: Batch) -> None:
        self.entered.set()
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.batches.append(ids(batch))
        self.runs.append((batch.base, batch.end))

    async def close(self) -> None:
        self.closed += 1


class KeepingSink(ScriptedSink):
    """Keeps its checkpoint too, as a `TransactionalSink` does."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: int | None = None

    async def checkpoint(self) -> int | None:
        return self.kept

    async def write(self, batch: Batch) -> None:
        await super().write(batch)
        self.kept = batch.end


class PreparedSink(ScriptedSink):
    """Is told of generations first, as a `SchemaSink` is; refuses rows that it was not prepared for."""

    def __init__(self) -> None:
        super().__init__()
        self.prepared: list[Relation] = []

    async def prepare(self, relations: Sequence[Relation]) -> None:
        self.prepared += relations

    async def write(self, batch: Batch) -> None:
        assert {group.relation for group in batch.groups} <= set(self.prepared)
        await super().write(batch)


class RefusingSink(ScriptedSink):
    """Refuses the rows whose `note` is in `refused`, and withholds what comes behind them with the same id.

    What it takes is in `taken`, as `(id, note)`.
    """

    def __init__(self, *refused: str) -> None:
        super().__init__()
        self.refused = set(refused)
        self.taken: list[tuple[str, str]] = []

    async def write(self, batch: Batch) -> None:
        await super().write(batch)
        refused: dict[int, str] = {}
        withheld = []
        behind = set()
        for change in batch.changes():
            row = change.new or change.old or {}
            key, note = str(row["id"]), str(row.get("note"))
            if key in behind:
                withheld.append(change.index)
            elif note in self.refused:
                refused[change.index] = f"the field 'note' cannot be '{note}'"
                behind.add(key)
            else:
                self.taken.append((key, note))
        if refused:
            answers = {index: f"no {index}" for index in refused}
            raise Rejected(refused, answers=answers, withheld=withheld)


def ids(batch: Batch) -> list[int]:
    """The values of the column `id` of the new rows, in total order."""
    return [int(str(change.new["id"])) for change in batch.changes() if change.new]


async def until(predicate: Callable[[], object], seconds: float = TIMEOUT) -> None:
    """`eventually`, on the running event loop. Raises TimeoutError after that many seconds."""
    deadline = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"the condition did not come true within {seconds:g} s")
        await asyncio.sleep(0.005)
