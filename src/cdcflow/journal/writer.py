"""The one writer of a journal. What `sync` has returned for is durable, in order, exactly once.

A failed `append` leaves the journal as it was before, so that the same batch can be given again. After
a failed `sync` nothing is known about what the disk holds (Linux drops the pages that it could not
write and calls them clean, https://wiki.postgresql.org/wiki/Fsync_Errors), so the writer cuts off what
was not durable before and refuses to go on: it must be opened anew.
"""

import os
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from cdcflow.errors import JournalError
from cdcflow.journal.contents import (
    Chunk,
    Payload,
    Tail,
    changes_frame,
    chunk_frame,
    prepare,
    progress_frame,
    segment_frame,
)
from cdcflow.journal.frame import Piece
from cdcflow.journal.head import Publisher
from cdcflow.journal.layout import (
    Asked,
    Identity,
    Manifest,
    Segment,
    read_manifest,
    segment_name,
    segments,
    sync_directory,
    write_manifest,
)
from cdcflow.journal.ledger import Ledger, Step
from cdcflow.journal.lock import lock_journal
from cdcflow.journal.output import datasync, failed, unusable, write_all
from cdcflow.journal.recovery import Recovered, recover, require_identity
from cdcflow.journal.wakeup import Bells
from cdcflow.lock import FileLock
from cdcflow.model import Batch, Position

#: A segment takes no changes when it is older than this, in seconds, however small it is: retention by
#: age removes whole segments, and a quiet table's would never fill one.
SEGMENT_AGE = 24 * 3600.0


