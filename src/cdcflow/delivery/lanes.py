"""Lanes: what has to stay in order. A change is on the lane of its key, an update that changes the key on
two. A change whose row nothing identifies, and a truncate, take their table's whole width (see
`cdcflow.sink.order`).

A flow's transforms may give a row another key and another table. What counts at the destination is the row
behind them; of a change that one of them has refused there is none. So in a flow with transforms a change
stands where its row is at the source, too.

A lane is a digest: what is remembered of a key, in memory and beside a dead letter, tells none of its values.
"""

import hashlib
from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgpack

from cdcflow.model import Change, Op, Unchanged, Value

Lane = bytes

#: No row's: it meets only what takes the table's whole width.
NOWHERE: Lane = b""


class Stand(NamedTuple):
    """Where a change is in a table: on lanes of it, or, with none, on all."""

    table: str
    lanes: tuple[Lane, ...]


#: Of one change: for each row that it became behind the transforms, and for its row at the source.
Stands = tuple[Stand, ...]


def stand(change: Change) -> Stand:
    table = change.relation.qualified
    if change.op is Op.TRUNCATE:
        return Stand(table, ())
    found = [key for key in (change.key, change.old_key) if key]
    return Stand(table, tuple(_lane(table, key) for key in found))


def stands(made: Iterable[Change], source: Change | None) -> Stands:
    """Where a change stands that has become `made`; `source` is the change before the transforms, where there
    are any."""
    found = [stand(change) for change in made]
    if source is not None:
        own = stand(source)
        if not own.lanes and found and all(one.lanes for one in found):
            # Nothing identifies the row at the source, and a transform says what does: it is the row alone
            # that waits, but for what no transform got as far with.
            own = Stand(own.table, (NOWHERE,))
        found.append(own)
    return tuple(dict.fromkeys(found))


def _lane(table: str, key: Sequence[Value]) -> Lane:
    values = [None if isinstance(value, Unchanged) else value for value in key]
    return hashlib.blake2b(msgpack.packb([table, values]), digest_size=12).digest()


@dataclass
class _Table:
    #: Offsets of what stands on each lane, and of what takes the whole width; sorted.
    narrow: dict[Lane, list[int]] = field(default_factory=dict)
    wide: list[int] = field(default_factory=list)
    #: How many offsets there are in all.
    count: int = 0


class Standing:
    """What stands on the lanes of one flow, by journal offset."""

    def __init__(self) -> None:
        self._tables: dict[str, _Table] = {}

    def __bool__(self) -> bool:
        return bool(self._tables)

    def tables(self) -> Iterable[str]:
        return self._tables.keys()

    def add(self, at: Stands, offset: int) -> None:
        for table, on in at:
            known = self._tables.setdefault(table, _Table())
            known.count += 1
            if not on:
                insort(known.wide, offset)
            for lane in on:
                if lane != NOWHERE:
                    insort(known.narrow.setdefault(lane, []), offset)

    def remove(self, at: Stands, offset: int) -> None:
        for table, on in at:
            known = self._tables[table]
            known.count -= 1
            if not on:
                known.wide.remove(offset)
            for lane in on:
                if lane != NOWHERE:
                    known.narrow[lane].remove(offset)
                    if not known.narrow[lane]:
                        del known.narrow[lane]
            if not known.count:
                del self._tables[table]

    def before(self, at: Stands, offset: int) -> bool:
        """Whether anything stands before the offset there."""
        return any(self._before(table, on, offset) for table, on in at)

    def _before(self, table: str, on: Sequence[Lane], offset: int) -> bool:
        known = self._tables.get(table)
        if known is None:
            return False
        if known.wide and known.wide[0] < offset:
            return True
        if not on:
            return any(offsets[0] < offset for offsets in known.narrow.values())
        return any(known.narrow[lane][0] < offset for lane in on if lane in known.narrow)

    def on(self, at: Stands, offset: int) -> set[int]:
        """The offsets before this one that stand there."""
        found: set[int] = set()
        for table, on in at:
            known = self._tables.get(table)
            if known is not None:
                found.update(known.wide)
                for lane in on if on else known.narrow:
                    found.update(known.narrow.get(lane, ()))
        return {one for one in found if one < offset}
