"""What the chain of steps relies on: types, inputs, errors by row, unknown values, plain columns."""

from typing import Any

import pyarrow as pa
import pytest

from cdcflow.errors import EvaluationError, ExpressionError
from cdcflow.model import MESSAGES, UNCHANGED, Batch, Column, Group
from cdcflow.testing.batches import make_batch, make_relation
from cdcflow.transform.expression import Expression, Frame, Scope, compile, compile_predicate, strings

ORDERS = make_relation(
    "orders",
    [
        Column("id", 23, key=True),
        Column("status", 25),
        Column("amount", 1700, (12 << 16 | 2) + 4),
        Column("parts", 20),
        Column("ok", 16),
        Column("mood", 99_999, -1, False, "public.mood"),
        Column("op", 25),
        Column("nick", 99_998, -1, False, "public.citext"),
    ],
)
FULL = make_relation(
    "orders",
    [Column("id", 23, key=True), Column("status", 25, key=True), Column("note", 25, key=True)],
    replica_identity="f",
)


def group(batch: Batch) -> Group:
    (only,) = batch.groups
    return only


def orders(*rows: dict[str, str | None]) -> Frame:
    return Frame(group(make_batch(ORDERS, [("insert", row, None) for row in rows])))


def bound(text: str) -> Expression:
    return compile(text, Scope.of(ORDERS))


def values(text: str, frame: Frame) -> list[str | None]:
    found: list[str | None] = bound(text).text(frame).to_pylist()
    return found


def refused(text: str) -> ExpressionError:
    with pytest.raises(ExpressionError) as caught:
        bound(text)
    return caught.value


def test_an_expression_knows_its_type_and_what_it_reads() -> None:
    expression = bound("case when status = 'paid' then amount * 2 end")

    assert expression.type.name == "numeric"
    assert expression.inputs == {("new", 1), ("new", 2)}
    assert not expression.uses_old


def test_a_column_keeps_its_type_with_the_modifier_and_its_text() -> None:
    expression = bound("amount")

    assert (expression.type.oid, expression.type.name) == (1700, "numeric(12,2)")
    assert expression.text(orders({"amount": "12.30"})).to_pylist() == ["12.30"]


def test_numeric_results_have_the_scale_that_postgres_gives_them() -> None:
    frame = orders({"amount": "12.30"}, {"amount": "NaN"}, {"amount": None})

    assert values("amount * 0.92", frame) == ["11.3160", "NaN", None]
    assert values("amount + 1", frame) == ["13.30", "NaN", None]
    assert values("amount / 7", frame) == ["1.7571428571428571", "NaN", None]


def test_null_is_neither_true_nor_false() -> None:
    frame = orders({"ok": None}, {"ok": "t"}, {"ok": "f"})

    assert values("ok and false", frame) == ["f", "f", "f"]
    assert values("ok or null", frame) == [None, "t", None]
    assert compile_predicate("not ok", Scope.of(ORDERS)).predicate(frame).to_pylist() == [False, False, True]


def test_rows_that_fail_are_named_without_their_values() -> None:
    frame = orders({"parts": "5"}, {"parts": "0"})

    with pytest.raises(EvaluationError) as caught:
        bound("10 / parts").evaluate(frame)

    assert caught.value.rows == {1: "division by zero"}


@pytest.mark.parametrize(
    "text",
    [
        "case when parts <> 0 then 10 / parts end",
        "case parts when 0 then null else 10 / parts end",
        "nullif(parts <> 0 and 10 / parts > 1, false)::int * 2",
        "case when parts = 0 then null when 10 / parts = 2 then 2 end",
    ],
)
def test_what_a_condition_keeps_from_a_row_cannot_fail_there(text: str) -> None:
    assert values(text, orders({"parts": "5"}, {"parts": "0"}))[1] is None


def test_coalesce_does_not_evaluate_what_it_does_not_need() -> None:
    assert values("coalesce(status::int, 10 / parts)", orders({"status": "3", "parts": "0"})) == ["3"]


