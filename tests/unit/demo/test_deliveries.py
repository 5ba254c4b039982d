"""What the check makes of receipts: order per key, completeness, and the rows that the events make."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cdcflow.demo.deliveries import Expected, Receipt, Rows, apply, expected, judge, receipts
from cdcflow.journal import Identity, Writer
from cdcflow.model import Column, Op, Relation
from cdcflow.sink.event import encode, events
from cdcflow.testing.batches import make_batch

ORDERS = "public.orders"
INT8, TEXT = 20, 25
RELATION = Relation(
    1, "public", "orders", "d", (Column("id", INT8, key=True), Column("status", TEXT), Column("body", TEXT))
)
OTHER = Relation(2, "public", "customers", "d", (Column("id", INT8, key=True),))


def wanted(*keys: Sequence[int]) -> dict[str, Expected]:
    """Changes "0", "1", … of one table with these keys; no keys: ordered with the whole table."""
    return {
        str(number): Expected(number, ORDERS, tuple((str(key),) for key in of))
        for number, of in enumerate(keys)
    }


def given(*ids: str, **fields: Any) -> list[Receipt]:
    return [
        Receipt({"id": identity, "op": "insert", "key": None, "new": {}, "old": None}, **fields)
        for identity in ids
    ]


def test_changes_of_different_keys_may_overtake_each_other() -> None:
    found, _ = judge(wanted([1], [2], [1], [2]), given("1", "3", "0", "2"))
    assert found.complete
    assert (found.changes, found.received) == (4, 4)


def test_a_change_that_overtakes_one_of_its_own_key_is_out_of_order() -> None:
    found, _ = judge(wanted([1], [2], [1]), given("2", "1", "0"))
    assert (found.misordered, found.complete) == (1, False)
    assert "1 out of order" in found.verdict


def test_a_changed_key_is_ordered_with_both_its_keys() -> None:
    changes = wanted([1], [2, 1], [2])
    assert judge(changes, given("0", "1", "2"))[0].misordered == 0
    assert judge(changes, given("1", "0", "2"))[0].misordered == 1
    assert judge(changes, given("0", "2", "1"))[0].misordered == 1


def test_a_truncate_is_ordered_with_everything_of_its_table() -> None:
    changes = wanted([1], [], [2])
    assert judge(changes, given("0", "1", "2"))[0].misordered == 0
    assert judge(changes, given("1", "0", "2"))[0].misordered == 1
    assert judge(changes, given("0", "2", "1"))[0].misordered == 1


def test_a_change_that_never_came_is_missing() -> None:
    found, _ = judge(wanted([1], [2]), given("1"))
    assert (found.missing, found.complete) == (1, False)


def test_a_refused_request_delivers_nothing() -> None:
    found, _ = judge(wanted([1]), given("0", accepted=False))
    assert (found.refused, found.missing) == (1, 1)
    found, _ = judge(wanted([1]), [*given("0", accepted=False), *given("0")])
    assert (found.complete, found.repeated) == (True, 0)


def test_a_repeated_change_counts_where_it_came_first() -> None:
    found, _ = judge(wanted([1], [1]), given("0", "1", "0", "1"))
    assert (found.complete, found.repeated) == (True, 2)
    assert "2 more than once" in found.verdict


def test_an_event_that_the_journal_does_not_hold_is_wrong() -> None:
    found, _ = judge(wanted([1]), given("0", "7"))
    assert (found.unknown, found.complete) == (1, False)


def test_a_request_without_a_valid_signature_is_wrong() -> None:
    found, _ = judge(wanted([1]), given("0", signed=False))
    assert (found.unsigned, found.complete) == (1, False)


def test_a_receiver_that_applies_the_events_follows_keys_and_unchanged_values() -> None:
    rows: Rows = {}
    batch = make_batch(
        RELATION,
        [
            (Op.READ, {"id": "1", "status": "new", "body": "long"}, None),
            (Op.INSERT, {"id": "2", "status": "new", "body": None}, None),
            (Op.INSERT, {"id": "3", "status": "new", "body": ""}, None),
            (Op.DELETE, None, {"id": "3", "status": None, "body": None}),
        ],
    )
    for _, event in events(batch):
        apply(rows, json.loads(encode(event)))
    assert rows == {
        '{"id": 1}': {"id": 1, "status": "new", "body": "long"},
        '{"id": 2}': {"id": 2, "status": "new", "body": None},
    }
    moved = {"op": "update", "key": {"id": 9}, "old": {"id": 1}, "new": {"id": 9, "status": "paid"}}
    apply(rows, {**moved, "unchanged": ["body"]})
    assert rows['{"id": 9}'] == {"id": 9, "status": "paid", "body": "long"}
    assert '{"id": 1}' not in rows
    apply(rows, {"op": "truncate", "key": None, "new": None, "old": None})
    assert rows == {}


def test_the_journal_says_which_changes_of_which_tables_to_expect(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    writer = Writer.open(journal, Identity("1", 1, "shop", "slot", "publication"))
    writer.append(
        make_batch(
            RELATION,
            [
                (Op.INSERT, {"id": "1", "status": "new", "body": "x"}, None),
                (Op.UPDATE, {"id": "2", "status": "new", "body": "x"}, {"id": "1"}),
                (Op.TRUNCATE, None, None),
            ],
            commit_lsn=100,
        )
    )
    writer.append(make_batch(OTHER, [(Op.INSERT, {"id": "1"}, None)], commit_lsn=200))
    writer.sync()
    writer.close()
    found = expected(journal, {ORDERS})
    assert [change.number for change in found.values()] == [0, 1, 2]
    assert [change.keys for change in found.values()] == [(("1",),), (("2",), ("1",)), ()]


def test_what_the_receiver_recorded_is_read_event_by_event(tmp_path: Path) -> None:
    record = tmp_path / "received.jsonl"
    one, two, three = ({"id": str(number), "op": "delete"} for number in range(3))
    lines = [
        {"received": 1.5, "id": "f:0", "verified": True, "status": 204, "body": one},
        {
            "received": 1.6,
            "id": "f:1-2",
            "verified": None,
            "status": 503,
            "body": {"id": "x", "events": [two, three]},
        },
    ]
    record.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = list(receipts(record))
    assert [receipt.id for receipt in found] == ["0", "1", "2"]
    assert [receipt.accepted for receipt in found] == [True, False, False]
    assert [receipt.signed for receipt in found] == [True, None, None]
