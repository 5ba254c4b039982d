"""Arrays. A value is held as Postgres' text of it and taken apart when it is needed; an array's element
is its text, which the codec of the element's type reads.

Only arrays of one dimension that begin at 1 are computed with; a row with another kind fails.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import eq
from typing import Any

import pyarrow as pa

from cdcflow.transform.expression.conversion import codec
from cdcflow.transform.expression.frame import Datum, Rows
from cdcflow.transform.expression.function import (
    Fails,
    Kernel,
    Supported,
    Variant,
    by_row,
    operator,
    row_kernel,
)
from cdcflow.transform.expression.node import Bound, as_array
from cdcflow.transform.expression.sqltype import BOOL, INT4, TEXT, SqlType
from cdcflow.types.arrays import parse_array

#: The elements' texts; None is NULL.
Elements = tuple[str | None, ...]


@lru_cache(maxsize=4096)
def dimensions(text: str) -> tuple[tuple[int, int], ...]:
    """Length and lower bound of each dimension; none for an empty array."""
    bounds, _, body = text.rpartition("=") if text.startswith("[") else ("", "", text)
    lowers = [int(part.partition(":")[0]) for part in bounds[1:-1].split("][")] if bounds else []
    found: list[tuple[int, int]] = []
    level: Any = _nested(body)
    while isinstance(level, list) and level:
        found.append((len(level), lowers[len(found)] if lowers else 1))
        level = level[0]
    return tuple(found)


def _nested(text: str) -> list[Any]:
    try:
        return parse_array(text, ",", str)
    except (ValueError, IndexError):
        raise Fails("malformed array literal") from None


@lru_cache(maxsize=4096)
def elements(text: str) -> Elements:
    """Of an array of one dimension that begins at 1, or an empty one."""
    if text.startswith("["):
        raise Fails("an array that does not begin at 1 is not supported here")
    found = _nested(text)
    if any(isinstance(element, list) for element in found):
        raise Fails("an array of several dimensions is not supported here")
    return tuple(found)


def array_text(values: Sequence[str | None]) -> str:
    """arrayfuncs.c, array_out."""
    return "{" + ",".join("NULL" if value is None else _quoted(value) for value in values) + "}"


def _quoted(value: str) -> str:
    plain = value and value.upper() != "NULL" and not any(c in '{},"\\ \t\n\r\v\f' for c in value)
    return value if plain else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def read_array(text: str, element: Callable[[str], str]) -> str:
    """The literal of an array in the text that Postgres would give it. Only one dimension."""
    trimmed = text.strip(" \t\n\r\v\f")
    if not trimmed.startswith("{") or not trimmed.endswith("}"):
        raise Fails("malformed array literal")
    if trimmed == "{}":
        return "{}"
    found: list[str | None] = []
    at, end = 1, len(trimmed) - 1
    while True:
        value, at = _element(trimmed, at, end)
        found.append(None if value is None else element(value))
        if at == end:
            return array_text(found)
        at += 1


def _element(text: str, at: int, end: int) -> tuple[str | None, int]:
    """An element, and the place of the comma or brace behind it."""
    while at < end and text[at] in " \t\n\r\v\f":
        at += 1
    pieces: list[str] = []
    quoted = False
    while at < end and text[at] != ",":
        mark = text[at]
        if mark == '"':
            if quoted or pieces:
                raise Fails("malformed array literal")
            quoted = True
            at += 1
            while at < end and text[at] != '"':
                at += text[at] == "\\"
                pieces.append(text[at])
                at += 1
            at += 1
            while at < end and text[at] in " \t\n\r\v\f":
                at += 1
            if at < end and text[at] != ",":
                raise Fails("malformed array literal")
            break
        if mark in "{}":
            raise Fails("an array of several dimensions is not supported here")
        if mark == "\\":
            at += 1
            mark = text[at]
        pieces.append(mark)
        at += 1
    if at > end:
        raise Fails("malformed array literal")
    value = "".join(pieces)
    if quoted:
        return value, at
    value = value.rstrip(" \t\n\r\v\f")
    if not value:
        raise Fails("malformed array literal")
    return (None if value.upper() == "NULL" else value), at


# --- functions ---------------------------------------------------------------------------------------------


def _array_length(text: str, dimension: int) -> int | None:
    found = dimensions(text)
    return found[dimension - 1][0] if 0 < dimension <= len(found) else None


def _array_lower(text: str, dimension: int) -> int | None:
    found = dimensions(text)
    return found[dimension - 1][1] if 0 < dimension <= len(found) else None


def _array_upper(text: str, dimension: int) -> int | None:
    found = dimensions(text)
    if not 0 < dimension <= len(found):
        return None
    length, lower = found[dimension - 1]
    return lower + length - 1


def _cardinality(text: str) -> int:
    found = dimensions(text)
    count = 1 if found else 0
    for length, _ in found:
        count *= length
    return count


def _array_ndims(text: str) -> int | None:
    return len(dimensions(text)) or None


def _to_string(text: str, separator: str, null: str | None = None) -> str:
    parts = [null if element is None else element for element in elements(text)]
    return separator.join(part for part in parts if part is not None)


def _to_string_with_null(text: str | None, separator: str | None, null: str | None) -> str | None:
    if text is None or separator is None:
        return None
    return _to_string(text, separator, null)


def _string_to_array(text: str | None, separator: str | None, null: str | None = None) -> str | None:
    if text is None:
        return None
    if not text:
        return "{}"
    parts: Sequence[str] = [*text] if separator is None else text.split(separator) if separator else [text]
    return array_text([None if part == null else part for part in parts])


#: Types whose text is the same exactly for what is equal.
_TEXTUAL = (
    "int2",
    "int4",
    "int8",
    "text",
    "varchar",
    "bool",
    "date",
    "uuid",
    "timestamp",
    "timestamptz",
    "time",
)


def _comparable(kind: SqlType) -> Callable[[Any, Any], bool]:
    if kind.key in _TEXTUAL:
        return eq
    values = codec(kind)

    def same(a: str, b: str) -> bool:
        pair = values.values(values.read(pa.array([a, b]), lambda _row, _reason: None))
        return bool(pair[0] == pair[1])

    return same


def _holds(container: str, wanted: str, same: Callable[[Any, Any], bool]) -> bool:
    outer, inner = elements(container), elements(wanted)
    return all(w is not None and any(o is not None and same(o, w) for o in outer) for w in inner)


def _contains(left: Bound, right: Bound) -> Kernel:
    same = _comparable(left.type.element)
    return row_kernel(lambda a, b: _holds(a, b, same), [left.type, right.type], BOOL)


def _contained(left: Bound, right: Bound) -> Kernel:
    same = _comparable(left.type.element)
    return row_kernel(lambda a, b: _holds(b, a, same), [left.type, right.type], BOOL)


def _overlaps(left: Bound, right: Bound) -> Kernel:
    same = _comparable(left.type.element)

    def overlap(a: str, b: str) -> bool:
        return any(x is not None and y is not None and same(x, y) for x in elements(a) for y in elements(b))

    return row_kernel(overlap, [left.type, right.type], BOOL)


def _equals(*, negated: bool) -> Callable[[Bound, Bound], Kernel]:
    def bind(left: Bound, right: Bound) -> Kernel:
        same = _comparable(left.type.element)

        def equal(a: str, b: str) -> bool:
            x, y = elements(a), elements(b)
            pairs = zip(x, y, strict=False)
            found = len(x) == len(y) and all(
                (p is None and q is None) or (p is not None and q is not None and same(p, q))
                for p, q in pairs
            )
            return found is not negated

        return row_kernel(equal, [left.type, right.type], BOOL)

    return bind


def _joined(left: Bound, right: Bound) -> Kernel:
    def join(a: str | None, b: str | None) -> str | None:
        if a is None or b is None:
            return b if a is None else a
        return array_text([*elements(a), *elements(b)])

    return row_kernel(join, [left.type, right.type], left.type, strict=False)


def _appended(left: Bound, right: Bound) -> Kernel:
    write = codec(right.type).write
    kernel = row_kernel(
        lambda a, e: array_text([*(elements(a) if a is not None else ()), e]),
        [left.type, TEXT],
        left.type,
        strict=False,
    )
    return lambda rows, array, element: kernel(rows, array, write(as_array(element, rows.count)))


def _prepended(left: Bound, right: Bound) -> Kernel:
    write = codec(left.type).write
    kernel = row_kernel(
        lambda e, a: array_text([e, *(elements(a) if a is not None else ())]),
        [TEXT, right.type],
        right.type,
        strict=False,
    )
    return lambda rows, element, array: kernel(rows, write(as_array(element, rows.count)), array)


def _removed(left: Bound, right: Bound) -> Kernel:
    same = _comparable(right.type)
    write = codec(right.type).write

    def remove(array: str | None, element: str | None) -> str | None:
        if array is None:
            return None
        kept = [
            x
            for x in elements(array)
            if not (x is element if x is None or element is None else same(x, element))
        ]
        return array_text(kept)

    kernel = row_kernel(remove, [left.type, TEXT], left.type, strict=False)
    return lambda rows, array, element: kernel(rows, array, write(as_array(element, rows.count)))


def _position(left: Bound, right: Bound) -> Kernel:
    same = _comparable(right.type)
    write = codec(right.type).write

    def position(array: str | None, element: str | None) -> int | None:
        if array is None:
            return None
        for place, x in enumerate(elements(array), 1):
            if (x is None and element is None) or (
                x is not None and element is not None and same(x, element)
            ):
                return place
        return None

    kernel = row_kernel(position, [left.type, TEXT], INT4, strict=False)
    return lambda rows, array, element: kernel(rows, array, write(as_array(element, rows.count)))


# --- used by bind ------------------------------------------------------------------------------------------


def build(kind: SqlType) -> Kernel:
    """ARRAY[…]: the elements' texts in one."""
    write = codec(kind).write

    def kernel(rows: Rows, *values: Datum) -> pa.Array:
        columns = [write(as_array(value, rows.count)).to_pylist() for value in values]
        return pa.array([array_text(row) for row in zip(*columns, strict=True)], pa.string())

    return kernel


