"""The lock of the one writer: a flock, so that it ends with its holder however that dies."""

import errno
import fcntl
import os
import time
from pathlib import Path

from cdcflow.errors import JournalError
from cdcflow.journal.layout import LOCK

#: How often a held lock is tried again, in seconds.
RETRY = 0.02

#: A lock is waited for at least this long, in seconds, because `held` takes it for an instant.
GRACE = 0.1


class Lock:
    """Holds the journal's lock from construction until `release`.

    Raises JournalError, naming the holder's pid, when somebody else holds it for longer than `timeout`
    seconds.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self._fd = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + max(timeout, GRACE)
        try:
            while not _try(self._fd, fcntl.LOCK_EX):
                if time.monotonic() >= deadline:
                    raise JournalError(
                        f"the journal at {path} is being written by process {_pid(self._fd) or 'unknown'}",
                        hint="stop that process, or give this one a journal of its own",
                    )
                time.sleep(RETRY)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)
        except BaseException:
            os.close(self._fd)
            raise

    def release(self) -> None:
        os.close(self._fd)


def held(path: Path) -> bool:
    """Whether a writer has the journal open now."""
    try:
        fd = os.open(path / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def _try(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _pid(fd: int) -> str:
    return os.pread(fd, 20, 0).decode("ascii", "replace").strip()
