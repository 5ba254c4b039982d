"""A batch is an ordered run of changes, held as Arrow columns and grouped by relation.

Values are Postgres' own text; nothing is converted until somebody needs it. A batch holds at most one
generation of any table: where the shape changes, a new batch begins. The columns of a group
follow from its relation and two flags, so that neither the journal nor a reader needs a stored schema:

| column                  | type    |                                                                   |
|-------------------------|---------|-------------------------------------------------------------------|
| `index`                 | uint32  | the change's place in the batch: total order over all groups      |
| `op`                    | uint8   | an `Op`                                                           |
| `commit_lsn`, `ordinal` | uint64  | the position                                                      |
| `xid`                   | uint32  | the source transaction; 0 for rows of a backfill and for messages |
|                         |         | that belong to none                                               |
| `commit_time`           | int64   | microseconds since 1970-01-01 UTC; for a message without          |
|                         |         | transaction, when the server sent it                              |
| `n0` … `nK`             | string  | the new row, one per column of the relation; null is SQL NULL     |
| `has_old`               | bool    | only with `old`: whether this change came with an old row         |
| `o0` … `oK`             | string  | only with `old`: the old values of the relation's `key` columns   |
| `unchanged`             | binary  | only with `unchanged`: bit i set: column i was not sent (TOAST)   |
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property, lru_cache, reduce
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.model.position import Position
from cdcflow.model.relation import Relation


class Op(IntEnum):
    """What happened to the row, or that there is no row but a message (see `cdcflow.model.message`).

    The values are pgoutput's own message letters where it has one.
    """

    INSERT = ord("I")
    UPDATE = ord("U")
    DELETE = ord("D")
    TRUNCATE = ord("T")
    READ = ord("R")
    MESSAGE = ord("M")

    @property
    def word(self) -> str:
        return self.name.lower()


#: Option bits of a TRUNCATE, as in pgoutput's Truncate message.
TRUNCATE_CASCADE = 1
TRUNCATE_RESTART_IDENTITY = 2

META: tuple[tuple[str, pa.DataType], ...] = (
    ("index", pa.uint32()),
    ("op", pa.uint8()),
    ("commit_lsn", pa.uint64()),
    ("ordinal", pa.uint64()),
    ("xid", pa.uint32()),
    ("commit_time", pa.int64()),
)

#: With their types: Arrow looks for packages each time that it must find one out (50 µs where they are not).
_CODES = {op: pa.scalar(int(op), pa.uint8()) for op in Op}
_FALSE = pa.scalar(False, pa.bool_())


@lru_cache(maxsize=4096)
def group_schema(columns: int, key: tuple[int, ...], old: bool, unchanged: bool) -> pa.Schema:
    """The Arrow schema of a group of a relation with `columns` columns and the identity `key`."""
    fields = [pa.field(name, kind, nullable=False) for name, kind in META]
    fields += [pa.field(f"n{i}", pa.string()) for i in range(columns)]
    if old:
        fields.append(pa.field("has_old", pa.bool_(), nullable=False))
        fields += [pa.field(f"o{i}", pa.string()) for i in key]
    if unchanged:
        fields.append(pa.field("unchanged", pa.binary()))
    return pa.schema(fields)


@dataclass(frozen=True)
class Group:
    """The changes of one relation within a batch, in order of `index`."""

    relation: Relation
    #: Not in the repr: a row's values must not end up in a log.
    data: pa.RecordBatch = field(repr=False)
    old: bool
    unchanged: bool

    @classmethod
    def schema(cls, relation: Relation, *, old: bool, unchanged: bool) -> pa.Schema:
        return group_schema(len(relation.columns), relation.key, old, unchanged)

    def __len__(self) -> int:
        return int(self.data.num_rows)

    def meta(self, name: str) -> pa.Array:
        """One of the columns of `META`."""
        return self.data.column(name)

    def is_op(self, *ops: Op) -> pa.Array:
        """True for the changes of these kinds."""
        op = self.meta("op")
        return reduce(pc.or_, (pc.equal(op, _CODES[one]) for one in ops))

    def new(self, column: int) -> pa.Array:
        """New values of a column as Postgres text. Null is NULL, or no new row, or unchanged: see `op`
        and `unchanged_mask`."""
        return self.data.column(len(META) + column)

    def old_values(self, column: int) -> pa.Array | None:
        """Old values of a column as Postgres text, or None where the batch holds none for it."""
        return self.data.column(f"o{column}") if self.old and column in self.relation.key else None

    @cached_property
    def unchanged_patterns(self) -> tuple[tuple[frozenset[int], pa.Array], ...]:
        """The distinct sets of unchanged columns and, for each, the mask of the rows it applies to.

        Empty where every row is complete. There are few patterns in practice: one per set of TOASTed
        columns that an application leaves alone.
        """
        if not self.unchanged:
            return ()
        encoded = self.data.column("unchanged").dictionary_encode()
        found = []
        for code, bits in enumerate(encoded.dictionary.to_pylist()):
            columns = frozenset(i for i in range(len(self.relation.columns)) if bits[i >> 3] >> (i & 7) & 1)
            mask = pc.fill_null(pc.equal(encoded.indices, pa.scalar(code, encoded.indices.type)), False)
            found.append((columns, mask))
        return tuple(found)

    def unchanged_mask(self, column: int) -> pa.Array | None:
        """True where the update did not send this column's value; None where it always did."""
        masks = [mask for columns, mask in self.unchanged_patterns if column in columns]
        if not masks:
            return None
        mask = masks[0]
        for other in masks[1:]:
            mask = pc.or_(mask, other)
        return mask

    def take(self, selection: pa.Array) -> "Group":
        """The rows that a boolean mask selects, in their order."""
        return replace(self, data=self.data.filter(selection))


