"""The null sink, which has nothing to promise but that it counts."""

import asyncio

from cdcflow.sink import FlowContext, Sink
from cdcflow.sink.registry import load
from cdcflow.testing.batches import inserts, make_relation
from cdcflow.testing.conformance import SinkConformance
from cdcflow_sinks.null import NullSettings, NullSink


class TestNull(SinkConformance):
    holds = "nothing"

    def make_sink(self, context: FlowContext) -> Sink:
        plugin = load("null")
        return plugin.create(NullSettings(type="null"), plugin.options(), context)


def test_it_counts_changes_and_batches() -> None:
    sink = NullSink()

    async def run() -> None:
        await sink.open()
        await sink.write(inserts(make_relation(), range(5)))
        await sink.write(inserts(make_relation(), range(5, 8), base=5, commit_lsn=16))
        await sink.close()

    asyncio.run(run())
    assert (sink.changes, sink.batches) == (8, 2)
