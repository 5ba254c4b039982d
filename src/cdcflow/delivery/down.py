"""Where it stands that a destination is down, and who tries whether it still is: in this process, or in a
file for all processes that deliver to it. The file is there while the destination is down, so that looking
costs one failed call of the system while it is not."""

import fcntl
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import orjson


@dataclass(frozen=True, slots=True)
class Down:
    """Failed so often in a row, and why; nobody tries before `until`, in seconds since 1970."""

    failures: int
    until: float
    reason: str


class Known(Protocol):
    """What is known of one connection. `claim` makes the caller the one who tries, until `release`; False:
    somebody else is."""

    def read(self) -> Down | None: ...

    def write(self, down: Down | None) -> None: ...

    def claim(self) -> bool: ...

    def release(self) -> None: ...


class Here:
    """For the flows of one process."""

    def __init__(self) -> None:
        self._down: Down | None = None
        self._claimed = False

    def read(self) -> Down | None:
        return self._down

    def write(self, down: Down | None) -> None:
        self._down = down

    def claim(self) -> bool:
        if self._claimed:
            return False
        self._claimed = True
        return True

    def release(self) -> None:
        self._claimed = False


class Everywhere:
    """For the flows of all processes: `path` is the file, and a lock beside it is held by who tries. It ends
    with its holder, however that dies. Where the file cannot be written, everybody tries for himself."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = path.with_name(path.name + ".lock")
        self._fd = -1

    def read(self) -> Down | None:
        try:
            data = orjson.loads(self._path.read_bytes())
            return Down(int(data["failures"]), float(data["until"]), str(data["reason"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            self.write(None)
            return None

    def write(self, down: Down | None) -> None:
        try:
            if down is None:
                self._path.unlink(missing_ok=True)
                return
            new = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, orjson.dumps(asdict(down)))
            finally:
                os.close(fd)
            new.replace(self._path)
        except OSError:
            pass

    def claim(self) -> bool:
        if self._fd >= 0:
            return False
        try:
            fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return False
        self._fd = fd
        return True

    def release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