@dataclass(frozen=True)
class Batch:
    """An ordered run of changes.

    `base` is the journal offset of the change with index 0, and `count` how many offsets the run
    covers: a batch that a filter has thinned still covers them all. Before the journal has taken a
    batch in, `base` is 0.

    `committed` is the end LSN of the last transaction that is complete within the run, or of a message
    behind it that belongs to none (0: neither), which
    is how far the slot may be confirmed once the run is durable. `last` is the position of the run's
    last change, kept also where a filter dropped that change.
    """

    groups: tuple[Group, ...]
    count: int
    last: Position
    committed: int = 0
    base: int = 0
    #: Option bits of the TRUNCATE at an index.
    truncates: Mapping[int, int] = field(default_factory=dict)
    #: The only flows that this run is for, by name: rows of a backfill for some. Empty: for all.
    audience: tuple[str, ...] = ()
    #: The changes that a transform has refused for good, with the reason. They are in no group any more.
    refused: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many changes are here to be handled. Fewer than `count` where some were dropped, more where a
        transform has made several of one."""
        return sum(len(group) for group in self.groups)

    @property
    def end(self) -> int:
        """The journal offset behind the run: the checkpoint of who holds all of it."""
        return self.base + self.count

    @property
    def nbytes(self) -> int:
        """Bytes that the columns take in memory."""
        return sum(int(group.data.nbytes) for group in self.groups)

    @property
    def last_commit_time(self) -> int | None:
        """Commit time of the newest change here, in microseconds since 1970, or None without changes."""
        times = [group.meta("commit_time")[-1].as_py() for group in self.groups if len(group)]
        return max(times) if times else None

    def with_groups(self, groups: Sequence[Group]) -> "Batch":
        """The same run of offsets with other contents; groups without rows are left out."""
        return replace(self, groups=tuple(group for group in groups if len(group)))

    def slice(self, start: int, stop: int) -> "Batch":
        """The part of the run from index `start` up to `stop`, with indexes counted anew.

        Bounds beyond the run are cut to it. `last` stays the run's own, so a slice is for delivery and
        never for the journal.
        """
        start, stop = max(start, 0), min(stop, self.count)
        if (start, stop) == (0, self.count):
            return self
        parts = []
        for group in self.groups:
            index = group.meta("index")
            inside = pc.and_(
                pc.greater_equal(index, pa.scalar(start, pa.uint32())),
                pc.less(index, pa.scalar(stop, pa.uint32())),
            )
            part = group.data.filter(inside)
            if part.num_rows:
                parts.append(replace(group, data=_shift_index(part, -start)))
        return Batch(
            groups=tuple(parts),
            count=max(stop - start, 0),
            last=self.last,
            committed=self.committed if stop == self.count else 0,
            base=self.base + start,
            truncates={i - start: bits for i, bits in self.truncates.items() if start <= i < stop},
            audience=self.audience,
            refused={i - start: reason for i, reason in self.refused.items() if start <= i < stop},
        )

    def changes(self) -> Iterator["Change"]:
        """Row views of all changes in total order."""
        if len(self.groups) == 1:
            group = self.groups[0]
            rows = _Rows(group, self)
            for row in range(len(group)):
                yield Change(rows, row)
            return
        order: list[tuple[int, int, int, _Rows]] = []
        for group in self.groups:
            rows = _Rows(group, self)
            places = zip(rows.index, group.meta("ordinal").to_pylist(), strict=True)
            order.extend((index, ordinal, row, rows) for row, (index, ordinal) in enumerate(places))
        # What was made of one change has its index, and its parts are in the ordinal.
        order.sort(key=lambda entry: entry[:2])
        for _, _, row, rows in order:
            yield Change(rows, row)


def _shift_index(data: pa.RecordBatch, by: int) -> pa.RecordBatch:
    if by == 0:
        return data
    shift = pc.add if by > 0 else pc.subtract
    index = shift(data.column(0), pa.scalar(abs(by), pa.uint32()))
    return data.set_column(0, data.schema.field(0), index)


def concat(batches: Sequence[Batch]) -> Batch:
    """Joins consecutive runs into one, so that a sink sees each relation once.

    Raises ValueError when the runs do not follow each other. Two generations of a table do not belong
    into one batch: `join` cuts there.
    """
    if not batches:
        raise ValueError("nothing to concatenate")
    if len(batches) == 1:
        return batches[0]
    base = batches[0].base
    expected = base
    parts: dict[str, list[Group]] = {}
    truncates: dict[int, int] = {}
    refused: dict[int, str] = {}
    for batch in batches:
        if batch.base != expected:
            raise ValueError(f"batch at {batch.base} does not follow {expected}")
        shift = batch.base - base
        for group in batch.groups:
            shifted = replace(group, data=_shift_index(group.data, shift))
            parts.setdefault(group.relation.fingerprint, []).append(shifted)
        truncates.update({i + shift: bits for i, bits in batch.truncates.items()})
        refused.update({i + shift: reason for i, reason in batch.refused.items()})
        expected = batch.end
    return Batch(
        groups=tuple(_join(groups) for groups in parts.values()),
        count=expected - base,
        last=batches[-1].last,
        committed=max(batch.committed for batch in batches),
        base=base,
        truncates=truncates,
        refused=refused,
    )


def run_length(batches: Iterable[Batch]) -> int:
    """How many of these consecutive runs, from the first on, can become one batch: until a table comes in
    another generation."""
    shapes: dict[object, str] = {}
    number = 0
    for batch in batches:
        relations = [group.relation for group in batch.groups]
        keys = [(r.fingerprint, key) for r in relations for key in (r.oid, r.qualified)]
        if any(shapes.get(key, shape) != shape for shape, key in keys):
            break
        shapes.update({key: shape for shape, key in keys})
        number += 1
    return number


def join(batches: Sequence[Batch]) -> list[Batch]:
    """Joins consecutive runs into as few batches as the rule of one generation per table allows."""
    joined: list[Batch] = []
    start = 0
    while start < len(batches):
        length = run_length(islice(batches, start, None))
        joined.append(concat(batches[start : start + length]))
        start += length
    return joined


def _join(groups: Sequence[Group]) -> Group:
    if len(groups) == 1:
        return groups[0]
    old = any(group.old for group in groups)
    unchanged = any(group.unchanged for group in groups)
    data = pa.concat_batches([_widen(group, old, unchanged) for group in groups])
    return Group(groups[0].relation, data, old, unchanged)


def _widen(group: Group, old: bool, unchanged: bool) -> pa.RecordBatch:
    """The group's data with the optional columns that others of its relation have, filled with nothing."""
    if (group.old, group.unchanged) == (old, unchanged):
        return group.data
    schema = Group.schema(group.relation, old=old, unchanged=unchanged)
    present = set(group.data.schema.names)
    rows = len(group)
    columns = []
    for wanted in schema:
        if wanted.name in present:
            columns.append(group.data.column(wanted.name))
        elif wanted.name == "has_old":
            columns.append(pa.repeat(_FALSE, rows))
        else:
            columns.append(pa.nulls(rows, wanted.type))
    return pa.record_batch(columns, schema=schema)