def test_an_error_shows_its_place_with_a_caret() -> None:
    error = refused("amount > 1\n  and statsu = 'paid'")

    assert (error.line, error.column) == (2, 7)
    assert error.excerpt == "  and statsu = 'paid'\n      ^"
    assert str(error) == "public.orders has no column 'statsu'"
    assert error.hint == "did you mean status?"


def test_places_count_characters_not_bytes() -> None:
    error = refused("'größe' = status and table <> stats")

    assert error.column == len("'größe' = status and table <> ") + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the expression is empty"),
        ("amount +", "not an SQL expression: syntax error at the end of the expression"),
        ("amount status", "an expression has no name of its own"),
        ("amount from orders", "one expression is expected, not a query"),
        ("amount; select 1", "one expression is expected, without `;`"),
        ("amount, status", "one expression is expected, not a list"),
        ("(select 1)", "subqueries are not supported"),
        ("sum(amount)", "sum: aggregates are not supported"),
        ("count(*)", "count: aggregates are not supported"),
        ("sum(amount) over ()", "sum: window functions are not supported"),
        ("other.status", "other.status is not known here"),
        ("pg_sleep(10)", "pg_sleep() is not supported"),
        ("public.f(amount)", "public.f() is a function of your database"),
        ("amount = 'x'", "invalid input syntax for type numeric"),
        ("amount = ok", "Postgres has no = of (numeric(12,2), boolean)"),
        ("amount and ok", "an operand of AND must be boolean, not numeric(12,2)"),
        ("1 / 0", "this fails for every row: division by zero"),
        ("status < 'b'", "the order of text depends on your database's collation"),
        ("old.status", "the old value of status is not in the stream"),
        ("changed(status)", "the old value of status is not in the stream"),
        ("op = 'insert'", "op is a column of public.orders and also belongs to the change"),
        ("nick = 'Bob'", "Postgres has no = of (public.citext, a literal)"),
        ("mood < 'happy'", "< of (public.mood, public.mood) is not supported"),
        ("status::moood", "the type moood is not known here"),
        ("case when ok then 1 else status end", "CASE types text, integer cannot be matched"),
    ],
)
def test_what_is_not_supported_is_refused_with_a_reason(text: str, message: str) -> None:
    assert str(refused(text)).startswith(message)


def test_old_values_that_the_stream_does_not_bring_name_the_remedy() -> None:
    assert refused("old.status").hint == 'ALTER TABLE "public"."orders" REPLICA IDENTITY FULL'


def test_old_values_of_the_key_are_there_though_the_key_stayed() -> None:
    batch = make_batch(
        ORDERS,
        [
            ("insert", {"id": "1"}, None),
            ("update", {"id": "1"}, None),
            ("update", {"id": "2"}, {"id": "1"}),
            ("delete", None, {"id": "2"}),
        ],
    )

    assert values("old.id", Frame(group(batch))) == [None, "1", "1", "2"]
    assert values("changed(id)", Frame(group(batch))) == ["t", "f", "t", "t"]


def test_rows_as_they_were_before() -> None:
    rows = [("update", {"id": "1", "status": "paid"}, {"id": "1", "status": "open", "note": None})]
    frame = Frame(group(make_batch(FULL, rows)), before=True)

    assert compile("status", Scope.of(FULL)).text(frame).to_pylist() == ["open"]


def test_a_value_that_was_not_sent_is_unknown_unless_something_else_decides() -> None:
    batch = make_batch(
        ORDERS,
        [
            ("update", {"id": "1", "status": UNCHANGED, "parts": "1", "ok": "t"}, None),
            ("update", {"id": "2", "status": UNCHANGED, "parts": "2", "ok": "f"}, None),
            ("update", {"id": "3", "status": "x", "parts": "3"}, None),
        ],
    )
    frame = Frame(group(batch))

    def unknown(text: str) -> list[bool] | None:
        mask = bound(text).unknown(frame)
        return None if mask is None else mask.to_pylist()

    assert unknown("status = 'x'") == [True, True, False]
    assert unknown("parts = 1") is None
    assert unknown("ok and status = 'x'") == [True, False, False]
    assert unknown("ok or status = 'x'") == [False, True, False]
    assert unknown("case when ok then 'y' else status end") == [False, True, False]
    assert unknown("coalesce(parts::text, status)") is None


