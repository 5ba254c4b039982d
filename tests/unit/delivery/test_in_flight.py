import asyncio
from pathlib import Path

from cdcflow.delivery import CheckpointStore, FlowPlan, FlowWorker
from cdcflow.model.patterns import TablePatterns
from cdcflow.sink import SinkOptions, SinkPlugin, SinkSettings
from cdcflow.testing.scripted import JournalSource, ScriptedSink, until
from cdcflow.testing.waiting import TIMEOUT


def worker(sink: ScriptedSink, source: JournalSource, store: CheckpointStore, *, repeats: bool) -> FlowWorker:
    plugin = SinkPlugin("scripted", SinkSettings, lambda *_: sink, repeats=lambda _: repeats)
    settings = SinkSettings(type="scripted")
    plan = FlowPlan("hook", TablePatterns(["public.*"]), plugin, settings, SinkOptions())
    return FlowWorker(plan, journal=source.path, state=store.path.parent, store=store)


def kill_while_writing(running: FlowWorker, sink: ScriptedSink, source: JournalSource) -> tuple[int, int]:
    """Kills the worker in the middle of a write; returns the run of offsets that it was given."""
    tried: list[tuple[int, int]] = []
    write = sink.write

    async def noting(batch: object) -> None:
        tried.append((batch.base, batch.end))  # type: ignore[attr-defined]
        await write(batch)  # type: ignore[arg-type]

    sink.write = noting  # type: ignore[method-assign]

    async def run() -> None:
        sink.gate.clear()
        task = asyncio.ensure_future(running.run())
        await asyncio.wait_for(sink.entered.wait(), TIMEOUT)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    return tried[-1]


def test_the_batch_that_was_being_written_comes_again_as_it_was(
    source: JournalSource, store: CheckpointStore, tmp_path: Path
) -> None:
    for start in range(0, 40, 4):
        source.commit(range(start, start + 4))
    cut = kill_while_writing(worker(first := ScriptedSink(), source, store, repeats=True), first, source)
    # Meanwhile there is more, and another beginning would make batches of it that are cut elsewhere.
    for start in range(40, 3_000, 4):
        source.commit(range(start, start + 4))
    second = ScriptedSink()
    again = worker(second, source, store, repeats=True)

    async def run() -> None:
        task = asyncio.ensure_future(again.run())
        await until(lambda: again.report().checkpoint == 3_000)
        again.stop()
        await task

    asyncio.run(run())
    assert second.runs[0] == cut
    assert second.ids == list(range(3_000))
