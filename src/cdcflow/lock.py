"""A lock between processes that ends with its holder, however that dies: a flock on a file that holds the
holder's pid."""

import errno
import fcntl
import os
import time
from pathlib import Path

#: How often a held lock is tried again, in seconds.
RETRY = 0.02


class Held(Exception):
    """Somebody else has the lock: `holder` is the pid of that process, or "unknown"."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"process {holder} holds {path}")
        self.holder = holder


class FileLock:
    """Has the lock from construction until `release`.

    Raises Held when somebody else has it for longer than `timeout` seconds, and OSError when the file cannot
    be opened or made.
    """

    def __init__(self, path: Path, timeout: float = 0.0) -> None:
        # Not inherited (PEP 446): a child never keeps the lock of a dead parent.
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + timeout
        try:
            while not _try(self._fd, fcntl.LOCK_EX):
                if time.monotonic() >= deadline:
                    holder = os.pread(self._fd, 20, 0).decode("ascii", "replace").strip()
                    raise Held(path, holder or "unknown")
                time.sleep(RETRY)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)
        except BaseException:
            os.close(self._fd)
            raise

    def release(self) -> None:
        os.close(self._fd)


def held(path: Path) -> bool:
    """Whether somebody has the lock now. Takes it for an instant."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
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
