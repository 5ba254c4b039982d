"""Properties of expressions that hold for any values: the exact path and Arrow's kernels agree, and a row
fails exactly where Postgres' type has no such value."""

import json
from decimal import Decimal

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from cdcflow.errors import ExpressionError
from cdcflow.model import Column
from cdcflow.testing.batches import make_relation
from cdcflow.transform.expression import Frame, Scope, compile, exact
from cdcflow.transform.expression.conversion import numeric_text
from cdcflow.transform.expression.documents import canonical
from cdcflow.transform.expression.lists import array_text, elements
from cdcflow.transform.expression.sqltype import builtin

RELATION = make_relation(
    "t",
    [Column(f"{key}_{n}", builtin(key).oid) for key in ("numeric", "int8", "text") for n in (1, 2)],
    key=(),
)
SCOPE = Scope(RELATION, with_change=False)

numerics = st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**20), max_value=10**20)
integers = st.integers(-(2**63), 2**63 - 1)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
)


def frame(**columns: list[str | None]) -> Frame:
    count = len(next(iter(columns.values())))
    arrays = [pa.array(columns.get(name, [None] * count), pa.string()) for name in RELATION.names]
    return Frame.of_columns(RELATION, arrays)


@given(st.lists(st.tuples(numerics, numerics), min_size=1, max_size=5), st.sampled_from("+-*"))
def test_arrow_and_the_exact_path_agree_about_numerics(
    pairs: list[tuple[Decimal, Decimal]], name: str
) -> None:
    slow = {"+": exact.add, "-": exact.subtract, "*": exact.multiply}[name]
    rows = frame(numeric_1=[numeric_text(a) for a, _ in pairs], numeric_2=[numeric_text(b) for _, b in pairs])

    found = compile(f"numeric_1 {name} numeric_2", SCOPE).text(rows).to_pylist()

    assert found == [numeric_text(slow(a, b)) for a, b in pairs]


@given(st.lists(st.tuples(numerics, st.integers(0, 5)), min_size=1, max_size=5))
def test_rounding_is_away_from_zero_at_any_scale(pairs: list[tuple[Decimal, int]]) -> None:
    rows = frame(numeric_1=[numeric_text(value) for value, _ in pairs])
    for _, scale in pairs:
        found = compile(f"round(numeric_1, {scale})", SCOPE).text(rows).to_pylist()
        assert found == [numeric_text(exact.rounded(value, scale)) for value, _ in pairs]


@given(st.lists(st.tuples(integers, integers), min_size=1, max_size=8))
def test_rows_that_fail_are_exactly_those_that_do_not_fit(pairs: list[tuple[int, int]]) -> None:
    rows = frame(int8_1=[str(a) for a, _ in pairs], int8_2=[str(b) for _, b in pairs])

    expression = compile("int8_1 * int8_2", SCOPE)
    values, failures = expression.attempt(rows)

    assert set(failures) == {i for i, (a, b) in enumerate(pairs) if not -(2**63) <= a * b < 2**63}
    assert values.to_pylist() == [None if i in failures else a * b for i, (a, b) in enumerate(pairs)]


@given(st.lists(st.tuples(integers, st.sampled_from([-3, 0, 0, 7])), min_size=1, max_size=8))
def test_a_guarded_division_never_fails(pairs: list[tuple[int, int]]) -> None:
    rows = frame(int8_1=[str(a) for a, _ in pairs], int8_2=[str(b) for _, b in pairs])

    found = compile("case when int8_2 <> 0 then int8_1 / int8_2 end", SCOPE).evaluate(rows).to_pylist()

    assert [value is None for value in found] == [b == 0 for _, b in pairs]


@given(texts)
def test_any_text_of_an_expression_is_bound_or_refused(text: str) -> None:
    refused = None
    try:
        compile(text, SCOPE)
    except ExpressionError as error:
        refused = error
    if refused is not None:
        assert refused.line >= 1
        assert refused.column >= 1
        assert refused.excerpt.endswith("^")


@given(st.lists(st.none() | texts, max_size=4))
def test_an_array_is_read_as_it_was_written(values: list[str | None]) -> None:
    assert list(elements(array_text(values))) == values


@given(documents)
def test_the_text_of_jsonb_is_its_own_form(value: object) -> None:
    once = canonical(json.dumps(value))

    assert canonical(once) == once
    assert json.loads(once) == value
