"""`lookup`: columns of a row of another table, found by a key. Asks for many keys at once, and remembers the
answers up to a number and for a time.

What it promises: a value is no older, when its change is handed to the sink's queue, than `lifetime`. It may
be newer than the change: the other table is read as it is now.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field, model_validator

from cdcflow import types
from cdcflow.errors import ConfigurationError
from cdcflow.model import Column, Group, Relation
from cdcflow.model.patterns import TablePattern
from cdcflow.sink.quantities import Duration
from cdcflow.transform.derive import Made, derived, passed
from cdcflow.transform.options import ColumnName, StepOptions, nearest, places_of, unique
from cdcflow.transform.rows import (
    Columns,
    assembled,
    has_old,
    mapped_bits,
    metas,
    new_columns,
    old_columns,
)
from cdcflow.transform.step import Bound, Noted, Run, StepContext, StepError, StepPlugin, TableName, Tables

#: Keys that one query asks for: large enough that the way to the server and back does not count, small
#: enough that the query takes milliseconds.
AT_ONCE = 5_000

Key = tuple[str, ...]
Found = tuple[str | None, ...]


class Lookup(StepOptions):
    """Which table, by what, and which of its columns."""

    table: str
    #: Column here → column there.
    on: Annotated[dict[ColumnName, ColumnName], Field(min_length=1)]
    #: New column here → column there.
    columns: Annotated[dict[ColumnName, ColumnName], Field(min_length=1)]
    #: The flow whose warehouse has the table; None: the source.
    warehouse: str | None = None
    #: How many answers are remembered.
    cache: Annotated[int, Field(ge=0)] = 100_000
    lifetime: Annotated[Duration, Field(ge=0)] = 60.0

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        """A list of names means the same names here and there."""
        if not isinstance(value, dict):
            return value
        same = {
            name: {column: column for column in inner}
            for name, inner in value.items()
            if name in ("on", "columns")
            and isinstance(inner, list)
            and all(isinstance(c, str) for c in inner)
        }
        return {**value, **same}


class _Lookup:
    def __init__(self, options: Lookup, context: StepContext) -> None:
        self._options = options
        self._context = context
        self._table = _named(options.table)
        self._cache: Cache | None = None
        self._tables: Tables | None = None

    def interrupt(self) -> None:
        if self._tables is not None:
            self._tables.interrupt()

    def close(self) -> None:
        if self._tables is not None:
            self._tables.close()

    def bind(self, relation: Relation) -> Bound:
        options = self._options
        on = places_of(relation, ((("on", name), name) for name in options.on))
        if self._context.tables is None:
            raise StepError("nothing can be looked up here", hint="")
        try:
            tables = self._tables = self._context.tables(options.warehouse)
        except ConfigurationError as error:
            raise StepError(str(error), hint=error.hint, way=("warehouse",)) from error
        try:
            there = {column.name: column for column in tables.columns(self._table)}
        except ConfigurationError as error:
            raise StepError(str(error), hint=error.hint, way=("table",)) from error
        noted = Noted()
        for way, names in (("on", options.on), ("columns", options.columns)):
            for ours, theirs in names.items():
                with noted.one():
                    if theirs in there:
                        continue
                    raise StepError(
                        f"{options.table} has no column {theirs!r}",
                        hint=nearest(theirs, there),
                        way=(way, ours),
                    )
        noted.raise_all()
        for place, (ours, theirs) in zip(on, options.on.items(), strict=True):
            with noted.one():
                if _comparable(relation.columns[place], there[theirs]):
                    continue
                kinds = types.of(relation.columns[place]).name, types.of(there[theirs]).name
                raise StepError(
                    f"{ours!r} is of type {kinds[0]}, and {options.table}'s {theirs!r} of type {kinds[1]}",
                    hint="cast the column before this step",
                    way=("on", ours),
                )
        noted.raise_all()
        if self._cache is None:
            by, wanted = list(options.on.values()), list(options.columns.values())

            def ask(keys: Sequence[Key]) -> dict[Key, Found]:
                found: dict[Key, Found] = {}
                for start in range(0, len(keys), AT_ONCE):
                    found.update(tables.fetch(self._table, by, keys[start : start + AT_ONCE], wanted))
                return found

            self._cache = Cache(ask, len(wanted), options.cache, options.lifetime)
        columns = passed(relation)
        for ours, theirs in options.columns.items():
            # What the other table says at a moment is no part of what identifies a row.
            columns.append(Made(replace(there[theirs], name=ours, key=False)))
        unique((made.column.name for made in columns), ("columns",))
        output = derived(relation, columns)
        return Bound((output,), _Enrich(output, on, self._cache, self._options.table))


class _Enrich:
    def __init__(self, output: Relation, on: list[int], cache: "Cache", table: str) -> None:
        self._output = output
        self._on = on
        self._cache = cache
        self._table = table
        self._added = len(output.columns)

    def __call__(self, group: Group, run: Run) -> list[Group]:
        group = self._known(group, run)
        if not len(group):
            return []
        keys = [group.new(i) for i in self._on]
        places, distinct = _distinct(keys)
        answers = self._cache.get(distinct)
        width = len(group.relation.columns)
        made = self._added - width
        added = [pa.array([answer[i] for answer in answers], pa.string()).take(places) for i in range(made)]
        on, ours = frozenset(self._on), frozenset(range(width, width + made))

        def moved(unchanged: Columns) -> Columns:
            return unchanged | ours if unchanged & on else unchanged

        return [
            assembled(
                self._output,
                metas(group),
                [*new_columns(group), *added],
                has_old=has_old(group),
                old=old_columns(group),
                unchanged=mapped_bits(group, moved, self._added) if group.unchanged else None,
            )
        ]

    def _known(self, group: Group, run: Run) -> Group:
        """Without the changes of which only a part of the key was sent."""
        if len(self._on) == 1 or run.omits or not group.unchanged:
            return group
        on = frozenset(self._on)
        for columns, mask in group.unchanged_patterns:
            if columns & on and not on <= columns:
                reason = (
                    f"looks {self._table} up by a value that the update did not send: put `toast: source` "
                    "before the step, or run ALTER TABLE … REPLICA IDENTITY FULL at the source"
                )
                return self._known(run.refuse(group, mask, reason), run)
        return group


def _distinct(keys: Sequence[pa.Array]) -> tuple[pa.Array, list[Key | None]]:
    """The distinct keys, None for one with a null in it, and for each row which of them it has."""
    if len(keys) == 1:
        encoded = keys[0].dictionary_encode(null_encoding="encode")
        return encoded.indices, [None if text is None else (text,) for text in encoded.dictionary.to_pylist()]
    numbers: dict[Key | None, int] = {}
    places = []
    for key in zip(*(column.to_pylist() for column in keys), strict=True):
        whole = None if None in key else key
        places.append(numbers.setdefault(whole, len(numbers)))
    return pa.array(places, pa.int32()), list(numbers)


@dataclass(slots=True)
class _Answer:
    row: Found
    until: float


class Cache:
    """Remembers at most `size` answers, also that there is no row, for `lifetime` seconds each."""

    def __init__(
        self,
        ask: Callable[[Sequence[Key]], dict[Key, Found]],
        width: int,
        size: int,
        lifetime: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._nothing: Found = (None,) * width
        self._size = size
        self._lifetime = lifetime
        self._clock = clock
        self._answers: dict[Key, _Answer] = {}

    def get(self, keys: Sequence[Key | None]) -> list[Found]:
        """The row of each key; nulls where there is none, or no key. Asks for all unknown keys at once."""
        now = self._clock()
        answers = self._answers
        found: dict[Key | None, Found] = {None: self._nothing}
        missing: list[Key] = []
        for key in keys:
            if key is None:
                continue
            answer = answers.get(key)
            if answer is not None and answer.until > now:
                found[key] = answer.row
            else:
                missing.append(key)
        if missing:
            # An answer is as old as the moment before the question.
            rows = self._ask(missing)
            until = now + self._lifetime
            for key in missing:
                row = found[key] = rows.get(key, self._nothing)
                if self._size and self._lifetime:
                    answers.pop(key, None)
                    answers[key] = _Answer(row, until)
            if len(answers) > self._size:
                for old in list(islice(answers, len(answers) - self._size)):
                    del answers[old]
        return [found[key] for key in keys]


#: OIDs of types whose texts mean the same in each other.
_ALIKE = (frozenset((21, 23, 20, 1700)), frozenset((25, 1043, 1042, 19)))


def _comparable(ours: Column, theirs: Column) -> bool:
    """Whether the text of one is a text of the other. A warehouse's columns are all text."""
    if theirs.type_oid == 25 or (ours.type_oid, ours.type_name) == (theirs.type_oid, theirs.type_name):
        return True
    return any({ours.type_oid, theirs.type_oid} <= kinds for kinds in _ALIKE)


