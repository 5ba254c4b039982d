"""Batches become records, and what a destination holds is not sent again."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cdcflow.errors import Rejected, Transient
from cdcflow.model import UNCHANGED, Batch, Column, Op, Relation, concat
from cdcflow.sink.records import Ledger, Outcome, Plan, Planned, Refusal, Wanted, Writer
from cdcflow.sink.records.ledger import fingerprint, record_id
from cdcflow.testing.batches import make_relation
from cdcflow.testing.history import (
    AnyChange,
    History,
    delete,
    expected_rows,
    insert,
    truncate,
    update,
)
from cdcflow.testing.steps import chain

ROWS = make_relation("rows", [Column("id", 23, key=True), "email", "name"], oid=17_100)


class Shelf:
    """A destination in memory. `refuses` are values it never takes; `fails`: how many of the next calls fail,
    before or after they have done half of their work."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, object]] = {}
        self.refuses: set[object] = set()
        self.fails = 0
        self.puts = 0

    async def put(self, records: Sequence[Wanted]) -> Outcome:
        self.puts += 1
        return self._each(records)

    async def remove(self, records: Sequence[Wanted]) -> Outcome:
        return self._each(records)

    async def read(self, matches: Sequence[str], names: Sequence[str]) -> Mapping[str, Mapping[str, object]]:
        there = {match: self.records[match] for match in matches if match in self.records}
        return {match: {name: found.get(name) for name in names} for match, found in there.items()}

    def _each(self, records: Sequence[Wanted]) -> Outcome:
        outcome = Outcome()
        failing = self.fails > 0
        self.fails -= failing
        for number, record in enumerate(records):
            if failing and number >= len(records) // 2:
                # Half of the rest is done all the same, and nobody knows.
                if number % 2:
                    self._do(record)
                continue
            if record.values is not None and self.refuses.intersection(record.values.values()):
                outcome.refused[record.key] = Refusal("is refused", "because")
                continue
            self._do(record)
            outcome.done.add(record.key)
        if failing:
            outcome.fail(Transient("is down"))
        return outcome

    def _do(self, record: Wanted) -> None:
        if record.values is None:
            self.records.pop(record.key, None)
        else:
            self.records.setdefault(record.key, {}).update(record.values)


def plan_of(relation: Relation, match: str = "id") -> Plan:
    fields = tuple(Planned(name, relation.names.index(name), str, None) for name in relation.names)
    return Plan(relation, Planned(match, relation.names.index(match), str), fields, str.lower)


def without(batch: Batch, written: frozenset[int]) -> Batch:
    """What the engine gives a sink again: the batch without what is written."""
    left = [
        group.take(pc.invert(pc.is_in(group.meta("index"), pa.array(written, "uint32"))))
        for group in batch.groups
    ]
    return batch.with_groups(left)


class Kept:
    """A writer with its ledger over a shelf; `again` is what a restart is."""

    def __init__(self, place: Path, match: str = "id", *, only_changes: bool = True) -> None:
        self.shelf = Shelf()
        self.plan = plan_of(ROWS, match)
        self._place = place
        self._only_changes = only_changes
        self._ledger = Ledger(place / "ledger.sqlite")
        self.again()

    def again(self) -> None:
        self._ledger.close()
        self._ledger = Ledger(self._place / "ledger.sqlite")
        self._ledger.open("shelf", keep=self._only_changes)
        self._writer = Writer(self.shelf, self._ledger, follow=True, only_changes=self._only_changes)

    def write(self, batch: Batch) -> None:
        plans = {group.relation.fingerprint: plan_of(group.relation) for group in batch.groups}
        asyncio.run(self._writer.write(batch, {**plans, ROWS.fingerprint: self.plan}))


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


@pytest.mark.parametrize("match", ["id", "email"])
@pytest.mark.parametrize("seed", range(12))
def test_any_history_with_failures_restarts_and_rewinds_ends_in_the_last_state(
    tmp_path: Path, seed: int, match: str
) -> None:
    dice = random.Random(seed)
    kept = Kept(tmp_path, match)
    history, batches = History(), []
    known: dict[str, str] = {}
    for _ in range(30):
        changes: list[AnyChange] = []
        for _ in range(dice.randint(1, 12)):
            number = str(dice.randint(1, 8))
            name = dice.choice("AB")
            if number not in known:
                known[number] = f"{number}.{dice.randint(0, 9)}@x"
                changes.append(insert(ROWS, id=number, email=known[number], name=name))
            elif dice.random() < 0.2:
                del known[number]
                changes.append(delete(ROWS, id=number))
            elif dice.random() < 0.03:
                known.clear()
                changes.append(truncate(ROWS))
            else:
                if dice.random() < 0.3:
                    known[number] = f"{number}.{dice.randint(0, 9)}@x"
                value = UNCHANGED if dice.random() < 0.2 else name
                changes.append(update(ROWS, id=number, email=known[number], name=value))
        batches.append(history.batch(*changes))
    checkpoint, upto = 0, 1
    left: Batch | None = None
    while checkpoint < len(batches):
        kept.shelf.fails = dice.choice([0, 0, 1, 2])
        if left is None:
            left = concat(batches[checkpoint:upto])
        try:
            kept.write(left)
        except Transient as error:
            # The engine gives what is left, and what has come meanwhile; after a crash, all of it again.
            left = without(left, error.written)
            if upto < len(batches) and dice.random() < 0.5:
                left = concat([left, batches[upto]])
                upto += 1
            if dice.random() < 0.4:
                left = None
        else:
            rows = expected_rows(batches[:upto]).get(ROWS, [])
            assert kept.shelf.records == {str(row[match]).lower(): row for row in rows}
            left = None
            # A rewind now and then.
            checkpoint = upto - 1 if dice.random() < 0.1 and upto < len(batches) else upto
            upto = checkpoint + 1
        if dice.random() < 0.3:
            kept.again()


