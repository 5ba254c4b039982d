"""From the syntax tree to bound values: names, types, casts and kernels are settled here, once per
generation of a table. Whatever is not supported is refused here, with its place in the text.

Constant parts are computed at once, as Postgres' planner does (clauses.c, eval_const_expressions): so a
strict function of NULL is NULL without its other arguments being evaluated, and `false AND …` is false.
"""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.errors import ExpressionError
from cdcflow.transform.expression import branches, casts, catalog, lists, parse, reading, resolve
from cdcflow.transform.expression.conversion import codec, decimal_type
from cdcflow.transform.expression.frame import Datum, Rows
from cdcflow.transform.expression.function import Fails, Refused, Supported, Variant, constant_value
from cdcflow.transform.expression.node import Bound, Run, as_array, combined, constant, undecided
from cdcflow.transform.expression.scope import Column, Meta, Scope
from cdcflow.transform.expression.sqltype import (
    BOOL,
    DATE,
    INT4,
    INT8,
    NUMERIC,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    SqlType,
    builtin,
    length_typmod,
    numeric_typmod,
)
from cdcflow.transform.expression.table import FUNCTIONS, OPERATORS

#: Collations that compare by code point.
_BY_CODE_POINT = ("C", "POSIX", "ucs_basic", "pg_c_utf8")
_ODD = "the value is no label of an enum: cast it to text to compare it"


def bind(text: str, scope: Scope) -> Bound:
    """Raises ExpressionError."""
    binder = _Binder(text, scope)
    result = binder.bind(parse.parse(text))
    return binder.coerce(result, TEXT) if result.undecided else result


