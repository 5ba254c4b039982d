import orjson
import pyarrow as pa
import pytest

from cdcflow import types
from cdcflow.errors import Permanent
from cdcflow.model import Column

INT2, INT4, INT8, OID, XID8, FLOAT4, FLOAT8, NUMERIC = 21, 23, 20, 26, 5069, 700, 701, 1700


def texts(*values: str | None) -> pa.StringArray:
    return pa.array(values, pa.string())


def money(precision: int, scale: int) -> Column:
    return Column("c", NUMERIC, (precision << 16 | scale & 0x7FF) + 4)


@pytest.mark.parametrize(
    ("oid", "least", "most"),
    [
        (INT2, -(2**15), 2**15 - 1),
        (INT4, -(2**31), 2**31 - 1),
        (INT8, -(2**63), 2**63 - 1),
        (OID, 0, 2**32 - 1),
        (XID8, 0, 2**64 - 1),
    ],
)
def test_integers_keep_their_whole_range(oid: int, least: int, most: int) -> None:
    kind = types.of(Column("c", oid))

    found = kind.to_arrow(texts(str(least), None, str(most)))

    assert found.to_pylist() == [least, None, most]
    assert found.type == kind.arrow


def test_json_integers_beyond_what_a_double_holds_are_strings() -> None:
    kind = types.of(Column("c", INT8))

    assert kind.json("9007199254740991") == 9007199254740991
    assert kind.json("-9007199254740991") == -9007199254740991
    assert kind.json("9007199254740992") == "9007199254740992"
    assert kind.json("-9223372036854775808") == "-9223372036854775808"


def test_floats_keep_nan_infinities_and_the_sign_of_zero() -> None:
    found = types.of(Column("c", FLOAT8)).to_arrow(texts("NaN", "Infinity", "-Infinity", "-0", None, "0.1"))

    assert str(found.to_pylist()) == "[nan, inf, -inf, -0.0, None, 0.1]"


@pytest.mark.parametrize("oid", [FLOAT4, FLOAT8])
@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "-0"])
def test_json_floats_that_json_cannot_say_are_strings(oid: int, text: str) -> None:
    assert types.of(Column("c", oid)).json(text) == text


@pytest.mark.parametrize("text", ["0.1", "1e-45", "3.4028235e+38", "5e-324", "1.7976931348623157e+308"])
def test_json_floats_are_the_shortest_that_read_back(text: str) -> None:
    written = orjson.dumps(types.of(Column("c", FLOAT8)).json(text)).decode()

    assert float(written) == float(text)
    assert len(written) <= len(text)


def test_numeric_with_a_precision_is_an_exact_decimal() -> None:
    found = types.of(money(12, 2)).to_arrow(texts("1.10", "-0.01", None, "9999999999.99"))

    assert list(map(str, found.to_pylist())) == ["1.10", "-0.01", "None", "9999999999.99"]


def test_numeric_with_a_negative_scale_has_room_for_its_zeros() -> None:
    assert str(types.of(money(3, -2)).to_arrow(texts("99900"))[0]) == "99900"


@pytest.mark.parametrize("text", ["NaN", "100.00", "1.555"])
def test_numeric_that_a_decimal_would_change_is_refused(text: str) -> None:
    with pytest.raises(Permanent) as caught:
        types.of(money(4, 2)).to_arrow(texts("1.00", None, text))

    assert "numeric(4,2) does not fit DECIMAL(4,2)" in str(caught.value)
    assert "VARCHAR" in caught.value.hint


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1.10", "1.1000", "1" * 100, "0.00000000000000000001"])
def test_unconstrained_numeric_stays_its_text(text: str) -> None:
    kind = types.of(Column("c", NUMERIC))

    assert kind.to_arrow(texts(text)).to_pylist() == [text]
    assert kind.json(text) == text


def test_json_numeric_is_a_string_with_all_its_digits() -> None:
    assert types.of(money(12, 2)).json("1.10") == "1.10"


@pytest.mark.parametrize("oid", [INT4, FLOAT8, 1082, 1114, 1184, 1083, 1186, 17])
def test_text_that_is_no_value_of_the_type_is_refused_without_showing_it(oid: int) -> None:
    with pytest.raises(Permanent) as caught:
        types.of(Column("c", oid)).to_arrow(texts("4111 1111", None))

    assert "4111" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("given", "text", "written"),
    [
        (Column("c", INT8), "-9223372036854775808", b"-9223372036854775808"),
        (Column("c", XID8), "18446744073709551615", b"18446744073709551615"),
        (Column("c", NUMERIC), "1.10", b"1.10"),
        (Column("c", NUMERIC), "-" + "1" * 60, b"-" + b"1" * 60),
        (money(12, 2), "0.00", b"0.00"),
        (Column("c", 1231), "{{1.10},{NULL}}", b"[[1.10],[null]]"),
        (
            Column("c", 1016),
            "[0:0]={9007199254740993}",
            b'{"lower_bounds":[0],"elements":[9007199254740993]}',
        ),
        (Column("c", NUMERIC), "NaN", b'"NaN"'),
        (Column("c", NUMERIC), "-Infinity", b'"-Infinity"'),
        (Column("c", FLOAT8), "-0", b'"-0"'),
    ],
)
def test_a_reader_with_exact_numbers_can_have_them_with_all_digits(
    given: Column, text: str, written: bytes
) -> None:
    assert orjson.dumps(types.of(given).converter("exact")(text)) == written
    assert orjson.dumps(types.of(given).converter("safe")(text)) == orjson.dumps(types.of(given).json(text))
