"""`toast`: what becomes of values that an update did not send, since it left them alone."""

from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from cdcflow.model import Group, Relation
from cdcflow.transform.options import Names, StepOptions, places_of
from cdcflow.transform.rows import (
    assembled,
    has_old,
    metas,
    new_columns,
    old_columns,
    packed,
)
from cdcflow.transform.step import Bound, Run, StepContext, StepError, StepPlugin, Tables

#: Keys that one query asks for: large enough that the way to the server and back does not count.
AT_ONCE = 5_000


class Fill(StepOptions):
    """Where a value is taken from; `columns` only, or all."""

    source: Annotated[Literal["old", "source", "omit"], Field(alias="from")]
    columns: Names | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"from": value} if isinstance(value, str) else value


class _Toast:
    def __init__(self, options: Fill, context: StepContext) -> None:
        self._options = options
        self._tables = context.tables
        self._asked: Tables | None = None

    def interrupt(self) -> None:
        if self._asked is not None:
            self._asked.interrupt()

    def close(self) -> None:
        if self._asked is not None:
            self._asked.close()

    def bind(self, relation: Relation) -> Bound:
        options = self._options
        named = options.columns or relation.names
        places = places_of(relation, ((("columns", i), name) for i, name in enumerate(named)))
        if options.source == "omit":
            return Bound((relation,), _omit)
        if options.source == "old":
            if not relation.full:
                raise StepError(
                    f"old rows of {relation.qualified} hold nothing but its key",
                    hint=f"run ALTER TABLE {relation.qualified} REPLICA IDENTITY FULL at the source, or take "
                    "the values from the source: `toast: source`",
                )
            return Bound((relation,), lambda group, _run: [group])  # as every chain does at its beginning
        if relation.full:
            return Bound((relation,), lambda group, _run: [group])
        if not relation.key:
            raise StepError("nothing identifies a row, so it cannot be looked up", hint="leave the step out")
        if self._tables is None:
            raise StepError("the source cannot be asked here", hint="")
        self._asked = self._tables(None)
        return Bound((relation,), _Reselect(relation, places, self._asked))


def _omit(group: Group, run: Run) -> list[Group]:
    run.omits = True
    return [group]


class _Reselect:
    """Fills values in from the source, where the row is still there."""

    def __init__(self, relation: Relation, places: list[int], tables: Tables) -> None:
        self._tables = tables
        self._table = (relation.schema, relation.name)
        self._places = [i for i in places if i not in relation.key]
        self._key = [relation.names[i] for i in relation.key]
        self._names = [relation.names[i] for i in self._places]
        there = {column.name for column in tables.columns(self._table)}
        wrong = [name for name in (*self._key, *self._names) if name not in there]
        if wrong:
            raise StepError(
                f"the source's table {relation.qualified} has no column {wrong[0]!r}",
                hint="put `toast` before the steps that rename or compute columns",
            )

    def __call__(self, group: Group, _run: Run) -> list[Group]:
        masks = {i: mask for i in self._places if (mask := group.unchanged_mask(i)) is not None}
        if not masks:
            return [group]
        absent = None
        for mask in masks.values():
            absent = mask if absent is None else pc.or_(absent, mask)
        rows = pc.indices_nonzero(absent).to_pylist()
        keys = [group.new(i).to_pylist() for i in group.relation.key]
        wanted = {row: tuple(column[row] for column in keys) for row in rows}
        asked = [key for key in dict.fromkeys(wanted.values()) if None not in key]
        found: dict[tuple[str, ...], tuple[str | None, ...]] = {}
        for start in range(0, len(asked), AT_ONCE):
            found.update(
                self._tables.fetch(self._table, self._key, asked[start : start + AT_ONCE], self._names)
            )
        return [self._filled(group, masks, {row: found[key] for row, key in wanted.items() if key in found})]

    def _filled(
        self, group: Group, masks: dict[int, pa.Array], values: dict[int, tuple[str | None, ...]]
    ) -> Group:
        new = new_columns(group)
        left: dict[int, set[int]] = {}
        width = len(group.relation.columns)
        for columns, mask in group.unchanged_patterns:
            for row in pc.indices_nonzero(mask).to_pylist():
                left[row] = set(columns)
        for order, place in enumerate(self._places):
            if place not in masks:
                continue
            column = new[place].to_pylist()
            for row in pc.indices_nonzero(masks[place]).to_pylist():
                if row in values:
                    column[row] = values[row][order]
                    left[row].discard(place)
            new[place] = pa.array(column, pa.string())
        still = [packed(frozenset(left.get(row, ())), width) for row in range(len(group))]
        return assembled(
            group.relation,
            metas(group),
            new,
            has_old=has_old(group),
            old=old_columns(group),
            unchanged=pa.array(still, pa.binary()) if any(still) else None,
        )


toast = StepPlugin(
    "toast",
    Fill,
    _Toast,
    makes=lambda _options: (),
    about="""\
An update that leaves a large value alone does not send it (see "TOAST" in the Postgres manual, 54.9). Such a
value is *unchanged*: sinks that keep rows keep what they have, events name it. A step that computes something
of it refuses the change for good, unless this step stands before:

* `toast: source` takes the value from the source, by the key, in one query for many rows. That is the value
  that the row has **now**, not the one it had when the change was made. Where the row is gone by then, the
  value stays unchanged.
* `toast: old` takes it from the old row, which holds it under REPLICA IDENTITY FULL; that happens by itself,
  and this step only insists that it can.
* `toast: omit` leaves out what cannot be computed: the computed column is unchanged too.

`{from: source, columns: [body]}` is for some columns only.""",
    example="- toast: source",
)