class Writer:
    """Appends to the journal at `path`. Made by `open`; for one thread.

    `tail` is where the durable journal ends, `written` where the appended one does. `cut` is how many
    bytes of a torn tail the open removed, `lost` how many changes of it had been published before: not
    0 only where the disk lost what it had reported as written.
    """

    def __init__(self, path: Path, manifest: Manifest, lock: FileLock, segment_bytes: int) -> None:
        self._path = path
        self._manifest = manifest
        self._lock = lock
        self._segment_bytes = segment_bytes
        self._broken = ""
        self._closed = False
        self._fd = -1
        self._new_names = False
        #: A step was written that moves neither offset nor LSN.
        self._noted = False
        self._rung = -1
        self._head = Publisher(path)
        self._bells = Bells(path)

    @classmethod
    def open(
        cls,
        path: Path,
        identity: Identity,
        *,
        segment_bytes: int = 128 << 20,
        lock_timeout: float = 0,
    ) -> Self:
        """Opens the journal at `path` for writing, or creates it there.

        Cuts the tail that a crash has torn.

        Raises JournalError when another process has it open (after `lock_timeout` seconds), when it
        belongs to another source, or when the directory cannot be used; JournalDamaged when a frame that
        was durable is not valid any more.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = lock_journal(path, lock_timeout)
        except OSError as error:
            raise unusable(path, error) from error
        writer = None
        try:
            manifest = read_manifest(path)
            if manifest is None:
                manifest = _create(path, identity)
            require_identity(path, manifest.identity, identity)
            writer = cls(path, manifest, lock, segment_bytes)
            writer._start()
        except BaseException as error:
            if writer is not None:
                writer._release()
            else:
                lock.release()
            if isinstance(error, OSError):
                raise unusable(path, error) from error
            raise
        return writer

    def _start(self) -> None:
        published = self._head.current
        found = recover(self._path, published.offset if published else 0)
        self.cut, self.lost = found.cut, found.lost
        self.tail = self.written = found.tail
        #: How far backfills have come, with what was appended last.
        self.ledger: Ledger = found.ledger
        self._use(found)
        if self._fd < 0:
            self._begin_segment()
            datasync(self._fd)
            sync_directory(self._path)
        self._synced_size = self._size
        self._publish()

    def _use(self, found: Recovered) -> None:
        """Goes on in the segment that recovery found last, if it found one."""
        self._known = set(found.fingerprints)
        self._base = found.base
        self._size = found.size
        self._started = found.started_us / 1e6
        if found.segment is not None:
            self._fd = os.open(found.segment, os.O_RDWR | os.O_CLOEXEC)

    @property
    def identity(self) -> Identity:
        return self._manifest.identity

    @property
    def asked(self) -> Asked:
        """What the server is asked for, which the ordinals of what is appended count: see `ask`."""
        return self._manifest.asked

    def ask(self, asked: Asked) -> None:
        """Says, durably, what the server is asked for from here on.

        Raises JournalError in the middle of a transaction: positions in it would be counted in two ways.
        """
        self._check()
        if asked == self.asked:
            return
        if not self.tail.whole or self.tail != self.written:
            raise JournalError(
                f"the journal at {self._path} ends inside of a transaction, at {self.written.last}: what the"
                " server sends of it cannot change there"
            )
        self._keep(replace(self._manifest, asked=asked))

    def append(self, batch: Batch, step: Step | None = None) -> Batch:
        """Writes a batch behind the last one and returns it with its `base`. Durable after `sync`, and so is
        the `step` of a backfill, if the batch is one.

        A batch without changes only moves the committed LSN.

        Raises JournalFull when there is no room; then nothing was written and the same batch may be given
        again. Raises JournalError when the batch does not come behind the last change.
        """
        self._check()
        base = self.written.offset
        if not batch.count:
            if batch.committed > self.written.committed:
                self.progress(batch.committed, time.time_ns() // 1000)
            return replace(batch, base=base)
        payload = prepare(batch)
        self._require_increase(payload.first, batch.last)
        if self._wants_segment(payload.size):
            self._roll()
        self._append_payload(payload, step)
        return replace(batch, base=base)

    def _require_increase(self, first: Position, last: Position) -> None:
        if first <= self.written.last or last < first:
            raise JournalError(
                f"a batch of changes {first} to {last} cannot be journaled "
                f"behind {self.written.last}: positions must increase",
                hint="they would be stored twice or out of order: a defect of cdcflow, please report it",
            )

    def _append_payload(self, payload: Payload, step: Step | None) -> None:
        batch = payload.batch
        pieces, size = changes_frame(payload, self.written.offset, self._known, self._synced_size, step)
        self._write(pieces, size)
        self._known.update(name for name, *_ in payload.groups)
        self._wrote(batch.count, batch.last, payload.last_xid, batch.committed, step)

    def _wrote(self, count: int, last: Position, xid: int, committed: int, step: Step | None) -> None:
        committed = max(self.written.committed, committed)
        self.written = Tail(self.written.offset + count, last, xid, committed)
        if step is not None:
            self.ledger.take(step, self.written.offset)

    def append_chunk(self, chunk: Chunk) -> None:
        """Writes a chunk of a backfill, which another process has packed, behind the last change: whole or
        not at all, together with its step. Raises as `append` does."""
        self._check()
        if not chunk.count:
            self.note(chunk.step, chunk.committed)
            return
        self._require_increase(chunk.first, chunk.last)
        if self._wants_segment(chunk.packed.message.size):
            self._roll()
        pieces, size = chunk_frame(chunk, self.written.offset, self._known, self._synced_size)
        self._write(pieces, size)
        self._known.add(chunk.packed.relation.fingerprint)
        self._wrote(chunk.count, chunk.last, 0, chunk.committed, chunk.step)

    def note(self, step: Step, committed: int = 0) -> None:
        """Writes a step of a backfill that holds no rows. Raises as `append` does."""
        self._check()
        committed = max(committed, self.written.committed)
        now = time.time_ns() // 1000
        pieces, size = progress_frame(self.written.offset, committed, now, self._synced_size, step)
        self._write(pieces, size)
        self.written = replace(self.written, committed=committed)
        self.ledger.take(step, self.written.offset)
        self._noted = True

    def progress(self, committed: int, time_us: int) -> None:
        """Writes that the source was followed up to the LSN `committed`, at `time_us` (microseconds since
        1970), with nothing in between. Does nothing when that is not news. Raises as `append` does."""
        self._check()
        if committed <= self.written.committed:
            return
        pieces, size = progress_frame(self.written.offset, committed, time_us, self._synced_size)
        self._write(pieces, size)
        self.written = replace(self.written, committed=committed)

    def sync(self) -> None:
        """Makes everything written durable with one fdatasync, publishes it, and wakes the readers.

        Raises JournalError when the disk refuses; the
        writer must then be opened anew, and `tail` of the new one tells what is left.
        """
        self._check()
        self._make_durable()
        self._publish()

    def _make_durable(self) -> None:
        if self.written == self.tail and not self._new_names and not self._noted:
            return
        try:
            datasync(self._fd)
            if self._new_names:
                sync_directory(self._path)
        except OSError as error:
            self._broken = f"it could not be synced: {error.strerror}"
            self._cut(self._synced_size)
            raise JournalError(
                f"the journal at {self._path} cannot be made durable: {error.strerror}",
                hint="check the disk and the kernel's log; nothing that was not durable has been confirmed",
            ) from error
        self._new_names = self._noted = False
        self._synced_size = self._size
        self.tail = self.written

    def _publish(self) -> None:
        self._head.publish(self.tail.offset, self.tail.committed)
        if self.tail.offset != self._rung:
            self._rung = self.tail.offset
            self._bells.ring()

    def retain(self, *, max_bytes: int | None, max_age: float | None, keep_from: int) -> list[Segment]:
        """Removes the oldest segments while the journal is larger than `max_bytes`, or while they were
        last written more than `max_age` seconds ago. Returns what was removed.

        A segment with offsets from `keep_from` on stays, and so does the last one.
        """
        self.sync()
        needed = self.ledger.needed_from
        if needed is not None:
            # After a crash, a backfill looks there for rows that it has to read once more.
            keep_from = min(keep_from, needed)
        try:
            return self._remove_segments(max_bytes, max_age, keep_from)
        except OSError as error:
            raise failed(self._path, error) from error

    def _remove_segments(self, max_bytes: int | None, max_age: float | None, keep_from: int) -> list[Segment]:
        found = [(segment, segment.path.stat()) for segment in segments(self._path)]
        total = sum(stat.st_size for _, stat in found)
        removed = []
        for segment, stat in found:
            too_large = max_bytes is not None and total > max_bytes
            too_old = max_age is not None and time.time() - stat.st_mtime > max_age
            if segment.end is None or segment.end > keep_from or not (too_large or too_old):
                break
            segment.path.unlink()
            total -= stat.st_size
            removed.append(segment)
        if removed:
            sync_directory(self._path)
        return removed

    def rows_come(self) -> None:
        """Says, durably, that from here on the existing rows come among the changes: whoever begins behind
        here lacks some."""
        self._check()
        self.sync()
        self._keep(replace(self._manifest, initial_rows=self.tail.offset))

    def _keep(self, manifest: Manifest) -> None:
        try:
            write_manifest(self._path, manifest)
        except OSError as error:
            raise failed(self._path, error) from error
        self._manifest = manifest

    @classmethod
    def adopt_timeline(cls, path: Path, timeline: int, *, lock_timeout: float = 0) -> None:
        """Says that the source went on as `timeline`, after a failover that lost nothing which the journal
        holds. Whether that is so is for the caller to know.

        Raises JournalError when there is no journal, when it is being written, or when the timeline would
        go back.
        """
        try:
            lock = lock_journal(path, lock_timeout)
        except OSError as error:
            raise unusable(path, error) from error
        try:
            manifest = read_manifest(path)
            if manifest is None:
                raise JournalError(f"there is no journal at {path}")
            if timeline < manifest.identity.timeline:
                raise JournalError(
                    f"the journal at {path} is on timeline {manifest.identity.timeline} "
                    f"and cannot go back to {timeline}"
                )
            identity = replace(manifest.identity, timeline=timeline)
            write_manifest(path, replace(manifest, identity=identity))
        except OSError as error:
            raise failed(path, error) from error
        finally:
            lock.release()

    def close(self) -> None:
        """Makes everything written durable and lets go of the journal. Raises as `sync` does."""
        if self._closed:
            return
        try:
            if not self._broken:
                self.sync()
        finally:
            self._release()

    def _release(self) -> None:
        self._closed = True
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._bells.close()
        self._head.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self) -> None:
        if self._closed:
            raise JournalError(f"the journal at {self._path} is closed")
        if self._broken:
            raise JournalError(
                f"the journal at {self._path} must be opened anew: {self._broken}",
                hint="check the disk and start cdcflow again",
            )

    def _wants_segment(self, size: int) -> bool:
        if self._base == self.written.offset:
            return False  # no changes in it yet, and the next one would have the same name
        return self._size + size > self._segment_bytes or time.time() - self._started > SEGMENT_AGE

    def _roll(self) -> None:
        # The full segment is made durable first, so that only the last one can ever have a torn tail.
        self._make_durable()
        old = self._fd
        self._begin_segment()
        os.close(old)
        self._synced_size = 0

    def _begin_segment(self) -> None:
        """Goes on in a new segment. When that fails, everything stays as it was."""
        base = self.written.offset
        now = time.time_ns() // 1000
        pieces, size = segment_frame(self._manifest.identity, self.written, now, self.ledger)
        path = self._path / segment_name(base)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise failed(self._path, error) from error
        try:
            write_all(fd, pieces, 0)
        except BaseException as error:
            os.close(fd)
            path.unlink()
            if isinstance(error, OSError):
                raise failed(self._path, error) from error
            raise
        self._fd, self._base, self._size, self._started = fd, base, size, now / 1e6
        self._known = set()
        self._new_names = True

    def _write(self, pieces: list[Piece], size: int) -> None:
        """Writes a frame whole or not at all."""
        try:
            write_all(self._fd, pieces, self._size)
        except BaseException as error:
            self._cut(self._size)
            if isinstance(error, OSError):
                raise failed(self._path, error) from error
            raise
        self._size += size

    def _cut(self, size: int) -> None:
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            self._broken = self._broken or f"a partly written frame could not be cut off: {error.strerror}"


def _create(path: Path, identity: Identity) -> Manifest:
    """The manifest of a new journal. Raises JournalError where there are segments without one."""
    if segments(path):
        raise JournalError(
            f"the journal at {path} has segments but no manifest",
            hint="restore manifest.json from a copy, or move the journal away and start with a backfill",
        )
    Publisher(path).close()  # before the manifest, which tells readers that all is there
    manifest = Manifest(identity)
    write_manifest(path, manifest)
    return manifest
