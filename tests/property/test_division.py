"""Division by Arrow's decimals gives what numeric.c's own arithmetic gives, value and display scale."""

from decimal import Decimal

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcflow.transform.expression import division, exact
from cdcflow.transform.expression.conversion import numeric_text, write_numeric


def decimals(scale: int) -> st.SearchStrategy[list[Decimal | None]]:
    whole = st.integers(-(10**18), 10**18) | st.integers(-100, 100)
    number = whole.map(lambda digits: Decimal(digits).scaleb(-scale))
    return st.lists(st.none() | number, min_size=20, max_size=20)


@given(data=st.data(), scales=st.tuples(st.integers(0, 12), st.integers(0, 12)), constant=st.booleans())
@settings(max_examples=300, deadline=None)
def test_quotients_are_those_of_numeric(data: st.DataObject, scales: tuple[int, int], constant: bool) -> None:
    tops, bottoms = (data.draw(decimals(scale)) for scale in scales)
    bottoms = [None if value is None or value.is_zero() else value for value in bottoms]
    left = pa.array(tops, pa.decimal128(19, scales[0]))
    right = pa.array(bottoms, pa.decimal128(19, scales[1]))
    if constant:
        bottoms = [bottoms[0] or Decimal(3).quantize(Decimal(1).scaleb(-scales[1]))] * len(tops)
        right = pa.scalar(bottoms[0], pa.decimal128(19, scales[1]))

    found = division.divide(left, right)

    expected = [
        None if top is None or bottom is None else numeric_text(exact.divide(top, bottom))
        for top, bottom in zip(tops, bottoms, strict=True)
    ]
    assert found is None or write_numeric(found).to_pylist() == expected
    assert found is not None, "such operands fit"


def test_a_zero_or_too_many_digits_are_left_to_the_exact_way() -> None:
    one, zero = (pa.array([Decimal(value)], pa.decimal128(5, 0)) for value in (1, 0))
    long = pa.array([Decimal(10) ** 60], pa.decimal256(70, 0))
    small = pa.array([Decimal("0.001")], pa.decimal128(30, 3))

    assert division.divide(one, zero) is None
    assert division.divide(long, small) is None