class _Binder:
    def __init__(self, text: str, scope: Scope) -> None:
        self.text = text
        self.scope = scope

    def refusal(self, message: str, at: int, hint: str = "") -> ExpressionError:
        return ExpressionError(message, text=self.text, at=at, hint=hint)

    def bind(self, node: parse.Node) -> Bound:
        match node:
            case parse.Name():
                return self._name(node)
            case parse.Literal():
                return self._literal(node)
            case parse.Operation():
                args = (
                    [self.bind(node.right)]
                    if node.left is None
                    else [self.bind(node.left), self.bind(node.right)]
                )
                return self.operator(node.name, args, node.at)
            case parse.Call():
                return self._call(node)
            case parse.Cast():
                return self._cast(node)
            case parse.Case():
                return self._case(node)
            case parse.Form():
                return self._form(node)

    # --- names and literals ---

    def _name(self, node: parse.Name) -> Bound:
        found = self.scope.resolve(node.parts, self.text, node.at)
        return self._column(found, node.at) if isinstance(found, Column) else self._meta(found, node.at)

    def _column(self, column: Column, at: int) -> Bound:
        row, index, kind = column.row, column.index, column.type
        return Bound(
            kind,
            lambda rows: rows.column(row, index, kind),
            at,
            inputs=frozenset({(row, index)}),
            unknown=lambda rows: rows.unknown(row, index),
            text=lambda rows: rows.text(row, index),
        )

    def _meta(self, meta: Meta, at: int) -> Bound:
        name = meta.name
        return Bound(meta.type, lambda rows: rows.meta(name), at, metas=frozenset({name}))

    def _literal(self, node: parse.Literal) -> Bound:
        match node.kind:
            case "string":
                return undecided(node.text, node.at)
            case "null":
                return undecided(None, node.at)
            case "boolean":
                return constant(BOOL, pa.scalar(node.text == "t"), node.at)
        try:
            number = reading.READERS["int8"](node.text)
        except Fails:
            value = self._read(NUMERIC, node.text, node.at)
            return constant(NUMERIC, value, node.at)
        if -(2**31) <= number < 2**31:
            return constant(INT4, pa.scalar(number, pa.int32()), node.at)
        return constant(INT8, pa.scalar(number, pa.int64()), node.at)

    def _read(self, kind: SqlType, text: str, at: int) -> pa.Scalar:
        """The value that a literal's text has in that type."""
        if kind.declared:
            return pa.scalar(text, pa.string())
        read = reading.reader(kind)
        if read is None:
            raise self.refusal(f"a literal of type {kind.name} is not supported", at)
        try:
            value = read(text)
        except Fails as failure:
            raise self.refusal(str(failure), at) from None
        if kind.key == "numeric":
            return _numeric_scalar(value)
        return codec(kind).build([value])[0]

    # --- types ---

    def coerce(self, value: Bound, target: SqlType, at: int | None = None) -> Bound:
        """The value as one of the bare `target` type; the caller has seen that it may be."""
        if target.key == value.type.key:
            return value
        if value.undecided:
            if value.literal is None:
                return constant(target.bare, pa.scalar(None, codec(target).arrow), value.at)
            return constant(target.bare, self._read(target, value.literal, value.at), value.at)
        variant = casts.cast(value.type, target)
        if variant is None:
            raise self.refusal(
                f"a cast from {value.type.name} to {target.bare.name} is not supported", at or value.at
            )
        return self.apply(variant, [value], target.bare, value.at if at is None else at)

    def _cast(self, node: parse.Cast) -> Bound:
        target = self._type(node.to)
        value = self.bind(node.operand)
        if not value.undecided and not _castable(value.type, target):
            raise self.refusal(f"Postgres cannot cast {value.type.name} to {target.bare.name}", node.at)
        if value.undecided and target.key == "bpchar" and value.literal is not None:
            value = self.coerce(value, TEXT)
        value = self.coerce(value, target.bare, node.at)
        if target.typmod < 0:
            # A cast to the type without its modifier leaves the value as it is.
            return Bound(
                **{**_fields(value), "type": target if not target.declared else value.type, "at": node.at}
            )
        fit = casts.fit(target)
        if fit is None:
            raise self.refusal(
                f"a cast to {target.name} is not supported: leave the precision out", node.to.at
            )
        return self.apply(fit, [value], target, node.at)

    def _type(self, name: parse.TypeName) -> SqlType:
        if (
            name.schema in ("", "pg_catalog")
            and name.name in catalog.OIDS
            and not name.name.startswith("any")
        ):
            kind = builtin(name.name)
            if name.array:
                if name.modifiers:
                    raise self.refusal("an array type with a precision is not supported", name.at)
                return kind.array
            return kind.with_typmod(self._typmod(kind, name))
        for column in self.scope.relation.columns:
            schema, _, declared = column.type_name.rpartition(".")
            if declared and declared == name.name and name.schema in ("", schema) and not name.array:
                return SqlType(column.type_name, column.type_oid, -1, column.type_name)
        full = f"{name.schema}.{name.name}" if name.schema else name.name
        near = get_close_matches(name.name, [n for n in catalog.OIDS if not n.startswith(("_", "any"))], n=1)
        raise self.refusal(
            f"the type {full} is not known here", name.at, f"did you mean {near[0]}?" if near else ""
        )

    def _typmod(self, kind: SqlType, name: parse.TypeName) -> int:
        modifiers = name.modifiers
        if not modifiers:
            return -1
        if kind.key == "numeric" and len(modifiers) <= 2:
            precision, scale = (*modifiers, 0)[:2]
            if not 1 <= precision <= 1000 or not -1000 <= scale <= 1000:
                raise self.refusal(
                    "numeric has a precision of 1 to 1000 and a scale of -1000 to 1000", name.at
                )
            return numeric_typmod(precision, scale)
        if kind.key in ("varchar", "bpchar") and len(modifiers) == 1:
            if not 1 <= modifiers[0] <= 10_485_760:
                raise self.refusal("the length must be 1 to 10485760", name.at)
            return length_typmod(modifiers[0])
        raise self.refusal(f"a precision of {kind.name} is not supported here", name.at)

    def common(self, values: Sequence[Bound], what: str, at: int) -> tuple[list[Bound], SqlType]:
        """The values in the one type that CASE, COALESCE … give them."""
        kind = resolve.common_type([value.type for value in values])
        if kind is None:
            names = ", ".join(dict.fromkeys(value.type.name for value in values if not value.undecided))
            raise self.refusal(f"{what} types {names} cannot be matched", at)
        for value in values:
            if not value.undecided and not resolve.can_coerce(value.type, kind.key):
                raise self.refusal(
                    f"{what} could not convert type {value.type.name} to {kind.name}", value.at
                )
        coerced = [self.coerce(value, kind) for value in values]
        typmods = {value.type.typmod for value in values if not value.undecided}
        if len(typmods) == 1 and not any(value.undecided for value in values):
            (typmod,) = typmods
            if all(value.type.key == kind.key for value in values):
                kind = kind.with_typmod(typmod)
        return coerced, kind

    def boolean(self, value: Bound, what: str) -> Bound:
        if value.undecided:
            return self.coerce(value, BOOL)
        if value.type.key != BOOL.key:
            raise self.refusal(f"{what} must be boolean, not {value.type.name}", value.at)
        return value

    # --- operators and functions ---

    def operator(self, name: str, args: list[Bound], at: int) -> Bound:
        name = "<>" if name == "!=" else name
        types = [arg.type for arg in args]
        supported = OPERATORS.get(name)
        if supported is None:
            raise self._no_such(name, OPERATORS, "operator", at)
        try:
            resolved = resolve.operator(name, types)
        except resolve.NoMatch as error:
            raise self._no_match(name, args, at, error) from None
        return self._resolved(supported, resolved, args, at)

    def _call(self, node: parse.Call) -> Bound:
        name = _SAME_NAME.get(node.name, node.name)
        if name == "changed":
            return self._changed(node)
        supported = FUNCTIONS.get(name)
        if supported is None:
            if name in _AGGREGATES:
                raise self.refusal(
                    f"{name}: aggregates are not supported: an expression sees one change", node.at
                )
            raise self._no_such(name, FUNCTIONS, "function", node.at)
        return self.function(name, [self.bind(arg) for arg in node.args], node.at)

    def function(self, name: str, args: list[Bound], at: int) -> Bound:
        try:
            resolved = resolve.function(name, [arg.type for arg in args])
        except resolve.NoMatch as error:
            raise self._no_match(f"{name}()", args, at, error) from None
        return self._resolved(FUNCTIONS[name], resolved, args, at)

    def _resolved(
        self, supported: Supported, resolved: resolve.Resolved, args: list[Bound], at: int
    ) -> Bound:
        variant = supported.variants.get(resolved.key)
        if variant is None and resolved.signature.args and resolved.signature.args[-1] == "any":
            variant = supported.variants.get("any")
        if variant is None:
            types = ", ".join(kind.name for kind in resolved.args)
            takes = sorted({key.replace(",", ", ") for key in supported.variants})
            raise self.refusal(
                f"{supported.name} of ({types}) is not supported",
                at,
                f"it is supported for: {'; '.join(takes)}",
            )
        coerced = [self.coerce(arg, kind) for arg, kind in zip(args, resolved.args, strict=True)]
        return self.apply(variant, coerced, resolved.result, at)

    def apply(self, variant: Variant, args: list[Bound], result: SqlType, at: int) -> Bound:
        """The kernel's value for these arguments: computed now where they are constants."""
        if variant.known_null(args):
            return constant(result, pa.scalar(None, codec(result).arrow), at)
        kernel = variant.kernel
        if variant.bind is not None:
            try:
                kernel = variant.bind(*args)
            except (Refused, Fails) as refused:
                raise self.refusal(str(refused), at, getattr(refused, "hint", "")) from None
        assert kernel is not None
        collation = ""
        if resolve.category(result) == "S":
            collation = next((arg.collation for arg in args if arg.collation), "")
        if variant.stable and not self.scope.with_change:
            raise self.refusal("now() is the change's commit time, but there is no change here", at)
        if args and not variant.stable and all(arg.constant is not None for arg in args):
            folded = self._folded(kernel, args, at)
            if folded.is_valid or variant.immutable:
                return constant(result, folded, at, collation)
        bound = combined(
            result, _calling(kernel, args), at, args, fails=variant.may_fail(args), collation=collation
        )
        return (
            bound if not variant.stable else Bound(**{**_fields(bound), "metas": frozenset({"commit_time"})})
        )

    def _folded(self, kernel: Any, args: Sequence[Bound], at: int) -> pa.Scalar:
        rows = Rows(None, 1)
        result = as_array(kernel(rows, *(pa.repeat(arg.constant, 1) for arg in args)), 1)
        if rows.failures:
            raise self.refusal(f"this fails for every row: {rows.failures[0]}", at)
        return result[0]

    def _no_such(self, name: str, known: Any, what: str, at: int) -> ExpressionError:
        near = get_close_matches(name, list(known), n=1, cutoff=0.5)
        hint = (
            f"the nearest that is supported is {near[0]}"
            if near
            else "docs/expressions.md lists what is supported"
        )
        shown = f"the {what} {name}" if what == "operator" else f"{name}()"
        return self.refusal(f"{shown} is not supported", at, hint)

    def _no_match(self, name: str, args: list[Bound], at: int, error: resolve.NoMatch) -> ExpressionError:
        types = ", ".join("a literal" if arg.undecided else arg.type.name for arg in args)
        if error.ambiguous:
            return self.refusal(
                f"{name} of ({types}) could mean several things", at, "cast the literal, as in '1'::numeric"
            )
        declared = next((arg for arg in args if arg.type.declared), None)
        hint = "cast it to text: (column::text)" if declared else ""
        return self.refusal(f"Postgres has no {name} of ({types})", at, hint)

    def _changed(self, node: parse.Call) -> Bound:
        """changed(x): the text of x is another than before."""
        if len(node.args) != 1 or not isinstance(node.args[0], parse.Name):
            raise self.refusal("changed() takes the name of one column", node.at, "write changed(status)")
        name = node.args[0]
        if len(name.parts) > 1 or not self.scope.with_change:
            raise self.refusal("changed() takes the name of one column, where there are changes", name.at)
        old = self.scope.old(name.parts[0], self.text, name.at)
        index = old.index

        def run(rows: Rows) -> Datum:
            before, after = rows.text("old", index), rows.text("new", index)
            same = pc.fill_null(pc.equal(before, after), False)
            return pc.invert(pc.or_(same, pc.and_(before.is_null(), after.is_null())))

        return Bound(
            BOOL,
            run,
            node.at,
            inputs=frozenset({("old", index), ("new", index)}),
            unknown=lambda rows: rows.unknown("new", index),
        )

    # --- CASE ---

    def _case(self, node: parse.Case) -> Bound:
        operand = None
        if node.operand is not None:
            operand = self.bind(node.operand)
            operand = self.coerce(operand, TEXT) if operand.undecided else operand
            operand = _shared(operand)
        conditions = []
        for condition, _ in node.branches:
            if operand is not None:
                bound = self.operator("=", [operand, self.bind(condition)], condition.at)
            else:
                bound = self.boolean(self.bind(condition), "a condition of CASE")
            conditions.append(bound)
        values = [self.bind(value) for _, value in node.branches]
        otherwise = undecided(None, node.at) if node.otherwise is None else self.bind(node.otherwise)
        # Postgres looks at ELSE first when it chooses the type (parse_expr.c, transformCaseExpr).
        (otherwise, *values), kind = self.common([otherwise, *values], "CASE", node.at)
        kept: list[tuple[Bound, Bound]] = []
        for test, value in zip(conditions, values, strict=True):
            if test.constant is None:
                kept.append((test, value))
            elif test.constant.as_py():
                otherwise = value
                break
        if not kept:
            return _retyped(otherwise, kind)
        parts = [part for branch in kept for part in branch] + [otherwise]
        return combined(
            kind,
            branches.case(kept, otherwise),
            node.at,
            parts,
            unknown=branches.case_unknown(kept, otherwise),
            collation=next((v.collation for _, v in kept if v.collation), otherwise.collation),
        )

    # --- forms ---

    def _form(self, node: parse.Form) -> Bound:
        kind = node.kind
        if kind in ("and", "or"):
            args = [self.boolean(self.bind(arg), f"an operand of {kind.upper()}") for arg in node.args]
            return self.logical(kind, args, node.at)
        if kind in _BOOLEAN_TESTS:
            what = kind.upper()
            value = self.boolean(self.bind(node.args[0]), f"the operand of {what}")
            test = _BOOLEAN_TESTS[kind]
            return self.apply(Variant(lambda _rows, v: test(v), strict=False), [value], BOOL, node.at)
        if kind in ("is null", "is not null"):
            return self._null_test(self.bind(node.args[0]), kind == "is null", node.at)
        if kind in ("is distinct", "is not distinct"):
            left, right = (self.bind(arg) for arg in node.args)
            return self._distinct(left, right, node.at, negated=kind == "is not distinct")
        if kind in ("in", "not in"):
            return self._in(node)
        if "between" in kind:
            return self._between(node)
        if kind == "coalesce":
            return self._coalesce(node)
        if kind == "nullif":
            return self._nullif(node)
        if kind in ("greatest", "least"):
            return self._extreme(node)
        if kind == "like":
            return self.operator(node.name, [self.bind(arg) for arg in node.args], node.at)
        if kind == "similar":
            return self.operator(node.name, [self.bind(arg) for arg in node.args], node.at)
        if kind == "array":
            return self._array(node)
        if kind == "subscript":
            return self._subscript(node)
        if kind in ("any", "all"):
            return self._any_or_all(node)
        if kind == "collate":
            return self._collate(node)
        if kind == "value":
            return self._value(node)
        raise self.refusal(f"{kind.upper()} is not supported", node.at)

    def logical(self, kind: str, args: list[Bound], at: int) -> Bound:
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

    def negated(self, value: Bound, at: int) -> Bound:
        return self.apply(Variant(lambda _rows, v: pc.invert(v)), [value], BOOL, at)

    def _null_test(self, value: Bound, wanted: bool, at: int) -> Bound:
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

    def equality(self, left: Bound, right: Bound, at: int) -> Bound:
        return self.operator("=", [left, right], at)

    def _distinct(self, left: Bound, right: Bound, at: int, *, negated: bool) -> Bound:
        left, right = _shared(left), _shared(right)
        equal = self.operator("=", [left, right], at) if not (left.undecided and right.undecided) else None
        if equal is None:
            left, right = self.coerce(left, TEXT), self.coerce(right, TEXT)
            equal = self.operator("=", [left, right], at)

        def run(rows: Rows) -> Datum:
            a, b = left.run(rows), right.run(rows)
            both = pc.and_(pc.is_null(a), pc.is_null(b))
            same = as_array(pc.or_(pc.fill_null(equal.run(rows), False), both), rows.count)
            return same if negated else pc.invert(same)

        result = combined(BOOL, run, at, [left, right, equal])
        if left.constant is not None and right.constant is not None:
            return constant(BOOL, as_array(run(Rows(None, 1)), 1)[0], at)
        return result

    def _in(self, node: parse.Form) -> Bound:
        """parse_expr.c, transformAExprIn: the constants as one array, every other item by itself."""
        first, *items = node.args
        value = _shared(self.bind(first))
        bound = [self.bind(item) for item in items]
        fixed = [item for item in bound if not item.inputs and not item.metas]
        others = [item for item in bound if item.inputs or item.metas]
        parts: list[Bound] = []
        if len(fixed) > 1:
            kind = resolve.common_type([value.type, *(item.type for item in fixed)])
            if kind is None or kind.declared or kind.is_array:
                others = bound
            else:
                parts.append(self._among(value, [self.coerce(item, kind) for item in fixed], kind, node.at))
        else:
            others = bound
        if others is bound:
            parts = []
        parts += [self.operator("=", [value, item], node.at) for item in others]
        result = self.logical("or", parts, node.at) if len(parts) > 1 else parts[0]
        return self.negated(result, node.at) if node.kind == "not in" else result

    def _among(self, value: Bound, items: list[Bound], kind: SqlType, at: int) -> Bound:
        """`value = ANY (constants)`."""
        equals = [self.operator("=", [value, item], at) for item in items]
        operand = self.coerce(value, kind) if resolve.can_coerce(value.type, kind.key) else value
        if (
            kind.key not in _HASHABLE
            or operand.type.key != kind.key
            or any(i.constant is None for i in items)
        ):
            return self.logical("or", equals, at) if len(equals) > 1 else equals[0]
        if operand.constant is not None:
            return self.logical("or", equals, at)
        present = [constant_value(item) for item in items if not item.is_null]
        wanted = codec(kind).build(present)
        has_null = len(present) < len(items)

        def kernel(_rows: Rows, values: Datum) -> pa.Array:
            found = pc.is_in(values, value_set=wanted)
            unclear = pc.and_(pc.invert(found), True) if has_null else pc.is_null(values)
            return pc.if_else(unclear, pa.scalar(None, pa.bool_()), found)

        return self.apply(Variant(kernel), [operand], BOOL, at)

    def _between(self, node: parse.Form) -> Bound:
        value, low, high = (_shared(self.bind(arg)) for arg in node.args)

        def inside(low: Bound, high: Bound) -> Bound:
            bounds = [
                self.operator(">=", [value, low], node.at),
                self.operator("<=", [value, high], node.at),
            ]
            return self.logical("and", bounds, node.at)

        def outside(low: Bound, high: Bound) -> Bound:
            bounds = [self.operator("<", [value, low], node.at), self.operator(">", [value, high], node.at)]
            return self.logical("or", bounds, node.at)

        match node.kind:
            case "between":
                return inside(low, high)
            case "not between":
                return outside(low, high)
            case "between symmetric":
                return self.logical("or", [inside(low, high), inside(high, low)], node.at)
            case _:
                return self.logical("and", [outside(low, high), outside(high, low)], node.at)

    def _coalesce(self, node: parse.Form) -> Bound:
        values, kind = self.common([self.bind(arg) for arg in node.args], "COALESCE", node.at)
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
            return _retyped(kept[0], kind)
        return combined(
            kind,
            branches.coalesce(kept),
            node.at,
            kept,
            unknown=branches.coalesce_unknown(kept),
            collation=next((v.collation for v in kept if v.collation), ""),
        )

    def _nullif(self, node: parse.Form) -> Bound:
        left, right = (_shared(self.bind(arg)) for arg in node.args)
        if left.undecided and right.undecided:
            left = self.coerce(left, TEXT)
        equal = self.operator("=", [left, right], node.at)
        # Of the type that the operator takes it for (parse_expr.c, transformAExprNullIf).
        kind = resolve.operator("=", [left.type, right.type]).args[0]
        left = left if left.type.declared else self.coerce(left, kind)

        def run(rows: Rows) -> Datum:
            values = as_array(left.run(rows), rows.count)
            same = pc.fill_null(as_array(equal.run(rows), rows.count), False)
            return pc.if_else(same, pa.scalar(None, values.type), values)

        if left.constant is not None and equal.constant is not None:
            return constant(left.type, run(Rows(None, 1))[0], node.at)
        return combined(left.type, run, node.at, [left, right, equal], collation=left.collation)

    def _extreme(self, node: parse.Form) -> Bound:
        what = node.kind.upper()
        values, kind = self.common([self.bind(arg) for arg in node.args], what, node.at)
        values = [_shared(value) for value in values]
        name = ">" if node.kind == "greatest" else "<"
        result = values[0]
        for value in values[1:]:
            result = _shared(self._better(name, value, result, kind, node.at))
        return _retyped(result, kind)

    def _better(self, name: str, value: Bound, best: Bound, kind: SqlType, at: int) -> Bound:
        """The value if it is greater (less) than the best so far, or the other where one is NULL."""
        comparison = self.operator(name, [value, best], at)

        def run(rows: Rows) -> Datum:
            a = as_array(value.run(rows), rows.count)
            b = as_array(best.run(rows), rows.count)
            wins = pc.fill_null(as_array(comparison.run(rows), rows.count), False)
            wins = pc.or_(wins, b.is_null())
            return branches.choose(wins, a, b)

        if value.constant is not None and best.constant is not None:
            return constant(kind, as_array(run(Rows(None, 1)), 1)[0], at, value.collation or best.collation)
        return combined(kind, run, at, [value, best, comparison], collation=value.collation or best.collation)

    def _array(self, node: parse.Form) -> Bound:
        if not node.args:
            raise self.refusal("an empty array needs a type", node.at, "write '{}'::text[]")
        values, kind = self.common([self.bind(arg) for arg in node.args], "ARRAY", node.at)
        if kind.declared or kind.is_array:
            raise self.refusal(f"an array of {kind.name} is not supported", node.at)
        return self.apply(Variant(lists.build(kind), strict=False), values, kind.bare.array, node.at)

    def _subscript(self, node: parse.Form) -> Bound:
        value, *indexes = (self.bind(arg) for arg in node.args)
        if not value.type.is_array or len(indexes) != 1:
            raise self.refusal(f"a subscript of {value.type.name} is not supported", node.at)
        index = self.coerce(indexes[0], INT4) if indexes[0].undecided else indexes[0]
        if not resolve.can_coerce(index.type, "int4"):
            raise self.refusal("array subscript must have type integer", index.at)
        index = self.coerce(index, INT4)
        kernel = lists.item(value.type)
        return self.apply(Variant(kernel, fails=True), [value, index], value.type.element, node.at)

    def _any_or_all(self, node: parse.Form) -> Bound:
        """`value op ANY (array)`."""
        value, array = (self.bind(arg) for arg in node.args)
        if array.undecided:
            known = TEXT if value.undecided else value.type
            if known.declared or known.is_array:
                raise self.refusal(f"an array of {known.name} is not supported", array.at)
            array = self.coerce(array, known.bare.array)
        if not array.type.is_array:
            raise self.refusal("op ANY/ALL requires an array on the right side", array.at)
        element = array.type.element
        try:
            resolved = resolve.operator(node.name, [value.type, element])
        except resolve.NoMatch as error:
            raise self._no_match(
                node.name, [value, Bound(element, array.run, array.at)], node.at, error
            ) from None
        if resolved.result.key != BOOL.key:
            raise self.refusal("op ANY/ALL requires an operator that gives a boolean", node.at)
        wanted = resolved.args[1]
        variant = OPERATORS[node.name].variants.get(resolved.key) if node.name in OPERATORS else None
        if variant is None or variant.kernel is None or wanted.key != element.key:
            raise self.refusal(
                f"{node.name} ANY/ALL of {array.type.name} is not supported here", node.at, "cast the array"
            )
        value = self.coerce(value, resolved.args[0])
        kernel = lists.any_or_all(variant.kernel, element, every=node.kind == "all")
        return self.apply(Variant(kernel, fails=True, strict=False), [value, array], BOOL, node.at)

    def _collate(self, node: parse.Form) -> Bound:
        value = self.bind(node.args[0])
        value = self.coerce(value, TEXT) if value.undecided else value
        if resolve.category(value.type) != "S":
            raise self.refusal(f"{value.type.name} has no collation", node.at)
        if node.name not in _BY_CODE_POINT:
            raise self.refusal(f"the collation {node.name} is not supported", node.at, 'use collate "C"')
        return Bound(**{**_fields(value), "collation": "C", "at": value.at})

    def _value(self, node: parse.Form) -> Bound:
        kinds = {
            "current_date": DATE,
            "current_timestamp": TIMESTAMPTZ,
            "localtimestamp": TIMESTAMP,
        }
        if node.name not in kinds:
            raise self.refusal(f"{node.name} is not supported", node.at)
        if not self.scope.with_change:
            raise self.refusal(
                f"{node.name} is the change's commit time, but there is no change here", node.at
            )
        moment = self._meta(Meta("commit_time", TIMESTAMPTZ), node.at)
        return self.coerce(moment, kinds[node.name])


