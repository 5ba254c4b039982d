"""Which changes wait for a dead letter: those of its row, whatever the flow's transforms make of key and
table, and whoever refused it. A worker on a real journal with real transforms."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from cdcflow.delivery import CheckpointStore, FlowPlan, FlowWorker, LetterStore, Limits, Selection
from cdcflow.delivery.handover import OnReject
from cdcflow.errors import Rejected
from cdcflow.model import Batch, Op
from cdcflow.model.patterns import TablePatterns
from cdcflow.sink import FlowContext, SinkOptions, SinkPlugin, SinkSettings
from cdcflow.testing.batches import make_batch, make_relation
from cdcflow.testing.scripted import JournalSource, ScriptedSink, until
from cdcflow.testing.steps import chain

ORDERS = make_relation("orders", oid=20_001)
EVENTS = make_relation("events", oid=20_002, replica_identity="f")

#: Refuses rows whose note is no number, as the flow's own fault that somebody mends later.
COUNTED = {"set": {"status": "note::int::text"}}
#: The key is another one behind it.
MASKED = {"mask": {"id": "sha256_unkeyed"}}
#: The table is.
ROUTED = {"route": "'elsewhere'"}


class Notes(ScriptedSink):
    """Refuses some notes, and withholds what comes behind them of the same row."""

    def __init__(self, *refused: str) -> None:
        super().__init__()
        self.refused = set(refused)
        self.taken: list[str] = []

    async def write(self, batch: Batch) -> None:
        refused: dict[int, str] = {}
        withheld, behind = [], set()
        for change in batch.changes():
            note = str((change.new or {})["note"])
            if change.key in behind:
                withheld.append(change.index)
            elif note in self.refused:
                refused[change.index] = "no"
                behind.add(change.key)
            else:
                self.taken.append(note)
        if refused:
            raise Rejected(refused, withheld=withheld)


class Flow:
    """Workers of one flow, each with steps and a sink of its own."""

    def __init__(self, source: JournalSource, store: CheckpointStore, letters: LetterStore) -> None:
        self.source = source
        self.store = store
        self.letters = letters

    def worker(
        self, sink: ScriptedSink, *steps: Mapping[str, Any], on_reject: OnReject = "park"
    ) -> FlowWorker:
        def create(_settings: object, _options: object, _context: FlowContext) -> ScriptedSink:
            return sink

        plan = FlowPlan(
            "hook",
            TablePatterns(["public.*"]),
            SinkPlugin("scripted", SinkSettings, create, writes="states"),
            SinkSettings(type="scripted"),
            SinkOptions(),
            on_reject=on_reject,
            limits=Limits(1_000, 1.0),
            chain=chain(*steps),
        )
        return FlowWorker(
            plan,
            journal=self.source.path,
            state=self.store.path.parent,
            store=self.store,
            letters=self.letters,
        )

    def change(self, *changes: tuple[Op, dict[str, str] | None, dict[str, str] | None]) -> None:
        lsn = self.source.writer.tail.last.commit_lsn + 8
        batch = make_batch(ORDERS, list(changes), commit_lsn=lsn, commit_time=time.time_ns() // 1000)
        self.source.writer.append(batch)
        self.source.writer.sync()

    def states(self) -> list[tuple[int, str]]:
        return [(one.offset, one.state) for one in self.letters.select(Selection())]

    def number(self, offset: int) -> int:
        [found] = [one.number for one in self.letters.select(Selection()) if one.offset == offset]
        return found


@pytest.fixture
def flow(source: JournalSource, store: CheckpointStore) -> Iterator[Flow]:
    with LetterStore(store.path) as letters:
        yield Flow(source, store, letters)


def during(worker: FlowWorker, test: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        task = asyncio.ensure_future(worker.run())
        try:
            await asyncio.wait_for(test(), 20)
        finally:
            worker.stop()
            await asyncio.wait_for(task, 10)

    asyncio.run(run())


def delivered(worker: FlowWorker, offset: int) -> Callable[[], Awaitable[None]]:
    async def wait() -> None:
        await until(lambda: worker.report().checkpoint == offset)

    return wait


@pytest.mark.parametrize("step", [MASKED, ROUTED], ids=["another key", "another table"])
def test_what_a_transform_refuses_holds_up_its_row_under_whatever_key_it_goes_out(
    flow: Flow, step: Mapping[str, Any]
) -> None:
    flow.source.change([(1, "bad"), (2, "20"), (1, "11")], ORDERS)
    sink = Notes()
    first = flow.worker(sink, COUNTED, step)
    during(first, delivered(first, 3))
    assert sink.taken == ["20"]
    assert flow.states() == [(0, "dead"), (2, "parked")]

    mended = flow.worker(sink, step)

    async def retry() -> None:
        flow.source.change([(1, "12")], ORDERS)
        await until(lambda: mended.report().checkpoint == 4)
        assert sink.taken == ["20"]
        await mended.deliver_letters([flow.number(0)], force=False)

    during(mended, retry)
    assert sink.taken == ["20", "bad", "11", "12"]
    assert flow.states() == []


@pytest.mark.parametrize("step", [MASKED, ROUTED], ids=["another key", "another table"])
def test_what_a_transform_refuses_is_superseded_by_newer_state_of_its_row(
    flow: Flow, step: Mapping[str, Any]
) -> None:
    flow.source.change([(1, "bad"), (2, "bad"), (1, "11")], ORDERS)
    worker = flow.worker(Notes(), COUNTED, step, on_reject="supersede")
    during(worker, delivered(worker, 3))
    assert [one.newer is not None for one in flow.letters.select(Selection())] == [True, False]


def test_a_letter_of_the_sink_goes_before_a_later_one_of_a_transform_of_the_same_row(flow: Flow) -> None:
    flow.source.change([(1, "1"), (1, "bad")], ORDERS)
    first = flow.worker(Notes("1"), COUNTED, MASKED)
    during(first, delivered(first, 2))
    assert flow.states() == [(0, "dead"), (1, "dead")]
    sink = Notes()
    mended = flow.worker(sink, MASKED)

    async def retry() -> None:
        # Its checkpoint is known before it delivers, which is when letters are taken.
        await until(lambda: (mended.report().state, mended.report().checkpoint) == ("up to date", 2))
        [outcome] = await mended.deliver_letters([flow.number(1)], force=False)
        assert outcome.what == "parked"
        await mended.deliver_letters([flow.number(0), flow.number(1)], force=False)

    during(mended, retry)
    assert sink.taken == ["1", "bad"]


def test_a_row_that_the_sink_refuses_holds_up_the_row_and_not_its_table(flow: Flow) -> None:
    """Under FULL nothing but the whole row identifies one at the source; the step says what does."""
    flow.source.change([(1, "bad"), (2, "b"), (1, "c")], EVENTS)
    sink = Notes("bad")
    worker = flow.worker(sink, {"key": ["id"]})
    during(worker, delivered(worker, 3))
    assert sink.taken == ["b"]
    assert flow.states() == [(0, "dead"), (2, "parked")]


def test_where_nothing_identifies_a_row_at_the_source_what_a_transform_refuses_holds_up_the_table(
    flow: Flow,
) -> None:
    flow.source.change([(1, "bad"), (2, "20")], EVENTS)
    flow.source.change([(1, "10")], ORDERS)
    sink = Notes()
    worker = flow.worker(sink, COUNTED, {"key": ["id"], "tables": ["public.events"]})
    during(worker, delivered(worker, 3))
    assert sink.taken == ["10"]
    assert flow.states() == [(0, "dead"), (1, "parked")]


def test_a_change_of_several_parts_holds_up_what_follows_any_of_them(flow: Flow) -> None:
    tagged = {"set": {"tags": "string_to_array(note, ',')"}}
    exploded = {"explode": {"column": "tags", "without_old": "keep"}}
    taken: list[str] = []

    class Tags(ScriptedSink):
        async def write(self, batch: Batch) -> None:
            tags = {change.index: str((change.new or {})["tags"]) for change in batch.changes()}
            taken.extend(tag for tag in tags.values() if tag != "b")
            if "b" in tags.values():
                raise Rejected({index: "no" for index, tag in tags.items() if tag == "b"})

    flow.source.change([(1, "a,b")], ORDERS)
    worker = flow.worker(Tags(), tagged, exploded)

    async def test() -> None:
        await until(lambda: worker.report().checkpoint == 1)
        flow.source.change([(1, "a"), (2, "c")], ORDERS)
        await until(lambda: worker.report().checkpoint == 3)

    during(worker, test)
    assert taken[-1] == "c"
    assert flow.states() == [(0, "dead"), (1, "parked")]


def test_with_supersede_a_refused_change_of_a_key_is_waited_for(flow: Flow) -> None:
    """What comes for the new key would not take away the row under the old one."""
    row = {"id": "1", "note": "a", "status": "x"}
    flow.change((Op.INSERT, row, None))
    flow.change((Op.UPDATE, {**row, "id": "2", "note": "bad"}, {"id": "1"}))
    flow.change((Op.UPDATE, {**row, "id": "2", "note": "c"}, None), (Op.INSERT, {**row, "id": "3"}, None))
    sink = Notes("bad")
    worker = flow.worker(sink, on_reject="supersede")

    async def test() -> None:
        await until(lambda: worker.report().checkpoint == 4)
        assert flow.states() == [(1, "dead"), (2, "parked")]
        sink.refused.clear()
        [outcome] = await worker.deliver_letters([flow.number(1)], force=False)
        assert outcome.what == "delivered"

    during(worker, test)
    assert sink.taken == ["a", "a", "bad", "c"]


class Warehouse(ScriptedSink):
    """A `TransactionalSink` of states that takes letters back: id → note."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: int | None = None
        self.rows: dict[str, str] = {}
        self.refused = {"bad"}
        #: Hangs right behind the commit of a batch with this end.
        self.hangs_at = -1

    async def checkpoint(self) -> int | None:
        return self.kept

    async def write(self, batch: Batch) -> None:
        self.put(batch)
        self.kept = batch.end
        if batch.end == self.hangs_at:
            await asyncio.Event().wait()

    async def redeliver(self, batch: Batch, offsets: Sequence[int]) -> None:
        assert len(offsets) == batch.count
        self.put(batch)

    def put(self, batch: Batch) -> None:
        rows = {change.index: change.new or {} for change in batch.changes()}
        bad = {index: "bad" for index, row in rows.items() if row["note"] in self.refused}
        if bad:
            raise Rejected(bad)
        self.rows.update((str(row["id"]), str(row["note"])) for row in rows.values())


