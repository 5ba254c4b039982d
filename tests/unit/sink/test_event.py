"""The native JSON form of a change."""

from typing import Any

import orjson
import pytest

from cdcflow.model import TRUNCATE_CASCADE, UNCHANGED, Batch, Column, Op, Position, concat
from cdcflow.sink.event import encode, event, events, timestamp
from cdcflow.testing.batches import Made, Row, batch_of, made_message, make_batch, make_relation

INT4, NUMERIC, JSON, INT4_ARRAY = 23, 1700, 114, 1007
ORDERS = make_relation("orders", [Column("id", INT4, key=True), "status", "body"])
LOG = make_relation("log", ["level", "text"], replica_identity="f", oid=2)
PAIRS = make_relation("pairs", ["value", "left", "right"], key=["right", "left"], oid=3)


def plain(batch: Batch) -> list[dict[str, Any]]:
    """What a reader of the JSON sees, after checking that both ways to make it agree."""
    found = [encode(made) for _, made in events(batch)]
    assert found == [encode(event(change)) for change in batch.changes()]
    assert [index for index, _ in events(batch)] == [change.index for change in batch.changes()]
    return [orjson.loads(body) for body in found]


def one(op: Op, new: Row | None = None, old: Row | None = None, **more: Any) -> dict[str, Any]:
    (found,) = plain(batch_of([Made(more.pop("relation", ORDERS), op, new, old, **more)]))
    return found


def test_an_insert_has_its_row_and_key_and_place() -> None:
    found = one(
        Op.INSERT,
        {"id": "42", "status": None, "body": ""},
        position=Position(0x16_B374D848, 7),
        xid=733,
        commit_time=1_795_371_524_123_456,
    )
    assert found == {
        "id": "16/B374D848:7",
        "op": "insert",
        "schema": "public",
        "table": "orders",
        "key": {"id": 42},
        "new": {"id": 42, "status": None, "body": ""},
        "old": None,
        "position": "16/B374D848:7",
        "xid": 733,
        "commit_time": "2026-11-22T18:18:44.123456Z",
    }
    assert list(found) == [
        *("id", "op", "schema", "table", "key", "new", "old"),
        *("position", "xid", "commit_time"),
    ]


def test_a_column_that_was_not_sent_is_named_and_not_invented() -> None:
    found = one(Op.UPDATE, {"id": "1", "status": "paid", "body": UNCHANGED})
    assert found["new"] == {"id": 1, "status": "paid"}
    assert found["unchanged"] == ["body"]


def test_a_null_is_not_an_unchanged_column() -> None:
    found = one(Op.UPDATE, {"id": "1", "status": "paid", "body": None})
    assert found["new"]["body"] is None
    assert "unchanged" not in found


def test_a_delete_has_the_key_it_had() -> None:
    found = one(Op.DELETE, None, {"id": "5"})
    assert (found["key"], found["new"], found["old"]) == ({"id": 5}, None, {"id": 5})


def test_a_changed_key_is_told_by_new_and_old() -> None:
    found = one(Op.UPDATE, {"id": "2", "status": "x", "body": UNCHANGED}, {"id": "1"})
    assert (found["key"], found["old"]) == ({"id": 2}, {"id": 1})


def test_a_key_that_was_not_sent_is_taken_from_the_old_one() -> None:
    row: Row = {"value": "x", "left": UNCHANGED, "right": "r"}
    found = one(Op.UPDATE, row, {"left": "l", "right": "r"}, relation=PAIRS)
    assert found["key"] == {"left": "l", "right": "r"}
    assert found["new"] == {"value": "x", "left": "l", "right": "r"}
    assert "unchanged" not in found


def test_under_full_identity_the_old_row_is_whole_and_there_is_no_key() -> None:
    found = one(Op.UPDATE, {"level": "b", "text": "y"}, {"level": "a", "text": None}, relation=LOG)
    assert (found["key"], found["old"]) == (None, {"level": "a", "text": None})
    found = one(Op.UPDATE, {"level": "b", "text": UNCHANGED}, {"level": "a", "text": "t"}, relation=LOG)
    assert found["new"] == {"level": "b", "text": "t"}
    assert "unchanged" not in found


def test_a_truncate_says_its_options() -> None:
    found = one(Op.TRUNCATE, truncate=TRUNCATE_CASCADE)
    assert (found["key"], found["new"], found["old"]) == (None, None, None)
    assert found["truncate"] == {"cascade": True, "restart_identity": False}


def test_a_row_of_a_backfill_is_a_read() -> None:
    assert one(Op.READ, {"id": "1"}, xid=0)["op"] == "read"


