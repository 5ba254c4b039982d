"""Which transactions of the stream a snapshot has seen, and which rows of a chunk the stream knows better.

A chunk of a backfill is read under one snapshot and takes its place in the stream behind every transaction
that this snapshot sees. Transactions that are before that place but unseen by the snapshot have changed
rows that the chunk holds in an older state: those rows must not come. Transaction ids decide, not WAL
positions: a commit is decoded a moment before other sessions see it, and under synchronous replication the
moment lasts as long as the standby takes, so that no position tells what a snapshot sees.

Pure. Transaction ids of the stream have 32 bits and go in a circle; two of one time are less than half of
it apart (manual, 25.1.5).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.journal import Key
from cdcflow.model import Group, Op

_CIRCLE = 1 << 32
_HALF = 1 << 31

#: Changes come in many small pieces under light load, which are joined when there are more of them.
_ENTRIES = 64

#: What stands between the columns of a key. No text of Postgres holds it.
_BETWEEN = "\0"


@dataclass(frozen=True)
class Snapshot:
    """What pg_current_snapshot says: all ids below `xmin` are over, none from `xmax` on has begun, and
    `running` in between were not over. Not `exact`: the server does not say which ran (a standby)."""

    xmin: int
    xmax: int
    running: frozenset[int] = frozenset()
    exact: bool = True

    @classmethod
    def parse(cls, text: str, *, exact: bool = True) -> "Snapshot":
        """Reads `xmin:xmax:xip,xip` (manual, 9.27, "Transaction ID and Snapshot Information Functions")."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(map(int, filter(None, running.split(",")))), exact)

    def unseen(self, xids: pa.Array) -> pa.Array:
        """True where a transaction's changes are not, or may not be, in the snapshot."""
        begin = self.xmax if self.exact else self.xmin
        distance = pc.bit_wise_and(pc.subtract(xids.cast(pa.int64()), begin % _CIRCLE), _CIRCLE - 1)
        later = pc.less(distance, _HALF)
        if not (self.exact and self.running):
            return later
        running = pa.array([xid % _CIRCLE for xid in self.running], pa.uint32())
        return pc.or_(later, pc.is_in(xids, value_set=running))

    def behind(self, other: "Snapshot") -> bool:
        """Whether it was taken later, and something was committed in between."""
        return (self.xmax, -len(self.running)) > (other.xmax, -len(other.running))


def key_texts(columns: Iterable[pa.Array]) -> pa.Array:
    """One text per row that tells its key; null where a part of it is null."""
    parts = list(columns)
    return parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, _BETWEEN)


def key_text(key: Key) -> str:
    return _BETWEEN.join(key)


def key_of(text: str) -> Key:
    return tuple(text.split(_BETWEEN))


def new_keys(group: Group) -> pa.Array:
    """The key texts after each change; null for what leaves no row."""
    columns = []
    for column in group.relation.key:
        values = group.new(column)
        unsent = group.unchanged_mask(column)
        old = group.old_values(column)
        if unsent is not None and old is not None:
            values = pc.if_else(unsent, old, values)
        columns.append(values)
    return key_texts(columns)


