import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal
from unittest import mock

import pyarrow as pa
import pytest

from cdcflow.delivery import CheckpointStore, FlowPlan, FlowWorker, policy
from cdcflow.errors import CdcflowError, Permanent, Rejected, Transient
from cdcflow.model import ORIGIN, Batch, Column, Position
from cdcflow.model.patterns import TablePatterns
from cdcflow.sink import Batching, FlowContext, SinkOptions, SinkPlugin, SinkSettings
from cdcflow.testing.batches import make_relation
from cdcflow.testing.scripted import (
    ORDERS,
    JournalSource,
    KeepingSink,
    PreparedSink,
    ScriptedSink,
    until,
)
from cdcflow.testing.waiting import TIMEOUT

AUDIT = make_relation("audit", oid=2)


class PositionedKeepingSink(KeepingSink):
    """Knows the position of its checkpoint as well."""

    def __init__(self, kept: int, last: Position) -> None:
        super().__init__()
        self.kept = kept
        self.last = last

    async def position(self) -> Position | None:
        return self.last


class Bench:
    """A worker on a test's sink, journal and store."""

    def __init__(self, source: JournalSource, store: CheckpointStore, folder: Path) -> None:
        self.source = source
        self.store = store
        self.folder = folder
        self.contexts: list[FlowContext] = []

    def worker(
        self,
        sink: ScriptedSink,
        *,
        tables: str = "public.*",
        start: Literal["earliest", "latest"] = "earliest",
        batching: Batching | None = None,
    ) -> FlowWorker:
        def create(_settings: object, _options: object, context: FlowContext) -> ScriptedSink:
            self.contexts.append(context)
            return sink

        plugin = SinkPlugin("scripted", SinkSettings, create, batching=batching or Batching())
        settings = SinkSettings(type="scripted")
        plan = FlowPlan("hook", TablePatterns([tables]), plugin, settings, SinkOptions(), start)
        return FlowWorker(plan, journal=self.source.path, state=self.folder, store=self.store)

    def stored(self) -> int | None:
        found = self.store.get("hook")
        return None if found is None else found.offset


@pytest.fixture
def bench(source: JournalSource, store: CheckpointStore, tmp_path: Path) -> Bench:
    return Bench(source, store, tmp_path)


def during(worker: FlowWorker, test: Callable[[], Awaitable[None]]) -> None:
    """Runs the test while the worker runs, then stops the worker."""

    async def inside() -> None:
        running = asyncio.ensure_future(worker.run())
        try:
            await asyncio.wait_for(test(), 20)
        finally:
            worker.stop()
            await asyncio.wait_for(running, 10)

    asyncio.run(inside())


def state(worker: FlowWorker) -> tuple[str, str]:
    report = worker.report()
    return report.state, report.reason


def test_everything_is_delivered_in_order_and_then_checkpointed(bench: Bench) -> None:
    sink = ScriptedSink()
    bench.source.commit(range(10))
    worker = bench.worker(sink)

    async def test() -> None:
        await until(lambda: bench.stored() == 10)
        bench.source.commit(range(10, 15))
        await until(lambda: worker.report().checkpoint == 15)
        assert bench.stored() == 15
        report = worker.report()
        assert (report.checkpoint, report.delivered, report.lag_changes, report.lag_seconds) == (
            15,
            15,
            0,
            0.0,
        )
        assert report.state == "up to date"
        assert report.last_delivery is not None

    during(worker, test)
    assert sink.ids == list(range(15))
    assert (sink.opened, sink.closed) == (1, 1)


def test_a_worker_goes_on_from_its_checkpoint(bench: Bench) -> None:
    bench.source.commit(range(10))
    first, second = ScriptedSink(), ScriptedSink()

    async def delivered() -> None:
        await until(lambda: bench.stored() == bench.source.writer.tail.offset)

    during(bench.worker(first), delivered)
    bench.source.commit(range(10, 13))
    during(bench.worker(second), delivered)
    assert (first.ids, second.ids) == (list(range(10)), [10, 11, 12])


def test_the_checkpoint_of_the_sink_wins_over_the_store(bench: Bench) -> None:
    bench.source.commit(range(10))
    bench.store.save("hook", 9)
    sink = KeepingSink()
    sink.kept = 4

    async def test() -> None:
        await until(lambda: sink.kept == 10)

    during(bench.worker(sink), test)
    assert sink.ids == [4, 5, 6, 7, 8, 9]
    assert bench.stored() == 9


def test_a_flow_that_starts_at_the_latest_gets_only_what_comes_after_the_source_is_live(bench: Bench) -> None:
    sink = ScriptedSink()
    worker = bench.worker(sink, start="latest")

    async def test() -> None:
        await until(lambda: sink.opened)
        bench.source.commit(range(10))  # the first load
        assert state(worker)[0] == "starting"
        assert bench.stored() is None
        worker.go_live()
        await until(lambda: bench.stored() == 10)
        bench.source.commit([10])
        await until(lambda: sink.ids == [10])

    during(worker, test)


