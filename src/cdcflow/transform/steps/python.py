"""`python`: a function of the user's, from a file in the configuration directory, run in a process of its
own.

It sets the columns that the step names, and drops or repeats changes; it touches nothing else. See
`cdcflow.transform.python` for what keeps a function that goes wrong from harming anything but its flow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from cdcflow import types
from cdcflow.errors import Permanent
from cdcflow.model import META, UNCHANGED, Column, Group, Op, Position, Relation
from cdcflow.sink.quantities import Duration, Size
from cdcflow.transform.derive import Made, derived, passed
from cdcflow.transform.options import ColumnName, StepOptions
from cdcflow.transform.python.host import Failed, Function, Host
from cdcflow.transform.python.modules import imported, within
from cdcflow.transform.rows import assembled, has_old, joined, metas, new_columns, old_columns, packed
from cdcflow.transform.step import Bound, Noted, Run, StepContext, StepError, StepPlugin
from cdcflow.transform.steps.typenames import column_type
from cdcflow.types.json import Json
from cdcflow.types.numbers import Numeric

#: OIDs of types that a function gets as what Python has for them. Everything else is Postgres' text.
_KINDS = {21: "int", 23: "int", 20: "int", 700: "float", 701: "float", 1700: "numeric", 16: "bool"}


class Python(StepOptions):
    """Which function, what it sets, and what it may use."""

    file: str
    function: str = "transform"
    #: It takes a list of changes, and gives one.
    batch: bool = False
    #: Column → type: those that it sets.
    sets: Annotated[dict[ColumnName, str], Field(default_factory=dict)]
    on_error: Literal["reject", "stop"] = "reject"
    #: For one batch.
    timeout: Annotated[Duration, Field(gt=0)] = 10.0
    memory: Annotated[Size, Field(ge=16 * 10**6)] = 512 * 10**6

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            file, colon, function = value.partition(":")
            return {"file": file, "function": function} if colon else {"file": file}
        return value


class _Python:
    """Implements Step and Interruptible."""

    def __init__(self, options: Python, context: StepContext) -> None:
        self._options = options
        base = context.base.absolute()
        file, source = _inside(base, options.file, context.code)
        read = context.code.get if file in context.code else partial(within, base)
        modules = imported(base, file, source, read)
        self._function = Function(
            base, file, source, modules, options.function, options.batch, options.timeout, options.memory
        )
        self._host = Host(self._function)

    def bind(self, relation: Relation) -> Bound:
        options = self._options
        columns = passed(relation)
        places: list[int] = []
        noted = Noted()
        for name, text in options.sets.items():
            with noted.one():
                made = replace(column_type(text, ("sets", name)), name=name)
                if name in relation.names:
                    place = relation.names.index(name)
                    if relation.columns[place].key and not relation.full:
                        raise StepError(
                            f"{name!r} is part of the key",
                            hint="have the function set another column",
                            way=("sets", name),
                        )
                    columns[place] = Made(made, None, "python")
                else:
                    place = len(columns)
                    columns.append(Made(made, None, "python"))
                places.append(place)
        with noted.one():
            self._load()
        noted.raise_all()
        # Under FULL, what the function sets identifies no row: nobody knows what it would have made of the
        # old row.
        output = derived(relation, columns)
        return Bound((output,), _Calls(relation, output, places, options, self._host))

    def _load(self) -> None:
        try:
            self._host.load()
        except Failed as error:
            raise StepError(str(error), hint=error.hint, way=("file",)) from error

    def interrupt(self) -> None:
        self._host.interrupt()

    def close(self) -> None:
        self._host.close()


def _files(options: Python, base: Path, read: Callable[[Path], bytes | None]) -> Mapping[Path, bytes]:
    """The function's file, and what it imports from beside it."""
    file = base / options.file
    source = read(file)
    return {} if source is None else {file: source, **imported(base, file, source, read)}


