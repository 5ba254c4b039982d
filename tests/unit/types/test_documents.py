"""Arrays, json, bytea, booleans, and the types of extensions."""

import orjson
import pyarrow as pa
import pytest

from cdcflow import types
from cdcflow.model import Column

TEXTS, INTS, BIGINTS, NUMERICS, FLOATS, JSONS, BYTEAS, BOXES = 1009, 1007, 1016, 1231, 1022, 3807, 1001, 1020


def json(oid: int, text: str, type_name: str = "") -> object:
    """What a reader of the JSON gets."""
    return orjson.loads(orjson.dumps(types.of(Column("c", oid, type_name=type_name)).json(text)))


def warehouse(oid: int, *values: str | None) -> list[str | None]:
    found: list[str | None] = types.of(Column("c", oid)).to_arrow(pa.array(values, pa.string())).to_pylist()
    return found


@pytest.mark.parametrize(
    ("oid", "text", "expected"),
    [
        (TEXTS, "{}", []),
        (TEXTS, '{a,NULL,"NULL","",null}', ["a", None, "NULL", "", "null"]),
        (TEXTS, '{"a\\"b","c\\\\d","e,f","{g}"," h "}', ['a"b', "c\\d", "e,f", "{g}", " h "]),
        (TEXTS, "{ü,日本}", ["ü", "日本"]),
        (INTS, "{{1,2},{3,NULL}}", [[1, 2], [3, None]]),
        (INTS, "{{{1}},{{2}}}", [[[1]], [[2]]]),
        (INTS, "[0:1]={1,2}", {"lower_bounds": [0], "elements": [1, 2]}),
        (INTS, "[-1:0][2:2]={{1},{2}}", {"lower_bounds": [-1, 2], "elements": [[1], [2]]}),
        (BIGINTS, "{1,9223372036854775807}", [1, "9223372036854775807"]),
        (NUMERICS, "{1.10,NaN}", ["1.10", "NaN"]),
        (FLOATS, "{0.5,-0,NaN,Infinity}", [0.5, "-0", "NaN", "Infinity"]),
        (JSONS, '{"{\\"a\\": 12345678901234567890}",NULL,"null"}', [{"a": 12345678901234567890}, None, None]),
        (BYTEAS, '{"\\\\x00ff"}', ["AP8="]),
        (BOXES, "{(1,1),(0,0);(2,2),(0,0)}", ["(1,1),(0,0)", "(2,2),(0,0)"]),
    ],
)
def test_arrays_are_nested_lists_in_json(oid: int, text: str, expected: object) -> None:
    assert json(oid, text) == expected


@pytest.mark.parametrize("text", ["{1", "{1}}", "1}", "{1}x", '{"a}', "{1}{2}"])
def test_text_that_is_no_array_is_not_taken_for_one(text: str) -> None:
    kind = types.of(Column("c", TEXTS))

    assert kind.json("1}") == "1}"
    if text.startswith("{"):
        with pytest.raises(ValueError, match=r".+"):
            kind.json(text)


def test_arrays_are_json_text_in_the_warehouse_whatever_their_dimensions() -> None:
    assert warehouse(INTS, "{1,NULL}", None, "{{1},{2}}", "[0:0]={1}") == [
        "[1,null]",
        None,
        "[[1],[2]]",
        '{"lower_bounds":[0],"elements":[1]}',
    ]
    assert warehouse(INTS, "{1,-2}", None, "{}") == ["[1,-2]", None, "[]"]
    assert warehouse(BIGINTS, "{9223372036854775807}") == ['["9223372036854775807"]']
    assert warehouse(TEXTS, '{"NULL",NULL}') == ['["NULL",null]']


@pytest.mark.parametrize("oid", [114, 3802])
def test_json_documents_pass_through_as_they_stand(oid: int) -> None:
    kind = types.of(Column("c", oid))
    text = '{"n": 12345678901234567890.123456789, "a": 1, "a": 2, "s": "\\ud800"}'

    assert orjson.dumps({"v": kind.json(text)}) == b'{"v":' + text.encode() + b"}"
    assert warehouse(oid, text, None, "null") == [text, None, "null"]


def test_json_over_several_lines_stays_one_line_of_an_event() -> None:
    kind = types.of(Column("c", 114))

    written = orjson.dumps(kind.json('{\n  "a":\r\n "x\\ny"\n}'))

    assert b"\n" not in written
    assert orjson.loads(written) == {"a": "x\ny"}
    assert warehouse(114, "[\n1]") == ["[\n1]"], "the warehouse keeps the text"


def test_bytea_is_bytes_and_base64() -> None:
    kind = types.of(Column("c", 17))
    column = pa.array(["\\x5c78", None, "\\x", "\\x00ff", "\\xdeadbeef"], pa.string())

    assert kind.to_arrow(column).to_pylist() == [b"\\x", None, b"", b"\x00\xff", b"\xde\xad\xbe\xef"]
    assert kind.to_arrow(column.slice(3)).to_pylist() == [b"\x00\xff", b"\xde\xad\xbe\xef"]
    assert kind.to_arrow(column.slice(0, 0)).to_pylist() == []
    assert (kind.json("\\x00ff"), kind.json("\\x")) == ("AP8=", "")


def test_booleans_are_booleans() -> None:
    kind = types.of(Column("c", 16))

    assert kind.to_arrow(pa.array(["t", None, "f"])).to_pylist() == [True, None, False]
    assert (kind.json("t"), kind.json("f")) == (True, False)


@pytest.mark.parametrize(
    ("type_name", "text", "expected"),
    [
        ("public.hstore", "", {}),
        ("public.hstore", '"a"=>"1", "b c"=>NULL', {"a": "1", "b c": None}),
        ("public.hstore", '"a"=>"NULL", "q\\"\\\\"=>""', {"a": "NULL", 'q"\\': ""}),
        ("ext.hstore", "(1,2)", "(1,2)"),
        ("public.vector", "[1,-2.5,1e-05]", [1, -2.5, 1e-05]),
        ("public.halfvec", "[0.5]", [0.5]),
        ("public.sparsevec", "{1:0.5,3:2}/5", {"dimensions": 5, "elements": {"1": 0.5, "3": 2.0}}),
        ("public.sparsevec", "{}/5", {"dimensions": 5, "elements": {}}),
        ("public.sparsevec", "other", "other"),
        ("shop.sparsevec", "{a:b}/5", "{a:b}/5"),
        ("shop.vector", "[1,5)", "[1,5)"),
        ("shop.vector", "[1,]", "[1,]"),
        ("shop._mood", "{so so", "{so so"),
        ("shop._mood", "[not an array", "[not an array"),
        ("shop._mood", '{"so so', '{"so so'),
        ("public.citext", "Abc", "Abc"),
        ("public._geometry", "{0101000020E6:NULL:0101}", ["0101000020E6", None, "0101"]),
        ("public._hstore", '{NULL,"\\"a\\"=>NULL"}', [None, {"a": None}]),
        ("public._hstore", '{"\\"a\\"=>\\"1\\""}', [{"a": "1"}]),
    ],
)
def test_types_of_extensions_are_known_by_name(type_name: str, text: str, expected: object) -> None:
    assert json(20_000, text, type_name) == expected


def test_hstore_is_json_text_in_the_warehouse() -> None:
    kind = types.of(Column("c", 20_000, type_name="public.hstore"))

    assert kind.to_arrow(pa.array(['"a"=>NULL', None, "?"])).to_pylist() == ['{"a":null}', None, "?"]
