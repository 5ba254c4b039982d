"""Where chunks of a backfill stand in the journal, and which of their rows the stream knows better."""

import time
from dataclasses import replace

import pyarrow as pa
import pytest

from cdcflow.journal import Chunk, Ledger, Step, Work, pack
from cdcflow.model import ORIGIN, Batch, Mark, Position, mark_batch
from cdcflow.source.appender import Marked
from cdcflow.source.online import board as board_module
from cdcflow.source.online.board import Board, Read, Seed, Turn
from cdcflow.source.online.placing import Placing, Unseen
from cdcflow.source.online.readers import Readers
from cdcflow.source.online.task import Task
from cdcflow.source.plan import Plan
from cdcflow.source.requests import Request
from cdcflow.source.visible import Changed, Snapshot
from cdcflow.testing.batches import make_batch, make_relation

GOODS = make_relation("goods", ("id", "version"))


def update(xid: int, key: str) -> Batch:
    return make_batch(GOODS, [("update", {"id": key, "version": "new"}, None)], xid=xid)


def test_a_table_whose_turn_comes_late_has_that_looked_at_which_no_snapshot_of_the_others_has_seen() -> None:
    board = Board(readers=2, ledger=Ledger(), wake=lambda: None)
    placing = Placing(board, 100_000)
    first = Task(Request("r", ("public.goods",)), "public.goods", "reading", GOODS.oid, began_at=90_000)
    later = Task(Request("r", ("public.late",)), "public.late", "begun", 77, began_at=99_999)
    placing.watch(first)
    placing.watch(later)
    for xid in (50, 51, 52):
        placing.see(update(xid, str(xid)))
    board.arrive(chunk_of(first, 0, Snapshot(51, 53, frozenset([51])), ["1", "2"]))
    assert placing.place(200, ORIGIN) is not None
    board.arrive(Turn(later, "watch"))
    assert placing.place(200, ORIGIN) is None
    # From before the session, and from the first that the chunk's snapshot has not seen.
    assert later.look_at == [(50_000, 100_000), (100_001, 100_005)]
    board.arrive(chunk_of(first, 0, Snapshot(60, 60), ["3"]))
    board.arrive(Turn(later, "watch"))
    assert placing.place(300, ORIGIN) is not None
    assert placing.place(300, ORIGIN) is None
    assert later.look_at == [(50_000, 100_000)]


def test_live_changes_have_a_processor_to_themselves_and_half_of_the_others_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000.0
    monkeypatch.setattr(board_module, "_PROCESSORS", 2)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    board = Board(readers=2, ledger=Ledger(), wake=lambda: None)
    placing = Placing(board, 0)
    placing.watch(Task(Request("r", ("public.goods",)), "public.goods", "reading", GOODS.oid))
    board.bounds[0] = None
    board.rest(0.04)
    assert not board.wait_to_read(0)
    assert not board.wait_to_read(1)
    placing.see(update(50, "1"))
    assert 0.03 < board.wait_to_read(0) <= 0.04
    assert board.wait_to_read(1) > 0.04
    now += 0.05
    assert not board.wait_to_read(0)
    assert board.wait_to_read(1)
    # Nothing live has come for a while; the marks of backfills are nothing live.
    now += 1.0
    placing.see(mark_batch(Mark("r", "begin", GOODS.oid, "public", "goods", False), Position(9, 1), 0, ()))
    assert not board.wait_to_read(1)


def test_many_small_batches_are_remembered_in_little_room() -> None:
    unseen = Unseen()
    for number in range(5_000):
        unseen.see(number, update(100 + number % 7, "1"))
    assert unseen.start == 0
    assert len(unseen._batches) <= 1_001
    unseen.forget(Snapshot(107, 107))
    assert unseen.start is None


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


