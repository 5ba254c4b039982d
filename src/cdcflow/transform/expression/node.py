"""A bound expression: its type, what it reads, and how it is evaluated. Everything is looked up when it
is made, so that evaluating it calls kernels and nothing else."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.transform.expression.frame import Datum, Input, Rows
from cdcflow.transform.expression.sqltype import UNKNOWN, SqlType

Run = Callable[[Rows], Datum]
#: The rows whose value cannot be known, or None where all can.
Mask: TypeAlias = "pa.BooleanArray | None"


def _all_known(_rows: Rows) -> Mask:
    return None


@dataclass(frozen=True, slots=True)
class Bound:
    """A value of an expression. `at` is its place in the text."""

    type: SqlType
    run: Run
    at: int
    #: The value, where it is the same for every row of every batch.
    constant: pa.Scalar | None = None
    #: Whether a row can fail, so that it must not be evaluated for the rows that a CASE keeps from it.
    fails: bool = False
    inputs: frozenset[Input] = frozenset()
    metas: frozenset[str] = frozenset()
    unknown: Callable[[Rows], Mask] = field(default=_all_known)
    #: The collation that was asked for, or empty.
    collation: str = ""
    #: The text of a literal whose type is not settled yet; None with type `unknown` is NULL.
    literal: str | None = None
    #: Postgres' text of the value where it is there without being converted: of a column.
    text: Callable[[Rows], pa.StringArray] | None = None

    @property
    def is_null(self) -> bool:
        return self.constant is not None and not self.constant.is_valid

    @property
    def undecided(self) -> bool:
        """Whether it is a literal whose type follows from where it stands."""
        return self.type.key == UNKNOWN.key


def constant(of: SqlType, value: pa.Scalar, at: int, collation: str = "") -> Bound:
    return Bound(of, lambda _rows: value, at, constant=value, collation=collation)


def undecided(text: str | None, at: int) -> Bound:
    """A literal as written, or NULL."""
    value = pa.scalar(text, pa.string())
    return Bound(UNKNOWN, lambda _rows: value, at, constant=value, literal=text)


def combined(
    of: SqlType,
    run: Run,
    at: int,
    args: Iterable[Bound],
    *,
    fails: bool = False,
    collation: str = "",
    unknown: Callable[[Rows], Mask] | None = None,
) -> Bound:
    """A value made of others."""
    args = tuple(args)
    return Bound(
        of,
        run,
        at,
        fails=fails or any(arg.fails for arg in args),
        inputs=frozenset().union(*(arg.inputs for arg in args)),
        metas=frozenset().union(*(arg.metas for arg in args)),
        unknown=unknown or any_unknown(args),
        collation=collation,
    )


def any_unknown(args: tuple[Bound, ...]) -> Callable[[Rows], Mask]:
    """Unknown where any part is."""
    reading = tuple(arg for arg in args if arg.inputs)
    if not reading:
        return _all_known

    def unknown(rows: Rows) -> Mask:
        return either(*(arg.unknown(rows) for arg in reading))

    return unknown


def either(*masks: Mask) -> Mask:
    """True where any of the masks is."""
    result = None
    for mask in masks:
        if mask is not None:
            result = mask if result is None else pc.or_(result, mask)
    return result


def as_array(datum: Datum, count: int) -> pa.Array:
    return datum if isinstance(datum, pa.Array) else pa.repeat(datum, count)


def truth(datum: Datum, count: int) -> pa.BooleanArray:
    """Where a condition is true: NULL is not."""
    return pc.fill_null(as_array(datum, count), False)


def retyped(value: Bound, kind: SqlType) -> Bound:
    return value if value.type == kind else replace(value, type=kind)


def shared(value: Bound) -> Bound:
    """The same value, computed once per evaluation though several parts read it."""
    if value.constant is not None or value.text is not None or value.undecided:
        return value
    run, key = value.run, object()

    def once(rows: Rows) -> Datum:
        found = rows.shared.get(key)
        if found is None:
            found = rows.shared[key] = run(rows)
        return found

    return replace(value, run=once)
