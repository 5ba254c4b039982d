"""Taking groups of changes apart and putting them together in another shape. Pure: Arrow in, Arrow out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.model import META, Group, Op, Relation, group_schema

#: Number of columns that every group begins with.
_META = len(META)

Columns = frozenset[int]
NO_COLUMNS: Columns = frozenset()


def assembled(
    relation: Relation,
    meta: Sequence[pa.Array],
    new: Sequence[pa.Array],
    *,
    has_old: pa.Array | None = None,
    old: Mapping[int, pa.Array] | None = None,
    unchanged: pa.Array | None = None,
) -> Group:
    """A group of these columns. `old` holds those of the relation's key, where `has_old` is given."""
    columns = [*meta, *new]
    if has_old is not None:
        assert old is not None
        columns.append(has_old)
        columns += [old[i] for i in relation.key]
    if unchanged is not None:
        columns.append(unchanged)
    schema = group_schema(len(relation.columns), relation.key, has_old is not None, unchanged is not None)
    data = pa.RecordBatch.from_arrays(columns, schema=schema)
    return Group(relation, data, has_old is not None, unchanged is not None)


def metas(group: Group) -> list[pa.Array]:
    """The columns of `META`, in their order."""
    return [group.data.column(i) for i in range(_META)]


def has_old(group: Group) -> pa.Array | None:
    """Whether each change came with an old row; None where none did."""
    return group.data.column("has_old") if group.old else None


def bits(group: Group) -> pa.Array | None:
    """The bitmaps of what was not sent; None where everything was."""
    return group.data.column("unchanged") if group.unchanged else None


def only(group: Group) -> Op | None:
    """The kind of all the group's changes, or None where there are several; the usual batch has one."""
    bounds = pc.min_max(group.meta("op"))
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    return Op(low) if low == high else None


def having_new(group: Group) -> pa.Array | None:
    """True for the changes that have a new row; None: all have one."""
    some = pc.invert(group.is_op(Op.DELETE, Op.TRUNCATE))
    return None if some.true_count == len(group) else some


def for_reading(group: Group, some: pa.Array | None, columns: Columns) -> Group:
    """The changes that a mask selects (None: all), for who reads of their new rows nothing but `columns`: to
    copy all of them would cost more than most that is computed."""
    if some is None:
        return group
    nothing = pa.nulls(some.true_count, pa.string())
    new = [column.filter(some) if i in columns else nothing for i, column in enumerate(new_columns(group))]
    came, bitmaps = has_old(group), bits(group)
    return assembled(
        group.relation,
        [column.filter(some) for column in metas(group)],
        new,
        has_old=None if came is None else came.filter(some),
        old={i: column.filter(some) for i, column in old_columns(group).items()},
        unchanged=None if bitmaps is None else bitmaps.filter(some),
    )


def filled(count: int, value: object, kind: pa.DataType) -> pa.Array:
    """`count` times the value."""
    return pa.nulls(count, kind) if value is None else pa.repeat(pa.scalar(value, kind), count)