def test_a_warehouse_that_dies_behind_its_commit_still_knows_what_is_superseded(flow: Flow) -> None:
    flow.source.change([(1, "bad")], ORDERS)
    flow.source.change([(1, "newer")], ORDERS)
    sink = Warehouse()
    sink.hangs_at = 2

    async def cut() -> None:
        task = asyncio.ensure_future(flow.worker(sink, on_reject="supersede").run())
        await until(lambda: sink.kept == 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(cut())
    sink.hangs_at = -1
    sink.refused.clear()
    worker = flow.worker(sink, on_reject="supersede")

    async def retry() -> None:
        await until(lambda: worker.report().state == "up to date")
        for force in (False, True):
            [outcome] = await worker.deliver_letters([flow.number(0)], force=force)
            assert outcome.what == "superseded"
            assert outcome.reason

    during(worker, retry)
    assert sink.rows == {"1": "newer"}


def test_a_letter_that_goes_out_supersedes_an_older_one_of_its_row(flow: Flow) -> None:
    flow.source.change([(1, "bad"), (1, "worse"), (2, "bad")], ORDERS)
    sink = Notes("bad", "worse")
    worker = flow.worker(sink, on_reject="supersede")

    async def test() -> None:
        await until(lambda: worker.report().checkpoint == 3)
        sink.refused.clear()
        await worker.deliver_letters([flow.number(1)], force=False)
        [outcome] = await worker.deliver_letters([flow.number(0)], force=False)
        assert outcome.what == "superseded"
        assert flow.letters.select(Selection())[1].newer is None

    during(worker, test)
    assert sink.taken == ["worse"]


def test_what_is_refused_itself_supersedes_nothing(flow: Flow) -> None:
    flow.source.change([(1, "bad"), (1, "worse"), (2, "good")], ORDERS)
    sink = Warehouse()
    sink.refused = {"bad", "worse"}
    worker = flow.worker(sink, on_reject="supersede")

    async def test() -> None:
        await until(lambda: worker.report().checkpoint == 3)
        assert [one.newer for one in flow.letters.select(Selection())] == [None, None]
        sink.refused.clear()
        both = [flow.number(0), flow.number(1)]
        assert [one.what for one in await worker.deliver_letters(both, force=False)] == ["delivered"] * 2

    during(worker, test)
    assert sink.rows == {"1": "worse", "2": "good"}