def test_what_was_cancelled_does_not_begin_again_by_what_was_under_way() -> None:
    board = Board(readers=2, ledger=Ledger(), wake=lambda: None)
    placing = Placing(board, 0)
    task = Task(Request("r", ("public.goods",)), "public.goods", "beginning", GOODS.oid)
    for what in ("begin", "cancel", "watch", "read", "note", "end"):
        board.arrive(Turn(task, what))
    board.arrive(Seed(task, ()))
    board.arrive(chunk_of(task, 0, Snapshot(60, 60), ["1", "2"]))
    task.state = "cancelling"
    begun = placing.place(200, ORIGIN)
    assert isinstance(begun, Marked)
    assert begun.batch is not None
    assert task.state == "cancelling"
    over = placing.place(200, begun.batch.last)
    assert isinstance(over, Marked)
    assert over.step.phase == "cancelled"
    assert over.batch is not None
    assert placing.place(200, over.batch.last) is None
    assert not board.arrivals
    Readers(board, "", "")._refused(task, "rewritten", {"error": "public.goods was rewritten"})
    Readers(board, "", "")._refused(task, "gone", {"error": "no such column"})
    assert (task.state, task.final, task.error) == ("ended", "cancelled", "")


def test_a_chunk_of_a_table_that_is_read_as_a_whole_by_now_has_no_place() -> None:
    """It was read when the table still had a key, and nothing would replace its rows."""
    board = Board(readers=2, ledger=Ledger(), wake=lambda: None)
    placing = Placing(board, 0)
    task = Task(Request("r", ("public.goods",), halt=True), "public.goods", "whole", GOODS.oid, whole=True)
    board.arrive(chunk_of(task, 0, Snapshot(60, 60), ["1", "2"]))
    assert placing.place(200, ORIGIN) is None
    assert not board.arrivals


def test_a_chunk_that_is_read_again_comes_before_its_table_counts_as_read() -> None:
    """It takes its place behind the word that every row was read: its rows, or their absence after a crash,
    would be missed by nobody."""
    board = Board(readers=2, ledger=Ledger(), wake=lambda: None)
    placing = Placing(board, 0)
    task = Task(
        Request("r", ("public.goods",)), "public.goods", "read", GOODS.oid, plan=Plan({"p": 1}, {}, 1)
    )
    assert task.plan is not None
    claim = task.plan.claim()
    assert claim is not None
    board.arrive(Turn(task, "read"))
    board.arrive(replace(chunk_of(task, 0, Snapshot(60, 60), ["1", "2"]), claim=claim))
    task.plan.delivered(claim)
    chunk = placing.place(200, ORIGIN)
    assert isinstance(chunk, Chunk)
    assert task.state == "reading"
    board.arrive(Turn(task, "read"))
    read = placing.place(200, chunk.last)
    assert isinstance(read, Marked)
    assert (read.step.phase, task.state) == ("read", "rereading")


def test_a_failed_one_does_not_go_on_by_what_was_under_way() -> None:
    board = Board(readers=2, ledger=Ledger(), wake=lambda: None)
    placing = Placing(board, 0)
    task = Task(
        Request("r", ("public.goods",)), "public.goods", "read", GOODS.oid, plan=Plan({"p": 1}, {}, 1)
    )
    for what in ("watch", "read", "end"):
        board.arrive(Turn(task, what))
    board.arrive(Seed(task, ()))
    board.fail(task, "no privilege")
    assert placing.place(200, ORIGIN) is None
    assert not board.arrivals
    assert task.state == "failed"


def test_a_copy_that_broke_off_before_its_begin_was_journaled_is_tried_again() -> None:
    board = Board(readers=2, ledger=Ledger(), wake=lambda: None)
    placing = Placing(board, 0)
    task = Task(Request("r", ("public.goods",)), "public.goods", "whole", GOODS.oid, whole=True)
    board.arrive(Turn(task, "begin"))
    assert placing.place(200, ORIGIN) is not None
    assert task.state == "whole"


