"""From the syntax tree to bound values: names, types, casts and kernels are settled here, once per
generation of a table. Whatever is not supported is refused here, with its place in the text.

Constant parts are computed at once, as Postgres' planner does (clauses.c, eval_const_expressions): so a
strict function of NULL is NULL without its other arguments being evaluated, and `false AND …` is false.
"""

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.errors import ExpressionError
from cdcflow.transform.expression import casts, catalog, forms, parse, reading, resolve
from cdcflow.transform.expression.conversion import codec, decimal_type
from cdcflow.transform.expression.frame import Datum, Rows
from cdcflow.transform.expression.function import Fails, Refused, Supported, Variant
from cdcflow.transform.expression.node import Bound, Run, as_array, combined, constant, undecided
from cdcflow.transform.expression.scope import Column, Meta, Scope
from cdcflow.transform.expression.sqltype import (
    BOOL,
    INT4,
    INT8,
    NUMERIC,
    TEXT,
    SqlType,
    builtin,
    length_typmod,
    numeric_typmod,
)
from cdcflow.transform.expression.table import FUNCTIONS, OPERATORS


def bind(text: str, scope: Scope) -> Bound:
    """Raises ExpressionError."""
    binder = Binder(text, scope)
    result = binder.bind(parse.parse(text))
    return binder.coerce(result, TEXT) if result.undecided else result


class Binder:
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
                return forms.case(self, node)
            case parse.Form():
                return forms.form(self, node)

    # --- names and literals ---

    def _name(self, node: parse.Name) -> Bound:
        found = self.scope.resolve(node.parts, self.text, node.at)
        return self._column(found, node.at) if isinstance(found, Column) else self.meta(found, node.at)

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

    def meta(self, meta: Meta, at: int) -> Bound:
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
            return replace(value, type=value.type if target.declared else target, at=node.at)
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
            raise self.no_match(name, args, at, error) from None
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
            raise self.no_match(f"{name}()", args, at, error) from None
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
        return bound if not variant.stable else replace(bound, metas=frozenset({"commit_time"}))

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

    def no_match(self, name: str, args: list[Bound], at: int, error: resolve.NoMatch) -> ExpressionError:
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