def test_events_of_several_tables_come_in_total_order() -> None:
    changes = [
        Made(relation, Op.INSERT, {relation.names[0]: str(i)}, None, Position(8 + i // 5, i % 5 + 1))
        for i, relation in enumerate([ORDERS, LOG, LOG, PAIRS, ORDERS, LOG, PAIRS] * 4)
    ]
    changes[4] = Made(ORDERS, Op.UPDATE, {"id": "4", "body": UNCHANGED}, {"id": "0"}, Position(8, 5))
    changes[9] = Made(LOG, Op.DELETE, None, {"level": "9"}, Position(9, 5))
    found = plain(batch_of(changes))
    assert [made["id"] for made in found] == [str(change.position) for change in changes]
    assert [made["table"] for made in found] == [change.relation.name for change in changes]


def test_an_id_does_not_depend_on_where_the_change_is_read() -> None:
    first = make_batch(ORDERS, [("insert", {"id": "1"}, None)] * 3, base=10, commit_lsn=64)
    second = make_batch(ORDERS, [("insert", {"id": "1"}, None)] * 2, base=13, commit_lsn=128)
    expected = [made["id"] for part in (first, second) for made in plain(part)]
    together = concat([first, second])
    assert [made["id"] for made in plain(together)] == expected
    assert [made["id"] for made in plain(together.slice(2, 5))] == expected[2:]
    assert len(set(expected)) == 5


def test_values_have_the_form_that_their_types_say() -> None:
    columns = [Column("n", NUMERIC), Column("j", JSON), Column("a", INT4_ARRAY)]
    relation = make_relation("typed", columns, key=[], oid=4)
    (found,) = plain(
        make_batch(
            relation, [("insert", {"n": "1.10", "j": '{"big":12345678901234567890}', "a": "{1,2}"}, None)]
        )
    )
    assert found["new"] == {"n": "1.10", "j": {"big": 12345678901234567890}, "a": [1, 2]}
    assert found["key"] is None


def test_an_encoded_event_is_one_line_even_where_a_json_value_is_several() -> None:
    relation = make_relation("documents", [Column("j", JSON)], key=[], oid=5)
    batch = make_batch(relation, [("insert", {"j": '{\n  "a": "x\\ny",\r\n  "b": 1\n}'}, None)])
    (_, made), *_ = events(batch)
    body = encode(made)
    assert b"\n" not in body
    assert orjson.loads(body)["new"]["j"] == {"a": "x\ny", "b": 1}


def test_a_run_without_changes_has_no_events() -> None:
    assert list(events(Batch((), 5, Position(1, 1)))) == []


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1, "1970-01-01T00:00:00.000001Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (946_684_800_000_000, "2000-01-01T00:00:00.000000Z"),
    ],
)
def test_times_have_six_digits_and_are_utc(microseconds: int, text: str) -> None:
    assert timestamp(microseconds) == text


def test_a_message_has_what_was_emitted_and_neither_table_nor_row() -> None:
    text = made_message("orders.paid", b'{"id": 42}', position=Position(0x16_B374D848, 7))
    raw = made_message("beat", b"\xff\0", position=Position(0x16_B374D900, 0), transactional=False)
    row = Made(ORDERS, Op.INSERT, {"id": "1"}, position=Position(0x16_B374D900, 1))
    first, second, third = plain(batch_of([text, raw, row]))
    assert first == {
        "id": "16/B374D848:7",
        "op": "message",
        "prefix": "orders.paid",
        "content": '{"id": 42}',
        "transactional": True,
        "position": "16/B374D848:7",
        "xid": 700,
        "commit_time": "2026-01-01T00:00:00.000000Z",
    }
    assert second == {
        "id": "16/B374D900:0",
        "op": "message",
        "prefix": "beat",
        "content": None,
        "bytes": "/wA=",
        "transactional": False,
        "position": "16/B374D900:0",
        "xid": 0,
        "commit_time": "2026-01-01T00:00:00.000000Z",
    }
    assert third["op"] == "insert"


def test_a_null_that_is_a_json_document_is_told_from_no_value() -> None:
    relation = make_relation(
        "documents", [Column("id", INT4, key=True), Column("a", JSON), Column("b", 3802)]
    )
    rows: list[Row] = [
        {"id": "1", "a": " null\n", "b": "null"},
        {"id": "2"},
        {"id": "3", "a": '"null"', "b": UNCHANGED},
    ]

    first, second, third = plain(make_batch(relation, [("update", row, None) for row in rows]))

    assert (first["new"], first["json_null"]) == ({"id": 1, "a": None, "b": None}, ["a", "b"])
    assert second["new"] == {"id": 2, "a": None, "b": None}
    assert third["new"] == {"id": 3, "a": "null"}
    assert "json_null" not in second
    assert "json_null" not in third


def test_a_reader_with_exact_numbers_gets_them_in_key_and_old_row_too() -> None:
    relation = make_relation("amounts", [Column("id", 20, key=True), Column("total", NUMERIC)])
    big = {"id": "9007199254740993"}
    batch = make_batch(relation, [("update", {**big, "total": "1.10"}, big)])

    [(_, made)] = events(batch, "exact")

    assert encode(made) == encode(event(next(iter(batch.changes())), "exact"))
    assert b'"key":{"id":9007199254740993},"new":{"id":9007199254740993,"total":1.10}' in encode(made)
    assert b'"old":{"id":9007199254740993}' in encode(made)