@dataclass
class Changed:
    """What the stream has changed in one table while chunks of it are under way, and the keys of rows that
    came incomplete meanwhile.

    An update leaves out TOASTed values that it does not change, which a sink can complete only from a row
    that it has. Where the row was not read yet, and perhaps never will be because the update moved it to a
    page that was read before, it must be read once more by its key: `again` holds these. `complete`: every
    row was read once, so no more of them can come into being.
    """

    again: dict[str, None] = field(default_factory=dict)
    complete: bool = False
    #: Of the rows that came last: those not yet said in the journal.
    fresh: dict[str, None] = field(default_factory=dict)
    _entries: list[tuple[pa.Array, pa.Array]] = field(default_factory=list)
    _truncates: list[int] = field(default_factory=list)
    #: Keys of changes that a repair does not know, since they came before it began.
    _early: list[pa.Array] = field(default_factory=list)
    #: Whether chunks are under way: before, and after, only incomplete rows matter.
    collecting: bool = True

    def see(self, group: Group, *, early: bool = False) -> None:
        """Takes in changes of the stream; `early` ones may be from before a repair began."""
        if pc.any(group.is_op(Op.TRUNCATE)).as_py():
            self._truncates += group.meta("xid").filter(group.is_op(Op.TRUNCATE)).unique().to_pylist()
        after = new_keys(group)
        if early:
            self._early.append(after)
        before = None
        if group.old:
            before = key_texts([group.old_values(column) for column in group.relation.key])
        if self.collecting:
            xids = group.meta("xid")
            self._entries.append((xids, after))
            if before is not None:
                self._entries.append((xids, before))
            if len(self._entries) > _ENTRIES:
                parts = zip(*self._entries, strict=True)
                xids, texts = (pa.concat_arrays(list(part)) for part in parts)
                self._entries = [(xids, texts)]
        if group.unchanged:
            self._remember(group, after, before)

    def _remember(self, group: Group, after: pa.Array, before: pa.Array | None) -> None:
        partial = group.data.column("unchanged").is_valid()
        keys = after.filter(partial).to_pylist()
        if self.complete:
            # Every sink has every row but those of `again`, which may go on under other keys.
            if before is None or not self.again:
                return
            old = before.filter(partial).to_pylist()
            keys = [key for key, was in zip(keys, old, strict=True) if was in self.again]
        for key in keys:
            if key is not None and key not in self.again:
                self.again[key] = self.fresh[key] = None

    def stale(self, keys: pa.Array, snapshot: Snapshot) -> pa.Array | None:
        """Which rows of a chunk with these keys the stream knows better; None where it is none."""
        if any(pc.any(snapshot.unseen(pa.array([xid], pa.uint32()))).as_py() for xid in self._truncates):
            return pa.repeat(pa.scalar(True), len(keys))
        unseen = [texts.filter(snapshot.unseen(xids)) for xids, texts in self._entries]
        unseen = [texts for texts in unseen if len(texts)]
        if not unseen:
            return None
        mask = pc.is_in(keys, value_set=pa.concat_arrays(unseen), skip_nulls=True)
        return mask if pc.any(mask).as_py() else None

    def owe(self, keys: pa.Array) -> None:
        """Rows that the stream knows better do not come. They must come again where what it knows of them
        came before a repair began, at whose end the rows go that did not come."""
        if self._early:
            owed = keys.filter(pc.is_in(keys, value_set=pa.concat_arrays(self._early), skip_nulls=True))
            for key in owed.to_pylist():
                if key not in self.again:
                    self.again[key] = self.fresh[key] = None

    def settle(self, keys: pa.Array) -> list[str]:
        """Forgets rows that have come whole; gives those that were to be read again."""
        if not self.again:
            return []
        waiting = pa.array(list(self.again), pa.string())
        found: list[str] = waiting.filter(pc.is_in(waiting, value_set=keys)).to_pylist()
        for key in found:
            del self.again[key]
            self.fresh.pop(key, None)
        return found

    def take_fresh(self) -> list[str]:
        found = list(self.fresh)
        self.fresh.clear()
        return found

    def forget_seen(self, snapshots: list[Snapshot]) -> None:
        """Forgets changes that all of these snapshots, and so all later ones, have seen."""
        entries = []
        for xids, texts in self._entries:
            kept = None
            for snapshot in snapshots:
                unseen = snapshot.unseen(xids)
                kept = unseen if kept is None else pc.or_(kept, unseen)
            if kept is None or pc.all(kept).as_py():
                entries.append((xids, texts))
            elif pc.any(kept).as_py():
                entries.append((xids.filter(kept), texts.filter(kept)))
        self._entries = entries
        self._truncates = [
            xid
            for xid in self._truncates
            if any(pc.any(s.unseen(pa.array([xid], pa.uint32()))).as_py() for s in snapshots)
        ]

    def start_anew(self) -> None:
        """No row counts as read any more."""
        self.again.clear()
        self.fresh.clear()
        self.complete = False

    @property
    def waiting(self) -> int:
        """Changes that are remembered."""
        return sum(len(xids) for xids, _ in self._entries)