def test_what_is_read_as_a_whole_needs_nothing_of_what_was_known_before() -> None:
    """The rows that were to come again come with it, and those that were read before are taken away by it:
    should it break off, and the table have its key again, all must be read anew."""
    ledger = Ledger()
    task = Task(Request("r", ("public.goods",), halt=True), "public.goods", "copying", GOODS.oid, whole=True)
    task.relation, task.began_at = GOODS, 1
    ledger.take(Step(task.work, "begun"), 1)
    ledger.take(Step(task.work, part="1:1", span=(0, 100), rows=7, again=(("7",),)), 8)
    ledger.take(Step(task.work, "read"), 8)
    board = Board(readers=2, ledger=Ledger.from_state(ledger.to_state()), wake=lambda: None)
    placing = Placing(board, 8)
    placing.watch(task)
    task.changed.again, task.changed.complete = {"7": None}, True
    board.arrive(Turn(task, "empty"))
    emptied = placing.place(200, ORIGIN)
    assert isinstance(emptied, Marked)
    assert emptied.batch is not None
    ledger.take(emptied.step, 9)
    assert ledger.open == {task.work: Work(offset=9)}
    assert task.work not in board.ledger.open
    assert not task.changed.complete
    board.set(task, "ending")
    board.arrive(Turn(task, "end"))
    assert placing.place(200, emptied.batch.last) is not None
    assert task.final == "done"


def test_a_chunk_that_nobody_wants_does_not_wait_for_its_place() -> None:
    """The stream, which stands while a table is copied as a whole, may not come to it for as long."""
    board = Board(readers=2, ledger=Ledger(), wake=lambda: None)
    placing = Placing(board, 0)
    task = Task(Request("r", ("public.goods",)), "public.goods", "failed", GOODS.oid)
    board.arrive(chunk_of(task, 0, Snapshot(60, 60), ["1", "2"]))
    assert placing.wants(90)
    assert placing.place(90, ORIGIN) is None
    assert not board.arrivals


def test_a_chunk_of_an_older_shape_does_not_come_behind_one_of_a_newer_shape() -> None:
    """Also where the stream has not shown the newer one: to a warehouse, the last shape is the table's."""
    board = Board(readers=2, ledger=Ledger(), wake=lambda: None)
    placing = Placing(board, 0)
    task = Task(
        Request("r", ("public.goods",)), "public.goods", "reading", GOODS.oid, plan=Plan({"p": 9}, {}, 1)
    )
    assert task.plan is not None
    claims = [task.plan.claim(), task.plan.claim()]
    grown = make_relation("goods", ("id", "version", "more"))
    rows = pack(make_batch(grown, [("read", {"id": "1", "version": "new", "more": "7"}, None)]).groups[0])
    newer = Read(task, 0, Snapshot(60, 62, frozenset([60])), 100, rows, pa.array(["1"]), claims[0], 10)
    board.arrive(newer)
    for older in (Snapshot(60, 61, frozenset([60])), Snapshot(60, 62, frozenset([60, 61]))):
        board.arrive(chunk_of(task, 1, older, ["2"]))
    first = placing.place(200, ORIGIN)
    assert isinstance(first, Chunk)
    assert placing.place(200, first.last) is None
    assert not board.arrivals


def test_a_repair_has_the_rows_come_that_only_changes_from_before_it_have() -> None:
    """A commit is decoded before sessions see it, for seconds under synchronous replication. The change came
    before the repair began, and the chunk's row is older: without either its end would take the row away."""
    board = Board(readers=2, ledger=Ledger(), wake=lambda: None)
    placing = Placing(board, 100)
    for repairs, again in ((False, []), (True, ["7"])):
        task = Task(Request("r", ("public.goods",), replace=repairs), "public.goods", "seeded", GOODS.oid)
        task.changed = Changed(collecting=True)
        board.arrive(Seed(task, (update(50, "7").groups[0], update(40, "8").groups[0])))
        board.arrive(chunk_of(task, 0, Snapshot(50, 60, frozenset([50])), ["6", "7", "8"]))
        chunk = placing.place(200, ORIGIN)
        assert isinstance(chunk, Chunk)
        assert chunk.dropped == (1,)
        assert list(task.changed.again) == again
        assert list(chunk.step.again) == [(key,) for key in again]
