"""`route`: to which table, or which object of a CRM, a row goes. The rows of one table may go to several."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from cdcflow.model import Group, Op, Relation
from cdcflow.model.relation import ROUTED
from cdcflow.transform.computing import Computed, about_change, bound_expression, check, inputs
from cdcflow.transform.expression import Expression, Frame
from cdcflow.transform.options import StepOptions
from cdcflow.transform.rows import assembled, has_old, metas, new_columns, old_columns
from cdcflow.transform.step import Bound, Noted, Run, StepContext, StepError, StepPlugin, Way

_NOWHERE = "the expression of its destination gives NULL or an empty name"
_EVERYWHERE = (
    "a truncate empties all destinations of the table, and which those are is not known: empty them by hand"
)
_UNKNOWN = "where the row was is not known, and without_old is keep"

_NAMES = ("schema", "table")


class Destination(StepOptions):
    """Expressions for the destination's names."""

    table: str | None = None
    in_schema: Annotated[str | None, Field(alias="schema")] = None
    without_old: Literal["refuse", "keep"] = "refuse"

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"table": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _something(self) -> "Destination":
        if self.table is None and self.in_schema is None:
            raise ValueError("says neither table nor schema")
        return self


class _Route:
    def __init__(self, options: Destination, _context: StepContext) -> None:
        self._keep = options.without_old == "keep"
        given = {"schema": options.in_schema, "table": options.table}
        self._texts = {name: text for name, text in given.items() if text is not None}
        noted = Noted()
        for name, text in self._texts.items():
            with noted.one():
                check(text, (name,))
        noted.raise_all()

    def bind(self, relation: Relation) -> Bound:
        expressions: dict[str, Expression] = {}
        noted = Noted()
        for name, text in self._texts.items():
            with noted.one():
                expressions[name] = _name(text, relation, (name,))
        noted.raise_all()
        whole = list(expressions.values())
        read = frozenset(column for expression in whole for column in inputs(expression))
        of_change = any(about_change(expression) for expression in whole)
        if not read and not of_change:
            return self._constant(relation, expressions)
        known = of_change or read <= frozenset(relation.key)
        if not known and relation.key and not self._keep:
            raise StepError(
                "old rows do not hold what the destination is computed from: where they were is not known",
                hint=f"run ALTER TABLE {relation.qualified} REPLICA IDENTITY FULL at the source, or write "
                "`without_old: keep`: rows that are deleted, or move, then stay where they were",
            )
        moves = not of_change and known and bool(relation.key)
        return Bound((relation,), _Routed(relation, expressions, moves=moves, of_change=of_change))

    def _constant(self, relation: Relation, expressions: Mapping[str, Expression]) -> Bound:
        frame = Frame.of_columns(relation, [pa.nulls(1, pa.string())] * len(relation.columns))
        names = {name: expression.text(frame)[0].as_py() for name, expression in expressions.items()}
        for name, found in names.items():
            if not found:
                raise StepError("gives no name", way=(name,))
        output = routed(relation, names.get("schema", relation.schema), names.get("table", relation.name))
        return Bound((output,), lambda group, _run: [replace(group, relation=output)])


def _name(text: str, relation: Relation, way: Way) -> Expression:
    expression = bound_expression(text, relation, way)
    if expression.type.key not in ("text", "varchar"):
        raise StepError(
            f"a name is text, and this is of type {expression.type.name}",
            hint="write the name of a table in single quotes",
            way=way,
        )
    return expression


def routed(relation: Relation, schema: str, name: str) -> Relation:
    """The relation under another name. It is another table, of an OID that follows from both."""
    if (schema, name) == (relation.schema, relation.name):
        return relation
    told = f"{relation.oid}\0{schema}\0{name}".encode()
    oid = ROUTED | int.from_bytes(blake2b(told, digest_size=4).digest()) >> 1
    return replace(relation, schema=schema, name=name, oid=oid)