def _fields(value: Bound) -> dict[str, Any]:
    return {name: getattr(value, name) for name in Bound.__slots__}


def _retyped(value: Bound, kind: SqlType) -> Bound:
    return value if value.type == kind else Bound(**{**_fields(value), "type": kind})


def _numeric_scalar(value: Any) -> pa.Scalar:
    """A numeric constant as a decimal where that has it, else as text."""
    if value.is_finite():
        scale = max(-value.as_tuple().exponent, 0)
        kind = decimal_type(
            len(value.as_tuple().digits) + 1 if scale == 0 else max(value.adjusted() + 1, 1) + scale, scale
        )
        if kind is not None:
            return pa.scalar(value, kind)
    return codec(NUMERIC).build([value])[0]


def _castable(source: SqlType, target: SqlType) -> bool:
    """Whether Postgres has an explicit cast: one of its catalog, or through text."""
    if source.key == target.key or (source.key, target.key) in catalog.CAST_CONTEXT:
        return True
    if source.is_array and target.is_array:
        return _castable(source.element, target.element)
    return "S" in (resolve.category(target), resolve.category(source))


def _calling(kernel: Any, args: Sequence[Bound]) -> Run:
    runs = [arg.run for arg in args]
    if len(runs) == 1:
        (only,) = runs
        return lambda rows: kernel(rows, only(rows))
    if len(runs) == 2:
        left, right = runs
        return lambda rows: kernel(rows, left(rows), right(rows))
    return lambda rows: kernel(rows, *[run(rows) for run in runs])


def _shared(value: Bound) -> Bound:
    """The same value, computed once per evaluation though several parts read it."""
    if value.constant is not None or value.text is not None or value.undecided:
        return value
    run, key = value.run, object()

    def once(rows: Rows) -> Datum:
        found = rows.shared.get(key)
        if found is None:
            found = rows.shared[key] = run(rows)
        return found

    return Bound(**{**_fields(value), "run": once})


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

#: Names that the grammar or Postgres has twice.
_SAME_NAME = {
    "character_length": "char_length",
    "ceiling": "ceil",
    "pow": "power",
    "substr": "substring",
}

_AGGREGATES = frozenset(
    [
        "count",
        "sum",
        "avg",
        "min",
        "max",
        "array_agg",
        "string_agg",
        "bool_and",
        "bool_or",
        "every",
        "json_agg",
        "jsonb_agg",
        "row_number",
        "rank",
        "lag",
        "lead",
        "first_value",
        "last_value",
        "dense_rank",
    ]
)
