"""The rows that expressions are evaluated over: columns converted when first asked for, once for all
expressions.

A `Frame` is over a group of a batch, over its rows as they were before, or over plain columns of text. `Rows`
is one evaluation: which rows of the frame it is about (a branch of a CASE sees only its own), and which fail.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.model import Group, Op, Position, Relation
from cdcflow.transform.expression.conversion import codec
from cdcflow.transform.expression.sqltype import SqlType

#: A column of rows, or one value for all of them.
Datum: TypeAlias = "pa.Array | pa.Scalar"

Row = Literal["new", "old"]
#: What an expression reads: the row and the index of the column.
Input = tuple[Row, int]

_FALSE = pa.scalar(False)


class Frame:
    """A group's rows. `before`: the rows as they were before each change, for asking whether a row *was* in a
    filter: `new.x` then is the old value.

    Columns that the change did not bring are null, and `unknown` says so.
    """

    def __init__(self, group: Group, *, before: bool = False) -> None:
        self.group = group
        self.count = len(group)
        self.before = before
        self._typed: dict[tuple[Row, int, str, int], tuple[pa.Array, Mapping[int, str]]] = {}
        self._texts: dict[Input, pa.StringArray] = {}
        self._metas: dict[str, pa.Array] = {}

    @staticmethod
    def of_columns(
        relation: Relation,
        columns: Sequence[pa.StringArray],
        *,
        op: Op = Op.INSERT,
        old: Sequence[pa.StringArray] | None = None,
        commit_time: int = 0,
    ) -> "Frame":
        """Plain columns of Postgres text, one per column of the relation, as the new rows of that many
        changes.

        `old` gives the old values of the relation's key columns, in their order.
        """
        count = len(columns[0]) if columns else 0
        schema = Group.schema(relation, old=old is not None, unchanged=False)
        metas = (
            [*range(count)],
            [int(op)] * count,
            [0] * count,
            [1] * count,
            [0] * count,
            [commit_time] * count,
        )
        arrays = [pa.array(values, field.type) for values, field in zip(metas, schema, strict=False)]
        arrays += columns
        if old is not None:
            arrays += [pa.array([True] * count), *old]
        return Frame(Group(relation, pa.record_batch(arrays, schema=schema), old is not None, False))

    def text(self, row: Row, column: int) -> pa.StringArray:
        """Postgres' text of a column; null is NULL, no such row, or not known."""
        values = self._texts.get((row, column))
        if values is None:
            values = self._old(column) if row == "old" or self.before else self._new(column)
            self._texts[row, column] = values
        return values

    def _new(self, column: int) -> pa.StringArray:
        group = self.group
        values = group.new(column)
        unsent = group.unchanged_mask(column)
        if unsent is None:
            return values
        old = group.old_values(column)
        return values if old is None else pc.if_else(unsent, old, values)

    def _old(self, column: int) -> pa.StringArray:
        group = self.group
        if column not in group.relation.key:
            return pa.nulls(self.count, pa.string())
        old = group.old_values(column)
        # The server sends no old key where the key stayed (manual, 54.9, "Update").
        stayed = group.is_op(Op.UPDATE)
        if old is None:
            return pc.if_else(stayed, group.new(column), pa.scalar(None, pa.string()))
        stayed = pc.and_(stayed, pc.invert(group.data.column("has_old")))
        return pc.if_else(stayed, group.new(column), old)

    def unknown(self, row: Row, column: int) -> pa.BooleanArray | None:
        """True where the value is not known: a TOASTed value that was not sent, or one that the old row
        of the replica identity does not hold. None where all are known."""
        group = self.group
        if row == "old" or self.before:
            if column in group.relation.key:
                return None
            had = group.is_op(Op.UPDATE, Op.DELETE)
            return had if pc.any(had, min_count=0).as_py() else None
        unsent = group.unchanged_mask(column)
        if unsent is None or group.old_values(column) is None:
            return unsent
        unsent = pc.and_(unsent, pc.invert(group.data.column("has_old")))
        return unsent if pc.any(unsent, min_count=0).as_py() else None

    def column(self, row: Row, column: int, of: SqlType) -> tuple[pa.Array, Mapping[int, str]]:
        """A column as `conversion.codec(of)` has it, and the rows in which that cannot be done."""
        key = (row, column, of.key, of.typmod)
        found = self._typed.get(key)
        if found is None:
            failures: dict[int, str] = {}
            values = codec(of).read(self.text(row, column), failures.__setitem__)
            found = self._typed[key] = (values, failures)
        return found

    def meta(self, name: str) -> pa.Array:
        """One of the values that belong to the change, see `scope.METAS`."""
        values = self._metas.get(name)
        if values is None:
            values = self._metas[name] = _METAS[name](self.group)
        return values