def item(array: SqlType) -> Kernel:
    """array[n]: NULL beyond its ends."""

    def text(value: str, place: int) -> str | None:
        found = elements(value)
        return found[place - 1] if 0 < place <= len(found) else None

    take = row_kernel(text, [array, INT4], TEXT)
    read = codec(array.element).read
    return lambda rows, values, places: read(take(rows, values, places), rows.fail)


def flattened(array: pa.StringArray, rows: Rows, of: SqlType) -> tuple[pa.Array, pa.Array, list[int]]:
    """All elements of a column of arrays one behind the other, the row of each, and each array's length
    (-1 for NULL)."""
    texts: list[str | None] = []
    owners: list[int] = []
    lengths: list[int] = []
    for row, text in enumerate(array.to_pylist()):
        if text is None:
            lengths.append(-1)
            continue
        try:
            found = elements(text)
        except Fails as failure:
            rows.fail(row, str(failure))
            found = ()
        texts += found
        owners += [row] * len(found)
        lengths.append(len(found))
    values = codec(of).read(pa.array(texts, pa.string()), lambda i, reason: rows.fail(owners[i], reason))
    return values, pa.array(owners, pa.int64()), lengths


def any_or_all(compare: Callable[[Rows, Datum, Datum], Datum], of: SqlType, *, every: bool) -> Kernel:
    """`value op ANY (array)` and `ALL`, by one comparison over all elements of all rows."""

    def kernel(rows: Rows, values: Datum, arrays: Datum) -> pa.Array:
        items, owners, lengths = flattened(as_array(arrays, rows.count), rows, of)
        inner = Rows(None, len(items))
        found = as_array(compare(inner, as_array(values, rows.count).take(owners), items), len(items))
        for place, reason in inner.failures.items():
            rows.fail(owners[place].as_py(), reason)
        result: list[bool | None] = []
        answers = found.to_pylist()
        at = 0
        for length in lengths:
            if length < 0:
                result.append(None)
                continue
            part = answers[at : at + length]
            at += length
            decided = not every
            result.append(decided if decided in part else None if None in part else every)
        return pa.array(result, pa.bool_())

    return kernel


