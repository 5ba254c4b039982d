"""Where chunks of a backfill stand in the journal, and which of their rows the stream knows better."""

import pyarrow as pa

from cdcflow.journal import Chunk, Ledger, pack
from cdcflow.model import ORIGIN
from cdcflow.source.online.board import Board, Read
from cdcflow.source.online.placing import Placing
from cdcflow.source.online.task import Task
from cdcflow.source.requests import Request
from cdcflow.source.visible import Changed, Snapshot
from cdcflow.testing.batches import make_batch, make_relation

GOODS = make_relation("goods", ("id", "version"))


def chunk_of(task: Task, reader: int, snapshot: Snapshot, ids: list[str]) -> Read:
    rows = [("read", {"id": key, "version": "old"}, None) for key in ids]
    packed = pack(make_batch(GOODS, rows).groups[0])
    return Read(task, reader, snapshot, 100, packed, pa.array(ids), None, 10)


def test_a_chunk_that_waits_keeps_what_it_has_not_seen_also_when_its_reader_has_nothing_more_to_read() -> (
    None
):
    board = Board(readers=2, ledger=Ledger(), wake=lambda: None)
    placing = Placing(board, 0)
    task = Task(Request("r", ("public.goods",)), "public.goods", "reading", GOODS.oid)
    task.changed = Changed(collecting=True)
    placing.watch(task)
    placing.see(make_batch(GOODS, [("update", {"id": "7", "version": "new"}, None)], xid=50))
    # The later of the two snapshots comes first. Whose reader waits, for the next second of its rate say, has
    # no bound any more.
    board.bounds[0] = Snapshot(30, 30)
    board.arrive(chunk_of(task, 0, Snapshot(60, 60), ["1", "2"]))
    board.arrive(chunk_of(task, 1, Snapshot(40, 40), ["6", "7"]))
    first = placing.place(200, ORIGIN)
    assert isinstance(first, Chunk)
    second = placing.place(200, first.last)
    assert isinstance(second, Chunk)
    assert (first.dropped, second.dropped) == ((), (1,))
