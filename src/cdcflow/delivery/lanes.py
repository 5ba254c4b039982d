"""Lanes: what has to stay in order. A change is on the lane of its key, an update that changes the key on
two. A change whose row nothing identifies, and a truncate, take their table's whole width (see
`cdcflow.sink.order`).

A lane is a digest: what is remembered of a key, in memory and beside a dead letter, tells none of its values.
"""

import hashlib
from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgpack

from cdcflow.model import Change, Op, Unchanged, Value

Lane = bytes


def lanes(change: Change) -> tuple[Lane, ...]:
    """The lanes of a change; none: all of its table's."""
    if change.op is Op.TRUNCATE:
        return ()
    found = [key for key in (change.key, change.old_key) if key]
    return tuple(_lane(change.relation.qualified, key) for key in found)


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

    def add(self, table: str, on: Sequence[Lane], offset: int) -> None:
        known = self._tables.setdefault(table, _Table())
        known.count += 1
        if not on:
            insort(known.wide, offset)
        for lane in on:
            insort(known.narrow.setdefault(lane, []), offset)

    def remove(self, table: str, on: Sequence[Lane], offset: int) -> None:
        known = self._tables[table]
        known.count -= 1
        if not on:
            known.wide.remove(offset)
        for lane in on:
            known.narrow[lane].remove(offset)
            if not known.narrow[lane]:
                del known.narrow[lane]
        if not known.count:
            del self._tables[table]

    def before(self, table: str, on: Sequence[Lane], offset: int) -> bool:
        """Whether anything stands before the offset on these lanes."""
        known = self._tables.get(table)
        if known is None:
            return False
        if known.wide and known.wide[0] < offset:
            return True
        if not on:
            return any(offsets[0] < offset for offsets in known.narrow.values())
        return any(known.narrow[lane][0] < offset for lane in on if lane in known.narrow)

    def on(self, table: str, on: Sequence[Lane], offset: int) -> list[int]:
        """The offsets before this one that stand on these lanes."""
        known = self._tables.get(table)
        if known is None:
            return []
        found = set(known.wide)
        for lane in on if on else known.narrow:
            found.update(known.narrow.get(lane, ()))
        return sorted(one for one in found if one < offset)