def test_where_a_new_flow_starts_is_remembered_before_its_first_write(bench: Bench) -> None:
    sink = ScriptedSink()
    sink.failures = [Permanent("no such object")]
    bench.source.commit([1])
    worker = bench.worker(sink)

    async def test() -> None:
        await until(lambda: state(worker)[0] == "needs attention")

    during(worker, test)
    assert bench.stored() == 0


def test_a_transient_failure_sends_the_same_batch_again(bench: Bench) -> None:
    sink = ScriptedSink()
    sink.failures = [Transient("busy"), Transient("busy")]
    bench.source.commit([1, 2])
    worker = bench.worker(sink)

    async def test() -> None:
        await until(lambda: worker.report().checkpoint == 2)
        assert bench.stored() == 2
        assert state(worker) == ("up to date", "")

    during(worker, test)
    assert sink.batches == [[1, 2]]
    assert worker.report().retries == 2


def test_while_a_failure_may_heal_the_reason_shows_and_after_a_while_it_needs_attention(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = ScriptedSink()
    sink.failures = [Transient("the server is busy", retry_after=3_600.0)]
    bench.source.commit([1])
    worker = bench.worker(sink)

    async def test() -> None:
        await until(lambda: worker.report().reason == "the server is busy")
        assert state(worker)[0] == "catching up"
        assert worker.report().lag_changes == 1
        monkeypatch.setattr(policy, "PATIENCE", 0.0)
        assert state(worker)[0] == "needs attention"
        worker.retry()
        await until(lambda: sink.ids == [1])
        await until(lambda: state(worker) == ("up to date", ""))

    during(worker, test)


def test_a_flow_whose_oldest_change_waits_for_long_is_catching_up(bench: Bench) -> None:
    sink = ScriptedSink()
    worker = bench.worker(sink)

    async def test() -> None:
        sink.gate.clear()
        bench.source.commit([1])
        await asyncio.wait_for(sink.entered.wait(), TIMEOUT)
        now = worker.report().lag_seconds
        assert now is not None
        with mock.patch("time.time", return_value=9e9):
            later = worker.report()
        assert later.lag_seconds is not None
        assert later.lag_seconds > now
        assert (later.state, later.lag_changes) == ("catching up", 1)
        sink.gate.set()

    during(worker, test)


def test_a_permanent_failure_needs_attention_and_goes_on_when_told(bench: Bench) -> None:
    sink = ScriptedSink()
    sink.failures = [Permanent("there is no object type 'deals'", hint="create it")]
    bench.source.commit([1, 2])
    worker = bench.worker(sink)

    async def test() -> None:
        await until(lambda: state(worker)[0] == "needs attention")
        assert state(worker)[1] == "there is no object type 'deals' (create it)"
        bench.source.commit([3])
        worker.retry()
        await until(lambda: sink.ids == [1, 2, 3])
        await until(lambda: state(worker) == ("up to date", ""))

    during(worker, test)


def test_a_permanent_failure_is_tried_again_now_and_then(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = tuple((kind, replace(rule, retry_every=0.05)) for kind, rule in policy.POLICY)
    monkeypatch.setattr(policy, "POLICY", rules)
    sink = ScriptedSink()
    sink.failures = [Permanent("no"), Permanent("still no")]
    bench.source.commit([1])

    async def test() -> None:
        await until(lambda: sink.ids == [1])

    during(bench.worker(sink), test)


def test_refused_rows_stop_the_flow_and_skip_nothing(bench: Bench) -> None:
    sink = ScriptedSink()
    sink.failures = [Rejected({1: "the amount is too long", 0: "no"})]
    bench.source.commit([1, 2])
    worker = bench.worker(sink)

    async def test() -> None:
        await until(lambda: state(worker)[0] == "needs attention")
        assert state(worker)[1] == "2 change(s) refused for good, the first because: the amount is too long"
        assert bench.stored() == 0
        worker.retry()
        await until(lambda: sink.ids == [1, 2])

    during(worker, test)


def test_a_defect_in_a_sink_needs_attention_and_tells_no_values(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    sink = ScriptedSink()
    sink.failures = [KeyError("ada@example.com")]
    bench.source.commit([1])
    worker = bench.worker(sink)

    async def test() -> None:
        await until(lambda: state(worker)[0] == "needs attention")
        assert "KeyError at scripted.py" in state(worker)[1]

    with caplog.at_level(logging.DEBUG, "cdcflow"):
        during(worker, test)
    assert "scripted.py" in caplog.text
    assert "ada@example.com" not in caplog.text + state(worker)[1]


def test_a_sink_that_does_not_open_is_closed_and_made_anew(bench: Bench) -> None:
    sink = ScriptedSink()
    sink.open_failures = [Transient("refused"), Transient("refused")]
    bench.source.commit([1])

    async def test() -> None:
        await until(lambda: sink.ids == [1])
        assert sink.closed == 2

    during(bench.worker(sink), test)
    assert [context.flow for context in bench.contexts] == ["hook"] * 3
    assert bench.contexts[0].state.stat().st_mode & 0o777 == 0o700


def test_new_generations_are_announced_once_before_their_rows(bench: Bench) -> None:
    wider = make_relation("orders", ["id", "status", "note", Column("more", 25)], oid=1)
    sink = PreparedSink()

    async def test() -> None:
        for relation in (ORDERS, AUDIT, ORDERS, wider, wider):
            bench.source.commit([1], relation)
        await until(lambda: len(sink.ids) == 5)

    during(bench.worker(sink), test)
    assert sink.prepared == [ORDERS, AUDIT, wider]


def test_only_the_tables_of_the_flow_are_delivered_and_the_rest_moves_the_checkpoint(bench: Bench) -> None:
    sink = ScriptedSink()

    async def test() -> None:
        bench.source.commit([1], AUDIT)
        bench.source.commit([2])
        bench.source.commit([3], AUDIT)
        await until(lambda: bench.stored() == 3)

    during(bench.worker(sink, tables="public.orders"), test)
    assert sink.batches == [[2]]


def test_a_sink_that_keeps_checkpoints_is_told_of_dropped_changes_without_a_gap(bench: Bench) -> None:
    sink = KeepingSink()

    async def test() -> None:
        for i in range(20):
            bench.source.commit([i], AUDIT if i % 3 else ORDERS)
        await until(lambda: sink.kept == 20)

    during(bench.worker(sink, tables="public.orders"), test)
    assert sink.ids == list(range(0, 20, 3))
    assert [begin for begin, _ in sink.runs] == [0, *(end for _, end in sink.runs[:-1])]


def test_stopping_finishes_the_write_in_flight_and_not_the_backlog(bench: Bench) -> None:
    sink = ScriptedSink()
    sink.gate.clear()
    bench.source.commit(range(100))
    worker = bench.worker(sink, batching=Batching(max_changes=10))

    async def test() -> None:
        await asyncio.wait_for(sink.entered.wait(), TIMEOUT)
        worker.stop()
        await asyncio.sleep(0)
        assert sink.closed == 0
        sink.gate.set()
        await until(lambda: sink.closed)
        assert sink.batches == [list(range(10))]
        assert bench.stored() == 10

    during(worker, test)


def test_cancelling_abandons_the_write_in_flight_and_still_closes_the_sink(bench: Bench) -> None:
    sink = ScriptedSink()
    bench.source.commit([1])
    worker = bench.worker(sink)

    async def test() -> None:
        sink.gate.clear()
        running = asyncio.ensure_future(worker.run())
        await asyncio.wait_for(sink.entered.wait(), TIMEOUT)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(test())
    assert (sink.batches, sink.closed, bench.stored()) == ([], 1, 0)


@pytest.mark.parametrize("failure", [Transient("busy", retry_after=600.0), Rejected({0: "no"})])
def test_stopping_does_not_wait_for_a_retry(bench: Bench, failure: Exception) -> None:
    sink = ScriptedSink()
    sink.failures = [failure]
    bench.source.commit([1])
    worker = bench.worker(sink)

    async def test() -> None:
        await until(lambda: worker.report().retries)

    during(worker, test)
    assert (sink.closed, bench.stored()) == (1, 0)


def test_a_worker_waits_for_the_journal_to_be_made(tmp_path: Path, store: CheckpointStore) -> None:
    sink = ScriptedSink()
    bench = Bench(mock.Mock(path=tmp_path / "later"), store, tmp_path)
    worker = bench.worker(sink)

    async def test() -> None:
        assert state(worker) == ("starting", "")
        late = JournalSource(tmp_path / "later")
        late.commit([1])
        await until(lambda: sink.ids == [1])
        late.writer.close()

    during(worker, test)


def test_a_checkpoint_that_the_journal_no_longer_holds_needs_a_backfill(
    tmp_path: Path, store: CheckpointStore
) -> None:
    source = JournalSource(tmp_path / "small", segment_bytes=4_096)
    for i in range(50):
        source.commit([i])
    source.writer.retain(max_bytes=1, max_age=None, keep_from=40)
    store.save("hook", 3)
    worker = Bench(source, store, tmp_path).worker(sink := ScriptedSink())

    async def test() -> None:
        await until(lambda: state(worker)[0] == "needs attention")
        assert "needs a backfill" in state(worker)[1]

    during(worker, test)
    source.writer.close()
    assert sink.batches == []


@pytest.mark.parametrize(
    ("backfill", "start", "begins"),
    [(True, "earliest", False), (True, "latest", True), (False, "earliest", True)],
)
def test_a_new_flow_never_begins_silently_without_the_existing_rows(
    tmp_path: Path,
    store: CheckpointStore,
    backfill: bool,
    start: Literal["earliest", "latest"],
    begins: bool,
) -> None:
    source = JournalSource(tmp_path / "small", segment_bytes=4_096)
    if backfill:
        source.writer.rows_come()
    source.commit([0])
    for i in range(1, 50):
        source.commit([i])
    assert source.writer.retain(max_bytes=1, max_age=None, keep_from=40)
    worker = Bench(source, store, tmp_path).worker(sink := ScriptedSink(), start=start)
    worker.go_live()

    async def test() -> None:
        if begins:
            await until(lambda: store.get("hook") is not None)
            source.commit([50])
            await until(lambda: 50 in sink.ids)
        else:
            await until(lambda: state(worker)[0] == "needs attention")
            assert "no longer holds the existing rows" in state(worker)[1]

    during(worker, test)
    source.writer.close()
    assert bool(sink.batches) is begins
    assert (store.get("hook") is not None) is begins


def test_a_checkpoint_beyond_the_end_of_the_journal_needs_attention(bench: Bench) -> None:
    bench.source.commit([1])
    bench.store.save("hook", 5)
    worker = bench.worker(sink := ScriptedSink())

    async def test() -> None:
        await until(lambda: state(worker)[0] == "needs attention")
        assert "beyond the journal's end at 1" in state(worker)[1]

    during(worker, test)
    assert sink.batches == []


def test_a_checkpoint_of_another_journal_needs_attention(bench: Bench) -> None:
    bench.source.commit(range(10))
    bench.store.save("hook", 5, Position(0xABC, 4))
    worker = bench.worker(sink := ScriptedSink())

    async def test() -> None:
        await until(lambda: state(worker)[0] == "needs attention")
        assert "it is another journal" in state(worker)[1]

    during(worker, test)
    assert sink.batches == []


@pytest.mark.parametrize("same", [True, False])
def test_a_sink_that_was_delivered_from_another_journal_needs_attention(bench: Bench, same: bool) -> None:
    batch = bench.source.commit(range(10))
    bench.source.commit([10])
    sink = PositionedKeepingSink(10, batch.last if same else Position(batch.last.commit_lsn - 8, 10))
    worker = bench.worker(sink)

    async def test() -> None:
        if same:
            await until(lambda: sink.ids == [10])
        else:
            await until(lambda: state(worker)[0] == "needs attention")
            assert "it is another journal" in state(worker)[1]

    during(worker, test)
    assert bool(sink.batches) is same


def test_the_stored_position_is_that_of_the_last_change(bench: Bench) -> None:
    frame = bench.source.commit(range(10))
    seen: list[Position] = []

    class Patient(ScriptedSink):
        async def write(self, batch: Batch) -> None:
            # Checkpoints are saved behind, and only the latest where several wait.
            await until(lambda: bench.stored() == batch.base)
            await super().write(batch)

    async def test() -> None:
        await until(lambda: bench.stored() == 10)

    save = bench.store.save

    def spy(flow: str, offset: int, position: Position = ORIGIN) -> None:
        seen.append(position)
        save(flow, offset, position)

    with mock.patch.object(bench.store, "save", spy):
        during(bench.worker(Patient(), batching=Batching(max_changes=4)), test)
    lsn = frame.last.commit_lsn
    assert seen == [ORIGIN, Position(lsn, 4), Position(lsn, 8), Position(lsn, 10)]


def test_a_query_reaches_the_sink_and_only_an_open_one(bench: Bench) -> None:
    class Answering(ScriptedSink):
        async def query(self, sql: str) -> pa.Table:
            return pa.table({"sql": [sql]})

    worker = bench.worker(Answering())

    async def test() -> None:
        with pytest.raises(CdcflowError, match="has not opened"):
            await worker.query("SELECT 1")
        await until(lambda: worker.report().state == "up to date")
        assert (await worker.query("SELECT 1")).to_pylist() == [{"sql": "SELECT 1"}]

    during(worker, test)


def test_a_sink_without_sql_says_so(bench: Bench) -> None:
    worker = bench.worker(ScriptedSink())

    async def test() -> None:
        await until(lambda: worker.report().state == "up to date")
        with pytest.raises(CdcflowError, match="does not answer SQL"):
            await worker.query("SELECT 1")

    during(worker, test)
