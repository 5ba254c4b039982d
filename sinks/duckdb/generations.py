"""What a new generation of a table means for the warehouse's table. Pure: values in, steps or Permanent out.

Certain, or stopped. A generation says names and types; which column is which, and what its older rows
hold, follows from two layouts of the catalog: one from before the generation's first change, one from
after it (`Layout`, by whose numbers columns keep their identity). Where the two leave room for more
than one history, nothing is guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from cdcflow import types
from cdcflow.errors import Permanent
from cdcflow.model import Attribute, Column, Layout, Relation
from cdcflow_sinks.duckdb import statements

READ_ANEW = (
    "read everything anew: stop the engine, run `cdcflow teardown --yes`, move the journal and the "
    "warehouse's file away, then run `cdcflow setup` and `cdcflow run`"
)

INT2, INT4, INT8, FLOAT4, FLOAT8, TEXT, VARCHAR, NUMERIC = 21, 23, 20, 700, 701, 25, 1043, 1700
BOOL, UUID = 16, 2950

#: Text that reads the same as both, whatever their modifiers.
_CHARACTERS = frozenset({TEXT, VARCHAR})

#: Old type → types whose values are the same ones, so that a plain ALTER … TYPE changes no value.
_WIDER: Mapping[int, frozenset[int]] = {
    INT2: frozenset({INT4, INT8, NUMERIC, TEXT}),
    INT4: frozenset({INT8, NUMERIC, TEXT}),
    INT8: frozenset({NUMERIC, TEXT}),
    FLOAT4: frozenset({FLOAT8}),
    NUMERIC: frozenset({NUMERIC, TEXT}),
    BOOL: frozenset({TEXT}),
    UUID: frozenset({TEXT}),
    VARCHAR: _CHARACTERS,
    TEXT: _CHARACTERS,
}

_NOTHING = Layout("", 0, ())


@dataclass(frozen=True)
class Generation:
    """The generation that a table of the warehouse has. It is stored beside the table.

    `numbers` are the catalog's numbers of the relation's columns; 0: not known. `before` is a layout that
    was true before the generation's first change, and `base` one since which every alteration is in the
    table here or still to come; None where there is none.
    """

    relation: Relation
    numbers: tuple[int, ...]
    before: Layout | None
    base: Layout | None

    def layout_before(self, lsn: int) -> Layout | None:
        """The newest known layout that was true before a commit at `lsn`, a later generation's first."""
        latest = self.relation.layout
        return latest if latest is not None and latest.lsn <= lsn else self.before

    def base_before(self, lsn: int) -> Layout | None:
        """The base of a later generation, whose first change was committed at `lsn`."""
        latest = self.relation.layout
        if latest is None or latest.lsn > lsn:
            return self.base
        # The layout may show alterations that came behind this generation: those are still to come.
        here = dict(zip(self.numbers, self.relation.columns, strict=True))
        known = 0 if self.base is None else self.base.count
        for attribute in latest.attributes:
            if attribute.hidden:
                continue  # the flow leaves it out, whatever becomes of it
            column = here.pop(attribute.number, None)
            if column is None:
                if attribute.number > known:
                    return self.base
            elif (column.name, column.type_oid, column.typmod) != (attribute.name, *_shape(attribute)):
                return self.base
        return self.base if here else latest


@dataclass(frozen=True)
class Added:
    """A new column, and the text that its older rows hold."""

    column: Column
    older: str | None = None


@dataclass(frozen=True)
class Steps:
    """What to do to a table, in this order. Names are those of the columns before, then after renaming."""

    #: (name, its number, or 0)
    removed: list[tuple[str, int]] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    #: Old column, new column: same place, another type.
    converted: list[tuple[Column, Column]] = field(default_factory=list)
    added: list[Added] = field(default_factory=list)


def first(relation: Relation, had: Generation | None = None, lsn: int = 0) -> Generation:
    """The generation of a table that is empty here, so that nothing can be wrong about older rows."""
    before = None if had is None else had.layout_before(lsn)
    held = frozenset[int]() if had is None else frozenset(had.numbers)
    numbers = _numbers(relation, before or _NOTHING, held)
    base = before if had is None else had.base_before(lsn)
    return Generation(relation, numbers or (0,) * len(relation.columns), before, base)