def _inside(base: Path, name: str, code: Mapping[Path, bytes]) -> tuple[Path, bytes]:
    """The file, which must be in the configuration's directory whatever links say, and what it holds: what
    `code` has of it, else what stands there now."""
    file = base / name
    if not file.resolve().is_relative_to(base.resolve()) or Path(name).is_absolute():
        raise StepError(
            "only a file in the configuration's directory may be run",
            hint="move it there, and name it by its path from there",
            way=("file",),
        )
    if file in code:
        return file, code[file]
    if not file.is_file():
        near = sorted(path.name for path in base.glob("*.py"))
        raise StepError(
            f"there is no file {name} in the configuration's directory",
            hint=f"Python files there: {', '.join(near) or 'none'}",
            way=("file",),
        )
    try:
        return file, file.read_bytes()
    except OSError as error:
        raise StepError(f"{name} cannot be read: {error.strerror}", way=("file",)) from error


def _kind(column: Column) -> str:
    kind = types.of(column)
    if isinstance(kind, Json):
        return "json"
    if isinstance(kind, Numeric):
        return "numeric"
    return _KINDS.get(column.type_oid, "text")


class _Calls:
    def __init__(
        self, relation: Relation, output: Relation, places: Sequence[int], options: Python, host: Host
    ) -> None:
        self._relation = relation
        self._output = output
        self._places = places
        self._options = options
        self._host = host
        self._columns = [(column.name, _kind(column)) for column in relation.columns]

    def __call__(self, group: Group, run: Run) -> Sequence[Group]:
        truncated = group.is_op(Op.TRUNCATE)
        if pc.any(truncated).as_py():
            rest = group.take(pc.invert(truncated))
            emptied = self._widened(group.take(truncated))
            return [joined(self._output, [emptied, *(self._called(rest, run) if len(rest) else [])])]
        return self._called(group, run)

    def _called(self, group: Group, run: Run) -> list[Group]:
        answer = self._host.run(
            {
                "schema": self._relation.schema,
                "table": self._relation.name,
                "columns": self._columns,
                "key": list(self._relation.key),
                "sets": list(self._options.sets),
                "rows": _rows(group),
            }
        )
        errors: dict[int, str] = dict(answer["errors"])
        if errors and self._options.on_error == "stop":
            raise Permanent(errors[min(errors)], hint="mend the function, or write `on_error: reject`")
        made: list[list[list[Any]]] = answer["made"]
        rows = [row for row, some in enumerate(made) for _ in some]
        values = [some for row in made for some in row]
        if len(rows) != len(set(rows)):
            run.multiplied = True
        if errors:
            run.refuse_rows(group, errors)
        if run.notes is not None:
            kept = [bool(some) or row in errors for row, some in enumerate(made)]
            run.drop(group, pa.array(kept, pa.bool_()), f"{self._host.place} did not give it back")
        return [self._checked(self._set(group, rows, values), rows, group, run)]

    def _set(self, group: Group, rows: list[int], values: list[list[Any]]) -> Group:
        chosen = pa.array(rows, pa.int64())
        new = [column.take(chosen) for column in new_columns(group)]
        new += [pa.nulls(len(rows), pa.string())] * (len(self._output.columns) - len(new))
        # A delete has no new row, and nothing is set in it.
        set_ = [values[i] or [None] * len(self._places) for i in range(len(values))]
        ours = {place: [row[i] for row in set_] for i, place in enumerate(self._places)}
        for place, column in ours.items():
            new[place] = pa.array(
                [value if isinstance(value, str) else None for value in column], pa.string()
            )
        came = has_old(group)
        unchanged = None
        if group.unchanged or any(value is UNCHANGED for column in ours.values() for value in column):
            unchanged = _unchanged(group, rows, ours, len(new))
        return assembled(
            self._output,
            [column.take(chosen) for column in metas(group)],
            new,
            has_old=None if came is None else came.take(chosen),
            old={i: column.take(chosen) for i, column in old_columns(group).items()},
            unchanged=unchanged,
        )

    def _checked(self, made: Group, rows: list[int], group: Group, run: Run) -> Group:
        """Without the changes in which a column that the function sets does not read as its type."""
        wrong: dict[int, str] = {}
        for place in self._places:
            column = self._output.columns[place]
            kind = types.of(column)
            try:
                kind.to_arrow(made.new(place))
                continue
            except Permanent:
                pass
            for row, value in enumerate(made.new(place).to_pylist()):
                try:
                    kind.to_arrow(pa.array([value], pa.string()))
                except Permanent:
                    wrong.setdefault(
                        row,
                        f"{self._host.place}: the function sets {column.name!r} to what is no {kind.name}",
                    )
        if wrong and self._options.on_error == "stop":
            raise Permanent(wrong[min(wrong)], hint="mend the function, or write `on_error: reject`")
        return run.refuse_rows(made, wrong) if wrong else made

    def _widened(self, group: Group) -> Group:
        """Changes that have no rows, as the output has them."""
        added = len(self._output.columns) - len(self._relation.columns)
        old = old_columns(group)
        return assembled(
            self._output,
            metas(group),
            [*new_columns(group), *([pa.nulls(len(group), pa.string())] * added)],
            has_old=has_old(group),
            old=old,
        )