class _Routed:
    def __init__(
        self, relation: Relation, expressions: Mapping[str, Expression], *, moves: bool, of_change: bool
    ) -> None:
        self._relation = relation
        self._names = list(expressions)
        self._computed = Computed(list(expressions.values()), [f"the {name}" for name in expressions])
        self._moves = moves
        self._of_change = of_change
        self._relations: dict[tuple[str | None, ...], Relation] = {}

    def __call__(self, group: Group, run: Run) -> Sequence[Group]:
        truncated = group.is_op(Op.TRUNCATE)
        if pc.any(truncated).as_py():
            group = run.refuse(group, truncated, _EVERYWHERE)
        if not len(group):
            return []
        before: list[tuple[str | None, ...]] | None = None
        if self._moves and group.old:
            old = self._computed.before(group, run)
            group = old.group
        values = self._computed.new(group, run)
        group = values.group
        if self._moves and group.old:
            before = _rows(self._computed.before(group, run).texts)
        return self._split(group, _rows(values.texts), before, run)

    def _split(
        self,
        group: Group,
        after: list[tuple[str | None, ...]],
        before: list[tuple[str | None, ...]] | None,
        run: Run,
    ) -> list[Group]:
        ops = group.meta("op").to_pylist()
        came = has_old(group)
        there = [False] * len(ops) if came is None else came.to_pylist()
        #: (whether rows stay or come, destination) → rows, each with its kind here.
        parts: dict[tuple[bool, tuple[str | None, ...]], list[tuple[int, int]]] = {}
        wrong: dict[int, str] = {}
        lost: list[bool] = []
        for row, op in enumerate(ops):
            lost.append(False)
            new = after[row]
            old = before[row] if before is not None and there[row] else None
            if op == Op.DELETE and not self._of_change:
                if old is None:
                    lost[row] = True
                    continue
                new = old
            if not all(new) or (old is not None and not all(old)):
                wrong[row] = _NOWHERE
                continue
            if op == Op.UPDATE and old is not None and old != new:
                parts.setdefault((False, old), []).append((row, int(Op.DELETE)))
                parts.setdefault((True, new), []).append((row, int(Op.INSERT)))
                run.multiplied = True
            else:
                parts.setdefault((True, new), []).append((row, op))
        if wrong:
            run.refuse_rows(group, wrong)
        if any(lost):
            run.drop(group, pc.invert(pa.array(lost, pa.bool_())), _UNKNOWN)
        # Departures first: to a sink, both destinations may be the same place. And in an order that does not
        # depend on the batch, since it tells the parts of a change apart.
        return [self._part(group, names, parts[moves, names]) for moves, names in sorted(parts, key=str)]

    def _part(self, group: Group, names: tuple[str | None, ...], rows: list[tuple[int, int]]) -> Group:
        relation = self._relations.get(names)
        if relation is None:
            named = dict(zip(self._names, names, strict=True))
            relation = routed(
                self._relation,
                named.get("schema") or self._relation.schema,
                named.get("table") or self._relation.name,
            )
            self._relations[names] = relation
        part = Group(
            relation,
            group.data.take(pa.array([row for row, _ in rows], pa.int64())),
            group.old,
            group.unchanged,
        )
        ops = pa.array([op for _, op in rows], pa.uint8())
        if not pc.any(pc.not_equal(ops, part.meta("op"))).as_py():
            return part
        before = part.meta("op")
        gone = pc.and_(pc.equal(ops, int(Op.DELETE)), pc.not_equal(before, int(Op.DELETE)))
        fresh = pc.and_(pc.equal(ops, int(Op.INSERT)), pc.not_equal(before, int(Op.INSERT)))
        meta = metas(part)
        meta[1] = ops
        nothing = pa.scalar(None, pa.string())
        came = has_old(part)
        unchanged = part.data.column("unchanged") if part.unchanged else None
        return assembled(
            relation,
            meta,
            [pc.if_else(gone, nothing, column) for column in new_columns(part)],
            has_old=None if came is None else pc.and_(came, pc.invert(fresh)),
            old=old_columns(part),
            unchanged=None
            if unchanged is None
            else pc.if_else(gone, pa.scalar(None, pa.binary()), unchanged),
        )


def _rows(columns: Sequence[pa.Array]) -> list[tuple[str | None, ...]]:
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


route = StepPlugin(
    "route",
    Destination,
    _Route,
    moves=True,
    makes=lambda _options: (),
    about="""\
Says to which table (or object of a CRM) a row goes, by [expressions](expressions.md) for its name and, if
need be, its schema; a fixed name stands in single quotes. What follows sees the new name.

Where the name depends on the row, a row whose destination changes is deleted at the old one and inserted at
the new one. For that, and for deletes, the old row must be known: by REPLICA IDENTITY FULL, or because only
the key is asked for. Else write `without_old: keep`: updates then go to the new destination, and deletes
nowhere. A truncate is refused, since nobody knows all destinations of a table. A destination that is NULL
refuses the change.

A warehouse does not mix rows of two tables of the source in one.""",
    example="""\
- route: "'orders_' || lower(country)"
- route: {schema: "'crm'", table: "'deals'"}""",
)
