"""What is supported, as entries of one table: an operator or a function, a line about it, an example,
and a kernel for each combination of argument types.

A family's module lists its entries; `table.py` puts them together. `docs/expressions.md` is printed from
them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cdcflow.transform.expression.conversion import codec, datum_values
from cdcflow.transform.expression.frame import Datum, Rows
from cdcflow.transform.expression.node import Bound
from cdcflow.transform.expression.sqltype import SqlType, builtin

#: Called with the rows and one datum per argument. At least one of these is an array.
Kernel = Callable[..., Datum]


class Fails(Exception):
    """Postgres raises an error for this row. The message is a reason without values."""


class Refused(Exception):
    """These constant arguments are not supported. The message says why."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Variant:
    """A kernel for one combination of argument types. Where `bind` is there, it gives the kernel, from
    the bound arguments, of which some are constants; it may raise `Refused`.

    `fails`: a row can fail; without `fails_by_constant` it cannot where all arguments but the first are
    constants. `strict`: NULL as soon as one argument is; `strict_first`: as soon as the first is. `stable`:
    not a constant even where its arguments are. Without `immutable`, a NULL that constants give is none that
    Postgres' planner knows.
    """

    kernel: Kernel | None = None
    bind: Callable[..., Kernel] | None = None
    fails: bool = False
    fails_by_constant: bool = True
    strict: bool = True
    strict_first: bool = False
    stable: bool = False
    immutable: bool = True

    def known_null(self, args: Sequence[Bound]) -> bool:
        """Whether the value is NULL whatever the other arguments are, which are not evaluated then."""
        if self.strict:
            return any(arg.is_null for arg in args)
        return self.strict_first and args[0].is_null

    def may_fail(self, args: Sequence[Bound]) -> bool:
        """Whether a row can fail with these arguments."""
        return self.fails and (self.fails_by_constant or any(arg.constant is None for arg in args[1:]))


@dataclass(frozen=True)
class Supported:
    """One line of the documentation. `variants` are by argument types, as `catalog` writes them:
    `int4,int4`."""

    name: str
    summary: str
    example: str
    variants: Mapping[str, Variant]
    operator: bool = False


def operator(name: str, summary: str, example: str, variants: Mapping[str, Variant]) -> Supported:
    return Supported(name, summary, example, variants, operator=True)


def by_row(
    function: Callable[..., Any],
    args: str,
    result: str,
    *,
    fails: bool = False,
    strict: bool = True,
    stable: bool = False,
) -> Variant:
    """A variant that calls a Python function per row, with values as `conversion` has them. It may raise
    `Fails`.

    The same arguments within a batch are computed once: columns repeat themselves.
    """
    types = [builtin(key) for key in args.split(",") if key]
    return Variant(
        row_kernel(function, types, builtin(result), strict=strict), fails=fails, strict=strict, stable=stable
    )


#: Types of which different values are equal in Python: 1.0 and 1.00, 0.0 and -0.0.
_EQUAL_BUT_DIFFERENT = ("numeric", "float4", "float8")


def row_kernel(
    function: Callable[..., Any], types: Sequence[SqlType], result: SqlType, *, strict: bool = True
) -> Kernel:
    codecs = [codec(kind) for kind in types]
    made = codec(result)
    if any(kind.key in _EQUAL_BUT_DIFFERENT for kind in types):
        remember = _called
    else:
        remember = _remembering

    def kernel(rows: Rows, *args: Datum) -> pa.Array:
        columns = [datum_values(arg, how, rows.count) for arg, how in zip(args, codecs, strict=True)]
        call = remember(function)
        values: list[Any] = []
        for row, given in enumerate(zip(*columns, strict=True)):
            if strict and None in given:
                values.append(None)
                continue
            value = call(given)
            if isinstance(value, Fails):
                rows.fail(row, str(value))
                value = None
            values.append(value)
        return made.build(values)

    return kernel


def _called(function: Callable[..., Any]) -> Callable[[tuple[Any, ...]], Any]:
    def call(given: tuple[Any, ...]) -> Any:
        try:
            return function(*given)
        except Fails as failure:
            return failure

    return call


def _remembering(function: Callable[..., Any]) -> Callable[[tuple[Any, ...]], Any]:
    known: dict[tuple[Any, ...], Any] = {}

    def call(given: tuple[Any, ...]) -> Any:
        try:
            return known[given]
        except KeyError:
            pass
        try:
            value = function(*given)
        except Fails as failure:
            value = failure
        known[given] = value
        return value

    return call


def constant_value(arg: Bound) -> Any:
    """The Python value of a constant argument."""
    assert arg.constant is not None
    return datum_values(arg.constant, codec(arg.type), 1)[0]
