"""AND, OR, CASE, COALESCE: what is evaluated for which rows. Postgres evaluates a part only for the rows
that need it, so a part that can fail is evaluated for those alone; a part that cannot is computed for
all, which is faster."""

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.transform.expression.conversion import decimal_type, write_numeric
from cdcflow.transform.expression.frame import Datum, Rows
from cdcflow.transform.expression.node import Bound, Mask, Run, as_array, either, truth

_TRUE, _FALSE = pa.scalar(True), pa.scalar(False)


def spread(values: pa.Array, mask: pa.BooleanArray) -> pa.Array:
    """The values at the places that the mask selects, and null elsewhere."""
    places = pc.subtract(pc.cumulative_sum(pc.cast(mask, pa.int64())), 1)
    return values.take(pc.if_else(mask, places, pa.scalar(None, pa.int64())))


def only(part: Bound, rows: Rows, mask: pa.BooleanArray) -> Datum:
    """The part's value where the mask selects a row; anything elsewhere. It is evaluated there only if it can
    fail."""
    chosen = mask.true_count
    if not part.fails or chosen == rows.count:
        return part.run(rows)
    if chosen == 0:
        return pa.scalar(None, part.constant.type) if part.constant is not None else _nothing(part, rows)
    return spread(as_array(part.run(rows.subset(mask)), chosen), mask)


def _nothing(part: Bound, rows: Rows) -> pa.Array:
    empty = as_array(part.run(rows.subset(pa.array([False] * rows.count, pa.bool_()))), 0)
    return pa.nulls(rows.count, empty.type)


def unified(values: Sequence[Datum]) -> list[Datum]:
    """The same Arrow type for values of one SQL type: numerics come in several."""
    kinds = {value.type for value in values}
    if len(kinds) == 1:
        return list(values)
    real = [v.type for v in values if not (isinstance(v, pa.Scalar) and not v.is_valid)]
    if all(pa.types.is_decimal(kind) for kind in real) and len({kind.scale for kind in real}) == 1:
        target = decimal_type(max(kind.precision for kind in real), real[0].scale)
        return [pa.scalar(None, target) if _is_null(v) else pc.cast(v, target) for v in values]
    if len(set(real)) == 1:
        return [pa.scalar(None, real[0]) if _is_null(v) else v for v in values]
    return [_numeric_text(value) for value in values]


def _is_null(value: Datum) -> bool:
    return isinstance(value, pa.Scalar) and not value.is_valid


def _numeric_text(value: Datum) -> Datum:
    if isinstance(value, pa.Scalar):
        return write_numeric(pa.repeat(value, 1))[0] if pa.types.is_decimal(value.type) else value
    return write_numeric(value)


def choose(mask: pa.BooleanArray, yes: Datum, no: Datum) -> pa.Array:
    yes, no = unified([yes, no])
    return pc.if_else(mask, yes, no)


# --- AND, OR -----------------------------------------------------------------------------------------------


def conjunction(args: Sequence[Bound]) -> Run:
    return _logical(args, pc.and_kleene, decided=False)


def disjunction(args: Sequence[Bound]) -> Run:
    return _logical(args, pc.or_kleene, decided=True)


def _logical(args: Sequence[Bound], join: Callable[[Datum, Datum], Datum], *, decided: bool) -> Run:
    first, *others = args

    def run(rows: Rows) -> Datum:
        result = first.run(rows)
        for part in others:
            if part.fails:
                result = as_array(result, rows.count)
                is_open = pc.fill_null(pc.invert(result) if decided else result, True)
                result = join(result, only(part, rows, is_open))
            else:
                result = join(result, part.run(rows))
        return result

    return run


def logical_unknown(args: Sequence[Bound], *, decided: bool) -> Callable[[Rows], Mask]:
    """Known as soon as a known part decides: false for AND, true for OR."""

    def unknown(rows: Rows) -> Mask:
        masks = [part.unknown(rows) for part in args]
        result = either(*masks)
        if result is None:
            return None
        for part, mask in zip(args, masks, strict=True):
            if part.fails:
                continue
            decides = pc.fill_null(pc.equal(as_array(part.run(rows), rows.count), decided), False)
            known = decides if mask is None else pc.and_(decides, pc.invert(mask))
            result = pc.and_(result, pc.invert(known))
        return result

    return unknown


# --- CASE --------------------------------------------------------------------------------------------------


def case(branches: Sequence[tuple[Bound, Bound]], otherwise: Bound) -> Run:
    parts = [part for branch in branches for part in branch] + [otherwise]
    if any(part.fails for part in parts):
        return _careful_case(branches, otherwise)

    def run(rows: Rows) -> Datum:
        result = otherwise.run(rows)
        for condition, value in reversed(branches):
            result = choose(truth(condition.run(rows), rows.count), value.run(rows), result)
        return result

    return run


def _careful_case(branches: Sequence[tuple[Bound, Bound]], otherwise: Bound) -> Run:
    def run(rows: Rows) -> Datum:
        is_open = pa.array([True] * rows.count, pa.bool_())
        chosen: list[tuple[pa.BooleanArray, Datum]] = []
        for condition, value in branches:
            holds = pc.and_(truth(only(condition, rows, is_open), rows.count), is_open)
            chosen.append((holds, only(value, rows, holds)))
            is_open = pc.and_(is_open, pc.invert(holds))
        result = only(otherwise, rows, is_open)
        for holds, values in reversed(chosen):
            result = choose(holds, values, result)
        return result

    return run


def case_unknown(branches: Sequence[tuple[Bound, Bound]], otherwise: Bound) -> Callable[[Rows], Mask]:
    """Known where no condition up to the one that holds is unknown, and its value is not either."""

    def unknown(rows: Rows) -> Mask:
        conditions = [condition.unknown(rows) for condition, _ in branches]
        values = [value.unknown(rows) for _, value in branches]
        last = otherwise.unknown(rows)
        everything = either(*conditions, *values, last)
        if everything is None or any(condition.fails for condition, _ in branches):
            return everything
        none = pa.array([False] * rows.count, pa.bool_())
        result = none if last is None else last
        for (condition, _), unsure, value in reversed(list(zip(branches, conditions, values, strict=True))):
            result = pc.if_else(
                truth(condition.run(rows), rows.count), none if value is None else value, result
            )
            result = result if unsure is None else pc.or_(result, unsure)
        return result

    return unknown


# --- COALESCE ----------------------------------------------------------------------------------------------


def coalesce(args: Sequence[Bound]) -> Run:
    first, *others = args

    def run(rows: Rows) -> Datum:
        result = as_array(first.run(rows), rows.count)
        for part in others:
            missing = result.is_null()
            if not missing.true_count:
                break
            result = choose(missing, only(part, rows, missing), result)
        return result

    return run


def coalesce_unknown(args: Sequence[Bound]) -> Callable[[Rows], Mask]:
    """Known where a known value comes before every unknown one."""

    def unknown(rows: Rows) -> Mask:
        masks = [part.unknown(rows) for part in args]
        everything = either(*masks)
        if everything is None or any(part.fails for part in args):
            return everything
        none = pa.array([False] * rows.count, pa.bool_())
        result = none
        for part, mask in reversed(list(zip(args, masks, strict=True))):
            result = pc.if_else(as_array(part.run(rows), rows.count).is_valid(), none, result)
            result = result if mask is None else pc.or_(result, mask)
        return result

    return unknown