def _ops(group: Group) -> pa.Array:
    words = pa.array([op.word for op in Op])
    codes = pa.array([int(op) for op in Op], group.meta("op").type)
    return words.take(pc.index_in(group.meta("op"), codes))


def _positions(group: Group) -> pa.Array:
    pairs = zip(group.meta("commit_lsn").to_pylist(), group.meta("ordinal").to_pylist(), strict=True)
    return pa.array([str(Position(lsn, ordinal)) for lsn, ordinal in pairs], pa.string())


_METAS: Mapping[str, Callable[[Group], pa.Array]] = {
    "op": _ops,
    "table": lambda group: pa.repeat(pa.scalar(group.relation.name), len(group)),
    "schema": lambda group: pa.repeat(pa.scalar(group.relation.schema), len(group)),
    "commit_time": lambda group: group.meta("commit_time").view(pa.timestamp("us", "UTC")),
    "position": _positions,
}


class Rows:
    """The rows of one evaluation, or of a branch of it. Kernels report the rows that fail here."""

    __slots__ = ("_indices", "_mask", "_parent", "count", "failures", "frame", "shared")

    def __init__(self, frame: Frame | None, count: int) -> None:
        self.frame = frame
        self.count = count
        #: Row of the frame → why it fails.
        self.failures: dict[int, str] = {}
        #: What several parts of an expression read, computed once.
        self.shared: dict[object, Datum] = {}
        self._parent: Rows | None = None
        self._mask: pa.BooleanArray | None = None
        self._indices: list[int] | None = None

    def subset(self, mask: pa.BooleanArray) -> "Rows":
        """The rows that a mask without nulls selects."""
        child = Rows(self.frame, mask.true_count)
        child.failures = self.failures
        child._parent = self
        child._mask = mask
        return child

    @property
    def indices(self) -> Sequence[int]:
        """The frame's rows that these are."""
        if self._parent is None:
            return range(self.count)
        if self._indices is None:
            above = self._parent.indices
            chosen = pc.indices_nonzero(self._mask).to_pylist()
            self._indices = [above[i] for i in chosen]
        return self._indices

    def fail(self, row: int, reason: str) -> None:
        """Says that Postgres would raise an error for this row. The first reason stays."""
        self.failures.setdefault(self.indices[row], reason)

    def fail_where(self, mask: pa.BooleanArray, reason: str) -> None:
        for row in pc.indices_nonzero(mask).to_pylist():
            self.fail(row, reason)

    def column(self, row: Row, column: int, of: SqlType) -> pa.Array:
        assert self.frame is not None
        values, failures = self.frame.column(row, column, of)
        if failures:
            active = set(self.indices)
            for index, reason in failures.items():
                if index in active:
                    self.failures.setdefault(index, reason)
        return self._chosen(values)

    def text(self, row: Row, column: int) -> pa.StringArray:
        assert self.frame is not None
        return self._chosen(self.frame.text(row, column))

    def meta(self, name: str) -> pa.Array:
        assert self.frame is not None
        return self._chosen(self.frame.meta(name))

    def unknown(self, row: Row, column: int) -> pa.BooleanArray | None:
        assert self.frame is not None
        mask = self.frame.unknown(row, column)
        return None if mask is None else self._chosen(mask)

    def _chosen(self, values: pa.Array) -> pa.Array:
        if self._parent is None:
            return values
        return self._parent._chosen(values).filter(self._mask)
