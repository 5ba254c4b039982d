"""A worker whose flow has transforms: what gathers, what is refused, and functions that go wrong."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cdcflow.delivery import CheckpointStore, FlowPlan, FlowWorker
from cdcflow.model.patterns import TablePatterns
from cdcflow.sink import Batching, SinkOptions, SinkPlugin, SinkSettings
from cdcflow.testing.batches import make_relation
from cdcflow.testing.scripted import JournalSource, ScriptedSink, until
from cdcflow.testing.steps import chain, context

#: No OID below 16,384 is a table of anybody's.
ORDERS = make_relation("orders", oid=20_001)


class Transforming:
    """Workers on one journal, each with steps of its own."""

    def __init__(self, source: JournalSource, store: CheckpointStore, folder: Path) -> None:
        self.source = source
        self.store = store
        self.folder = folder

    def worker(
        self, sink: ScriptedSink, *steps: Mapping[str, Any], batching: Batching | None = None
    ) -> FlowWorker:
        plugin = SinkPlugin(
            "scripted", SinkSettings, lambda *_: sink, batching=batching or Batching(max_changes=50)
        )
        plan = FlowPlan(
            "hook",
            TablePatterns(["public.*"]),
            plugin,
            SinkSettings(type="scripted"),
            SinkOptions(),
            chain=chain(*steps, around=context(base=self.folder)),
        )
        return FlowWorker(plan, journal=self.source.path, state=self.folder, store=self.store)

    def file(self, code: str) -> None:
        (self.folder / "code.py").write_text(code, encoding="utf-8")

    def checkpoint(self) -> int | None:
        found = self.store.get("hook")
        return None if found is None else found.offset


@pytest.fixture
def transforming(source: JournalSource, store: CheckpointStore, tmp_path: Path) -> Transforming:
    return Transforming(source, store, tmp_path)


def during(worker: FlowWorker, test: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        task = asyncio.create_task(worker.run())
        try:
            await test()
        finally:
            worker.stop()
            await asyncio.wait_for(task, 60)

    asyncio.run(run())


def test_what_the_steps_drop_moves_the_checkpoint(transforming: Transforming) -> None:
    sink = ScriptedSink()
    transforming.source.commit(range(10), ORDERS)

    async def test() -> None:
        await until(lambda: transforming.checkpoint() == 10)

    during(transforming.worker(sink, {"filter": "id = '3'"}, {"rename": {"note": "text"}}), test)
    assert sink.ids == [3]


def test_changes_gather_for_a_window_and_come_as_their_last_state(transforming: Transforming) -> None:
    sink = ScriptedSink()
    for round_ in range(5):
        transforming.source.change([(i, f"round {round_}") for i in range(4)], ORDERS)

    async def test() -> None:
        await until(lambda: transforming.checkpoint() == 20)

    during(transforming.worker(sink, {"collapse": "500ms"}), test)
    assert sink.batches == [[0, 1, 2, 3]]


def test_a_window_ends_when_a_batch_is_full(transforming: Transforming) -> None:
    sink = ScriptedSink()
    transforming.source.commit(range(10), ORDERS)

    async def test() -> None:
        await until(lambda: transforming.checkpoint() == 10)

    during(transforming.worker(sink, {"collapse": "10m"}, batching=Batching(max_changes=5)), test)
    assert sink.ids == list(range(10))


def test_a_shape_that_a_step_does_not_fit_needs_attention_with_its_place(transforming: Transforming) -> None:
    sink = ScriptedSink()
    worker = transforming.worker(sink, {"filter": "stats = 'x'"})
    transforming.source.commit([1], ORDERS)

    async def test() -> None:
        await until(lambda: worker.report().state == "needs attention")
        assert "flow.yaml:1: transforms[0].filter" in worker.report().reason
        assert "has no column 'stats'" in worker.report().reason

    during(worker, test)
    assert sink.ids == []
    assert transforming.checkpoint() == 0


def test_a_function_that_loops_is_named_while_its_worker_answers(transforming: Transforming) -> None:
    transforming.file("def transform(change):\n    while True:\n        pass\n")
    worker = transforming.worker(ScriptedSink(), {"python": {"file": "code.py", "timeout": "1s"}})
    transforming.source.commit([1], ORDERS)

    async def test() -> None:
        await until(lambda: worker.report().state == "needs attention")
        assert (
            "code.py:2 in transform: the function transform did not return within 1 s"
            in worker.report().reason
        )

    during(worker, test)
    # Mended, the flow begins anew, and goes on.
    transforming.file("def transform(change):\n    return change\n")
    mended = transforming.worker(ScriptedSink(), {"python": {"file": "code.py", "timeout": "1s"}})

    async def goes_on() -> None:
        await until(lambda: transforming.checkpoint() == 1)

    during(mended, goes_on)


def test_a_function_that_loops_does_not_hold_up_a_stop(transforming: Transforming) -> None:
    began = transforming.folder / "began"
    transforming.file(
        f"def transform(change):\n    open({str(began)!r}, 'w').close()\n    while True:\n        pass\n"
    )
    worker = transforming.worker(ScriptedSink(), {"python": {"file": "code.py", "timeout": "1h"}})
    transforming.source.commit([1], ORDERS)
    stopped = 0.0

    async def test() -> None:
        nonlocal stopped
        await until(began.exists)
        stopped = time.monotonic()

    during(worker, test)
    assert time.monotonic() - stopped < 60
