"""Checkpoints are saved beside the writing: see `cdcflow.delivery.behind`."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cdcflow.delivery import CheckpointStore, FlowPlan, FlowWorker, behind, policy
from cdcflow.delivery.in_flight import InFlight
from cdcflow.errors import EnvironmentFault
from cdcflow.model import ORIGIN, Position
from cdcflow.model.patterns import TablePatterns
from cdcflow.sink import Batching, SinkOptions, SinkPlugin, SinkSettings
from cdcflow.testing.scripted import JournalSource, ScriptedSink, until

#: One change is a batch.
SINGLE = Batching(max_changes=1)


class SlowStore(CheckpointStore):
    """Saves while `free` is set, and fails with what is in `failures` first."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.free = threading.Event()
        self.free.set()
        self.failures: list[Exception] = []
        self.saved: list[int] = []

    def save(self, flow: str, offset: int, position: Position = ORIGIN) -> None:
        self.free.wait(20)
        if self.failures:
            raise self.failures.pop(0)
        super().save(flow, offset, position)
        self.saved.append(offset)


def worker(sink: ScriptedSink, source: JournalSource, store: CheckpointStore) -> FlowWorker:
    plugin = SinkPlugin("scripted", SinkSettings, lambda *_: sink, batching=SINGLE)
    settings = SinkSettings(type="scripted")
    plan = FlowPlan("hook", TablePatterns(["public.*"]), plugin, settings, SinkOptions())
    return FlowWorker(plan, journal=source.path, state=store.path.parent, store=store)


def during(running: FlowWorker, test: Callable[[], Awaitable[None]]) -> None:
    async def inside() -> None:
        task = asyncio.ensure_future(running.run())
        try:
            await asyncio.wait_for(test(), 20)
        finally:
            running.stop()
            await asyncio.wait_for(task, 10)

    asyncio.run(inside())


def stored(store: CheckpointStore) -> int:
    found = store.get("hook")
    return -1 if found is None else found.offset


def test_a_checkpoint_that_is_being_saved_holds_up_no_write(source: JournalSource, tmp_path: Path) -> None:
    sink = ScriptedSink()
    with SlowStore(tmp_path / "slow.db") as store:
        running = worker(sink, source, store)

        async def test() -> None:
            await until(lambda: stored(store) == 0)
            store.free.clear()
            source.commit(range(10))
            await until(lambda: sink.ids == list(range(10)))
            assert running.report().checkpoint == 0, "what is reported is durable"
            assert stored(store) == 0
            store.free.set()
            await until(lambda: running.report().checkpoint == 10)
            assert stored(store) == 10

        during(running, test)
        assert len(store.saved) <= 3, "what came meanwhile is one checkpoint"


def test_stopping_waits_for_the_checkpoint_of_what_was_written(source: JournalSource, tmp_path: Path) -> None:
    sink = ScriptedSink()
    with SlowStore(tmp_path / "slow.db") as store:
        running = worker(sink, source, store)

        async def test() -> None:
            await until(lambda: stored(store) == 0)
            store.free.clear()
            source.commit(range(10))
            await until(lambda: sink.ids == list(range(10)))
            running.stop()
            asyncio.get_running_loop().call_later(0.05, store.free.set)

        during(running, test)
        assert stored(store) == 10


def test_a_disk_that_hangs_stops_the_writing_after_a_while(
    source: JournalSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(behind, "LATE", 0.0)
    sink = ScriptedSink()
    with SlowStore(tmp_path / "slow.db") as store:
        running = worker(sink, source, store)

        async def test() -> None:
            await until(lambda: stored(store) == 0)
            store.free.clear()
            source.commit(range(10))
            await until(lambda: sink.ids)
            # A write that were to follow would have begun by then.
            for _ in range(100):
                await asyncio.sleep(0)
            assert sink.ids == [0]
            store.free.set()
            await until(lambda: sink.ids == list(range(10)))

        during(running, test)


def test_a_checkpoint_that_cannot_be_saved_stops_the_flow_until_it_can(
    source: JournalSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "PATIENCE", 0.0)
    sink = ScriptedSink()
    with SlowStore(tmp_path / "slow.db") as store:
        running = worker(sink, source, store)

        async def test() -> None:
            await until(lambda: stored(store) == 0)
            store.failures = [EnvironmentFault("the disk is full")] * 3
            source.commit([0])
            # Nothing else comes that could have the failure noticed.
            await until(lambda: running.report().state == "needs attention")
            assert running.report().reason == "the disk is full"
            source.commit([1])
            for _ in range(100):
                await asyncio.sleep(0)
            assert sink.ids == [0]
            while store.failures:
                running.retry()
                await asyncio.sleep(0.01)
            await until(lambda: stored(store) == 2)
            assert sink.ids == [0, 1], "what was written does not come again"
            assert running.report().state == "up to date"

        during(running, test)


def test_a_batch_and_the_checkpoint_before_it_are_there_together(
    source: JournalSource, tmp_path: Path
) -> None:
    first, second = source.commit([1, 2]), source.commit([3])
    path = tmp_path / "state.db"
    notes = InFlight(path)
    with CheckpointStore(path) as store:
        notes.begin("hook", first)
        assert (stored(store), notes.of("hook", 0)) == (-1, 2)
        notes.begin("hook", second, first)
        assert (stored(store), notes.of("hook", 2), notes.of("hook", 0)) == (2, 3, None)
    notes.close()
