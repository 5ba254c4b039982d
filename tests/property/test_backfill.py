"""The pure core of online backfills, against a source that is simulated transaction by transaction."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcflow.journal import Ledger, Spans, Step
from cdcflow.model import UNCHANGED, Op, Position
from cdcflow.source.plan import PAGE, Plan
from cdcflow.source.visible import Changed, Snapshot
from cdcflow.testing.batches import Made, batch_of, make_relation

RELATION = make_relation("t", ("id", "version", "body"))

pairs = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted)


@given(st.lists(st.tuples(st.booleans(), pairs)))
def test_spans_are_the_set_of_what_was_added_and_not_removed(steps: list[tuple[bool, list[int]]]) -> None:
    spans, model = Spans(), set[int]()
    for adding, (low, high) in steps:
        if adding:
            spans.add(low, high)
            model |= set(range(low, high))
        else:
            spans.remove(low, high)
            model -= set(range(low, high))
    assert {number for low, high in spans for number in range(low, high)} == model
    assert all(a[1] < b[0] for a, b in zip(list(spans), list(spans)[1:], strict=False))
    missing = {number for low, high in spans.gaps(5, 50) for number in range(low, high)}
    assert missing == set(range(5, 50)) - model


@given(st.data())
def test_every_place_is_read_and_delivered_whatever_readers_give_back(data: st.DataObject) -> None:
    pages = {"a": data.draw(st.integers(0, 400)), "b": data.draw(st.integers(0, 3))}
    ledger = Ledger()
    plan = Plan(pages, {}, readers=2)
    claims = []
    for _ in range(500):
        if plan.finished:
            break
        claim = plan.claim()
        if claim is not None:
            claims.append(claim)
        if not claims:
            continue
        done = claims.pop(data.draw(st.integers(0, len(claims) - 1)))
        match data.draw(st.sampled_from(["whole", "part", "lost"])):
            case "whole":
                high = done.high
            case "part":
                high = data.draw(st.integers(done.low, done.high))
            case _:
                high = done.low
        part = plan.reached(done, high)
        assert not plan.finished  # what was read is not with who places it
        plan.delivered(part)
        if high > done.low:
            ledger.take(Step("w", part=done.part, span=(done.low, high)), 1)
        if data.draw(st.booleans()) and len(claims) < 3:
            # A crash: what the journal has is all that is known.
            ledger = Ledger.from_state(ledger.to_state())
            claims = []
            plan = Plan(pages, ledger.open["w"].parts if "w" in ledger.open else {}, readers=2)
    read = ledger.open["w"].parts if "w" in ledger.open else {}
    if plan.finished:
        assert all(not list(read.get(part, Spans()).gaps(0, size * PAGE)) for part, size in pages.items())
        assert plan.share == 1.0


class Source:
    """Rows with versions, changed by transactions that commit in an order of their own."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.xid = 2**32 - 5  # so that ids go around the circle
        self.committed: dict[str, tuple[int, str]] = {f"k{i}": (0, f"b{i}") for i in range(6)}
        self.version = 0
        #: Committed in the WAL, in order, and not visible yet.
        self.hidden: list[tuple[int, dict[str, tuple[int, str] | None]]] = []
        self.visible = dict(self.committed)

    def transact(self) -> tuple[int, list[Made]]:
        """One transaction: its id, and what the stream says of it."""
        self.xid += 1
        key = f"k{self.draw(st.integers(0, 7))}"
        self.version += 1
        made, after = [], dict[str, tuple[int, str] | None]()
        known = self.committed.get(key)
        xid = self.xid % 2**32
        if known is None:
            row = (self.version, f"new{self.version}")
            made.append(_made(Op.INSERT, key, row, xid=xid))
            after[key] = row
        elif self.draw(st.integers(0, 4)) == 0:
            made.append(Made(RELATION, Op.DELETE, None, {"id": key}, xid=xid))
            after[key] = None
        elif self.draw(st.integers(0, 3)) == 0:
            other = f"k{self.draw(st.integers(0, 7))}"
            if other in self.committed:
                return self.xid, []
            row = (self.version, known[1])
            made.append(_made(Op.UPDATE, other, row, old=key, partial=True, xid=xid))
            after |= {key: None, other: row}
        else:
            partial = self.draw(st.booleans())
            row = (self.version, known[1] if partial else f"body{self.version}")
            made.append(_made(Op.UPDATE, key, row, partial=partial, xid=xid))
            after[key] = row
        for name, value in after.items():
            if value is None:
                self.committed.pop(name, None)
            else:
                self.committed[name] = value
        self.hidden.append((self.xid, after))
        return self.xid, made

    def show(self, some: int) -> None:
        """Lets so many transactions become visible, in any order."""
        for _ in range(min(some, len(self.hidden))):
            # Those that touch the same row follow each other: the first still holds its lock.
            free = [
                i
                for i, (_, after) in enumerate(self.hidden)
                if not any(set(after) & set(other) for _, other in self.hidden[:i])
            ]
            _, after = self.hidden.pop(self.draw(st.sampled_from(free)))
            for name, value in after.items():
                if value is None:
                    self.visible.pop(name, None)
                else:
                    self.visible[name] = value

    def snapshot(self) -> Snapshot:
        running = frozenset(xid for xid, _ in self.hidden)
        return Snapshot(min(running, default=self.xid + 1), self.xid + 1, running)