def following(
    had: Generation, relation: Relation, lsn: int, present: Mapping[str, str], *, widen: bool
) -> tuple[Generation, Steps]:
    """The generation after `had`, whose first change was committed at `lsn`, and the way to it.

    `present` are the table's columns in the warehouse with their DuckDB types. `widen`: trust that a
    rewrite by ALTER … TYPE to a wider type had no USING that changed values. Raises Permanent where
    what the older rows hold cannot be known.
    """
    before, base = had.layout_before(lsn), had.base_before(lsn)
    if relation.layout is None:
        # The table was gone when capture looked, and the source has nothing to differ from any more.
        known = dict(zip(had.relation.names, had.numbers, strict=True))
        numbers = tuple(known.get(name, 0) for name in relation.names)
        return Generation(relation, numbers, before, base), _by_name(had, relation, present, widen=widen)
    same = had.relation.columns == relation.columns
    found = _numbers(relation, before or _NOTHING, frozenset(had.numbers))
    if found is None and same and _untouched(before, relation.layout):
        return Generation(relation, had.numbers, before, base), Steps()
    if found is None or 0 in had.numbers:
        if not same or (found is None and 0 not in had.numbers):
            raise Permanent(
                f"{relation.qualified} was altered in more ways than its changes show, or the flow's "
                "transforms were, and which of its columns is which cannot be told",
                hint=READ_ANEW,
            )
        return Generation(relation, found or had.numbers, before, base), Steps()
    return Generation(relation, found, before, base), _steps(had, relation, found, base, present, widen=widen)


def _untouched(before: Layout | None, after: Layout) -> bool:
    return before is not None and before.attributes == after.attributes and before.count == after.count


def _numbers(relation: Relation, before: Layout, held: frozenset[int]) -> tuple[int, ...] | None:
    """The number of each column, where only one history fits both layouts; `held`: those of the last
    generation."""
    after = relation.layout
    if after is None:
        return None
    numbers: list[int] = []
    for column in relation.columns:
        now, then = after.by_name.get(column.name), before.by_name.get(column.name)
        # A number that was missing once is gone for good.
        found = {a.number: a for a in (now, then) if a and (a is now or a.number in held)}
        if len(found) != 1:
            return None
        [number] = found
        shapes = [
            _shape(layout.by_number[number]) for layout in (before, after) if number in layout.by_number
        ]
        if (column.type_oid, column.typmod) not in shapes:
            return None
        # A column that came and went between the layouts may have had the name before this one.
        if any(after.dropped(passing) for passing in range(before.count + 1, number)):
            return None
        # Columns come in the order of their numbers, but for those that the flow computes.
        if number > 0 and number <= max(numbers, default=0):
            return None
        numbers.append(number)
    return tuple(numbers)


def _shape(attribute: Attribute) -> tuple[int, int]:
    return attribute.type_oid, attribute.typmod


def _by_name(had: Generation, relation: Relation, present: Mapping[str, str], *, widen: bool) -> Steps:
    steps = Steps()
    held = dict(zip(had.relation.names, zip(had.numbers, had.relation.columns, strict=True), strict=True))
    steps.removed.extend((name, held[name][0]) for name in held if name not in relation.names)
    for column in relation.columns:
        if column.name not in held:
            steps.added.append(Added(column))
        elif _kind(held[column.name][1]) != _kind(column):
            old = held[column.name][1]
            _check_conversion(relation, old, column, present[old.name], rewritten=True, widen=widen)
            steps.converted.append((old, column))
    return steps


def _steps(
    had: Generation,
    relation: Relation,
    numbers: tuple[int, ...],
    base: Layout | None,
    present: Mapping[str, str],
    *,
    widen: bool,
) -> Steps:
    after = relation.layout
    assert after is not None
    # A table that was never rewritten has files of its own number.
    rewritten = after.storage != (str(relation.oid) if base is None else base.storage)
    earlier = base or had.relation.layout or _NOTHING
    held = dict(zip(had.numbers, had.relation.columns, strict=True))
    steps = Steps()
    steps.removed.extend((column.name, number) for number, column in held.items() if number not in numbers)
    for number, column in zip(numbers, relation.columns, strict=True):
        old = held.get(number)
        if old is None and number < 0 and column.name in present and column.name not in had.relation.names:
            continue  # somebody has followed the words of `_older`
        if old is None:
            _check_chosen(had.relation, relation, column, number)
            steps.added.append(Added(column, _older(relation, column, number, base, rewritten=rewritten)))
            continue
        if old.name != column.name:
            steps.renamed.append((old.name, column.name))
        if _kind(old) != _kind(column):
            _check_conversion(relation, old, column, present[old.name], rewritten=rewritten, widen=widen)
            steps.converted.append((old, column))
        elif rewritten and _written_over(number, column, earlier, after, widen=widen):
            raise Permanent(
                f"{relation.qualified}, column {column.name}: the source rewrote the table and changed the "
                "column, so its older rows may hold other values than here",
                hint=READ_ANEW,
            )
    return steps


