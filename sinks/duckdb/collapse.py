"""What a run of changes of one keyed table comes to: the last state of each key.

Pure: Arrow in, Arrow out. Everything is vectorised but the rows that a changed key links to each other,
which are replayed one by one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow import types
from cdcflow.errors import Permanent
from cdcflow.model import Group, Op

#: A row's key as Postgres text. Texts identify rows: where a key changes in as little as its bytes
#: (1.0 → 1.00, −0 → 0), Postgres sends the old key with the update.
Key = tuple[str, ...]

_INTEGERS = frozenset({"SMALLINT", "INTEGER", "BIGINT"})


@dataclass(frozen=True)
class LastStates:
    """What to do with the table: delete the rows of `touched`, then insert.

    `touched` holds one text column per key column, distinct. The other fields run in parallel, one
    entry per row to insert: `rows` is the row of the group that the key's last state is in, and `keys`
    its key. `sources` gives for a column that some change left unchanged the row its value was last
    sent in, null where that was before this run; `origins` is the key under which the table holds such
    a value. `lost` marks rows that lack a value which the table cannot hold: they were inserted without
    it, as an update is sent that brings a row into the publication's row filter. `whole`: `rows` are all
    rows of the group, in their order.
    """

    touched: tuple[pa.Array, ...]
    rows: pa.Array
    keys: tuple[pa.Array, ...]
    sources: Mapping[int, pa.Array]
    origins: tuple[pa.Array, ...]
    lost: pa.Array
    whole: bool = False

    @property
    def replaces(self) -> bool:
        """Whether every touched key is one to insert: nothing but upserts."""
        return len(self.touched[0]) == len(self.rows)


def row_numbers(count: int) -> pa.Array:
    """0, 1, 2 … as int64."""
    return pc.indices_nonzero(pa.repeat(pa.scalar(True, pa.bool_()), count)).cast(pa.int64())


def key_columns(group: Group) -> tuple[pa.Array, ...]:
    """For each key column its text *after* the change; before it, for a delete.

    Raises Permanent where a change comes without its key.
    """
    deleted = group.is_op(Op.DELETE)
    columns = []
    for column in group.relation.key:
        values = group.new(column)
        old = group.old_values(column)
        if old is not None:
            # A TOASTed key that did not change is sent with the old key only.
            unsent = group.unchanged_mask(column)
            values = pc.if_else(deleted if unsent is None else pc.or_(deleted, unsent), old, values)
        if values.null_count:
            raise Permanent(
                f"a change of {group.relation.qualified} has no value for its key column "
                f"{group.relation.columns[column].name}",
                hint="check that the table's replica identity covers NOT NULL columns only",
            )
        columns.append(values)
    return tuple(columns)


def last_states(group: Group) -> LastStates:
    """Collapses the changes of a table with a key, in order; none may be a TRUNCATE.

    Raises Permanent for a change without key.
    """
    partial = [i for i in range(len(group.relation.columns)) if group.unchanged_mask(i) is not None]
    # The key's own columns are complete through the old key.
    partial = [i for i in partial if i not in group.relation.key]
    keys = key_columns(group)
    before = old_keys(group, keys)
    if before is None:
        return _by_hash(group, keys, partial)
    return _by_replay(group, keys, before, partial)


def old_keys(group: Group, keys: tuple[pa.Array, ...]) -> tuple[pa.Array, ...] | None:
    """The key before each update that changed it, null elsewhere; None where no key changed."""
    if not group.old:
        return None
    updated = pc.and_(group.is_op(Op.UPDATE), group.data.column("has_old"))
    before = [group.old_values(column) for column in group.relation.key]
    differs = None
    for old, new in zip(before, keys, strict=True):
        other = pc.fill_null(pc.not_equal(old, new), True)
        differs = other if differs is None else pc.or_(differs, other)
    changed = pc.and_(updated, differs)
    if not pc.any(changed).as_py():
        return None
    return tuple(pc.if_else(changed, old, pa.scalar(None, pa.string())) for old in before)


def _by_hash(group: Group, keys: tuple[pa.Array, ...], partial: list[int]) -> LastStates:
    numbers = row_numbers(len(group))
    deleted = group.is_op(Op.DELETE)
    if not partial and _are_distinct(group, keys):
        nothing = pa.repeat(pa.scalar(False, pa.bool_()), len(group))
        return LastStates(keys, numbers, keys, {}, keys, nothing, whole=True)
    nowhere = pa.scalar(None, pa.int64())
    names = [f"k{i}" for i in range(len(keys))]
    columns = dict(zip(names, keys, strict=True)) | {"row": numbers}
    if partial:
        columns["born"] = pc.if_else(group.is_op(Op.INSERT), numbers, nowhere)
    for column in partial:
        unsent = group.unchanged_mask(column)
        silent = deleted if unsent is None else pc.or_(deleted, unsent)
        columns[f"s{column}"] = pc.if_else(silent, nowhere, numbers)
    wanted = [(name, "max") for name in columns if name not in names]
    # Threads would cost more than they bring at these sizes, and lose the order of first appearance,
    # which keeps rows near their neighbours in the table.
    found = pa.table(columns).group_by(names, use_threads=False).aggregate(wanted)
    touched = tuple(column_of(found, name) for name in names)
    rows = column_of(found, "row_max")
    alive = pc.invert(deleted.take(rows))
    living = tuple(key.filter(alive) for key in touched)
    rows = rows.filter(alive)
    lost = pa.repeat(pa.scalar(False, pa.bool_()), len(rows))
    sources = {}
    for column in partial:
        born = column_of(found, "born_max").filter(alive)
        source = column_of(found, f"s{column}_max").filter(alive)
        # A value from before the last insert is one of the row's former life.
        source = pc.if_else(pc.fill_null(pc.less(source, born), False), nowhere, source)
        lost = pc.or_(lost, pc.and_(born.is_valid(), source.is_null()))
        sources[column] = source
    return LastStates(touched, rows, living, sources, living, lost)


def _are_distinct(group: Group, keys: tuple[pa.Array, ...]) -> bool:
    """Whether no key comes twice, where that is seen soon: rows that were added or read, with integers as
    keys. A quarter of what the general way takes."""
    ops = pc.unique(group.meta("op")).to_pylist()
    if not {int(Op.INSERT), int(Op.READ)}.issuperset(ops):
        return False
    for column, key in zip(group.relation.key, keys, strict=True):
        if types.of(group.relation.columns[column]).duckdb in _INTEGERS:
            return len(pc.unique(key.cast(pa.int64()))) == len(key)
    return False


def column_of(table: pa.Table, name: str) -> pa.Array:
    """A column as one array."""
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


@dataclass(slots=True)
class _State:
    """A live row during replay: the row of its last state, where each partial column was last sent, and
    the key that the table holds it under (None: the row was inserted in this run)."""

    row: int
    sources: list[int | None]
    origin: Key | None


def _by_replay(
    group: Group,
    keys: tuple[pa.Array, ...],
    old_keys: tuple[pa.Array, ...],
    partial: list[int],
) -> LastStates:
    after = _tuples(keys)
    before = [None if key[0] is None else key for key in _tuples(old_keys)]
    linked = {key for key in before if key is not None}
    linked.update(key for key, old in zip(after, before, strict=True) if old is not None)
    replayed = [key in linked for key in after]
    rest = _by_hash_where(group, pc.invert(pa.array(replayed, pa.bool_())), keys, partial)

    op = group.meta("op").to_pylist()
    unsent = [mask.to_pylist() for mask in map(group.unchanged_mask, partial) if mask is not None]
    states: dict[Key, _State | None] = {}
    sources: list[int | None]
    for row, wanted in enumerate(replayed):
        if not wanted:
            continue
        key, old = after[row], before[row]
        if op[row] == Op.DELETE:
            states[key] = None
            continue
        if op[row] == Op.UPDATE:
            # A key that the run has not touched yet is a row of the table.
            held = states.get(old or key)
            before_it = held.sources if held else [None] * len(partial)
            sources = [s if u[row] else row for s, u in zip(before_it, unsent, strict=True)]
            origin = held.origin if held else old or key
        else:
            sources, origin = [None if u[row] else row for u in unsent], None
        if old is not None:
            states[old] = None
        states[key] = _State(row, sources, origin)

    alive = [(key, state) for key, state in states.items() if state is not None]
    replay = LastStates(
        _columns(list(states), len(keys)),
        pa.array([state.row for _, state in alive], pa.int64()),
        _columns([key for key, _ in alive], len(keys)),
        {
            column: pa.array([state.sources[i] for _, state in alive], pa.int64())
            for i, column in enumerate(partial)
        },
        _columns([state.origin or key for key, state in alive], len(keys)),
        pa.array([state.origin is None and None in state.sources for _, state in alive], pa.bool_()),
    )
    return _joined(rest, replay)


def _columns(keys: list[Key], width: int) -> tuple[pa.Array, ...]:
    return tuple(pa.array([key[i] for key in keys], pa.string()) for i in range(width))


def _joined(one: LastStates, other: LastStates) -> LastStates:
    """Both, which must be of different keys."""

    def pairs(left: tuple[pa.Array, ...], right: tuple[pa.Array, ...]) -> tuple[pa.Array, ...]:
        return tuple(pa.concat_arrays(pair) for pair in zip(left, right, strict=True))

    return LastStates(
        pairs(one.touched, other.touched),
        pa.concat_arrays([one.rows, other.rows]),
        pairs(one.keys, other.keys),
        {column: pa.concat_arrays([rows, other.sources[column]]) for column, rows in one.sources.items()},
        pairs(one.origins, other.origins),
        pa.concat_arrays([one.lost, other.lost]),
    )


def _by_hash_where(
    group: Group, mask: pa.Array, keys: tuple[pa.Array, ...], partial: list[int]
) -> LastStates:
    """`_by_hash` over some of the rows, with the row numbers of the whole group."""
    part = group.take(mask)
    numbers = row_numbers(len(group)).filter(mask)
    found = _by_hash(part, tuple(key.filter(mask) for key in keys), partial)
    return LastStates(
        found.touched,
        numbers.take(found.rows),
        found.keys,
        {column: numbers.take(rows) for column, rows in found.sources.items()},
        found.origins,
        found.lost,
    )


def _tuples(columns: tuple[pa.Array, ...]) -> list[Key]:
    return list(zip(*(column.to_pylist() for column in columns), strict=True))