def _rows(group: Group) -> list[list[Any]]:
    """The changes as the function's process reads them."""
    relation = group.relation
    meta = dict(zip((name for name, _ in META), (column.to_pylist() for column in metas(group)), strict=True))
    news = zip(*(column.to_pylist() for column in new_columns(group)), strict=True)
    came = has_old(group)
    held = old_columns(group)
    olds: Sequence[tuple[Any, ...] | None] = [None] * len(group)
    if came is not None:
        columns = [held[i].to_pylist() for i in relation.key]
        olds = [
            row if there else None
            for there, row in zip(came.to_pylist(), zip(*columns, strict=True), strict=True)
        ]
    absent: dict[int, frozenset[int]] = {}
    for columns_, mask in group.unchanged_patterns:
        absent.update(dict.fromkeys(pc.indices_nonzero(mask).to_pylist(), columns_))
    rows = []
    for row, (op, lsn, ordinal, time, new, old) in enumerate(
        zip(meta["op"], meta["commit_lsn"], meta["ordinal"], meta["commit_time"], news, olds, strict=True)
    ):
        texts: list[Any] | None = None
        if op != Op.DELETE:
            texts = list(new)
            for place in absent.get(row, ()):
                texts[place] = UNCHANGED
        rows.append(
            [Op(op).word, str(Position(lsn, ordinal)), time, texts, None if old is None else list(old)]
        )
    return rows


def _unchanged(group: Group, rows: list[int], ours: Mapping[int, list[Any]], width: int) -> pa.Array:
    absent: dict[int, frozenset[int]] = {}
    for columns, mask in group.unchanged_patterns:
        absent.update(dict.fromkeys(pc.indices_nonzero(mask).to_pylist(), columns))
    nothing = frozenset[int]()
    return pa.array(
        [
            packed(
                (absent.get(row, nothing) - ours.keys())
                | {place for place, column in ours.items() if column[number] is UNCHANGED},
                width,
            )
            for number, row in enumerate(rows)
        ],
        pa.binary(),
    )


python = StepPlugin(
    "python",
    Python,
    _Python,
    makes=lambda options: options.sets,
    files=_files,
    about="""\
Calls a function of your own for every change (`batch: true`: for a list of changes), from a file in the
configuration's directory. It returns the change, None to drop it, or a list of changes; with `batch`, a list
of the changes that stay, in their order.

```python
def transform(change):
    if change.new and change.new["amount"] is not None:
        change.new["vat"] = change.new["amount"] * Decimal("0.19")
    return change
```

A change has `op`, `new` and `old` (dicts by column, or None), `schema`, `table`, `position` and
`commit_time`. Numbers, booleans and JSON are Python's, everything else is Postgres' text; a value that was
not sent is `cdcflow_change.UNCHANGED`. The function may set the columns that the step names under `sets`,
with their types, and no others; a list holds the change, or `change.copy()`.

What its file imports from the configuration's directory is part of the flow's revision, as the file itself
is: an edit of it is taken over when all of it loads, and refused otherwise. An import that is computed
(`importlib.import_module(name)`) finds no module there.

It runs in a process of its own. A change for which it raises, or sets what is no value of the column's
type, is refused for good, with the places that the exception went through and without its message
(`on_error: reject`), or stops the flow (`on_error: stop`; always with `batch`). A function that needs
longer than `timeout` for a batch, or more than `memory`, stops its flow, which says where it was; other
flows notice nothing.

Under REPLICA IDENTITY FULL, columns that it sets are no part of what identifies a row: put `key` behind it
for a sink that keeps rows. Deletes pass through the function too; what it would set in them is ignored.""",
    example="""\
- python:
    file: scoring.py
    function: score
    sets: {score: numeric}""",
)
