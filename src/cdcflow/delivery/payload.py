"""A change on its own, as bytes that need no journal: with its table's shape and Postgres' own text of its
values, so that it can be delivered long after the journal has let go of it."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgpack
import pyarrow as pa

from cdcflow.errors import JournalError
from cdcflow.journal import Reader
from cdcflow.model import Batch, Group, Position, Relation

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
    missing = sorted(set(offsets))
    while missing:
        frames = reader.read(missing[0], max_changes=_CHANGES, max_bytes=_BYTES)
        for frame in frames:
            inside = [offset for offset in missing if frame.base <= offset < frame.end]
            for offset in inside:
                found[offset] = frame.slice(offset - frame.base, offset - frame.base + 1)
        left = [offset for offset in missing if offset not in found]
        if len(left) == len(missing):
            raise JournalError(f"the journal does not hold the change at offset {missing[0]}")
        missing = left
    return found
