"""Whether changes may come a second time to a sink that holds what they have led to."""

import asyncio
from functools import partial
from pathlib import Path

from cdcflow.delivery import CheckpointStore, LetterStore, Wishes
from cdcflow.delivery.letters import Arrival
from cdcflow.delivery.moving import Road, carry_out, unrepeatable
from cdcflow.journal import Reader
from cdcflow.model import Batch
from cdcflow.sink import FlowContext, SinkOptions
from cdcflow.testing.journals import read_all
from cdcflow.testing.scripted import JournalSource
from cdcflow_sinks.duckdb import DuckDBSettings, DuckDBSink


def warehouse(folder: Path) -> DuckDBSink:
    path = folder / "warehouse.duckdb"
    return DuckDBSink(DuckDBSettings(type="duckdb", path=path), SinkOptions(), FlowContext("flow", folder))


def passed(batch: Batch) -> Batch:
    return batch


def test_dead_letters_in_between_are_in_the_way(
    source: JournalSource, store: CheckpointStore, tmp_path: Path
) -> None:
    source.commit(range(10))
    [batch] = read_all(source.path)
    sink = warehouse(tmp_path)
    with Reader(source.path) as reader, LetterStore(store.path) as letters:
        road = Road(passed, letters)
        letters.add("flow", [Arrival(batch.slice(7, 8), (), "dead")], "r1")
        letters.add("other", [Arrival(batch.slice(2, 3), (), "dead")], "r1")
        assert unrepeatable("flow", reader, sink, 0, 7, road) == ""
        assert unrepeatable("flow", reader, sink, 8, 10, road) == ""
        assert unrepeatable("flow", reader, sink, 5, 10, road).startswith("1 of the flow's dead letters")


def test_a_flow_that_is_stopped_while_it_is_asked_moves_at_its_next_start(
    source: JournalSource, store: CheckpointStore, tmp_path: Path
) -> None:
    source.commit(range(10))
    [batch] = read_all(source.path)
    wishes = Wishes(store)

    async def run() -> list[int | None]:
        sink = warehouse(tmp_path)
        await sink.open()
        await sink.prepare([group.relation for group in batch.groups])
        await sink.write(batch)
        wishes.order("flow", 4, "ana", "")
        found = []
        with Reader(source.path) as reader:
            for stopping in ([True], []):
                await carry_out("flow", reader, store, sink, Road(passed, stopping=partial(bool, stopping)))
                found.append(await sink.checkpoint())
        await sink.close()
        return found

    assert asyncio.run(run()) == [10, 4]
    assert wishes.move("flow") is None
