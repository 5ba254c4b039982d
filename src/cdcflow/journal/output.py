"""Bytes on their way to the disk: written whole, made durable, and what it means when that fails."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

from cdcflow.errors import JournalError, JournalFull
from cdcflow.journal.frame import Piece

#: Errors that more room can cure. EFBIG is a limit on the size of files (ulimit -f).
_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))

#: Buffers handed to one writev: Linux takes up to 1024 (IOV_MAX).
_PIECES = 1000

# macOS has no fdatasync.
datasync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


def write_all(fd: int, pieces: list[Piece], at: int) -> None:
    """Writes the pieces one behind the other from byte `at` on."""
    for first in range(0, len(pieces), _PIECES):
        views = [memoryview(piece) for piece in pieces[first : first + _PIECES]]
        while views:
            done = os.pwritev(fd, views, at)
            at += done
            while views and done >= views[0].nbytes:
                done -= views.pop(0).nbytes
            if done:
                views[0] = views[0].cast("B")[done:]


def failed(path: Path, error: OSError) -> JournalError:
    """What to raise when the journal at `path` could not be written."""
    if error.errno in _NO_ROOM:
        return JournalFull(
            f"the journal at {path} has no room: {error.strerror}",
            hint="free space on its disk, raise the quota, or lower journal.keep",
        )
    return JournalError(f"the journal at {path} cannot be written: {error.strerror}", hint="check its disk")


def unusable(path: Path, error: OSError) -> JournalError:
    """What to raise when the journal at `path` could not even be opened for writing."""
    if error.errno in _NO_ROOM:
        return failed(path, error)
    return JournalError(
        f"the journal at {path} cannot be opened for writing: {error.strerror}",
        hint="its directory must exist on a writable disk and belong to the user that runs cdcflow",
    )