def _kind(column: Column) -> tuple[int, int, str]:
    return column.type_oid, column.typmod, column.type_name


def _check_chosen(had: Relation, relation: Relation, column: Column, number: int) -> None:
    """Raises Permanent for a column that is new here because the flow's transforms have changed."""
    known = None if had.layout is None else had.layout.by_number.get(number)
    if known is not None and known.hidden:
        raise Permanent(
            f"{relation.qualified}, column {column.name}: the flow left it out until now, so its older "
            "values never came",
            hint=f"leave it out again; or {READ_ANEW}",
        )
    if number < 0:
        raise Permanent(
            f"{relation.qualified}, column {column.name}: the flow's transforms compute it from now on, and "
            "the older rows here lack it",
            hint="with the flow paused, add the column to the warehouse's table and fill it there; or "
            f"{READ_ANEW}",
        )


def _older(
    relation: Relation, column: Column, number: int, base: Layout | None, *, rewritten: bool
) -> str | None:
    """What rows older than a new column hold in it."""
    assert relation.layout is not None
    attribute = relation.layout.by_number.get(number)
    if base is not None and number <= base.count:
        raise Permanent(
            f"{relation.qualified}, column {column.name}: it was there and was not published, so its older "
            "values never came",
            hint=READ_ANEW,
        )
    if attribute is not None and attribute.missing is not None:
        return attribute.missing
    if rewritten or attribute is None:
        raise Permanent(
            f"{relation.qualified}, column {column.name}: it was added and the table rewritten, so its "
            "older rows may hold values that were never sent",
            hint=READ_ANEW,
        )
    return None


def _written_over(number: int, column: Column, before: Layout, after: Layout, *, widen: bool) -> bool:
    """Whether a rewrite may have changed the values of a column that has kept its type."""
    old, new = before.by_number.get(number), after.by_number.get(number)
    if old is None or new is None or old.version == new.version:
        return False  # where it is dropped by now, the source has no values to differ from
    if _shape(new) != (column.type_oid, column.typmod):
        return False  # its type changed behind this generation: the one that shows it is asked then
    # Any rewrite writes out the values that older rows were missing, which changes the entry too.
    return not (widen and old.missing is not None and new.missing is None)


def is_wider(old: Column, new: Column) -> bool:
    """Whether every value of the old type is the same value, and the same text, in the new one, but for
    zeros behind a decimal point."""
    if new.type_oid not in _WIDER.get(old.type_oid, ()):
        return False
    if {old.type_oid, new.type_oid} <= _CHARACTERS:
        return new.typmod == -1 or -1 < old.typmod <= new.typmod
    if (old.type_oid, new.type_oid) == (NUMERIC, NUMERIC):
        was, becomes = types.of(old).arrow, types.of(new).arrow
        if new.typmod == -1:
            return True
        if not (pa.types.is_decimal(was) and pa.types.is_decimal(becomes)):
            return False
        digits = becomes.precision - becomes.scale >= was.precision - was.scale
        return bool(digits and becomes.scale >= was.scale)
    # An integer in a numeric with a scale gets zeros that no integer has.
    return new.type_oid != NUMERIC or new.typmod == -1


def _check_conversion(
    relation: Relation, old: Column, new: Column, present: str, *, rewritten: bool, widen: bool
) -> None:
    was, becomes = types.of(old), types.of(new)
    same = old.type_oid == new.type_oid and old.type_name == new.type_name
    if not rewritten and (same or {old.type_oid, new.type_oid} <= _CHARACTERS):
        return  # the server kept the rows as they were, and they read the same
    # Where the column was made VARCHAR, it holds the old type's text, zeros and all.
    as_text = present == "VARCHAR" != was.duckdb
    if widen and is_wider(old, new) and not (as_text and NUMERIC in (old.type_oid, new.type_oid)):
        return
    if was.duckdb != becomes.duckdb != "VARCHAR":
        if present == becomes.duckdb:
            return  # somebody has followed the words below
        table = statements.qualified(relation.schema, relation.name)
        raise Permanent(
            f"{relation.qualified}, column {new.name}: the warehouse has {present}, the source's "
            f"{becomes.name} needs {becomes.duckdb}, and what became of the older rows was not sent",
            hint="with the flow paused, change the column in the warehouse as it was changed at the source: "
            f"ALTER TABLE {table} ALTER {statements.quote(old.name)} TYPE {becomes.duckdb} (with the same "
            f"USING, if there was one); or {READ_ANEW}",
        )
    raise Permanent(
        f"{relation.qualified}, column {new.name}: its type changed from {was.name} to {becomes.name}, and "
        "what became of the older rows was not sent",
        hint=READ_ANEW,
    )
