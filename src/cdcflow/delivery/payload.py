"""A change on its own, as bytes that need no journal: with its table's shape and Postgres' own text of its
values, so that it can be delivered long after the journal has let go of it."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgpack
import pyarrow as pa

from cdcflow.errors import JournalError
from cdcflow.journal import Reader
from cdcflow.model import Batch, Change, Group, Position, Relation

#: What is looked through at once for changes that are to be kept.
_CHANGES, _BYTES = 10_000, 8 << 20


def pack(change: Batch) -> bytes:
    """A batch of one change as msgpack."""
    [group] = change.groups
    [row] = group.data.to_pylist()
    return bytes(
        msgpack.packb(
            {
                "relation": group.relation.to_state(),
                "old": group.old,
                "unchanged": group.unchanged,
                "row": row,
                "truncate": change.truncates.get(row["index"], 0),
                "offset": change.base + row["index"],
            }
        )
    )


def unpack(payload: bytes, base: int | None = None) -> Batch:
    """The batch of one change that `pack` was given, at its own offset in the journal or at `base`."""
    state: Mapping[str, Any] = msgpack.unpackb(payload)
    relation = Relation.from_state(state["relation"])
    row = {**state["row"], "index": 0}
    schema = Group.schema(relation, old=state["old"], unchanged=state["unchanged"])
    data = pa.RecordBatch.from_pylist([row], schema=schema)
    return Batch(
        groups=(Group(relation, data, state["old"], state["unchanged"]),),
        count=1,
        last=Position(row["commit_lsn"], row["ordinal"]),
        base=state["offset"] if base is None else base,
        truncates={0: state["truncate"]} if state["truncate"] else {},
    )


def from_journal(reader: Reader, offsets: Iterable[int]) -> dict[int, Batch]:
    """The changes at these offsets, each a batch of its own. Raises JournalError where one is not there."""
    found: dict[int, Batch] = {}
    for frame, inside in _frames(reader, offsets):
        for offset in inside:
            found[offset] = frame.slice(offset - frame.base, offset - frame.base + 1)
    return found


def changes_at(reader: Reader, offsets: Iterable[int]) -> Iterator[Change]:
    """The changes at these offsets, in order. Raises JournalError where one is not there."""
    for frame, inside in _frames(reader, offsets):
        wanted = set(inside)
        run = frame.slice(inside[0] - frame.base, inside[-1] - frame.base + 1)
        yield from (change for change in run.changes() if change.offset in wanted)


def _frames(reader: Reader, offsets: Iterable[int]) -> Iterator[tuple[Batch, list[int]]]:
    """What of the journal holds these offsets, and which of them, in order."""
    missing = sorted(set(offsets))
    while missing:
        before = len(missing)
        for frame in reader.read(missing[0], max_changes=_CHANGES, max_bytes=_BYTES):
            inside = missing[: bisect_left(missing, frame.end)]
            if inside and inside[0] >= frame.base:
                missing = missing[len(inside) :]
                yield frame, inside
        if len(missing) == before:
            raise JournalError(f"the journal does not hold the change at offset {missing[0]}")