def packed(columns: Columns, width: int) -> bytes | None:
    """The bitmap of a set of unchanged columns; None for the empty set."""
    number = sum(1 << i for i in columns)
    return number.to_bytes((width + 7) // 8, "little") if columns else None


def mapped_bits(group: Group, moved: Callable[[Columns], Columns], width: int) -> pa.Array | None:
    """The bitmaps for another shape of `width` columns: `moved` says for a set of unchanged columns which
    ones that are there. It is asked once per set, and always for the empty one."""
    nothing = packed(moved(NO_COLUMNS), width)
    if not group.unchanged:
        return None if nothing is None else filled(len(group), nothing, pa.binary())
    result = filled(len(group), nothing, pa.binary())
    for columns, mask in group.unchanged_patterns:
        result = pc.if_else(mask, pa.scalar(packed(moved(columns), width), pa.binary()), result)
    return None if result.null_count == len(result) else result


def resolved(group: Group) -> Group:
    """The same changes with the values that were not sent taken from the old row, where that holds them:
    all under FULL, and a TOASTed key. As `Change.new` reads them."""
    if not (group.old and group.unchanged):
        return group
    came = has_old(group)
    key = frozenset(group.relation.key)
    new = [group.new(i) for i in range(len(group.relation.columns))]
    for i in group.relation.key:
        mask = group.unchanged_mask(i)
        if mask is not None:
            new[i] = pc.if_else(pc.and_(mask, came), group.old_values(i), new[i])
    left = mapped_bits(group, lambda columns: columns - key, len(new))
    still = bits(group)
    merged = left
    if not pc.all(came).as_py():
        # Without an old row, what was not sent stays so.
        left = pa.nulls(len(group), pa.binary()) if left is None else left
        merged = pc.if_else(came, left, still)
        merged = None if merged.null_count == len(merged) else merged
    return assembled(
        group.relation, metas(group), new, has_old=came, old=old_columns(group), unchanged=merged
    )


def old_columns(group: Group) -> dict[int, pa.Array]:
    """The old values by column; empty where the group has none."""
    if not group.old:
        return {}
    start = _META + len(group.relation.columns) + 1
    return {column: group.data.column(start + n) for n, column in enumerate(group.relation.key)}


def new_columns(group: Group) -> list[pa.Array]:
    """The new values of every column."""
    return [group.data.column(_META + i) for i in range(len(group.relation.columns))]


def reshaped(group: Group, relation: Relation, sources: Sequence[int]) -> Group:
    """The columns of `sources`, in that order, as those of `relation`; its key columns were key columns."""
    data = group.data
    columns = [data.column(i) for i in range(_META)] + [data.column(_META + i) for i in sources]
    came = has_old(group)
    old = old_columns(group)
    place = {source: i for i, source in enumerate(sources)}

    def moved(unchanged: Columns) -> Columns:
        return frozenset(place[i] for i in unchanged if i in place)

    return assembled(
        relation,
        columns[:_META],
        columns[_META:],
        has_old=came,
        old={i: old[sources[i]] for i in relation.key} if came is not None else None,
        unchanged=mapped_bits(group, moved, len(sources)) if group.unchanged else None,
    )


def renamed(group: Group, relation: Relation) -> Group:
    """The same columns under the names of another relation, which has the same key."""
    return replace(group, relation=relation)


def scattered(values: pa.Array, mask: pa.Array) -> pa.Array:
    """A column with `values`, in order, where `mask` is true, and null elsewhere."""
    return pc.replace_with_mask(pa.nulls(len(mask), values.type), mask, values)


def joined(relation: Relation, groups: Sequence[Group]) -> Group:
    """Groups of one relation as one, in order of `index`; changes of the same index keep their order."""
    if len(groups) == 1:
        return groups[0]
    old = any(group.old for group in groups)
    unchanged = any(group.unchanged for group in groups)
    data = pa.concat_batches([widened(group, old=old, unchanged=unchanged) for group in groups])
    order = pc.sort_indices(data.column(0))
    return Group(relation, data.take(order), old, unchanged)


def widened(group: Group, *, old: bool, unchanged: bool) -> pa.RecordBatch:
    """The group's data with the optional columns, filled with nothing where it has none."""
    if (group.old, group.unchanged) == (old, unchanged):
        return group.data
    count = len(group)
    came, held, bitmap = has_old(group), old_columns(group), bits(group)
    if old and came is None:
        came = filled(count, False, pa.bool_())
        held = {i: pa.nulls(count, pa.string()) for i in group.relation.key}
    if unchanged and bitmap is None:
        bitmap = pa.nulls(count, pa.binary())
    wide = assembled(
        group.relation, metas(group), new_columns(group), has_old=came, old=held, unchanged=bitmap
    )
    return wide.data
