"""Wakes waiting readers in other processes: each has a FIFO in `readers/` that the writer rings.

A FIFO needs no third process and no port, works in an event loop, and shows when its reader is dead
(opening or writing it fails), so nothing is left behind. A ring is only a hint to look at the head
again: one too many is harmless, and a reader that missed one looks by itself within `RECHECK`.
"""

import contextlib
import errno
import os
import secrets
from pathlib import Path

from cdcflow.journal.layout import READERS

#: How long a reader sleeps at most before it looks again by itself, in seconds. Only a writer that dies
#: between publishing and ringing makes this matter.
RECHECK = 0.5

#: How often a reader without a FIFO (read-only directory) looks, in seconds.
POLL = 0.01

#: A FIFO with this prefix is being made by a reader that has not opened it yet.
_UNREADY = "."


class Bells:
    """The writer's side: rings all readers that are there. Whatever is wrong with a FIFO, the journal
    goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path / READERS
        self._path.mkdir(mode=0o700, exist_ok=True)
        self._fds: dict[str, int] = {}
        for name in self._names():
            if name.startswith(_UNREADY) and _is_dead(name):
                self._remove(name)

    def ring(self) -> None:
        try:
            names = [name for name in self._names() if not name.startswith(_UNREADY)]
        except OSError:  # no directory, no readers that could be rung
            return
        for gone in self._fds.keys() - set(names):
            os.close(self._fds.pop(gone))
        for name in names:
            self._ring(name)

    def _names(self) -> list[str]:
        return [fifo.name for fifo in self._path.iterdir()]

    def _ring(self, name: str) -> None:
        try:
            fd = self._fds.get(name)
            if fd is None:
                fd = os.open(self._path / name, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                self._fds[name] = fd
            os.write(fd, b"!")
        except BlockingIOError:
            pass  # full: the reader has rings enough to wake up by
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.EPIPE):  # nobody has it open for reading
                self._remove(name)

    def _remove(self, name: str) -> None:
        fd = self._fds.pop(name, None)
        if fd is not None:
            os.close(fd)
        with contextlib.suppress(OSError):
            (self._path / name).unlink()

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


def _is_dead(name: str) -> bool:
    """Whether the reader that was making this FIFO is no more."""
    try:
        os.kill(int(name.lstrip(_UNREADY).partition("-")[0]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        pass
    return False


class Doorbell:
    """A reader's side: a FIFO of its own. `fd` becomes readable when the writer rings; it is None where
    no FIFO can be made."""

    def __init__(self, path: Path) -> None:
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._path = path / READERS / name
        unready = path / READERS / f"{_UNREADY}{name}"
        self.fd: int | None = None
        try:
            os.mkfifo(unready, 0o600)
        except OSError:  # read-only directory, or a file system without FIFOs: the reader polls
            return
        # Open for writing too, so that the FIFO has no end of file when the writer goes.
        self.fd = os.open(unready, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        unready.replace(self._path)

    def clear(self) -> None:
        """Forgets the rings so far."""
        if self.fd is not None:
            with contextlib.suppress(BlockingIOError):
                while len(os.read(self.fd, 4096)) == 4096:
                    pass

    def close(self) -> None:
        if self.fd is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self.fd)
            self.fd = None