def test_a_value_that_was_not_sent_is_taken_from_the_old_row_under_full() -> None:
    rows: list[Any] = [
        ("update", {"id": "1", "status": "b", "note": UNCHANGED}, {"id": "1", "status": "a", "note": "long"})
    ]
    frame = Frame(group(make_batch(FULL, rows)))
    scope = Scope.of(FULL)

    assert compile("note", scope).text(frame).to_pylist() == ["long"]
    assert compile("note = 'long'", scope).unknown(frame) is None
    assert compile("changed(note)", scope).text(frame).to_pylist() == ["f"]
    assert compile("changed(status) and old.status = 'a'", scope).text(frame).to_pylist() == ["t"]


def test_values_of_the_change() -> None:
    frame = orders({"id": "1"})

    assert values("change.op", frame) == ["insert"]
    assert values("table", frame) == ["orders"]
    assert values("schema = 'public' and position = '0/8:1'", frame) == ["t"]
    assert values("commit_time", frame) == ["2026-01-01 00:00:00+00"]
    assert values("current_date", frame) == ["2026-01-01"]


def test_logical_messages_have_a_scope() -> None:
    expression = compile_predicate("prefix = 'orders' and transactional", Scope.of(MESSAGES))

    assert expression.inputs == {("new", 0), ("new", 3)}


def test_a_condition_must_be_boolean() -> None:
    with pytest.raises(ExpressionError, match="must be true or false, but this is of type numeric"):
        compile_predicate("amount", Scope.of(ORDERS))


def test_plain_columns_serve_as_well_as_a_batch() -> None:
    relation = make_relation("form", [Column("a", 23), Column("b", 25)], key=())
    frame = Frame.of_columns(relation, [pa.array(["1", "2"]), pa.array(["x", None])])
    scope = Scope(relation, with_change=False)

    assert compile("a + 1", scope).text(frame).to_pylist() == ["2", "3"]
    with pytest.raises(ExpressionError, match="has no column 'op'"):
        compile("op", scope)


def test_nothing_is_evaluated_over_no_rows() -> None:
    frame = Frame(group(make_batch(ORDERS, [("insert", {"id": "1"}, None)])).take(pa.array([False])))

    for text in ("amount * 2", "case when parts <> 0 then 10 / parts end", "status is null", "1"):
        assert values(text, frame) == []


def test_padding_with_nothing_is_no_padding_however_long() -> None:
    assert values("rpad(status, 2147483647, '')", orders({"status": "x"})) == ["x"]


@pytest.mark.parametrize("text", ["trim(status)", "ltrim(status, 'x')", "rtrim(status, new.op)"])
def test_a_text_that_the_server_has_no_memory_to_trim_fails(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(strings, "_LONGEST_TRIMMED", 8)
    rows = orders({"status": "\u00e4" * 4, "op": "y"}, {"status": "\u00e4" * 4 + "a", "op": "y"}, {})
    with pytest.raises(EvaluationError) as error:
        values(text, rows)
    assert error.value.rows == {1: "requested length too large"}


def test_a_null_that_the_planner_cannot_know_does_not_hide_an_error() -> None:
    # timestamptz::time is not immutable: Postgres evaluates both sides.
    with pytest.raises(EvaluationError):
        bound("'infinity'::timestamptz::time + (10 / parts) * interval '1 day'").evaluate(
            orders({"parts": "0"})
        )
    # substring() is: with a NULL that is known, a strict operator is NULL without its other side.
    assert values("substring('a' from 'b') || 10 / parts", orders({"parts": "0"})) == [None]


def test_seconds_are_added_up_as_postgres_does() -> None:
    frame = orders({"id": "1"})
    assert values("date_part('second', interval '3.168315 seconds')", frame) == ["3.1683149999999998"]
    assert values("extract(second from interval '3.168315 seconds')", frame) == ["3.168315"]


def test_a_path_into_no_document_is_null_whatever_its_steps_are() -> None:
    frame = orders({"parts": "0"})
    assert values("jsonb_extract_path_text(null::jsonb, 'a', (10 / parts)::text)", frame) == [None]
