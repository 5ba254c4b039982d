"""Postgres' text of random values, written here after Postgres' own output functions, read back by
`cdcflow.types` into what the value was."""

from datetime import date, datetime, timedelta
from typing import TypeVar

import orjson
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from cdcflow import types
from cdcflow.model import Column
from cdcflow.types.interval import parts

BYTEA, INT8, TEXT, FLOAT8, NUMERIC = 17, 20, 25, 701, 1700
DATE, TIME, TIMESTAMPTZ, INT4S, TEXTS = 1082, 1083, 1184, 1007, 1009

T = TypeVar("T")

DAY = 86_400_000_000
#: 400 Gregorian years are always so many days.
ERA_DAYS = 146_097


def columns(values: st.SearchStrategy[T]) -> st.SearchStrategy[list[T | None]]:
    """Columns in which ordinary values, NULLs and rare forms come mixed."""
    return st.lists(st.none() | values, max_size=30)


def arrow(oid: int, texts: list[str | None], typmod: int = -1) -> pa.Array:
    return types.of(Column("c", oid, typmod)).to_arrow(pa.array(texts, pa.string()))


def date_text(days: int) -> tuple[str, str]:
    """`YYYY-MM-DD` and the suffix of a day counted from 1970, in any era."""
    # Python's calendar starts at year 1: shift by whole 400-year cycles into its middle.
    era, day = divmod(days + 719_162, ERA_DAYS)
    shifted = date(1, 1, 1) + timedelta(days=day)
    year = shifted.year + 400 * era
    bc = year <= 0
    return f"{1 - year if bc else year:04}-{shifted.month:02}-{shifted.day:02}", " BC" if bc else ""


def time_text(micros: int) -> str:
    seconds, fraction = divmod(micros, 1_000_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    text = f"{hour:02}:{minute:02}:{second:02}"
    return f"{text}.{fraction:06}".rstrip("0") if fraction else text


#: Days that Postgres has: 4714-11-24 BC to 5874897-12-31, most of them in our times.
days = st.integers(-10_000, 40_000) | st.integers(-2_440_588, 2_145_042_905)

#: Moments that Postgres has and 64 bits hold.
moments = st.integers(0, 2**51) | st.integers(-2_440_588 * DAY, 2**63 - 2)


@given(columns(days))
def test_any_date_reads_back(values: list[int | None]) -> None:
    texts = [None if value is None else "".join(date_text(value)) for value in values]

    assert arrow(DATE, texts).view(pa.int32()).to_pylist() == values


@given(columns(moments))
def test_any_moment_reads_back(values: list[int | None]) -> None:
    texts: list[str | None] = []
    for value in values:
        if value is None:
            texts.append(None)
            continue
        day, micros = divmod(value, DAY)
        text, suffix = date_text(day)
        texts.append(f"{text} {time_text(micros)}+00{suffix}")

    assert arrow(TIMESTAMPTZ, texts).view(pa.int64()).to_pylist() == values


@given(st.datetimes())
def test_moments_of_our_calendar_are_those_that_python_knows(value: datetime) -> None:
    text = f"{value.year:04}{value:-%m-%d %H:%M:%S.%f}+00"

    [found] = arrow(TIMESTAMPTZ, [text]).cast(pa.timestamp("us")).to_pylist()

    assert found == value


@given(columns(st.integers(0, DAY)))
def test_any_time_of_day_reads_back(values: list[int | None]) -> None:
    texts = [None if value is None else time_text(value) for value in values]

    assert arrow(TIME, texts).view(pa.int64()).to_pylist() == values


@given(columns(st.integers(-(2**63), 2**63 - 1)))
def test_any_bigint_reads_back_from_arrow_and_from_json(values: list[int | None]) -> None:
    texts = [None if value is None else str(value) for value in values]
    kind = types.of(Column("c", INT8))

    assert arrow(INT8, texts).to_pylist() == values
    for text in filter(None, texts):
        found = orjson.loads(orjson.dumps(kind.json(text)))
        assert int(found) == int(text)
        # What JavaScript's Number would make of it.
        assert isinstance(found, str) or int(float(found)) == int(text)


@given(columns(st.floats()))
def test_any_float_reads_back(values: list[float | None]) -> None:
    # Python and Postgres both write the shortest text that reads back.
    words = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    texts = [None if value is None else words.get(repr(value), repr(value)) for value in values]

    assert repr(arrow(FLOAT8, texts).to_pylist()) == repr(values)


def numeric_text(units: int, scale: int) -> str:
    digits = f"{abs(units):0{scale + 1}}"
    whole, fraction = digits[: len(digits) - scale], digits[len(digits) - scale :]
    return f"{'-' if units < 0 else ''}{whole}{'.' if fraction else ''}{fraction}"


@given(st.integers(1, 38).flatmap(lambda p: st.tuples(st.just(p), st.integers(0, p))), st.data())
def test_any_numeric_within_its_precision_is_exact(size: tuple[int, int], data: st.DataObject) -> None:
    precision, scale = size
    most = 10**precision - 1
    units = data.draw(columns(st.integers(-most, most)))
    texts = [None if unit is None else numeric_text(unit, scale) for unit in units]

    found = arrow(NUMERIC, texts, (precision << 16 | scale) + 4)

    assert [
        None if value is None else int(f"{value:f}".replace(".", "")) for value in found.to_pylist()
    ] == units


@given(columns(st.binary(max_size=40)), st.data())
def test_any_bytea_reads_back_from_any_part_of_a_column(
    values: list[bytes | None], data: st.DataObject
) -> None:
    column = pa.array([None if value is None else f"\\x{value.hex()}" for value in values], pa.string())
    start = data.draw(st.integers(0, len(values)))

    assert types.of(Column("c", BYTEA)).to_arrow(column.slice(start)).to_pylist() == values[start:]


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1))
def test_any_interval_reads_back(months: int, day: int, micros: int) -> None:
    # EncodeInterval in src/interfaces/ecpg/pgtypeslib/interval.c: a sign follows a negative part.
    pieces: list[str] = []
    negative = False
    years, rest = divmod(abs(months), 12)
    sign = -1 if months < 0 else 1
    for value, unit in ((sign * years, "year"), (sign * rest, "mon"), (day, "day")):
        if value:
            plus = "+" if negative and value > 0 else ""
            pieces.append(f"{plus}{value} {unit}{'' if value == 1 else 's'}")
            negative = value < 0
    if micros or not pieces:
        mark = "-" if micros < 0 else "+" if negative else ""
        pieces.append(mark + time_text(abs(micros)))

    assert parts(" ".join(pieces)) == (months, day, micros)