def _made(op: Op, key: str, row: tuple[int, str], *, old: str = "", partial: bool = False, xid: int) -> Made:
    new = {"id": key, "version": str(row[0]), "body": UNCHANGED if partial else row[1]}
    return Made(RELATION, op, new, {"id": old} if old else None, xid=xid)


class Sink:
    """Keeps last states; an update of a row that it has not, which leaves a value out, is nothing to it."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[int, str]] = {}

    def change(self, made: Made) -> None:
        if made.op is Op.DELETE:
            assert made.old is not None
            self.rows.pop(str(made.old["id"]), None)
            return
        assert made.new is not None
        key, old = str(made.new["id"]), str(made.old["id"]) if made.old else None
        before = self.rows.pop(old, None) if old else self.rows.get(key)
        body = made.new["body"]
        if body is UNCHANGED:
            if before is None:
                self.rows.pop(key, None)
                return
            body = before[1]
        version = int(str(made.new["version"]))
        assert before is None or old or version >= before[0]
        self.rows[key] = (version, str(body))

    def read(self, key: str, row: tuple[int, str]) -> None:
        assert key not in self.rows or row[0] >= self.rows[key][0], "a row goes back to an older state"
        self.rows[key] = row


@settings(max_examples=100, deadline=None)
@given(st.data())
@pytest.mark.parametrize("exact", [True, False], ids=["primary", "standby"])
def test_a_sink_has_every_row_in_its_last_state_once_all_chunks_have_come(
    exact: bool, data: st.DataObject
) -> None:
    source, sink, changed = Source(data.draw), Sink(), Changed()
    #: Which key is in which of two chunks. A change may move a row to the other one.
    places = {f"k{i}": data.draw(st.integers(0, 1)) for i in range(8)}
    stream: list[list[Made]] = []

    def follow() -> None:
        """The stream is followed to its end."""
        for transaction in stream:
            for made in transaction:
                [group] = batch_of([made]).groups
                changed.see(group)
                sink.change(made)
        stream.clear()

    def work(some: int) -> None:
        for _ in range(some):
            _, made = source.transact()
            stream.append(made)
            for one in made:
                if one.new is not None:
                    places[str(one.new["id"])] = data.draw(st.integers(0, 1))
            source.show(data.draw(st.integers(0, 2)))

    def chunk(keys: set[str]) -> None:
        """Reads rows as they are visible, and places them some transactions later."""
        snapshot = source.snapshot()
        if not exact:
            snapshot = Snapshot(snapshot.xmin, snapshot.xmax, exact=False)
        rows = {key: row for key, row in source.visible.items() if key in keys}
        work(data.draw(st.integers(0, 4)))
        follow()
        names = pa.array(list(rows), pa.string())
        stale = changed.stale(names, snapshot)
        lost = set() if stale is None else set(names.filter(stale).to_pylist())
        for key, row in rows.items():
            if key not in lost:
                sink.read(key, row)
        changed.settle(pa.array([key for key in rows if key not in lost], pa.string()))
        changed.forget_seen([snapshot])
        wanted = pa.array([key for key in keys if key not in rows], pa.string())
        if changed.complete and len(wanted):
            newer = changed.stale(wanted, snapshot)
            gone = wanted if newer is None else wanted.filter(pa.compute.invert(newer))
            changed.settle(gone)

    work(data.draw(st.integers(0, 3)))
    follow()
    for half in (0, 1):
        chunk({key for key, place in places.items() if place == half})
    changed.complete = True
    for _ in range(50):
        if not changed.again:
            break
        chunk(set(changed.again))
    source.show(100)
    follow()
    while changed.again:
        chunk(set(changed.again))
        source.show(100)
    work(2)
    follow()
    assert sink.rows == source.committed


def test_transactions_are_seen_or_not_around_the_end_of_the_circle_of_ids() -> None:
    snapshot = Snapshot.parse(f"{2**32 - 3}:{2**32 + 4}:{2**32 - 3},{2**32 + 1}")
    xids = pa.array([2**32 - 4, 2**32 - 3, 2**32 - 2, 0, 1, 3, 4, 9], pa.uint32())
    assert snapshot.unseen(xids).to_pylist() == [False, True, False, False, True, False, True, True]


def test_what_the_journal_says_of_works_is_what_was_done() -> None:
    ledger = Ledger()
    ledger.take(Step("a", "begun"), 1)
    ledger.take(Step("a", part="p", span=(0, 5), again=(("k", "1"),), rows=3, nbytes=30), 4)
    ledger.take(Step("b", "begun"), 5)
    assert ledger.needed_from == 4
    again = Ledger.from_state(ledger.to_state())
    assert again.open["a"].again == {("k", "1"): None}
    again.take(Step("a", settled=(("k", "1"),)), 6)
    again.take(Step("b", "over"), 7)
    assert (again.open["a"].again, again.ended, again.needed_from) == ({}, {"b": "over"}, 6)
    assert Position(1, 1) < Position(1, 2)
