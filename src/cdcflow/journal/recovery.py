"""What an opening writer does with what the last one left: cuts a torn tail, never anything else.

Only the last segment can be torn, since a segment is made durable before the next one begins. Every
step can be interrupted and begun again.
"""

import os
from dataclasses import dataclass, field, fields
from pathlib import Path

from cdcflow.errors import JournalDamaged, JournalError
from cdcflow.journal.contents import Tail
from cdcflow.journal.layout import Identity, Segment, segments, sync_directory
from cdcflow.journal.ledger import Ledger
from cdcflow.journal.segment import Scan, SegmentFile, scan


@dataclass(frozen=True)
class Recovered:
    """The journal's end: its tail and its last segment, whose file ends at byte `size` and defines the
    relations `fingerprints`. `segment` is None where there is none yet."""

    tail: Tail = Tail()  # noqa: RUF009 - frozen, so it may be shared
    segment: Path | None = None
    base: int = 0
    size: int = 0
    fingerprints: frozenset[str] = frozenset()
    started_us: int = 0
    cut: int = 0
    lost: int = 0
    ledger: Ledger = field(default_factory=Ledger)


def recover(path: Path, published: int) -> Recovered:
    """Finds the end of the journal, cuts off what is torn behind it, and makes the rest durable.

    `published` is the offset that the last writer published. Raises JournalDamaged when a frame that was
    durable once is invalid, or when segments that were published are gone.
    """
    found = segments(path)
    cut = 0
    while found:
        last = found.pop()
        state = _scan(last)
        size = last.path.stat().st_size
        cut += size - state.size
        if state.size:
            if state.size < size:
                os.truncate(last.path, state.size)
            _make_durable(path, last)
            return Recovered(
                tail=state.tail,
                segment=last.path,
                base=last.base,
                size=state.size,
                fingerprints=state.fingerprints,
                started_us=state.started_us,
                cut=cut,
                lost=max(published - state.tail.offset, 0),
                ledger=state.ledger,
            )
        # Not even its first frame is whole: the crash came while the segment was begun.
        if not found and last.base:
            raise _damaged(last.path, 0, "the journal's only segment has no valid first frame")
        last.path.unlink()
        sync_directory(path)
    if published:
        raise JournalDamaged(
            f"the journal at {path} has no segments, but changes up to offset {published} were published",
            hint="restore them from a copy, or move the journal away and start a new one with a backfill",
        )
    return Recovered(cut=cut)


def require_identity(path: Path, expected: Identity, found: Identity) -> None:
    """Raises JournalError when the source is not the one that the journal belongs to."""
    for part in fields(Identity):
        wanted, got = getattr(expected, part.name), getattr(found, part.name)
        if wanted != got:
            what = part.name.replace("_", " ")
            raise JournalError(
                f"the journal at {path} belongs to another source: its {what} is {wanted!r}, "
                f"the source's is {got!r}",
                hint=_remedy(part.name),
            )


def _remedy(field: str) -> str:
    if field == "timeline":
        return (
            "the server was promoted or restored: changes may be lost or different; "
            "move the journal away and start a new one with a backfill"
        )
    if field == "system_identifier":
        return "connect to the server it was made from, or give this source a journal.path of its own"
    return f"set the {field} back, or give this source a journal.path of its own"


def _scan(segment: Segment) -> Scan:
    file = SegmentFile(segment.path)
    try:
        state = scan(file, segment.base)
    finally:
        file.close()
    if state.bad is not None and state.damaged:
        raise _damaged(segment.path, state.bad.at, state.bad.reason)
    return state


def _make_durable(path: Path, last: Segment) -> None:
    """What a killed writer had not synced is still only in memory, and is about to be published."""
    _sync_file(last.path)
    sync_directory(path)


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _damaged(file: Path, at: int, reason: str) -> JournalDamaged:
    return JournalDamaged(
        f"segment {file} is damaged at byte {at}: {reason}",
        hint="`cdcflow journal verify` lists all damage; restore the file from a copy, "
        "or move the journal away and start a new one with a backfill",
    )
