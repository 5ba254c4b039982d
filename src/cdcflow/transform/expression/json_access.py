"""Access to json and jsonb. A part of a json value is the text as it stands in it; a jsonb value has its
own form."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

import pyarrow as pa

from cdcflow.transform.expression import documents
from cdcflow.transform.expression.conversion import codec
from cdcflow.transform.expression.documents import dump, load
from cdcflow.transform.expression.frame import Datum, Rows
from cdcflow.transform.expression.function import (
    Fails,
    Kernel,
    Refused,
    Supported,
    Variant,
    by_row,
    operator,
    row_kernel,
)
from cdcflow.transform.expression.lists import elements
from cdcflow.transform.expression.node import Bound, as_array
from cdcflow.transform.expression.resolve import category
from cdcflow.transform.expression.sqltype import TEXT, SqlType, builtin

#: What is not there, as against JSON's null.
_ABSENT = object()
_INDEX = re.compile(r"[ \t\n\r\v\f]*[+-]?\d+", re.ASCII)
_BLANKS = re.compile(r"[ \t\n\r]*")

# --- jsonb -------------------------------------------------------------------------------------------------


def _member(value: Any, key: str) -> Any:
    return value.get(key, _ABSENT) if isinstance(value, Mapping) else _ABSENT


def _element_at_root(value: Any, index: int) -> Any:
    """A scalar counts as an array of itself here, as jsonb stores it so."""
    return _element(value if isinstance(value, Mapping | list) else [value], index)


def _element(value: Any, index: int) -> Any:
    if not isinstance(value, list) or not -len(value) <= index < len(value):
        return _ABSENT
    return value[index]


def _at_path(value: Any, path: Sequence[str | None]) -> Any:
    for step in path:
        if step is None:
            return _ABSENT
        if isinstance(value, list):
            index = path_index(step)
            value = _ABSENT if index is None else _element(value, index)
        else:
            value = _member(value, step)
        if value is _ABSENT:
            return value
    return value


def path_index(step: str) -> int | None:
    """A step of a path as the index into an array; None where it is none."""
    if _INDEX.fullmatch(step) is None:
        return None
    index = int(step)
    return index if -(2**31) < index < 2**31 else None


def _as_jsonb(value: Any) -> str | None:
    return None if value is _ABSENT else dump(value)


def as_text(value: Any) -> str | None:
    """What `->>` gives of a value."""
    if value is _ABSENT or value is None:
        return None
    return value if isinstance(value, str) else dump(value)


def _json_type(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case Decimal():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def _length(text: str) -> int:
    value = load(text)
    if not isinstance(value, list):
        what = "non-array" if isinstance(value, Mapping) else "scalar"
        raise Fails(f"cannot get array length of a {what}")
    return len(value)


def _exists(text: str, key: str) -> bool:
    value = load(text)
    if isinstance(value, Mapping | list):
        return key in value
    return isinstance(value, str) and value == key


def same(a: Any, b: Any) -> bool:
    """Whether two documents are equal as jsonb: numbers by their value."""
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def contains(a: Any, b: Any) -> bool:
    """jsonb_util.c, JsonbDeepContains."""
    if isinstance(a, list) and not isinstance(b, Mapping | list):
        return any(same(x, b) for x in a)
    return _contains(a, b)


def _contains(a: Any, b: Any) -> bool:
    if isinstance(b, Mapping):
        return isinstance(a, Mapping) and all(k in a and _contains(a[k], b[k]) for k in b)
    if isinstance(b, list):
        return isinstance(a, list) and all(any(_contains(x, y) for x in a) for y in b)
    return not isinstance(a, Mapping | list) and same(a, b)


def _concatenated(left: str, right: str) -> str:
    a, b = load(left), load(right)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return dump({**a, **b})
    return dump([*(a if isinstance(a, list) else [a]), *(b if isinstance(b, list) else [b])])


def _without(text: str, key: str) -> str:
    value = load(text)
    if isinstance(value, Mapping):
        return dump({k: v for k, v in value.items() if k != key})
    if isinstance(value, list):
        return dump([v for v in value if not (isinstance(v, str) and v == key)])
    raise Fails("cannot delete from scalar")


def _without_index(text: str, index: int) -> str:
    value = load(text)
    if isinstance(value, Mapping):
        raise Fails("cannot delete from object using integer index")
    if not isinstance(value, list):
        raise Fails("cannot delete from scalar")
    place = index if index >= 0 else len(value) + index
    return dump([v for i, v in enumerate(value) if i != place])


def _stripped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _stripped(v) for k, v in value.items() if v is not None}
    return [_stripped(v) for v in value] if isinstance(value, list) else value


# --- json: the text as it stands ---------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _parts(text: str) -> tuple[tuple[str | None, str], ...] | None:
    """The members (key, text) of an object, the elements (None, text) of an array; None of a scalar."""
    load(text)
    at = _skip(text, 0)
    if text[at] not in "{[":
        return None
    return tuple(_scan(text, at))


def _scan(text: str, at: int) -> Iterator[tuple[str | None, str]]:
    is_object = text[at] == "{"
    at = _skip(text, at + 1)
    while text[at] not in "}]":
        key = None
        if is_object:
            key, at = documents.DECODER.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)
        _, end = documents.DECODER.raw_decode(text, at)
        yield key, text[at:end]
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    match = _BLANKS.match(text, at)
    assert match is not None
    return match.end()


def _is_object(text: str) -> bool:
    return text[_skip(text, 0)] == "{"


def _raw_member(text: str, key: str) -> str | None:
    parts = _parts(text)
    if parts is None or not _is_object(text):
        return None
    # Of several, the last one counts.
    return next((part for name, part in reversed(parts) if name == key), None)


def _raw_element(text: str, index: int) -> str | None:
    parts = _parts(text)
    if parts is None or _is_object(text) or not -len(parts) <= index < len(parts):
        return None
    return parts[index][1]


def _raw_at_path(text: str, path: Sequence[str | None]) -> str | None:
    found: str | None = text
    for step in path:
        if step is None or found is None:
            return None
        if _is_object(found):
            found = _raw_member(found, step)
        else:
            index = path_index(step)
            found = None if index is None else _raw_element(found, index)
    return found


def _raw_text(text: str | None) -> str | None:
    """`->>` of json: a string without its quotes, anything else as it stands."""
    if text is None:
        return None
    if text.startswith('"'):
        return str(load(text))
    return None if text == "null" else text


def _raw_length(text: str) -> int:
    _length(text)
    parts = _parts(text)
    assert parts is not None
    return len(parts)


# --- making ------------------------------------------------------------------------------------------------

_AS_THEY_ARE = ("json", "jsonb")


def _documented(kind: SqlType) -> Callable[[Any, str | None], Any]:
    """A value as a document, from its Python form and its text (json.c, datum_to_jsonb)."""
    if kind.key in _AS_THEY_ARE:
        return lambda _value, text: None if text is None else load(text)
    if kind.key == "bool":
        return lambda value, _text: value
    if category(kind) == "N" and kind.key in ("int2", "int4", "int8", "numeric", "float4", "float8"):
        return lambda _value, text: None if text is None else _number(text)
    if kind.key in ("timestamp", "timestamptz", "date"):
        return lambda _value, text: None if text is None else _iso(text, kind.key)
    if kind.is_array or category(kind) in ("A", "C"):
        raise Refused(f"a document of type {kind.name} is not supported")
    return lambda _value, text: text


def _number(text: str) -> Any:
    return text if text[-1] in "yN" else load(text) if "e" not in text else documents.number(text)


def _iso(text: str, key: str) -> str:
    if key == "date" or text.endswith("infinity"):
        return text
    stamp = text.replace(" ", "T", 1)
    return stamp.replace("+00", "+00:00", 1) if key == "timestamptz" else stamp


def _converted(args: Sequence[Bound]) -> Callable[[Rows, Sequence[Datum]], list[tuple[Any, ...]]]:
    """Rows of documents."""
    makers = [(codec(arg.type), _documented(arg.type)) for arg in args]

    def convert(rows: Rows, values: Sequence[Datum]) -> list[tuple[Any, ...]]:
        columns = []
        for value, (how, make) in zip(values, makers, strict=True):
            column = as_array(value, rows.count)
            texts = how.write(column).to_pylist()
            columns.append([make(v, text) for v, text in zip(how.values(column), texts, strict=True)])
        return list(zip(*columns, strict=True)) if columns else [()] * rows.count

    return convert


def _key_texts(args: Sequence[Bound]) -> Callable[[Rows, Sequence[Datum]], list[tuple[str | None, ...]]]:
    """Rows of keys: the text of the value, but `true`, and moments as in JSON (json.c, datum_to_jsonb)."""
    makers = [(arg.type.key, codec(arg.type).write) for arg in args]

    def one(text: str | None, key: str) -> str | None:
        if text is None:
            return None
        if key == "bool":
            return "true" if text == "t" else "false"
        return _iso(text, key) if key in ("timestamp", "timestamptz", "date") else text

    def convert(rows: Rows, values: Sequence[Datum]) -> list[tuple[str | None, ...]]:
        columns = [
            [one(text, key) for text in write(as_array(value, rows.count)).to_pylist()]
            for value, (key, write) in zip(values, makers, strict=True)
        ]
        return list(zip(*columns, strict=True))

    return convert


def _build_array(*args: Bound) -> Kernel:
    convert = _converted(args)
    return lambda rows, *values: pa.array([dump(list(row)) for row in convert(rows, values)], pa.string())


def _build_object(*args: Bound) -> Kernel:
    if len(args) % 2:
        raise Refused("the arguments must be pairs of a key and a value")
    for key in args[::2]:
        if key.type.key in _AS_THEY_ARE or key.type.is_array or key.type.declared:
            raise Refused("a key must be a scalar, not an array, a composite or JSON")
    keys = _key_texts(args[::2])
    convert = _converted(args[1::2])

    def kernel(rows: Rows, *values: Datum) -> pa.Array:
        made: list[str | None] = []
        pairs = zip(keys(rows, values[::2]), convert(rows, values[1::2]), strict=True)
        for row, (names, contents) in enumerate(pairs):
            found = {}
            for name, content in zip(names, contents, strict=True):
                if name is None:
                    rows.fail(row, "a key of an object must not be null")
                found[name or ""] = content
            made.append(dump(found))
        return pa.array(made, pa.string())

    return kernel


def _to_jsonb(value: Bound) -> Kernel:
    convert = _converted([value])

    def kernel(rows: Rows, values: Datum) -> pa.Array:
        valid = as_array(values, rows.count).is_valid().to_pylist()
        made = [
            dump(v) if there else None for (v,), there in zip(convert(rows, [values]), valid, strict=True)
        ]
        return pa.array(made, pa.string())

    return kernel


# --- the table ---------------------------------------------------------------------------------------------


def _pair(
    jsonb: Callable[[str, Any], Any], json: Callable[[str, Any], Any], key: str, result: str
) -> dict[str, Variant]:
    """The same for both types."""
    return {
        f"jsonb,{key}": by_row(jsonb, f"jsonb,{key}", "jsonb" if result == "same" else result),
        f"json,{key}": by_row(json, f"json,{key}", "json" if result == "same" else result, fails=True),
    }


def _path(text: str) -> tuple[str | None, ...]:
    return elements(text)


def _variadic_path(function: Callable[[str, Sequence[str | None]], Any], key: str, result: str) -> Variant:
    """Not strict in the steps: they are an array, which is not NULL because one of them is."""

    def at_path(text: str | None, *path: str | None) -> Any:
        return None if text is None else function(text, path)

    def bind(*args: Bound) -> Kernel:
        types = [builtin(key), *[TEXT] * (len(args) - 1)]
        return row_kernel(at_path, types, builtin(result), strict=False)

    return Variant(bind=bind, strict=False, strict_first=True)


SUPPORTED: tuple[Supported, ...] = (
    operator(
        "->",
        "a member by its key, or an element by its place from 0, as JSON",
        "payload -> 'items' -> 0",
        {
            **_pair(lambda t, k: _as_jsonb(_member(load(t), k)), _raw_member, "text", "same"),
            **_pair(lambda t, i: _as_jsonb(_element_at_root(load(t), i)), _raw_element, "int4", "same"),
        },
    ),
    operator(
        "->>",
        "the same as text",
        "payload ->> 'email'",
        {
            **_pair(
                lambda t, k: as_text(_member(load(t), k)),
                lambda t, k: _raw_text(_raw_member(t, k)),
                "text",
                "text",
            ),
            **_pair(
                lambda t, i: as_text(_element_at_root(load(t), i)),
                lambda t, i: _raw_text(_raw_element(t, i)),
                "int4",
                "text",
            ),
        },
    ),
    operator(
        "#>",
        "what is at a path, as JSON",
        "payload #> '{items,0,sku}'",
        _pair(
            lambda t, p: _as_jsonb(_at_path(load(t), _path(p))),
            lambda t, p: _raw_at_path(t, _path(p)),
            "_text",
            "same",
        ),
    ),
    operator(
        "#>>",
        "the same as text",
        "payload #>> '{items,0,sku}'",
        _pair(
            lambda t, p: as_text(_at_path(load(t), _path(p))),
            lambda t, p: _raw_text(_raw_at_path(t, _path(p))),
            "_text",
            "text",
        ),
    ),
    operator(
        "?",
        "has a key, or a text as element",
        "payload ? 'email'",
        {"jsonb,text": by_row(_exists, "jsonb,text", "bool")},
    ),
    operator(
        "?|",
        "has any of the keys",
        "payload ?| array['email', 'phone']",
        {
            "jsonb,_text": by_row(
                lambda t, keys: any(k is not None and _exists(t, k) for k in elements(keys)),
                "jsonb,_text",
                "bool",
                fails=True,
            )
        },
    ),
    operator(
        "?&",
        "has all of the keys",
        "payload ?& array['email', 'phone']",
        {
            "jsonb,_text": by_row(
                lambda t, keys: all(k is None or _exists(t, k) for k in elements(keys)),
                "jsonb,_text",
                "bool",
                fails=True,
            )
        },
    ),
    operator(
        "@>",
        "contains a document",
        "payload @> '{\"vip\": true}'",
        {"jsonb,jsonb": by_row(lambda a, b: contains(load(a), load(b)), "jsonb,jsonb", "bool")},
    ),
    operator(
        "<@",
        "is contained in a document",
        "payload <@ '{\"vip\": true}'",
        {"jsonb,jsonb": by_row(lambda a, b: contains(load(b), load(a)), "jsonb,jsonb", "bool")},
    ),
    operator(
        "=",
        "documents: equal, numbers by their value",
        "payload = '{}'",
        {"jsonb,jsonb": by_row(lambda a, b: same(load(a), load(b)), "jsonb,jsonb", "bool")},
    ),
    operator(
        "<>",
        "documents: not equal",
        "payload <> '{}'",
        {"jsonb,jsonb": by_row(lambda a, b: not same(load(a), load(b)), "jsonb,jsonb", "bool")},
    ),
    operator(
        "||",
        "documents in one",
        "payload || '{\"seen\": true}'",
        {"jsonb,jsonb": by_row(_concatenated, "jsonb,jsonb", "jsonb")},
    ),
    operator(
        "-",
        "a document without a key, or an element",
        "payload - 'secret'",
        {
            "jsonb,text": by_row(_without, "jsonb,text", "jsonb", fails=True),
            "jsonb,int4": by_row(_without_index, "jsonb,int4", "jsonb", fails=True),
        },
    ),
    Supported(
        "jsonb_typeof",
        "object, array, string, number, boolean or null",
        "jsonb_typeof(payload)",
        {"jsonb": by_row(lambda t: _json_type(load(t)), "jsonb", "text")},
    ),
    Supported(
        "json_typeof",
        "the same of json",
        "json_typeof(payload)",
        {"json": by_row(lambda t: _json_type(load(t)), "json", "text")},
    ),
    Supported(
        "jsonb_array_length",
        "number of elements",
        "jsonb_array_length(payload -> 'items')",
        {"jsonb": by_row(_length, "jsonb", "int4", fails=True)},
    ),
    Supported(
        "json_array_length",
        "the same of json",
        "json_array_length(payload -> 'items')",
        {"json": by_row(_raw_length, "json", "int4", fails=True)},
    ),
    Supported(
        "jsonb_extract_path",
        "what is at a path, as `#>`",
        "jsonb_extract_path(payload, 'items', '0')",
        {"jsonb,_text": _variadic_path(lambda t, p: _as_jsonb(_at_path(load(t), p)), "jsonb", "jsonb")},
    ),
    Supported(
        "jsonb_extract_path_text",
        "the same as text",
        "jsonb_extract_path_text(payload, 'items', '0')",
        {"jsonb,_text": _variadic_path(lambda t, p: as_text(_at_path(load(t), p)), "jsonb", "text")},
    ),
    Supported(
        "jsonb_strip_nulls",
        "without members that are null",
        "jsonb_strip_nulls(payload)",
        {"jsonb": by_row(lambda t: dump(_stripped(load(t))), "jsonb", "jsonb")},
    ),
    Supported(
        "jsonb_build_object",
        "of keys and values",
        "jsonb_build_object('id', id, 'name', name)",
        {
            "any": Variant(bind=_build_object, fails=True, strict=False),
            "": Variant(lambda rows: pa.repeat(pa.scalar("{}"), rows.count)),
        },
    ),
    Supported(
        "jsonb_build_array",
        "of values",
        "jsonb_build_array(id, name)",
        {
            "any": Variant(bind=_build_array, strict=False),
            "": Variant(lambda rows: pa.repeat(pa.scalar("[]"), rows.count)),
        },
    ),
    Supported("to_jsonb", "a value as JSON", "to_jsonb(created_at)", {"anyelement": Variant(bind=_to_jsonb)}),
)
