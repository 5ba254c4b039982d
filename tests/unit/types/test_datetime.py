import pyarrow as pa
import pytest

from cdcflow import types
from cdcflow.errors import Permanent
from cdcflow.model import Column

DATE, TIME, TIMESTAMP, TIMESTAMPTZ = 1082, 1083, 1114, 1184

DAY = 86_400_000_000
MOST, LEAST = 2**63 - 1, -(2**63 - 1)


def ticks(oid: int, *values: str | None) -> list[int | None]:
    """The integers behind the Arrow array of a column."""
    found = types.of(Column("c", oid)).to_arrow(pa.array(values, pa.string()))
    width = pa.int32() if oid == DATE else pa.int64()
    numbers: list[int | None] = found.view(width).to_pylist()
    return numbers


def test_ordinary_dates_are_days_since_1970() -> None:
    assert ticks(DATE, "1970-01-01", None, "2000-02-29", "0001-01-01", "9999-12-31") == [
        0,
        None,
        11_016,
        -719_162,
        2_932_896,
    ]


def test_dates_that_arrow_cannot_read_are_exact_and_leave_the_others_alone() -> None:
    # The last ones are Postgres' own limits: Julian day 0 and 5874897-12-31.
    found = ticks(
        DATE, "infinity", "1970-01-02", "-infinity", None, "4714-11-24 BC", "0001-12-31 BC", "5874897-12-31"
    )

    assert found == [2**31 - 1, 1, -(2**31 - 1), None, -2_440_588, -719_163, 2_145_042_905]


def test_times_reach_to_24_00() -> None:
    assert ticks(TIME, "00:00:00", "12:00:00.000001", None) == [0, DAY // 2 + 1, None]
    assert ticks(TIME, "24:00:00", None, "23:59:59.5") == [DAY, None, DAY - 500_000]


@pytest.mark.parametrize(("oid", "zone"), [(TIMESTAMP, ""), (TIMESTAMPTZ, "+00")])
def test_timestamps_are_microseconds_since_1970(oid: int, zone: str) -> None:
    assert ticks(oid, f"1970-01-02 00:00:00.000001{zone}", None, f"1969-12-31 23:59:59{zone}") == [
        DAY + 1,
        None,
        -1_000_000,
    ]


@pytest.mark.parametrize(("oid", "zone"), [(TIMESTAMP, ""), (TIMESTAMPTZ, "+00")])
def test_timestamps_that_arrow_cannot_read_are_exact(oid: int, zone: str) -> None:
    found = ticks(
        oid,
        "infinity",
        f"1970-01-01 00:00:00{zone}",
        "-infinity",
        None,
        f"0001-12-31 23:59:59.999999{zone} BC",
        f"10000-01-01 00:00:00{zone}",
        f"294247-01-10 04:00:54.775806{zone}",
    )

    assert found == [MOST, 0, LEAST, None, -62_135_596_800_000_001, 253_402_300_800_000_000, MOST - 1]


def test_a_moment_beyond_64_bits_is_refused() -> None:
    # Postgres counts from 2000 and reaches 30 years further.
    with pytest.raises(Permanent, match="after the year 294247 of type timestamp does not fit"):
        ticks(TIMESTAMP, "294276-12-31 23:59:59.999999")


@pytest.mark.parametrize(
    ("oid", "text", "json"),
    [
        (DATE, "2026-11-22", "2026-11-22"),
        (DATE, "infinity", "infinity"),
        (TIME, "24:00:00", "24:00:00"),
        (1266, "01:02:03.5+15:59:59", "01:02:03.5+15:59:59"),
        (TIMESTAMP, "2026-11-22 18:18:44.5", "2026-11-22T18:18:44.5"),
        (TIMESTAMPTZ, "2026-11-22 18:18:44.5+00", "2026-11-22T18:18:44.5+00:00"),
        (TIMESTAMPTZ, "0044-03-15 00:00:00+00 BC", "0044-03-15T00:00:00+00:00 BC"),
        (TIMESTAMPTZ, "-infinity", "-infinity"),
    ],
)
def test_json_is_what_postgres_makes_of_it(oid: int, text: str, json: str) -> None:
    assert types.of(Column("c", oid)).json(text) == json
