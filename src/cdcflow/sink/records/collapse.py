"""What a batch of changes means for the records of a destination: the last state of each, however often it
changed, with the changes that it is made of. Order is kept where it matters: within a record.

A record is known by its match value, a row of the source by its key, and the two need not be the same column.
So a delete, which brings the key alone, and a row whose match value changes need to know under which match
value the row was delivered before: `Sources` remembers that.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from cdcflow.model import Batch, Group, Op, Relation


class Unfit(Exception):
    """A value that the destination's field has no form for. The message says which field and what kind of
    value, never the value: it is the reason of a refused row."""


class Skip:
    """The type of `SKIP`: the row has a value that is not to be sent (NULL, where the flow skips NULLs)."""

    def __repr__(self) -> str:
        return "SKIP"


SKIP: Final = Skip()

#: A value for a field: what the destination's JSON takes, or `SKIP`.
Convert = Callable[[str], object]


@dataclass(frozen=True)
class Planned:
    """One field: which column it comes from, and how Postgres' text becomes its value. `null` is the value
    for NULL; an `Unfit` is raised for it."""

    field: str
    column: int
    convert: Convert
    null: object = SKIP

    def value(self, text: str | None) -> object:
        if text is not None:
            return self.convert(text)
        if isinstance(self.null, Unfit):
            raise self.null
        return self.null


@dataclass(frozen=True)
class Plan:
    """How rows of one generation of a table become records. `match` converts to text; `fold` makes equal
    what the destination takes for the same (`A@x.org` and `a@x.org`)."""

    relation: Relation
    match: Planned
    fields: tuple[Planned, ...]
    fold: Callable[[str], str] = str

    @property
    def names(self) -> frozenset[str]:
        return frozenset(one.field for one in self.fields)


class Sources(Protocol):
    """Under which match value each row was delivered last, by the row's `source_key`."""

    def matches(self, keys: Sequence[bytes]) -> Mapping[bytes, str]: ...

    def of_table(self, origin: str) -> Mapping[bytes, str]: ...


@dataclass(frozen=True, slots=True)
class Step:
    """What one change does to a record: the values it brings, or its removal (None)."""

    index: int
    values: Mapping[str, object] | None


@dataclass(slots=True)
class Record:
    """One record and everything that the batch does to it, in order.

    `origin`: the row was under this (folded) match value before, and did not bring all its values (TOAST):
    those that are missing are there, at the destination.
    """

    match: str
    steps: list[Step] = field(default_factory=list)
    origin: str | None = None

    def state(self) -> dict[str, object] | None:
        """What is to be sent: the values known after the last step; None: it is to be removed."""
        return self._merged(lambda value: value is not SKIP)

    def known(self) -> dict[str, object] | None:
        """The same for comparison: what the last row said of each field, `SKIP` among it."""
        return self._merged(lambda _value: True)

    def _merged(self, wanted: Callable[[object], bool]) -> dict[str, object] | None:
        merged: dict[str, object] | None = None
        for step in self.steps:
            if step.values is None:
                merged = None
                continue
            merged = {} if merged is None else merged
            merged.update((name, value) for name, value in step.values.items() if wanted(value))
        return merged

    @property
    def indexes(self) -> list[int]:
        return [step.index for step in self.steps]


@dataclass(slots=True)
class Move:
    """Under which match value a row is known once the changes `indexes` are done; None: it is gone."""

    origin: str
    match: str | None
    indexes: set[int]


@dataclass(slots=True)
class Collapsed:
    """`refused` are changes that no record can be made of, with the reason. `moved` is by source key."""

    records: dict[str, Record] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    moved: dict[bytes, Move] = field(default_factory=dict)
    #: Changes that mean nothing for any record.
    idle: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Row:
    """One change, converted. `before`: the match value that the old row shows."""

    index: int
    #: Tells the parts of one change apart, which have its index.
    ordinal: int
    op: int
    plan: Plan
    match: str | None
    before: str | None
    key: bytes
    old_key: bytes | None
    values: Mapping[str, object] | None
    unfit: str | None


def collapse(batch: Batch, plans: Mapping[str, Plan], sources: Sources | None) -> Collapsed:
    """What `batch` means. `plans` are by fingerprint of the relation. Without `sources`, removals mean
    nothing: the flow ignores them."""
    rows = _rows(batch, plans, keyed=sources is not None)
    found = Collapsed()
    where: dict[bytes, str | None] = {}
    if sources is not None:
        asked = {key for row in rows for key in (row.key, row.old_key) if key}
        where.update(sources.matches(list(asked)))
    for row in rows:
        if row.unfit is not None:
            found.refused[row.index] = row.unfit
        elif row.op == Op.TRUNCATE:
            _truncate(row, found, where, sources)
        elif sources is None:
            if row.values is None or row.match is None:
                found.idle.append(row.index)
            else:
                _step(found, row, row.match, row.values)
        else:
            _follow(row, found, where)
    return found


def _follow(row: _Row, found: Collapsed, where: dict[bytes, str | None]) -> None:
    fold = row.plan.fold
    last = row.before if row.before is not None else where.get(row.old_key or row.key)
    if row.values is None:
        if last is None:
            # Never delivered, as far as anybody knows: there is nothing to remove.
            found.idle.append(row.index)
        else:
            _step(found, row, last, None)
        _move(found, where, row, row.old_key or row.key, None)
        return
    match = row.match if row.match is not None else last
    if match is None:
        found.refused[row.index] = (
            f"the value of {_column(row.plan)} was not sent, and is not known from before"
        )
        return
    values = dict(row.values)
    origin: str | None = None
    if last is not None and fold(last) != fold(match):
        before = found.records.get(fold(last))
        inherited = before.known() if before is not None else None
        for name in row.plan.names - values.keys():
            if inherited is not None and name in inherited:
                values[name] = inherited[name]
            else:
                origin = fold(last) if before is None or before.origin is None else before.origin
        _step(found, row, last, None)
    if row.old_key is not None and row.old_key != row.key:
        _move(found, where, row, row.old_key, None)
    _step(found, row, match, values)
    if last is None or fold(last) != fold(match):
        found.records[fold(match)].origin = origin
    _move(found, where, row, row.key, match)