def test_a_row_that_is_as_delivered_is_not_sent(kept: Kept) -> None:
    history = History()
    batch = history.batch(insert(ROWS, id="1", email="a@x", name="A"))
    for _ in range(3):
        kept.write(batch)
        kept.again()
    assert kept.shelf.puts == 1


def test_what_was_not_sent_by_the_source_is_compared_with_nothing(kept: Kept) -> None:
    history = History()
    kept.write(history.batch(insert(ROWS, id="1", email="a@x", name="A")))
    kept.write(history.batch(update(ROWS, id="1", email="a@x", name=UNCHANGED)))
    kept.write(history.batch(update(ROWS, id="1", email="a@x", name="A")))
    assert kept.shelf.puts == 3


def test_another_destination_s_ledger_is_emptied(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.open("one")
    ledger.settle({b"a": b"1"}, moved={b"k": ("public.rows", "a@x")})
    ledger.close()
    ledger.open("one")
    assert ledger.sent([b"a"]) == {b"a": b"1"}
    ledger.close()
    ledger.open("other")
    assert (ledger.sent([b"a"]), ledger.matches([b"k"])) == ({}, {})
    ledger.close()


def test_a_refusal_after_a_good_state_of_the_same_batch_leaves_the_good_one(kept: Kept) -> None:
    kept.shelf.refuses = {"bad"}
    history = History()
    with pytest.raises(Rejected) as raised:
        kept.write(
            history.batch(
                insert(ROWS, id="1", email="a@x", name="A"),
                insert(ROWS, id="2", email="b@x", name="bad"),
                update(ROWS, id="1", email="a@x", name="bad"),
            )
        )
    assert raised.value.rows == {1: "is refused", 2: "is refused"}
    assert raised.value.answers == {1: "because", 2: "because"}
    assert {key: one["name"] for key, one in kept.shelf.records.items()} == {"1": "A"}


def test_a_row_of_many_bad_states_costs_few_calls(kept: Kept) -> None:
    kept.shelf.refuses = {"bad"}
    history = History()
    changes = [insert(ROWS, id="1", email="a@x", name="bad")]
    changes += [update(ROWS, id="1", email=f"{i}@x", name="bad") for i in range(50)]
    with pytest.raises(Rejected) as raised:
        kept.write(history.batch(*changes))
    assert len(raised.value.rows) == 51
    assert kept.shelf.puts == 3


def test_a_failure_says_what_was_written_before_it(kept: Kept) -> None:
    history = History()
    kept.shelf.fails = 1
    batch = history.batch(*(insert(ROWS, id=str(i), email=f"{i}@x", name="A") for i in range(10)))
    with pytest.raises(Transient) as raised:
        kept.write(batch)
    assert raised.value.written == set(range(5))


def test_a_fingerprint_tells_values_names_and_what_is_missing_apart() -> None:
    states: list[dict[str, object]] = [
        {"a": "1", "b": "2"},
        {"a": "2", "b": "1"},
        {"a": "12", "b": ""},
        {"a": "1"},
        {"a": None},
        {"a": ""},
        {"a": 1},
        {},
    ]
    assert len({fingerprint(state) for state in states}) == len(states)
    assert fingerprint({"a": "1", "b": "2"}) == fingerprint({"b": "2", "a": "1"})
    assert len(record_id("x")) == 16


@pytest.mark.parametrize("ways", [("a", "b"), ("b", "a")])
def test_a_row_that_a_step_routes_elsewhere_stays_the_record_that_it_is(
    kept: Kept, ways: tuple[str, str]
) -> None:
    """It leaves one table and comes to the other, and both are this object: nothing is to be removed."""
    whole = make_relation("whole", ["id", "email", "name"], replica_identity="f", oid=17_101)
    old, new = ({"id": "1", "email": "1@x", "name": name} for name in ways)
    history, routed = History(), chain({"route": "name"})
    came = history.batch(insert(whole, **{**new, "id": "2"}), insert(whole, **old))
    moved = history.batch((whole, Op.UPDATE, new, old))
    kept.write(concat([routed(came), routed(moved)]))
    assert kept.shelf.records["1"] == new