def array_text(value: object) -> str:
    """array_out (src/backend/utils/adt/arrayfuncs.c): what it quotes, and how."""
    if isinstance(value, list):
        return "{" + ",".join(map(array_text, value)) + "}"
    if value is None:
        return "NULL"
    text = str(value)
    special = not text or text.upper() == "NULL" or any(c in '{}",\\ \t\n\r\v\f' for c in text)
    if not special:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def nested(elements: st.SearchStrategy[T]) -> st.SearchStrategy[object]:
    """Lists of one to three dimensions, every one as long as its siblings, as Postgres has them."""

    def of_shape(shape: list[int]) -> st.SearchStrategy[object]:
        inner: st.SearchStrategy[object] = st.none() | elements
        for size in shape:
            inner = st.lists(inner, min_size=size, max_size=size)
        return inner

    return st.just([]) | st.lists(st.integers(1, 3), min_size=1, max_size=3).flatmap(of_shape)


@given(nested(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=6)))
def test_any_array_of_texts_reads_back(value: object) -> None:
    assert orjson.loads(orjson.dumps(types.of(Column("c", TEXTS)).json(array_text(value)))) == value


@given(columns(nested(st.integers(-(2**31), 2**31 - 1))))
def test_any_array_of_integers_reads_back_from_the_warehouse(values: list[object]) -> None:
    texts = [None if value is None else array_text(value) for value in values]

    found = arrow(INT4S, texts).to_pylist()

    assert [None if text is None else orjson.loads(text) for text in found] == values


@given(columns(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))))
def test_text_is_never_touched(values: list[str | None]) -> None:
    assert arrow(TEXT, values).to_pylist() == values
    assert [types.of(Column("c", TEXT)).json(value) for value in values if value is not None] == [
        value for value in values if value is not None
    ]