def _move(found: Collapsed, where: dict[bytes, str | None], row: _Row, key: bytes, match: str | None) -> None:
    where[key] = match
    before = found.moved.get(key)
    indexes = {row.index} if before is None else before.indexes | {row.index}
    found.moved[key] = Move(row.plan.relation.qualified, match, indexes)


def _truncate(row: _Row, found: Collapsed, where: dict[bytes, str | None], sources: Sources | None) -> None:
    if sources is None:
        found.idle.append(row.index)
        return
    origin = row.plan.relation.qualified
    there: dict[bytes, str | None] = dict(sources.of_table(origin))
    # What the batch itself has done to the table's rows so far.
    there.update({key: move.match for key, move in found.moved.items() if move.origin == origin})
    for key, match in there.items():
        if match is not None:
            _step(found, row, match, None)
        _move(found, where, row, key, None)
    if not any(there.values()):
        found.idle.append(row.index)


def _step(found: Collapsed, row: _Row, match: str, values: Mapping[str, object] | None) -> None:
    record = found.records.setdefault(row.plan.fold(match), Record(match))
    if values is not None:
        record.match = match
    record.steps.append(Step(row.index, values))


def source_key(origin: str, values: Iterable[str | None]) -> bytes:
    """What a row of the source is remembered by: 16 bytes of its table and its key."""
    digest = hashlib.blake2b(origin.encode(), digest_size=16)
    for value in values:
        # The length first, so that ("a", "bc") is another key than ("ab", "c").
        data = b"\xff" if value is None else value.encode(errors="surrogatepass")
        digest.update(b"%d:" % len(data) + data)
    return digest.digest()


def _column(plan: Plan) -> str:
    return plan.relation.columns[plan.match.column].name


def _rows(batch: Batch, plans: Mapping[str, Plan], *, keyed: bool) -> list[_Row]:
    rows = [
        row
        for group in batch.groups
        if group.relation.fingerprint in plans
        for row in _group_rows(group, plans[group.relation.fingerprint], keyed)
    ]
    if len(batch.groups) > 1:
        rows.sort(key=lambda row: (row.index, row.ordinal))
    return rows


def _group_rows(group: Group, plan: Plan, keyed: bool) -> Iterator[_Row]:
    """The rows of a group; works by column, and only with the columns that are mapped. Not `keyed`: nobody
    asks for source keys."""
    relation = plan.relation
    # Under FULL the whole old row identifies a row; its match value does better.
    key = () if relation.full else relation.key
    new: dict[int, list[str | None]] = {}
    old: dict[int, list[str | None]] = {}
    for column in {plan.match.column, *key, *(one.column for one in plan.fields)}:
        new[column] = group.new(column).to_pylist()
        before_values = group.old_values(column)
        if before_values is not None:
            old[column] = before_values.to_pylist()
    count = len(group)
    has_old: Sequence[bool] = group.data.column("has_old").to_pylist() if group.old else [False] * count
    absent: Sequence[bytes | None] = (
        group.data.column("unchanged").to_pylist() if group.unchanged else [None] * count
    )
    heads = zip(*(group.meta(name).to_pylist() for name in ("index", "ordinal", "op")), strict=True)
    for row, (index, ordinal, op) in enumerate(heads):
        if op == Op.MESSAGE:
            continue
        bits = absent[row]
        had = has_old[row]

        def text(
            column: int, row: int = row, bits: bytes | None = bits, had: bool = had
        ) -> str | Skip | None:
            """The new value; `SKIP` where it was not sent and the old row does not show it."""
            if bits is not None and bits[column >> 3] >> (column & 7) & 1:
                return old[column][row] if had and column in old else SKIP
            return new[column][row]

        match: str | None = None
        values: dict[str, object] | None = None
        unfit: str | None = None
        before = _text(plan.match, old[plan.match.column][row]) if had and plan.match.column in old else None
        if op not in (Op.DELETE, Op.TRUNCATE):
            try:
                given = text(plan.match.column)
                match = None if isinstance(given, Skip) else str(plan.match.value(given))
                values = {}
                for one in plan.fields:
                    found = text(one.column)
                    if not isinstance(found, Skip):
                        values[one.field] = one.value(found)
            except Unfit as reason:
                unfit = str(reason)
        if not keyed:
            yield _Row(index, ordinal, op, plan, match, before, b"", None, values, unfit)
            continue
        old_values = [old[column][row] for column in key] if had and key else None
        if not key:
            shown = match if values is not None else before
            identity, old_identity = source_key(relation.qualified, (shown,)), None
            if values is not None and before is not None:
                old_identity = source_key(relation.qualified, (before,))
        elif op == Op.DELETE:
            identity, old_identity = source_key(relation.qualified, old_values or ()), None
        else:
            now = [text(column) for column in key]
            own = [old[c][row] if isinstance(v, Skip) else v for c, v in zip(key, now, strict=True)]
            identity = source_key(relation.qualified, own)
            old_identity = source_key(relation.qualified, old_values) if old_values is not None else None
        yield _Row(index, ordinal, op, plan, match, before, identity, old_identity, values, unfit)


def _text(planned: Planned, text: str | None) -> str | None:
    try:
        value = planned.value(text)
    except Unfit:
        return None
    return None if value is SKIP else str(value)
