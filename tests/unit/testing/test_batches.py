"""Batches made for tests are what decoding would have made."""

import pytest

from cdcflow.model import UNCHANGED, Group, Op, Position
from cdcflow.testing.batches import Made, batch_of, inserts, make_batch, make_relation


def test_a_made_batch_gives_back_the_rows_it_was_made_of() -> None:
    orders = make_relation("orders", ["id", "status", "note"])
    batch = make_batch(
        orders,
        [
            ("insert", {"id": "1", "status": "", "note": None}, None),
            (Op.UPDATE, {"id": "1", "status": "grün", "note": UNCHANGED}, {"id": "2"}),
            ("delete", None, {"id": "1"}),
        ],
        base=40,
        commit_lsn=96,
    )
    changes = list(batch.changes())
    assert [change.op for change in changes] == [Op.INSERT, Op.UPDATE, Op.DELETE]
    assert changes[0].new == {"id": "1", "status": "", "note": None}
    assert changes[0].old is None
    assert changes[1].new == {"id": "1", "status": "grün", "note": UNCHANGED}
    assert changes[1].old == {"id": "2"}
    assert changes[2].new is None
    assert changes[2].old == {"id": "1"}
    assert [change.offset for change in changes] == [40, 41, 42]
    assert batch.last == Position(96, 3)
    assert batch.committed == 104


def test_groups_of_a_made_batch_have_the_schema_of_their_relation() -> None:
    orders, items = make_relation("orders"), make_relation("items", replica_identity="f")
    batch = batch_of(
        [
            Made(orders, Op.INSERT, {"id": "1"}, position=Position(8, 1)),
            Made(items, Op.DELETE, None, {"id": "7", "status": "x"}, position=Position(8, 2)),
            Made(orders, Op.TRUNCATE, position=Position(8, 3), truncate=1),
        ]
    )
    assert [len(group) for group in batch.groups] == [2, 1]
    for group in batch.groups:
        assert group.data.schema == Group.schema(group.relation, old=group.old, unchanged=group.unchanged)
        group.data.validate(full=True)
    assert [change.truncate_options for change in batch.changes()] == [0, 0, 1]
    assert [change.relation.name for change in batch.changes()] == ["orders", "items", "orders"]


def test_inserts_count_their_ids() -> None:
    batch = inserts(make_relation(), range(3, 6))
    assert [change.new for change in batch.changes()] == [
        {"id": str(i), "status": f"status {i}", "note": f"note {i}"} for i in (3, 4, 5)
    ]


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one change"):
        batch_of([])
