"""What each step says and does beyond what the conformance suite asks of all of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcflow.errors import ConfigurationError
from cdcflow.model import UNCHANGED, Column, Op, concat
from cdcflow.sink.event import events
from cdcflow.testing.batches import make_relation
from cdcflow.testing.history import CUSTOMERS, LOG, ORDERS, History, delete, insert, read, truncate, update
from cdcflow.testing.steps import Row, chain, context, through
from cdcflow.transform import registry
from cdcflow.transform.steps.elements import json_elements
from cdcflow.transform.steps.mask import partly, tokenised

FULL = make_relation("orders", ["id", "status", "body"], replica_identity="f", oid=ORDERS.oid + 1000)
KEYED = make_relation("people", [Column("id", 23, key=True), "name", Column("doc", 3802)])


def problem(relation: Any, *steps: Mapping[str, Any]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        chain(*steps).bind(relation)
    return f"{caught.value} | {caught.value.hint}"


def words(found: list[Row]) -> list[str]:
    return [op for op, _, _ in found]


def full(status: str, body: str = "b", key: str = "1") -> dict[str, str]:
    return {"id": key, "status": status, "body": body}


@pytest.mark.parametrize("name", registry.names())
def test_every_step_says_what_it_does_and_gives_an_example(name: str) -> None:
    plugin = registry.load(name)
    assert plugin.name == name
    assert plugin.about
    assert plugin.example.startswith("- ")


@pytest.mark.parametrize(
    ("relation", "steps", "said"),
    [
        (ORDERS, [{"select": ["status"]}], "the key column 'id' would be left out"),
        (ORDERS, [{"exclude": ["id", "status", "body"]}], "no column would be left"),
        (ORDERS, [{"rename": {"status": "body"}}], "there would be two columns 'body'"),
        (ORDERS, [{"key": ["status"]}], "old rows do not hold 'status'"),
        (ORDERS, [{"mask": {"id": "redact"}}], "'id' is part of the key, and redact"),
        (ORDERS, [{"diff": ["status"]}], "old rows do not hold 'status', so whether it changed"),
        (ORDERS, [{"explode": "body"}], "'body' is neither an array nor JSON"),
        (ORDERS, [{"toast": "old"}], "old rows of public.orders hold nothing but its key"),
        (ORDERS, [{"set": {"id": "status"}}], "'id' is part of the key, and is computed from status"),
        (ORDERS, [{"filter": "status"}], "a condition must be true or false"),
        (ORDERS, [{"filter": "stats = 'x'"}], "has no column 'stats'"),
        (ORDERS, [{"filter": "old.status = 'x'"}], "the old value of status is not in the stream"),
        (ORDERS, [{"route": "status"}], "where they were is not known"),
        (ORDERS, [{"route": "id"}], "a name is text, and this is of type integer"),
        (ORDERS, [{"cast": {"stat": "int"}}], "there is no column 'stat'"),
        (LOG, [{"collapse": {}}], "nothing but the whole row identifies a row"),
        (KEYED, [{"flatten": {"column": "id", "fields": {"a": "b"}}}], "is of type integer, and no JSON"),
    ],
)
def test_what_does_not_fit_is_said_before_rows_flow(relation: Any, steps: list[Any], said: str) -> None:
    found = problem(relation, *steps)
    assert found.startswith("flow.yaml:1: transforms[0].")
    assert said in found
    assert not found.endswith("| "), "it says what to do"


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"filter": "status ="}, "syntax error"),
        ({"set": {"x": "(select 1)"}}, "quer"),
        ({"cast": {"status": "no_such_type"}}, "no type that is known here"),
        ({"cast": {"status": "int) + (1"}}, "is"),
        ({"lookup": {"table": "a.*", "on": ["a"], "columns": ["b"]}}, "names no single table"),
    ],
)
def test_what_is_wrong_whatever_the_table_is_is_said_when_it_is_read(
    step: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        chain(step)


def test_the_place_in_an_expression_is_shown() -> None:
    found = problem(ORDERS, {"set": {"x": "status = 'a'\n  or stats = 'b'"}})
    assert "flow.yaml:2: transforms[0].set.x: public.orders: " in found
    assert "at column 6:\n      or stats = 'b'\n         ^" in found


# filter


def test_a_row_that_enters_is_inserted_and_one_that_leaves_is_deleted() -> None:
    batch = History().batch(
        (FULL, Op.INSERT, full("new"), None),
        (FULL, Op.UPDATE, full("paid"), full("new")),
        (FULL, Op.UPDATE, full("paid", "c"), full("paid")),
        (FULL, Op.UPDATE, full("sent"), full("paid", "c")),
        (FULL, Op.UPDATE, full("lost"), full("sent")),
        (FULL, Op.DELETE, None, full("lost")),
    )
    assert through(chain({"filter": "status = 'paid'"}), batch) == [
        ("insert", full("paid"), None),
        ("update", full("paid", "c"), full("paid")),
        ("delete", None, full("paid", "c")),
    ]
    ignoring = {"filter": {"where": "status = 'paid'", "on_leave": "ignore"}}
    assert words(through(chain(ignoring), batch)) == ["insert", "update"]


def test_with_old_keys_only_a_row_that_leaves_is_deleted_by_its_key() -> None:
    batch = History().batch(
        update(ORDERS, id="1", status="paid", body="b"),
        update(ORDERS, id="1", status="sent", body="b"),
        update(ORDERS, {"id": "1"}, id="2", status="sent", body="b"),
        update(ORDERS, {"id": "2"}, id="3", status="paid", body="b"),
        delete(ORDERS, id="3"),
    )
    assert through(chain({"filter": "status = 'paid'"}), batch) == [
        ("update", {"id": "1", "status": "paid", "body": "b"}, None),
        ("delete", None, {"id": "1"}),
        ("delete", None, {"id": "1"}),
        ("update", {"id": "3", "status": "paid", "body": "b"}, {"id": "2"}),
        ("delete", None, {"id": "3"}),
    ]


def test_a_condition_about_the_change_makes_nothing_into_anything_else() -> None:
    batch = History().batch(
        (FULL, Op.INSERT, full("paid"), None),
        (FULL, Op.UPDATE, full("paid"), full("new")),
        (FULL, Op.UPDATE, full("paid", "c"), full("paid")),
        (FULL, Op.DELETE, None, full("paid", "c")),
        truncate(FULL),
    )
    step = {"filter": "new.status = 'paid' and old.status is distinct from 'paid'"}
    assert words(through(chain(step), batch)) == ["insert", "update", "truncate"]
    assert words(through(chain({"filter": "op = 'delete'"}), batch)) == ["delete", "truncate"]


def test_a_condition_that_cannot_be_known_refuses_the_change_with_a_remedy() -> None:
    batch = History().batch(update(ORDERS, id="1", status="x", body=UNCHANGED))
    found = chain({"filter": "body = 'b'"})(batch)
    assert "the update did not send body" in found.refused[0]
    assert "toast: source" in found.refused[0]
    # Where the answer does not hang on the value, it is known.
    assert not chain({"filter": "status = 'y' and body = 'b'"})(batch).refused


def test_why_a_change_is_dropped_is_shown() -> None:
    batch = History().batch(
        (FULL, Op.INSERT, full("new"), None),
        (FULL, Op.UPDATE, full("sent"), full("paid")),
        (FULL, Op.DELETE, None, full("new")),
    )
    step = {"filter": {"where": "status = 'paid'", "on_leave": "ignore"}}
    dropped = chain(step).trace(batch)[1].dropped
    assert list(dropped) == [1, 2, 0] or set(dropped) == {0, 1, 2}
    assert "ceased to" in dropped[1]
    assert "that is gone" in dropped[2]


# set


def test_expressions_see_the_row_before_the_step() -> None:
    batch = History().batch(insert(CUSTOMERS, id="1", name="a", notes="b"))
    assert through(chain({"set": {"name": "notes", "notes": "name"}}), batch) == [
        ("insert", {"id": "1", "name": "b", "notes": "a"}, None)
    ]


def test_what_is_computed_from_values_that_were_not_sent_is_unchanged_or_refused() -> None:
    batch = History().batch(update(ORDERS, id="1", status="x", body=UNCHANGED))
    assert through(chain({"set": {"copy": "body"}}), batch)[0][1] == {
        "id": "1",
        "status": "x",
        "body": UNCHANGED,
        "copy": UNCHANGED,
    }
    mixed = {"set": {"mixed": "case when body = 'x' then status else 'n' end"}}
    assert "mixed cannot be known: the update did not send body" in chain(mixed)(batch).refused[0]
    [(_, new, _)] = through(chain({"toast": "omit"}, mixed), batch)
    assert new is not None
    assert new["mixed"] is UNCHANGED


def test_a_change_for_which_postgres_would_raise_an_error_is_refused_alone() -> None:
    numbers = make_relation("numbers", [Column("id", 23, key=True), Column("n", 23)])
    batch = History(base=10).batch(*(insert(numbers, id=str(i), n=str(i)) for i in range(3)))
    found = chain({"set": {"q": "6 / n"}})(batch)
    assert found.refused == {0: "q cannot be computed: division by zero"}
    assert [c.new and c.new["q"] for c in found.changes()] == ["6", "3"]
    assert (found.base, found.end) == (10, 13)


# flatten, explode


def test_fields_of_documents_become_columns_of_their_types() -> None:
    docs = ['{"a": {"b": [10, 20]}, "n": "7", "o": {"x": 1}}', '{"n": null}', None]
    batch = History().batch(*(insert(KEYED, id=str(i), name="n", doc=doc) for i, doc in enumerate(docs)))
    fields = {"b": "a.b.1", "n": {"path": "n", "type": "int"}, "o": {"path": "o", "type": "jsonb"}}
    made = chain({"flatten": {"column": "doc", "fields": fields}})
    assert [c.type_oid for c in made.output(KEYED)[0].columns] == [23, 25, 25, 23, 3802]
    found = [new and [new[name] for name in ("b", "n", "o")] for _, new, _ in through(made, batch)]
    assert found == [["20", "7", '{"x": 1}'], [None, None, None], [None, None, None]]


def test_an_array_that_shrinks_loses_its_rows() -> None:
    tagged = make_relation(
        "tagged", [Column("id", 23, key=True), Column("tags", 1009, key=True)], replica_identity="f"
    )
    batch = History().batch(
        (tagged, Op.INSERT, {"id": "1", "tags": "{a,b}"}, None),
        (tagged, Op.UPDATE, {"id": "1", "tags": "{c}"}, {"id": "1", "tags": "{a,b}"}),
        (tagged, Op.DELETE, None, {"id": "1", "tags": "{c}"}),
    )
    made = chain({"explode": {"column": "tags", "as": "tag"}}, {"key": ["id", "tags_position"]})
    assert through(made, batch) == [
        ("insert", {"id": "1", "tag": "a", "tags_position": "1"}, None),
        ("insert", {"id": "1", "tag": "b", "tags_position": "2"}, None),
        ("update", {"id": "1", "tag": "c", "tags_position": "1"}, {"id": "1", "tags_position": "1"}),
        ("delete", None, {"id": "1", "tags_position": "2"}),
        ("delete", None, {"id": "1", "tags_position": "1"}),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[]", []),
        (' [ 1 , "a,]" , [2, 3], {"b": "\\"}"} , null ] ', ["1", '"a,]"', "[2, 3]", '{"b": "\\"}"}', "null"]),
        ("[12345678901234567890.10]", ["12345678901234567890.10"]),
        ("null", []),
        ("5", None),
        ('{"a": []}', None),
    ],
)
def test_elements_of_documents_are_taken_as_they_stand(text: str, expected: list[str] | None) -> None:
    assert json_elements(text) == expected


# mask


def test_masks_join_across_tables_and_types() -> None:
    other = make_relation("other", [Column("ref", 20, key=True)])
    one = through(
        chain({"mask": {"id": "sha256"}}), History().batch(insert(KEYED, id="42", name=None, doc=None))
    )
    two = through(chain({"mask": {"ref": "sha256"}}), History().batch(insert(other, ref="42")))
    assert one[0][1] is not None
    assert two[0][1] is not None
    assert one[0][1]["id"] == two[0][1]["ref"]
    assert (
        through(chain({"mask": {"ref": "sha256"}}), History().batch(delete(other, ref="42")))[0][2]
        == two[0][1]
    )


def test_a_mask_without_a_key_is_refused_and_says_how_to_mean_it(tmp_path: Path) -> None:
    around = context(mask_key=None)
    with pytest.raises(ConfigurationError, match="sha256 needs a secret key") as caught:
        chain({"mask": {"name": "sha256"}}, around=around)
    assert "sha256_unkeyed" in caught.value.hint
    chain({"mask": {"name": "sha256_unkeyed", "doc": None}}, around=around)


@given(st.text(), st.binary(min_size=16, max_size=16))
@settings(max_examples=100, deadline=None)
def test_a_token_has_the_form_of_its_value(text: str, key: bytes) -> None:
    token = tokenised(text, key)
    assert token == tokenised(text, key)
    assert len(token) == len(text)
    for mark, instead in zip(text, token, strict=True):
        assert mark.isdecimal() == instead.isdecimal()
        assert mark.isalpha() == instead.isalpha()
        assert mark == instead or mark.isdecimal() or mark.isalpha()


@given(st.text(), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_a_partial_mask_hides_at_least_half(text: str, first: int, last: int) -> None:
    masked = partly(text, first, last)
    assert len(masked) == len(text)
    assert masked.count("*") * 2 >= len(text)


# route, collapse, diff


def test_a_row_whose_destination_changes_is_deleted_there_and_inserted_here() -> None:
    batch = History().batch(
        (FULL, Op.INSERT, full("new"), None),
        (FULL, Op.UPDATE, full("paid"), full("new")),
        (FULL, Op.DELETE, None, full("paid")),
        (FULL, Op.INSERT, {**full("x"), "status": None}, None),
        truncate(FULL),
    )
    out = chain({"route": "status"})(batch)
    assert [(c.op.word, c.relation.name, str(c.position)[-2:]) for c in out.changes()] == [
        ("insert", "new", ":1"),
        ("delete", "new", ":2"),
        ("insert", "paid", "+1"),
        ("delete", "paid", ":3"),
    ]
    assert "NULL" in out.refused[3]
    assert "truncate" in out.refused[4]


@pytest.mark.parametrize("ways", [("a", "b"), ("b", "a")])
def test_a_row_leaves_one_destination_before_it_comes_to_the_other_however_batches_are_joined(
    ways: tuple[str, str],
) -> None:
    history, made = History(), chain({"route": "status"})
    old, new = ways
    came = history.batch((FULL, Op.INSERT, full(new, key="2"), None), (FULL, Op.INSERT, full(old), None))
    moved = history.batch((FULL, Op.UPDATE, full(new), full(old)))
    batch = concat([made(came), made(moved)])
    last = [(change.op.word, change.relation.name) for change in batch.changes()][-2:]
    assert last == [("delete", old), ("insert", new)]
    told = [(found["op"], found["table"]) for _, found in events(batch)][-2:]
    assert told == last


def test_changes_of_a_row_collapse_into_its_last_state() -> None:
    batch = History().batch(
        read(ORDERS, id="1", status="a", body="b1"),
        update(ORDERS, id="1", status="b", body=UNCHANGED),
        update(ORDERS, id="2", status="a", body="b2"),
        update(ORDERS, id="2", status="b", body=UNCHANGED),
        insert(ORDERS, id="3", status="a", body="b3"),
        delete(ORDERS, id="3"),
        delete(ORDERS, id="4"),
        insert(ORDERS, id="4", status="again", body="b4"),
        update(ORDERS, id="5", status="a", body=UNCHANGED),
        update(ORDERS, {"id": "6"}, id="7", status="moved", body="b7"),
        update(ORDERS, id="7", status="after", body="b7"),
    )
    made = chain({"collapse": "2s"})
    assert made.window == 2.0
    assert made(batch) is batch
    found = through(made, batch)
    states = [(op, (new or old or {})["id"], new and (new["status"], new["body"])) for op, new, old in found]
    assert states == [
        ("read", "1", ("b", "b1")),
        ("update", "2", ("b", "b2")),
        ("delete", "3", None),
        ("update", "4", ("again", "b4")),
        ("update", "5", ("a", UNCHANGED)),
        ("update", "7", ("moved", "b7")),
        ("update", "7", ("after", "b7")),
    ]


def test_a_truncate_collapses_what_came_before_it() -> None:
    batch = History().batch(
        insert(ORDERS, id="1", status="a", body="b"),
        truncate(ORDERS),
        insert(ORDERS, id="1", status="b", body="b"),
    )
    assert words(through(chain({"collapse": {}}), batch)) == ["truncate", "insert"]


def test_updates_that_changed_nothing_of_interest_are_dropped() -> None:
    batch = History().batch(
        (FULL, Op.UPDATE, full("a", "c"), full("a", "b")),
        (FULL, Op.UPDATE, full("b", "c"), full("a", "c")),
        (FULL, Op.UPDATE, {**full("b"), "status": None}, full("b")),
        (FULL, Op.UPDATE, {**full("b", "d"), "status": None}, {**full("b"), "status": None}),
        (FULL, Op.DELETE, None, full("b")),
    )
    found = chain({"diff": ["status"]})(batch)
    assert [c.index for c in found.changes()] == [1, 2, 4]
