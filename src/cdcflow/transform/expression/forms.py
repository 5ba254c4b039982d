"""Binds what has a syntax of its own: CASE, AND and OR, IN, BETWEEN, COALESCE, arrays and the like, each as
Postgres' analysis and planner take it (parse_expr.c, clauses.c)."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.transform.expression import branches, lists, parse, resolve
from cdcflow.transform.expression.conversion import codec
from cdcflow.transform.expression.frame import Datum, Rows
from cdcflow.transform.expression.function import Variant, constant_value
from cdcflow.transform.expression.node import (
    Bound,
    as_array,
    combined,
    constant,
    retyped,
    shared,
    undecided,
)
from cdcflow.transform.expression.scope import Meta
from cdcflow.transform.expression.sqltype import (
    BOOL,
    DATE,
    INT4,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    SqlType,
)
from cdcflow.transform.expression.table import OPERATORS

if TYPE_CHECKING:
    from cdcflow.transform.expression.bind import Binder

#: Collations that compare by code point.
_BY_CODE_POINT = ("C", "POSIX", "ucs_basic", "pg_c_utf8")
_ODD = "the value is no label of an enum: cast it to text to compare it"


def case(binder: "Binder", node: parse.Case) -> Bound:
    operand = None
    if node.operand is not None:
        operand = binder.bind(node.operand)
        operand = binder.coerce(operand, TEXT) if operand.undecided else operand
        operand = shared(operand)
    conditions = []
    for condition, _ in node.branches:
        if operand is not None:
            bound = binder.operator("=", [operand, binder.bind(condition)], condition.at)
        else:
            bound = binder.boolean(binder.bind(condition), "a condition of CASE")
        conditions.append(bound)
    values = [binder.bind(value) for _, value in node.branches]
    otherwise = undecided(None, node.at) if node.otherwise is None else binder.bind(node.otherwise)
    # Postgres looks at ELSE first when it chooses the type (parse_expr.c, transformCaseExpr).
    (otherwise, *values), kind = binder.common([otherwise, *values], "CASE", node.at)
    kept: list[tuple[Bound, Bound]] = []
    for test, value in zip(conditions, values, strict=True):
        if test.constant is None:
            kept.append((test, value))
        elif test.constant.as_py():
            otherwise = value
            break
    if not kept:
        return retyped(otherwise, kind)
    parts = [part for branch in kept for part in branch] + [otherwise]
    return combined(
        kind,
        branches.case(kept, otherwise),
        node.at,
        parts,
        unknown=branches.case_unknown(kept, otherwise),
        collation=next((v.collation for _, v in kept if v.collation), otherwise.collation),
    )


def form(binder: "Binder", node: parse.Form) -> Bound:
    kind = node.kind
    if kind in ("and", "or"):
        args = [binder.boolean(binder.bind(arg), f"an operand of {kind.upper()}") for arg in node.args]
        return _logical(binder, kind, args, node.at)
    if kind in _BOOLEAN_TESTS:
        what = kind.upper()
        value = binder.boolean(binder.bind(node.args[0]), f"the operand of {what}")
        test = _BOOLEAN_TESTS[kind]
        return binder.apply(Variant(lambda _rows, v: test(v), strict=False), [value], BOOL, node.at)
    if kind in ("is null", "is not null"):
        return _null_test(binder, binder.bind(node.args[0]), kind == "is null", node.at)
    if kind in ("is distinct", "is not distinct"):
        left, right = (binder.bind(arg) for arg in node.args)
        return _distinct(binder, left, right, node.at, negated=kind == "is not distinct")
    if kind in ("in", "not in"):
        return _in(binder, node)
    if "between" in kind:
        return _between(binder, node)
    if kind == "coalesce":
        return _coalesce(binder, node)
    if kind == "nullif":
        return _nullif(binder, node)
    if kind in ("greatest", "least"):
        return _extreme(binder, node)
    if kind in ("like", "similar"):
        return binder.operator(node.name, [binder.bind(arg) for arg in node.args], node.at)
    if kind == "array":
        return _array(binder, node)
    if kind == "subscript":
        return _subscript(binder, node)
    if kind in ("any", "all"):
        return _any_or_all(binder, node)
    if kind == "collate":
        return _collate(binder, node)
    if kind == "value":
        return _value(binder, node)
    raise binder.refusal(f"{kind.upper()} is not supported", node.at)


def _logical(binder: "Binder", kind: str, args: list[Bound], at: int) -> Bound:
    """AND and OR, with what constants decide decided now."""
    decided = kind == "or"
    kept = []
    for arg in args:
        if arg.constant is None or not arg.constant.is_valid:
            kept.append(arg)
        elif arg.constant.as_py() is decided:
            return constant(BOOL, pa.scalar(decided), at)
    if not kept:
        return constant(BOOL, pa.scalar(not decided), at)
    if len(kept) == 1 or all(arg.constant is not None for arg in kept):
        return kept[0]
    run = branches.disjunction(kept) if decided else branches.conjunction(kept)
    return combined(BOOL, run, at, kept, unknown=branches.logical_unknown(kept, decided=decided))


def _negated(binder: "Binder", value: Bound, at: int) -> Bound:
    return binder.apply(Variant(lambda _rows, v: pc.invert(v)), [value], BOOL, at)


def _null_test(binder: "Binder", value: Bound, wanted: bool, at: int) -> Bound:
    if value.constant is not None:
        return constant(BOOL, pa.scalar(value.constant.is_valid is not wanted), at)
    read = value.text or value.run

    def run(rows: Rows) -> Datum:
        values = as_array(read(rows), rows.count)
        if value.type.declared:
            # A composite of NULLs is NULL; the stream does not tell composites from enums.
            rows.fail_where(pc.fill_null(pc.starts_with(values, "("), False), _ODD)
        return values.is_null() if wanted else values.is_valid()

    return combined(BOOL, run, at, [value], fails=value.type.declared)


def _distinct(binder: "Binder", left: Bound, right: Bound, at: int, *, negated: bool) -> Bound:
    left, right = shared(left), shared(right)
    equal = binder.operator("=", [left, right], at) if not (left.undecided and right.undecided) else None
    if equal is None:
        left, right = binder.coerce(left, TEXT), binder.coerce(right, TEXT)
        equal = binder.operator("=", [left, right], at)

    def run(rows: Rows) -> Datum:
        a, b = left.run(rows), right.run(rows)
        both = pc.and_(pc.is_null(a), pc.is_null(b))
        same = as_array(pc.or_(pc.fill_null(equal.run(rows), False), both), rows.count)
        return same if negated else pc.invert(same)

    result = combined(BOOL, run, at, [left, right, equal])
    if left.constant is not None and right.constant is not None:
        return constant(BOOL, as_array(run(Rows(None, 1)), 1)[0], at)
    return result


def _in(binder: "Binder", node: parse.Form) -> Bound:
    """parse_expr.c, transformAExprIn: the constants as one array, every other item by itbinder."""
    first, *items = node.args
    value = shared(binder.bind(first))
    bound = [binder.bind(item) for item in items]
    fixed = [item for item in bound if not item.inputs and not item.metas]
    others = [item for item in bound if item.inputs or item.metas]
    parts: list[Bound] = []
    if len(fixed) > 1:
        kind = resolve.common_type([value.type, *(item.type for item in fixed)])
        if kind is None or kind.declared or kind.is_array:
            others = bound
        else:
            parts.append(_among(binder, value, [binder.coerce(item, kind) for item in fixed], kind, node.at))
    else:
        others = bound
    if others is bound:
        parts = []
    parts += [binder.operator("=", [value, item], node.at) for item in others]
    result = _logical(binder, "or", parts, node.at) if len(parts) > 1 else parts[0]
    return _negated(binder, result, node.at) if node.kind == "not in" else result


def _among(binder: "Binder", value: Bound, items: list[Bound], kind: SqlType, at: int) -> Bound:
    """`value = ANY (constants)`."""
    equals = [binder.operator("=", [value, item], at) for item in items]
    operand = binder.coerce(value, kind) if resolve.can_coerce(value.type, kind.key) else value
    if kind.key not in _HASHABLE or operand.type.key != kind.key or any(i.constant is None for i in items):
        return _logical(binder, "or", equals, at) if len(equals) > 1 else equals[0]
    if operand.constant is not None:
        return _logical(binder, "or", equals, at)
    present = [constant_value(item) for item in items if not item.is_null]
    wanted = codec(kind).build(present)
    has_null = len(present) < len(items)

    def kernel(_rows: Rows, values: Datum) -> pa.Array:
        found = pc.is_in(values, value_set=wanted)
        unclear = pc.and_(pc.invert(found), True) if has_null else pc.is_null(values)
        return pc.if_else(unclear, pa.scalar(None, pa.bool_()), found)

    return binder.apply(Variant(kernel), [operand], BOOL, at)


def _between(binder: "Binder", node: parse.Form) -> Bound:
    value, low, high = (shared(binder.bind(arg)) for arg in node.args)

    def inside(low: Bound, high: Bound) -> Bound:
        bounds = [
            binder.operator(">=", [value, low], node.at),
            binder.operator("<=", [value, high], node.at),
        ]
        return _logical(binder, "and", bounds, node.at)

    def outside(low: Bound, high: Bound) -> Bound:
        bounds = [binder.operator("<", [value, low], node.at), binder.operator(">", [value, high], node.at)]
        return _logical(binder, "or", bounds, node.at)

    match node.kind:
        case "between":
            return inside(low, high)
        case "not between":
            return outside(low, high)
        case "between symmetric":
            return _logical(binder, "or", [inside(low, high), inside(high, low)], node.at)
        case _:
            return _logical(binder, "and", [outside(low, high), outside(high, low)], node.at)


def _coalesce(binder: "Binder", node: parse.Form) -> Bound:
    values, kind = binder.common([binder.bind(arg) for arg in node.args], "COALESCE", node.at)
    kept: list[Bound] = []
    for value in values:
        if value.is_null:
            continue
        kept.append(value)
        if value.constant is not None:
            break
    if not kept:
        return constant(kind, pa.scalar(None, codec(kind).arrow), node.at)
    if len(kept) == 1:
        return retyped(kept[0], kind)
    return combined(
        kind,
        branches.coalesce(kept),
        node.at,
        kept,
        unknown=branches.coalesce_unknown(kept),
        collation=next((v.collation for v in kept if v.collation), ""),
    )


def _nullif(binder: "Binder", node: parse.Form) -> Bound:
    left, right = (shared(binder.bind(arg)) for arg in node.args)
    if left.undecided and right.undecided:
        left = binder.coerce(left, TEXT)
    equal = binder.operator("=", [left, right], node.at)
    # Of the type that the operator takes it for (parse_expr.c, transformAExprNullIf).
    kind = resolve.operator("=", [left.type, right.type]).args[0]
    left = left if left.type.declared else binder.coerce(left, kind)

    def run(rows: Rows) -> Datum:
        values = as_array(left.run(rows), rows.count)
        same = pc.fill_null(as_array(equal.run(rows), rows.count), False)
        return pc.if_else(same, pa.scalar(None, values.type), values)

    if left.constant is not None and equal.constant is not None:
        return constant(left.type, run(Rows(None, 1))[0], node.at)
    return combined(left.type, run, node.at, [left, right, equal], collation=left.collation)


def _extreme(binder: "Binder", node: parse.Form) -> Bound:
    what = node.kind.upper()
    values, kind = binder.common([binder.bind(arg) for arg in node.args], what, node.at)
    values = [shared(value) for value in values]
    name = ">" if node.kind == "greatest" else "<"
    result = values[0]
    for value in values[1:]:
        result = shared(_better(binder, name, value, result, kind, node.at))
    return retyped(result, kind)


def _better(binder: "Binder", name: str, value: Bound, best: Bound, kind: SqlType, at: int) -> Bound:
    """The value if it is greater (less) than the best so far, or the other where one is NULL."""
    comparison = binder.operator(name, [value, best], at)

    def run(rows: Rows) -> Datum:
        a = as_array(value.run(rows), rows.count)
        b = as_array(best.run(rows), rows.count)
        wins = pc.fill_null(as_array(comparison.run(rows), rows.count), False)
        wins = pc.or_(wins, b.is_null())
        return branches.choose(wins, a, b)

    if value.constant is not None and best.constant is not None:
        return constant(kind, as_array(run(Rows(None, 1)), 1)[0], at, value.collation or best.collation)
    return combined(kind, run, at, [value, best, comparison], collation=value.collation or best.collation)


def _array(binder: "Binder", node: parse.Form) -> Bound:
    if not node.args:
        raise binder.refusal("an empty array needs a type", node.at, "write '{}'::text[]")
    values, kind = binder.common([binder.bind(arg) for arg in node.args], "ARRAY", node.at)
    if kind.declared or kind.is_array:
        raise binder.refusal(f"an array of {kind.name} is not supported", node.at)
    return binder.apply(Variant(lists.build(kind), strict=False), values, kind.bare.array, node.at)


def _subscript(binder: "Binder", node: parse.Form) -> Bound:
    value, *indexes = (binder.bind(arg) for arg in node.args)
    if not value.type.is_array or len(indexes) != 1:
        raise binder.refusal(f"a subscript of {value.type.name} is not supported", node.at)
    index = binder.coerce(indexes[0], INT4) if indexes[0].undecided else indexes[0]
    if not resolve.can_coerce(index.type, "int4"):
        raise binder.refusal("array subscript must have type integer", index.at)
    index = binder.coerce(index, INT4)
    kernel = lists.item(value.type)
    return binder.apply(Variant(kernel, fails=True), [value, index], value.type.element, node.at)


def _any_or_all(binder: "Binder", node: parse.Form) -> Bound:
    """`value op ANY (array)`."""
    value, array = (binder.bind(arg) for arg in node.args)
    if array.undecided:
        known = TEXT if value.undecided else value.type
        if known.declared or known.is_array:
            raise binder.refusal(f"an array of {known.name} is not supported", array.at)
        array = binder.coerce(array, known.bare.array)
    if not array.type.is_array:
        raise binder.refusal("op ANY/ALL requires an array on the right side", array.at)
    element = array.type.element
    try:
        resolved = resolve.operator(node.name, [value.type, element])
    except resolve.NoMatch as error:
        raise binder.no_match(
            node.name, [value, Bound(element, array.run, array.at)], node.at, error
        ) from None
    if resolved.result.key != BOOL.key:
        raise binder.refusal("op ANY/ALL requires an operator that gives a boolean", node.at)
    wanted = resolved.args[1]
    variant = OPERATORS[node.name].variants.get(resolved.key) if node.name in OPERATORS else None
    if variant is None or variant.kernel is None or wanted.key != element.key:
        raise binder.refusal(
            f"{node.name} ANY/ALL of {array.type.name} is not supported here", node.at, "cast the array"
        )
    value = binder.coerce(value, resolved.args[0])
    kernel = lists.any_or_all(variant.kernel, element, every=node.kind == "all")
    return binder.apply(Variant(kernel, fails=True, strict=False), [value, array], BOOL, node.at)


def _collate(binder: "Binder", node: parse.Form) -> Bound:
    value = binder.bind(node.args[0])
    value = binder.coerce(value, TEXT) if value.undecided else value
    if resolve.category(value.type) != "S":
        raise binder.refusal(f"{value.type.name} has no collation", node.at)
    if node.name not in _BY_CODE_POINT:
        raise binder.refusal(f"the collation {node.name} is not supported", node.at, 'use collate "C"')
    return replace(value, collation="C")


def _value(binder: "Binder", node: parse.Form) -> Bound:
    kinds = {
        "current_date": DATE,
        "current_timestamp": TIMESTAMPTZ,
        "localtimestamp": TIMESTAMP,
    }
    if node.name not in kinds:
        raise binder.refusal(f"{node.name} is not supported", node.at)
    if not binder.scope.with_change:
        raise binder.refusal(f"{node.name} is the change's commit time, but there is no change here", node.at)
    moment = binder.meta(Meta("commit_time", TIMESTAMPTZ), node.at)
    return binder.coerce(moment, kinds[node.name])


_BOOLEAN_TESTS: dict[str, Callable[[Any], Any]] = {
    "not": pc.invert,
    "is true": lambda v: pc.fill_null(v, False),
    "is not true": lambda v: pc.invert(pc.fill_null(v, False)),
    "is false": lambda v: pc.fill_null(pc.invert(v), False),
    "is not false": lambda v: pc.fill_null(v, True),
    "is unknown": pc.is_null,
    "is not unknown": pc.is_valid,
}

#: Types whose Arrow form `is_in` finds as `=` does.
_HASHABLE = ("int2", "int4", "int8", "text", "date", "uuid", "timestamp", "timestamptz", "bool")
