import duckdb
import pyarrow as pa
import pytest

from cdcflow import types
from cdcflow.errors import Permanent
from cdcflow.model import Column
from cdcflow.types.interval import parts

INTERVAL = types.of(Column("c", 1186))

CASES = [
    ("00:00:00", (0, 0, 0), "PT0S"),
    ("1 year 2 mons", (14, 0, 0), "P1Y2M"),
    ("-1 years -2 mons +3 days", (-14, 3, 0), "P-1Y-2M3D"),
    ("1 mon -1 days -00:00:00.000001", (1, -1, -1), "P1M-1DT-0.000001S"),
    ("1 day 24:00:00", (0, 1, 86_400_000_000), "P1DT24H"),
    ("-04:05:06.7", (0, 0, -14_706_700_000), "PT-4H-5M-6.7S"),
    ("100:00:00.5", (0, 0, 360_000_500_000), "PT100H0.5S"),
    ("-178000000 years", (-2_136_000_000, 0, 0), "P-178000000Y"),
    ("2147483647 days", (0, 2**31 - 1, 0), "P2147483647D"),
    ("2562047788:00:54.775807", (0, 0, 2**63 - 1), "PT2562047788H54.775807S"),
    ("-2562047788:00:54.775808", (0, 0, -(2**63)), "PT-2562047788H-54.775808S"),
]


@pytest.mark.parametrize(("text", "expected", "iso"), CASES)
def test_every_part_keeps_its_sign_and_range(text: str, expected: tuple[int, int, int], iso: str) -> None:
    assert parts(text) == expected
    assert INTERVAL.json(text) == iso


@pytest.mark.parametrize(("text", "expected", "iso"), CASES)
def test_duckdb_reads_the_same_parts(text: str, expected: tuple[int, int, int], iso: str) -> None:
    connection = duckdb.connect()
    connection.register("stage", pa.table({"v": INTERVAL.to_arrow(pa.array([text, None]))}))
    connection.execute("CREATE TABLE t (v INTERVAL); INSERT INTO t SELECT v FROM stage")

    found = connection.execute(
        "SELECT datepart('year', v) * 12 + datepart('month', v), datepart('day', v),"
        " epoch_us(v - to_months((datepart('year', v) * 12 + datepart('month', v))::INTEGER)"
        " - to_days(datepart('day', v)::INTEGER)) FROM t WHERE v IS NOT NULL"
    ).fetchall()

    assert found == [expected]


@pytest.mark.parametrize("text", ["infinity", "-infinity"])
def test_an_infinite_interval_is_said_in_json_and_refused_by_the_column(text: str) -> None:
    assert INTERVAL.json(text) == text
    with pytest.raises(Permanent, match="an infinity of type interval does not fit INTERVAL"):
        INTERVAL.to_arrow(pa.array(["00:00:00", None, text]))


@pytest.mark.parametrize("text", ["", "1 fortnight", "1:00", "P1Y"])
def test_other_text_is_no_interval(text: str) -> None:
    with pytest.raises(ValueError, match="not an interval"):
        parts(text)