_ARRAY = "anyarray"
_BOTH = "anyarray,anyarray"
_COMPATIBLE = "anycompatiblearray"

SUPPORTED: tuple[Supported, ...] = (
    operator(
        "=",
        "arrays: the same elements in the same order",
        "tags = array['a']",
        {_BOTH: Variant(bind=_equals(negated=False), fails=True)},
    ),
    operator(
        "<>",
        "arrays: not the same",
        "tags <> array['a']",
        {_BOTH: Variant(bind=_equals(negated=True), fails=True)},
    ),
    operator(
        "@>", "has all elements of", "tags @> array['new']", {_BOTH: Variant(bind=_contains, fails=True)}
    ),
    operator(
        "<@",
        "has all its elements in",
        "tags <@ array['a', 'b']",
        {_BOTH: Variant(bind=_contained, fails=True)},
    ),
    operator(
        "&&",
        "has an element in common with",
        "tags && array['a', 'b']",
        {_BOTH: Variant(bind=_overlaps, fails=True)},
    ),
    operator(
        "||",
        "arrays and elements in one array",
        "tags || array['new']",
        {
            f"{_COMPATIBLE},{_COMPATIBLE}": Variant(bind=_joined, fails=True, strict=False),
            f"{_COMPATIBLE},anycompatible": Variant(bind=_appended, fails=True, strict=False),
            f"anycompatible,{_COMPATIBLE}": Variant(bind=_prepended, fails=True, strict=False),
        },
    ),
    Supported(
        "array_length",
        "length of a dimension",
        "array_length(tags, 1)",
        {f"{_ARRAY},int4": by_row(_array_length, "_text,int4", "int4", fails=True)},
    ),
    Supported(
        "array_lower",
        "first place of a dimension",
        "array_lower(tags, 1)",
        {f"{_ARRAY},int4": by_row(_array_lower, "_text,int4", "int4", fails=True)},
    ),
    Supported(
        "array_upper",
        "last place of a dimension",
        "array_upper(tags, 1)",
        {f"{_ARRAY},int4": by_row(_array_upper, "_text,int4", "int4", fails=True)},
    ),
    Supported(
        "array_ndims",
        "number of dimensions",
        "array_ndims(tags)",
        {_ARRAY: by_row(_array_ndims, "_text", "int4", fails=True)},
    ),
    Supported(
        "cardinality",
        "number of elements",
        "cardinality(tags)",
        {_ARRAY: by_row(_cardinality, "_text", "int4", fails=True)},
    ),
    Supported(
        "array_to_string",
        "the elements with a separator",
        "array_to_string(tags, ', ')",
        {
            f"{_ARRAY},text": by_row(_to_string, "_text,text", "text", fails=True),
            f"{_ARRAY},text,text": by_row(
                _to_string_with_null, "_text,text,text", "text", fails=True, strict=False
            ),
        },
    ),
    Supported(
        "string_to_array",
        "split at a separator",
        "string_to_array(path, '/')",
        {
            "text,text": by_row(_string_to_array, "text,text", "_text", strict=False),
            "text,text,text": by_row(_string_to_array, "text,text,text", "_text", strict=False),
        },
    ),
    Supported(
        "array_append",
        "with an element behind",
        "array_append(tags, 'x')",
        {f"{_COMPATIBLE},anycompatible": Variant(bind=_appended, fails=True, strict=False)},
    ),
    Supported(
        "array_prepend",
        "with an element in front",
        "array_prepend('x', tags)",
        {f"anycompatible,{_COMPATIBLE}": Variant(bind=_prepended, fails=True, strict=False)},
    ),
    Supported(
        "array_cat",
        "two in one",
        "array_cat(tags, more)",
        {f"{_COMPATIBLE},{_COMPATIBLE}": Variant(bind=_joined, fails=True, strict=False)},
    ),
    Supported(
        "array_remove",
        "without an element",
        "array_remove(tags, 'x')",
        {f"{_COMPATIBLE},anycompatible": Variant(bind=_removed, fails=True, strict=False)},
    ),
    Supported(
        "array_position",
        "place of an element",
        "array_position(tags, 'x')",
        {f"{_COMPATIBLE},anycompatible": Variant(bind=_position, fails=True, strict=False)},
    ),
)
