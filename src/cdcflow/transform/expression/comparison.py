"""Comparison. Kernels for types whose Arrow form compares as Postgres does, and an exact way for the others.

Text: equality is that of bytes, as in every deterministic collation. The order depends on the database's
collation, so it is given only under `collate "C"`. Types that users have declared are taken for enums:
equal by label, without an order that the stream would tell.
"""

from collections.abc import Callable, Iterator
from operator import eq, ge, gt, le, lt, ne
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.transform.expression import exact
from cdcflow.transform.expression.conversion import NARROW
from cdcflow.transform.expression.frame import Datum, Rows
from cdcflow.transform.expression.function import Kernel, Refused, Supported, Variant, operator, row_kernel
from cdcflow.transform.expression.node import Bound
from cdcflow.transform.expression.sqltype import BOOL, builtin

Compare = Callable[[Any, Any], bool]

_ARROW = {
    "=": pc.equal,
    "<>": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
PYTHON: dict[str, Compare] = {"=": eq, "<>": ne, "<": lt, "<=": le, ">": gt, ">=": ge}

#: Pairs of types that have operators of their own for each other.
_INTEGERS = ("int2", "int4", "int8")
_FLOATS = ("float4", "float8")
#: Their Arrow form orders as they do.
_ORDERED = ("date", "time", "timestamp", "timestamptz", "bool", "uuid", "bytea")
#: What is equal is the same text, but the order is not the text's.
_EQUAL_AS_TEXT = ("inet", "macaddr")


def plain(name: str) -> Kernel:
    compare = _ARROW[name]

    def kernel(_rows: Rows, left: Datum, right: Datum) -> pa.Array:
        return compare(left, right)

    return kernel


def floating(name: str) -> Kernel:
    """NaN equals itself and is greater than everything, unlike IEEE's."""
    compare = _ARROW[name]
    by_key = PYTHON[name]

    def key(value: float) -> tuple[bool, float]:
        return (True, 0.0) if value != value else (False, value)

    exactly = row_kernel(lambda a, b: by_key(key(a), key(b)), [builtin("float8"), builtin("float8")], BOOL)

    def kernel(rows: Rows, left: Datum, right: Datum) -> pa.Array:
        if _has_nan(left) or _has_nan(right):
            return exactly(rows, pc.cast(left, pa.float64()), pc.cast(right, pa.float64()))
        return compare(left, right)

    return kernel


def _has_nan(values: Datum) -> bool:
    found = pc.is_nan(values)
    if isinstance(found, pa.Scalar):
        return bool(found.as_py())
    return bool(pc.any(found, min_count=0).as_py())


def numeric(name: str) -> Kernel:
    compare = _ARROW[name]
    by_key = PYTHON[name]
    exactly = row_kernel(
        lambda a, b: by_key(exact.sort_key(a), exact.sort_key(b)), [builtin("numeric")] * 2, BOOL
    )

    def kernel(rows: Rows, left: Datum, right: Datum) -> pa.Array:
        if pa.types.is_decimal(left.type) and pa.types.is_decimal(right.type):
            scale = max(left.type.scale, right.type.scale)
            digits = max(left.type.precision - left.type.scale, right.type.precision - right.type.scale)
            if digits + scale <= NARROW:
                return compare(left, right)
        return exactly(rows, left, right)

    return kernel


def ordered_text(name: str) -> Callable[[Bound, Bound], Kernel]:
    def bind(left: Bound, right: Bound) -> Kernel:
        if not left.collation and not right.collation:
            raise Refused(
                f"the order of text depends on your database's collation, so `{name}` is not supported here",
                hint=f'write … {name} … collate "C" to compare by code point, as Postgres then does too',
            )
        return plain(name)

    return bind


def unpadded(name: str) -> Kernel:
    """char(n): spaces at the end mean nothing."""
    compare = _ARROW[name]

    def kernel(_rows: Rows, left: Datum, right: Datum) -> pa.Array:
        return compare(pc.utf8_rtrim(left, characters=" "), pc.utf8_rtrim(right, characters=" "))

    return kernel


def enum_equal(name: str) -> Kernel:
    compare = _ARROW[name]

    def kernel(rows: Rows, left: Datum, right: Datum) -> pa.Array:
        for values in (left, right):
            if isinstance(values, pa.Array):
                odd = pc.fill_null(pc.or_(pc.starts_with(values, "("), pc.starts_with(values, "[")), False)
                if odd.true_count:
                    rows.fail_where(odd, "the value is no label of an enum: cast it to text to compare it")
        return compare(left, right)

    return kernel


def _variants(name: str) -> Iterator[tuple[str, Variant]]:
    for a in _INTEGERS:
        for b in _INTEGERS:
            yield f"{a},{b}", Variant(plain(name))
    for a in _FLOATS:
        for b in _FLOATS:
            yield f"{a},{b}", Variant(floating(name))
    yield "numeric,numeric", Variant(numeric(name))
    for kind in _ORDERED:
        yield f"{kind},{kind}", Variant(plain(name))
    if name in ("=", "<>"):
        for kind in _EQUAL_AS_TEXT:
            yield f"{kind},{kind}", Variant(plain(name))
        yield "text,text", Variant(plain(name))
        yield "bpchar,bpchar", Variant(unpadded(name))
        yield "anyenum,anyenum", Variant(enum_equal(name), fails=True)
    else:
        yield "text,text", Variant(bind=ordered_text(name))


_SUMMARIES = {
    "=": "equal",
    "<>": "not equal, also written `!=`",
    "<": 'less than; for text only with `collate "C"`',
    "<=": 'less than or equal; for text only with `collate "C"`',
    ">": 'greater than; for text only with `collate "C"`',
    ">=": 'greater than or equal; for text only with `collate "C"`',
}

SUPPORTED: tuple[Supported, ...] = tuple(
    operator(name, summary, f"a {name} 1", dict(_variants(name))) for name, summary in _SUMMARIES.items()
)
