"""`explode`: a row for each element of an array.

A row's identity is then the one of the row that it came of, and the element's place in the array. What an
update or a delete removes is known from the old array, which the server sends under REPLICA IDENTITY FULL.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from cdcflow.model import Column, Group, Op, Relation
from cdcflow.model.position import PARTS
from cdcflow.transform.derive import Made, derived, passed
from cdcflow.transform.options import ColumnName, StepOptions, place_of, unique
from cdcflow.transform.rows import (
    Columns,
    assembled,
    has_old,
    mapped_bits,
    metas,
    new_columns,
    old_columns,
)
from cdcflow.transform.step import Bound, Run, StepContext, StepError, StepPlugin
from cdcflow.transform.steps.elements import Split, splitter

INT4 = 23

_UNSENT = (
    "the update did not send the array: put `toast: source` before the step, or run ALTER TABLE … REPLICA "
    "IDENTITY FULL at the source"
)


class Array(StepOptions):
    """Which column, and what its element and the element's place are called."""

    column: ColumnName
    name: Annotated[ColumnName | None, Field(alias="as")] = None
    position: ColumnName | None = None
    #: What becomes of elements that are gone, where old arrays are not sent.
    without_old: Literal["refuse", "keep"] = "refuse"

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value


class _Explode:
    def __init__(self, options: Array, _context: StepContext) -> None:
        self._options = options

    def bind(self, relation: Relation) -> Bound:
        options = self._options
        place = place_of(relation, options.column, ("column",))
        column = relation.columns[place]
        how = splitter(column)
        if how is None:
            raise StepError(
                f"{column.name!r} is neither an array nor JSON",
                hint="cast text that holds JSON to jsonb before",
                way=("column",),
            )
        if column.key and not relation.full:
            raise StepError(f"{column.name!r} is part of the key", hint="copy it with `set`", way=("column",))
        if relation.key and not relation.full and options.without_old == "refuse":
            raise StepError(
                "old rows do not hold the array: which elements an update or a delete removes is not known",
                hint=f"run ALTER TABLE {relation.qualified} REPLICA IDENTITY FULL at the source, or write "
                "`without_old: keep`: such elements then stay at the destination",
            )
        split, element = how
        keyed = bool(relation.key)
        columns = passed(relation)
        columns[place] = Made(
            replace(element, name=options.name or column.name, key=relation.full), None, "element"
        )
        position = options.position or f"{column.name}_position"
        columns.append(Made(Column(position, INT4, key=keyed), None, "position"))
        unique(made.column.name for made in columns)
        output = derived(relation, columns)
        return Bound((output,), _Elements(output, place, split, whole=relation.full))


@dataclass
class _Parts:
    """The rows to make: of which row each is, and what is its own."""

    rows: list[int] = field(default_factory=list)
    ops: list[int] = field(default_factory=list)
    new: list[str | None] = field(default_factory=list)
    old: list[str | None] = field(default_factory=list)
    positions: list[str | None] = field(default_factory=list)

    def add(self, row: int, op: int, new: str | None, old: str | None, position: int | None) -> None:
        self.rows.append(row)
        self.ops.append(op)
        self.new.append(new)
        self.old.append(old)
        self.positions.append(None if position is None else str(position))