class Unchanged:
    """The type of `UNCHANGED`: a TOASTed value that the update did not send. Neither NULL nor a string."""

    _instance: "Unchanged | None" = None

    def __new__(cls) -> "Unchanged":
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance

    def __repr__(self) -> str:
        return "UNCHANGED"

    def __bool__(self) -> bool:
        raise TypeError("UNCHANGED is neither true nor false: compare with `is UNCHANGED`")

    def __reduce__(self) -> str:
        return "UNCHANGED"


UNCHANGED = Unchanged()

#: Postgres' text of a value, NULL, or a TOASTed value that was not sent.
Value = str | None | Unchanged


class _Rows:
    """A group's columns as Python lists, made when first asked for and shared by its row views."""

    def __init__(self, group: Group, batch: Batch) -> None:
        self.group = group
        self.relation = group.relation
        self.batch = batch
        self._columns: dict[str, list[object]] = {}

    def column(self, name: str) -> list[object]:
        values = self._columns.get(name)
        if values is None:
            values = self._columns[name] = self.group.data.column(name).to_pylist()
        return values

    @cached_property
    def index(self) -> list[int]:
        values: list[int] = self.group.meta("index").to_pylist()
        return values


class Change:
    """A row view of one change. Reads the batch's columns when asked; holds nothing of its own."""

    __slots__ = ("_row", "_rows")

    def __init__(self, rows: _Rows, row: int) -> None:
        self._rows = rows
        self._row = row

    def _meta(self, name: str) -> int:
        value = self._rows.column(name)[self._row]
        assert isinstance(value, int)
        return value

    @property
    def relation(self) -> Relation:
        return self._rows.relation

    @property
    def index(self) -> int:
        """Place in the batch; what `Rejected` names rows by."""
        return self._rows.index[self._row]

    @property
    def offset(self) -> int:
        """Place in the journal."""
        return self._rows.batch.base + self.index

    @property
    def op(self) -> Op:
        return Op(self._meta("op"))

    @property
    def position(self) -> Position:
        return Position(self._meta("commit_lsn"), self._meta("ordinal"))

    @property
    def xid(self) -> int:
        return self._meta("xid")

    @property
    def commit_time(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        return self._meta("commit_time")

    @property
    def truncate_options(self) -> int:
        """Option bits of a TRUNCATE; 0 for everything else."""
        return self._rows.batch.truncates.get(self.index, 0)

    @property
    def new(self) -> dict[str, Value] | None:
        """The new row by column name; None for a delete or a truncate.

        A value that the server left out because it did not change is taken from the old row where that
        holds it (all columns under FULL), and is UNCHANGED elsewhere.
        """
        if self.op in (Op.DELETE, Op.TRUNCATE):
            return None
        rows, row = self._rows, self._row
        bits = rows.column("unchanged")[row] if rows.group.unchanged else None
        values: dict[str, Value] = {}
        for i, name in enumerate(self.relation.names):
            if isinstance(bits, bytes) and bits[i >> 3] >> (i & 7) & 1:
                values[name] = (self.old or {}).get(name, UNCHANGED)
            else:
                values[name] = rows.column(f"n{i}")[row]  # type: ignore[assignment]
        return values

    @property
    def old(self) -> dict[str, Value] | None:
        """The old values of the replica identity's columns (all of them under FULL), or None where
        the server sent none."""
        rows, row = self._rows, self._row
        if not rows.group.old or not rows.column("has_old")[row]:
            return None
        relation = self.relation
        return {
            relation.columns[i].name: rows.column(f"o{i}")[row]  # type: ignore[misc]
            for i in relation.key
        }

    @property
    def key(self) -> tuple[Value, ...]:
        """The values that order is kept by, together with the relation: the row's identity *after* the
        change (before it, for a delete).

        Empty where no part of the row identifies it (FULL, NOTHING, no primary key) and for a truncate:
        such changes keep their order with every other change of the table.
        """
        relation = self.relation
        if relation.full or not relation.key:
            return ()
        row = self.old if self.op is Op.DELETE else self.new
        if row is None:
            return ()
        return tuple(row[relation.columns[i].name] for i in relation.key)

    @property
    def old_key(self) -> tuple[Value, ...] | None:
        """The identity before an update that changed it; None where the key stayed."""
        old = None if self.relation.full or self.op is not Op.UPDATE else self.old
        if old is None:
            return None
        before = tuple(old[self.relation.columns[i].name] for i in self.relation.key)
        return None if before == self.key else before

    def __repr__(self) -> str:
        # Never a row's values: a repr ends up in logs.
        return f"<Change {self.op.word} {self.relation.qualified} at {self.position}>"
