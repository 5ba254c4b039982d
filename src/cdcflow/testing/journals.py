"""Journals for tests: an identity, everything that a journal holds, and what a crash would leave of it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from cdcflow.journal import Identity, Reader
from cdcflow.model import Batch, Op, Position, Relation, Value

IDENTITY = Identity(
    system_identifier="7300000000000000001",
    timeline=1,
    database="shop",
    slot="cdcflow",
    publication="cdcflow",
)

#: One change with all that a batch says about it, to be compared.
Seen = tuple[int, Op, Position, int, int, int, Relation, dict[str, Value] | None, dict[str, Value] | None]


def batches(path: Path, offset: int = 0) -> Iterator[Batch]:
    """Every batch from `offset` on, one after the other."""
    with Reader(path) as reader:
        while found := reader.read(offset, max_changes=10_000, max_bytes=16 << 20):
            yield from found
            offset = found[-1].end


def read_all(path: Path, offset: int = 0) -> list[Batch]:
    """Every batch from `offset` on."""
    return list(batches(path, offset))


def seen(batch: Batch) -> list[Seen]:
    """The batch's changes as plain values, by offset."""
    return [
        (
            change.offset,
            change.op,
            change.position,
            change.xid,
            change.commit_time,
            change.truncate_options,
            change.relation,
            change.new,
            change.old,
        )
        for change in batch.changes()
    ]


def ids(found: list[Batch]) -> list[int]:
    """The new values of the column `id`, as numbers."""
    return [int(str((change.new or {})["id"])) for batch in found for change in batch.changes()]


def crash_image(path: Path, to: Path) -> Path:
    """What a machine that stops at this instant leaves of the journal, if its cache reached the disk."""
    shutil.copytree(path, to, ignore=lambda folder, _: ["readers"] if folder == str(path) else [])
    (to / "readers").mkdir(mode=0o700)
    return to
