"""`collapse`: of all changes of a row that are delivered together, one is left, with the row's last state.

What is left stands where the last change stood. A delete is kept even where the row was inserted in the same
window: after a crash the changes come again and may be cut at other places, so that the insert may have
been delivered before, alone. For the same reason rows whose key changed within the window are left as
they are: each of the keys may be at the destination.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from cdcflow.model import Group, Op, Relation
from cdcflow.sink.quantities import Duration
from cdcflow.transform.options import StepOptions
from cdcflow.transform.rows import (
    assembled,
    filled,
    has_old,
    joined,
    metas,
    new_columns,
    old_columns,
    packed,
)
from cdcflow.transform.step import Bound, Run, StepContext, StepError, StepPlugin

_BEHIND = "a later change of the same row stands for it"
_EMPTIED = "the table was emptied after it"


class Window(StepOptions):
    """How long changes gather."""

    within: Annotated[Duration, Field(ge=0)] = 0.0

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"within": value} if isinstance(value, str) else value


class _Collapse:
    def __init__(self, _options: Window, _context: StepContext) -> None:
        pass

    def bind(self, relation: Relation) -> Bound:
        if relation.full or not relation.key:
            raise StepError(
                "nothing but the whole row identifies a row: which changes are of the same one is not known",
                hint="put `- key: [id]`, with the columns of the primary key, before it",
            )
        return Bound((relation,), collapsed)


def collapsed(group: Group, run: Run) -> Sequence[Group]:
    """The group with one change per row; changes of rows whose key changed are left as they are."""
    emptied: list[Group] = []
    truncates = pc.indices_nonzero(group.is_op(Op.TRUNCATE))
    if len(truncates):
        last = truncates[-1].as_py()
        place = pa.array(range(len(group)), pa.int64())
        group = run.drop(group, pc.greater_equal(place, last), _EMPTIED)
        first = pa.array([True] + [False] * (len(group) - 1), pa.bool_())
        emptied = [group.take(first)]
        group = group.take(pc.invert(first))
    if len(group) < 2:
        return [group] if not emptied else [joined(group.relation, [*emptied, group])]
    keys = key_after(group)
    linked = _linked(group, keys)
    parts = list(emptied)
    if linked is not None:
        parts.append(group.take(linked))
        apart = pc.invert(linked)
        group, keys = group.take(apart), [key.filter(apart) for key in keys]
    if len(group):
        parts.append(_last_states(group, keys, run))
    return [joined(group.relation, parts)]


def key_after(group: Group) -> list[pa.Array]:
    """Each key column after the change; before it, for a delete."""
    deleted = group.is_op(Op.DELETE)
    old = old_columns(group)
    return [
        pc.if_else(deleted, old[i], group.new(i)) if i in old else group.new(i) for i in group.relation.key
    ]


def _linked(group: Group, keys: Sequence[pa.Array]) -> pa.Array | None:
    """The changes of rows whose key changed within the group; None where none did."""
    came = has_old(group)
    if came is None:
        return None
    old = old_columns(group)
    before = [old[i] for i in group.relation.key]
    differs = reduce(
        pc.or_, (pc.fill_null(pc.not_equal(a, b), True) for a, b in zip(before, keys, strict=True))
    )
    changed = pc.and_(pc.and_(group.is_op(Op.UPDATE), came), differs)
    if not pc.any(changed).as_py():
        return None
    touched = set(_tuples([key.filter(changed) for key in keys]))
    touched |= set(_tuples([key.filter(changed) for key in before]))
    return pa.array([key in touched for key in _tuples(keys)], pa.bool_())


def _tuples(columns: Sequence[pa.Array]) -> list[tuple[str | None, ...]]:
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


def _last_states(group: Group, keys: Sequence[pa.Array], run: Run) -> Group:
    count = len(group)
    numbers = pa.array(range(count), pa.int64())
    names = [f"k{i}" for i in range(len(keys))]
    nowhere = pa.scalar(None, pa.int64())
    born = group.is_op(Op.INSERT, Op.READ)
    deleted = group.is_op(Op.DELETE)
    columns = dict(zip(names, keys, strict=True)) | {
        "row": numbers,
        "born": pc.if_else(born, numbers, nowhere),
    }
    partial = [i for i in range(len(group.relation.columns)) if group.unchanged_mask(i) is not None]
    for i in partial:
        silent = pc.or_(deleted, group.unchanged_mask(i))
        columns[f"s{i}"] = pc.if_else(silent, nowhere, numbers)
    wanted = [("row", "min"), ("row", "max"), ("born", "max"), *((f"s{i}", "max") for i in partial)]
    found = pa.table(columns).group_by(names, use_threads=False).aggregate(wanted).combine_chunks()
    found = found.sort_by("row_max")
    if len(found) == count:
        return group
    rows, first = _column(found, "row_max"), _column(found, "row_min")
    if run.notes is not None:
        run.drop(group, pc.is_in(numbers, value_set=rows), _BEHIND)

    meta = [column.take(rows) for column in metas(group)]
    gone = deleted.take(rows)
    op = group.meta("op")
    began = born.take(first)
    updated = pa.scalar(int(Op.UPDATE), pa.uint8())
    # A row that was deleted and came again is the same row, changed.
    meta[1] = pc.if_else(gone, meta[1], pc.if_else(began, op.take(first), updated))

    new = [column.take(rows) for column in new_columns(group)]
    unchanged = None
    still: dict[int, pa.Array] = {}
    for i in partial:
        source = _column(found, f"s{i}_max")
        before = pc.fill_null(pc.less(source, _column(found, "born_max")), False)
        source = pc.if_else(before, nowhere, source)
        new[i] = group.new(i).take(source)
        still[i] = pc.and_(source.is_null(), pc.invert(gone))
    if any(pc.any(mask).as_py() for mask in still.values()):
        unchanged = _bitmaps(still, len(group.relation.columns))
    came = has_old(group)
    return assembled(
        group.relation,
        meta,
        new,
        # The keys of these updates stayed, so only a delete needs its old row.
        has_old=None if came is None else pc.and_(came.take(rows), gone),
        old={i: column.take(rows) for i, column in old_columns(group).items()},
        unchanged=unchanged,
    )


def _bitmaps(still: dict[int, pa.Array], width: int) -> pa.Array:
    masks = {i: mask.to_pylist() for i, mask in still.items()}
    count = len(next(iter(masks.values())))
    if not masks:
        return filled(count, None, pa.binary())
    return pa.array(
        [packed(frozenset(i for i, mask in masks.items() if mask[row]), width) for row in range(count)],
        pa.binary(),
    )


def _column(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _window(options: Window) -> float:
    return options.within


collapse = StepPlugin(
    "collapse",
    Window,
    _Collapse,
    makes=lambda _options: (),
    window=_window,
    about="""\
Of all changes of a row that are delivered together, leaves one: the row's last state, where the last of them
stood. Without `within`, these are the changes that came while the sink was busy; with it, changes also
gather for so long, and the checkpoint moves behind them when they are delivered.

| in the window | what is left |
|---|---|
| insert, update … | insert, with the last values |
| update, update … | update, with the last values; a value that was not sent is taken from the update before |
| …, delete | delete, also where the row was inserted in the window: the destination may have it from before a crash |
| delete, insert … | update, with all values |
| a change of the key | everything of these keys, as it came |
| truncate | the truncate, and what came behind it |

Needs a key: under REPLICA IDENTITY FULL put `key` before it.""",  # noqa: E501
    example="- collapse: 10s",
)