class _Elements:
    def __init__(self, output: Relation, place: int, split: Split, *, whole: bool) -> None:
        self._output = output
        self._place = place
        self._split = split
        self._whole = whole

    def __call__(self, group: Group, run: Run) -> Sequence[Group]:
        run.multiplied = True
        unsent = group.unchanged_mask(self._place)
        if unsent is not None and pc.any(unsent).as_py():
            group = run.refuse(group, unsent, _UNSENT)
        parts, wrong, empty = self._taken_apart(group)
        if wrong:
            run.refuse_rows(group, wrong)
        if empty and run.notes is not None:
            keep = [row not in empty for row in range(len(group))]
            run.drop(group, pa.array(keep, pa.bool_()), "it has no elements that are known")
        return [self._made(group, parts)]

    def _taken_apart(self, group: Group) -> tuple[_Parts, dict[int, str], set[int]]:
        parts, wrong, empty = _Parts(), dict[int, str](), set[int]()
        ops = group.meta("op").to_pylist()
        new = group.new(self._place).to_pylist()
        olds = group.old_values(self._place)
        before = [None] * len(group) if olds is None else olds.to_pylist()
        for row, op in enumerate(ops):
            if op == Op.TRUNCATE:
                parts.add(row, op, None, None, None)
                continue
            after, had = self._elements(new[row]), self._elements(before[row])
            if after is None or had is None:
                wrong[row] = "the value to explode is not an array"
                continue
            if max(len(after), len(had)) > PARTS:
                wrong[row] = f"the array has more than {PARTS} elements"
                continue
            if op == Op.DELETE:
                after = []
            count = len(parts.rows)
            if self._whole:
                self._add_whole(parts, row, op, after, had)
            else:
                for number, text in enumerate(after, 1):
                    parts.add(row, op, text, None, number)
            if len(parts.rows) == count:
                empty.add(row)
        return parts, wrong, empty

    def _add_whole(
        self, parts: _Parts, row: int, op: int, after: list[str | None], had: list[str | None]
    ) -> None:
        """The elements of a row whose old array is known."""
        both = min(len(after), len(had))
        for number in range(both):
            parts.add(row, op, after[number], had[number], number + 1)
        for number in range(both, len(had)):
            parts.add(row, int(Op.DELETE), None, had[number], number + 1)
        for number in range(both, len(after)):
            fresh = int(Op.INSERT) if op == Op.UPDATE else op
            parts.add(row, fresh, after[number], None, number + 1)

    def _elements(self, text: str | None) -> list[str | None] | None:
        return [] if text is None else self._split(text)

    def _made(self, group: Group, parts: _Parts) -> Group:
        rows = pa.array(parts.rows, pa.int64())
        meta = [column.take(rows) for column in metas(group)]
        meta[1] = pa.array(parts.ops, pa.uint8())
        deleted = pc.equal(meta[1], int(Op.DELETE))
        nothing = pa.scalar(None, pa.string())
        positions = pa.array(parts.positions, pa.string())
        new = [pc.if_else(deleted, nothing, column.take(rows)) for column in new_columns(group)]
        new[self._place] = pa.array(parts.new, pa.string())
        new.append(pc.if_else(deleted, nothing, positions))
        came = has_old(group)
        old = {i: column.take(rows) for i, column in old_columns(group).items()}
        if came is not None:
            came = came.take(rows)
            if self._whole:
                came = pc.and_(came, pc.is_in(meta[1], value_set=pa.array(_WITH_OLD, pa.uint8())))
                old[self._place] = pa.array(parts.old, pa.string())
            old[len(new) - 1] = positions
        width = len(new)

        def moved(unchanged: Columns) -> Columns:
            return unchanged

        unchanged = mapped_bits(group, moved, width) if group.unchanged else None
        return assembled(
            self._output,
            meta,
            new,
            has_old=came,
            old=old,
            unchanged=None if unchanged is None else unchanged.take(rows),
        )


_WITH_OLD = (int(Op.UPDATE), int(Op.DELETE))

explode = StepPlugin(
    "explode",
    Array,
    _Explode,
    makes=lambda options: {options.column, options.name, options.position} - {None},
    about="""\
Makes a row for each element of an array or of a JSON array. The column becomes the element (`as` names it
anew), and `position` (by default `<column>_position`) its place in the array, from 1, which becomes part of
the key. Elements of JSON stay JSON. A row whose array is NULL or empty makes none. Inner arrays of SQL
arrays are taken apart too, as `unnest` does.

| change | under REPLICA IDENTITY FULL | else, with `without_old: keep` |
|---|---|---|
| insert, read | an insert for each element | the same |
| update | an update for each place that is in both arrays, inserts for new places, deletes for those that are gone | an update for each element; what is gone stays |
| delete | a delete for each element of the old array | nothing: what was there stays |

Without `without_old: keep`, a table whose old rows do not hold the array is refused. All rows made of one
change have its position, told apart by `+1`, `+2` … behind it.""",  # noqa: E501
    example="- explode: {column: tags, as: tag}",
)