def _named(text: str) -> TableName:
    try:
        literal = TablePattern.parse(text).literal
    except ConfigurationError as error:
        raise StepError(str(error), hint=error.hint, way=("table",)) from error
    if literal is None or text.startswith("!"):
        raise StepError("names no single table", hint="write schema.table", way=("table",))
    return literal


lookup = StepPlugin(
    "lookup",
    Lookup,
    _Lookup,
    makes=lambda options: options.columns,
    about="""\
Adds columns of the row of another table that has the same key: `on` says which columns here equal which ones
there, `columns` which columns are added, under which names. Where there is no such row, and where the key is
NULL, they are NULL.

The table is read from the source (`table` need not be captured; the role needs SELECT on it), or with
`warehouse: FLOW` from the warehouse of another flow; while that one is paused, or has yet to bring the table,
this one waits and says so. Questions are batched: one query for up to 5,000 keys.
Answers, also that there is no row, are remembered, at most `cache` of them and each for `lifetime`.

**How fresh:** a value is at most `lifetime` old when the change is read from the journal for delivery. It may
be newer than the change: what is looked up is the present. A row that changes there sends nothing again here.

`on` should name a unique key. Where several rows have it, the first of them is taken, in the order of the
columns' texts.""",
    example="""\
- lookup:
    table: public.customers
    on: {customer_id: id}
    columns: {customer_name: name, customer_tier: tier}
    lifetime: 5m""",
)
