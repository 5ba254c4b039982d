"""The files of one flow in a directory: every line is there once, in order, and is on disk after `commit`.

    orders.00000000000000000000.jsonl     one event per line; the name carries its first line's offset
    orders.00000000000000014211.jsonl     the last file, the only one that still grows
    orders.checkpoint.json                how far the flow has come, and what of the last file is durable

Where writing goes on after a crash is read off the files. `orders.checkpoint.json` says up to which byte the
last file was on disk at some moment; what follows is believed as far as it is whole lines with rising
offsets, and cut off from there. A process that is killed leaves at most a torn line behind; after a power
failure blocks between others may be missing (they read as zeros), hence the look at every line. The record
of the checkpoint gets an fsync of its own only where the lines cannot tell the same: when the last changes
of a batch were for other flows.

A dead letter that is delivered later has its line where writing has come to by then, marked as `redelivered`,
and with an offset that is lower than those around it. It says nothing of how far the flow has come.

Every method blocks, and is called from one thread. Files have mode 0600 and a new directory 0700, since they
hold people's data.
"""

import errno
import fcntl
import mmap
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from cdcflow.errors import DeliveryError, Permanent, Transient
from cdcflow_sinks.jsonl.settings import Rotate

#: Lines are handed to the system in pieces of about this size: fewer calls than lines, and little memory.
PIECE = 1 << 20
#: The record of the checkpoint is written over itself within one sector, which disks write whole.
RECORD = 512
#: The line of a dead letter: nothing else begins so.
_REDELIVERED = re.compile(rb'^\{"offset":(\d+),"redelivered":true,.*\n', re.MULTILINE)
#: Conditions that only a person can change; a full disk or a failing one is not among them.
LASTING = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST})


@dataclass(frozen=True)
class _Record:
    """The content of `<flow>.checkpoint.json`: `bytes` of `file` were on disk when all below `end` was, and
    `position` is that of the change before `end`, empty where nobody knew."""

    end: int
    file: str
    bytes: int
    position: str


@dataclass
class _Growing:
    """The file that lines are added to. `durable` bytes of it are on disk, `size` are handed over."""

    path: Path
    fd: int
    size: int
    durable: int
    window: int


class FlowFiles:
    """See the module. `open` first; after an error the same lines can be given again."""

    def __init__(
        self, directory: Path, flow: str, rotate: Rotate, clock: Callable[[], float] = time.time
    ) -> None:
        self._directory = directory
        self._flow = flow
        self._rotate = rotate
        self._clock = clock
        self._name = re.compile(re.escape(flow) + r"\.\d{20}\.jsonl")
        self._record_fd = -1
        self._growing: _Growing | None = None
        self._buffer = bytearray()
        #: The offset behind the last line of `_buffer` and the files, and the part of it that is durable.
        self._next = 0
        self._durable_next = 0
        #: The journal offset up to which everything is here; None before the first batch.
        self.checkpoint: int | None = None
        #: After `open`, the position of the change before the checkpoint, as text; empty: not known.
        self.position = ""

    @property
    def record_path(self) -> Path:
        return self._directory / f"{self._flow}.checkpoint.json"

    def open(self) -> None:
        """Makes the directory, takes the flow's lock, cuts what is torn and finds the checkpoint.

        Raises `Transient` while another process has the lock, `Permanent` or `Transient` for what the
        system says otherwise.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._record_fd = os.open(self.record_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._record_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._recover()
            _sync_directory(self._directory)
        except BlockingIOError as error:
            raise Transient(
                f"another process writes the files of flow {self._flow} in {self._directory}",
                hint="stop the other cdcflow, or give one of the two a path of its own",
            ) from error
        except OSError as error:
            raise failure(error, self._directory) from error

    def append(self, offset: int, line: bytes) -> None:
        """Adds the line of the change at `offset`, which must be above all before. Not durable yet."""
        try:
            growing = self._file_for(offset, len(line))
            self._buffer += line
            growing.size += len(line)
            self._next = offset + 1
            if len(self._buffer) >= PIECE:
                self._hand_over(growing)
        except OSError as error:
            self._roll_back()
            raise failure(error, self._directory) from error

    def append_redelivered(self, offset: int, line: bytes) -> None:
        """Adds the line of a change from before the checkpoint. Not durable yet."""
        try:
            growing = self._growing or self._file_for(offset, len(line))
            self._buffer += line
            growing.size += len(line)
        except OSError as error:
            self._roll_back()
            raise failure(error, self._directory) from error

    def commit_redelivered(self) -> None:
        """Returns when those lines are on disk. The checkpoint is where it was."""
        try:
            if self._growing is not None:
                self._make_durable(self._growing)
        except OSError as error:
            self._roll_back()
            raise failure(error, self._directory) from error

    def redelivered(self) -> Iterator[bytes]:
        """The lines of dead letters that are here."""
        for path in sorted(self._own_files()):
            yield from (line for line, _ in _redelivered_lines(path))

    def commit(self, end: int, position: str) -> None:
        """Returns when every line is on disk and so is `end`, up to which no change is missing. `position` is
        that of the change before it."""
        try:
            if self._growing is not None:
                self._make_durable(self._growing)
            self._write_record(end, position)
            self.checkpoint = end
        except OSError as error:
            self._roll_back()
            raise failure(error, self._directory) from error

    def move(self, offset: int, position: str) -> None:
        """Makes `offset` the checkpoint: lines from there on are cut off. Before any `append`. `position` is
        that of the change before it.

        The newest go first and the record goes last, so that a crash leaves the files of some checkpoint in
        between. Before that, lines of dead letters that stay are copied in front of the cut: a crash then may
        leave them twice, and the same move once more does not.
        """
        try:
            if self._growing is not None:
                os.close(self._growing.fd)
                self._growing = None
            self._keep_redelivered(offset)
            for path in sorted(self._own_files(), reverse=True):
                size, last, _ = _whole_lines(path, 0, below=offset)
                if size < path.stat().st_size:
                    # What the record says of this file must not be more than will be left of it.
                    self._put_record(_Record(offset, path.name if size else "", size, position))
                    os.truncate(path, size)
                if size == 0:
                    path.unlink()
                    _sync_directory(self._directory)
                    continue
                fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
                os.fsync(fd)
                window = int(path.stat().st_mtime // self._rotate.age)
                self._growing = _Growing(path, fd, size, size, window)
                break
            else:
                last = -1
            self._next = self._durable_next = last + 1
            kept = self._growing
            name, length = (kept.path.name, kept.size) if kept is not None else ("", 0)
            self._put_record(_Record(offset, name, length, position))
            self.checkpoint, self.position = offset, position
        except OSError as error:
            raise failure(error, self._directory) from error

    def _keep_redelivered(self, below: int) -> None:
        kept: dict[bytes, int] = {}
        there: set[bytes] = set()
        size, place = 0, None
        for path in sorted(self._own_files(), reverse=True):
            size, _, _ = _whole_lines(path, 0, below=below)
            found = {line: offset for line, offset in _redelivered_lines(path, size) if offset < below}
            kept, place = found | kept, path
            if size:
                there = {line for line, _ in _redelivered_lines(path, 0, size)}
                break
        new = [line for line in kept if line not in there]
        if not new:
            return
        if not size:
            # No other line stays: theirs are a file of their own, in front of all.
            place = self._directory / f"{self._flow}.{kept[new[0]]:020}.jsonl"
        assert place is not None
        _insert(place, size, new)

    def close(self) -> None:
        """Closes what is open and gives the lock back; lines that were not committed are cut off."""
        if self._growing is not None and self._growing.size > self._growing.durable:
            self._roll_back()
        if self._growing is not None:
            os.close(self._growing.fd)
            self._growing = None
        if self._record_fd >= 0:
            os.close(self._record_fd)
            self._record_fd = -1

    # Writing.

    def _file_for(self, offset: int, length: int) -> _Growing:
        """The growing file, or a new one when it is full or its time is over."""
        growing = self._growing
        window = int(self._clock() // self._rotate.age)
        if growing is not None:
            fits = growing.size == 0 or growing.size + length <= self._rotate.size
            if fits and window == growing.window:
                return growing
            self._make_durable(growing)
            os.close(growing.fd)
            self._growing = None
        path = self._directory / f"{self._flow}.{offset:020}.jsonl"
        # Not O_EXCL: after a failure the same change begins the same file again.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._growing = _Growing(path, fd, 0, 0, window)
        _sync_directory(self._directory)
        return self._growing

    def _hand_over(self, growing: _Growing) -> None:
        view = memoryview(self._buffer)
        try:
            while view:
                view = view[os.write(growing.fd, view) :]
        finally:
            view.release()
        self._buffer = bytearray()

    def _make_durable(self, growing: _Growing) -> None:
        if growing.durable < growing.size:
            self._hand_over(growing)
            os.fdatasync(growing.fd)
            growing.durable = growing.size
            self._durable_next = self._next
        # Everything up to the last durable line is here, whatever happens to the rest of the batch.
        self.checkpoint = max(self.checkpoint or 0, self._durable_next) or self.checkpoint

    def _write_record(self, end: int, position: str) -> None:
        growing = self._growing
        name, size = (growing.path.name, growing.durable) if growing is not None else ("", 0)
        self._put_record(_Record(end, name, size, position), sync=end != self._durable_next)

    def _put_record(self, record: _Record, *, sync: bool = True) -> None:
        text = orjson.dumps(asdict(record))
        os.pwrite(self._record_fd, text.ljust(RECORD - 1) + b"\n", 0)
        if sync:
            os.fdatasync(self._record_fd)

    def _roll_back(self) -> None:
        """Cuts the growing file back to what is durable.

        After a failed fsync the pages count as clean although they may not be on disk, so they must be
        written again and not only synced again (PostgreSQL wiki, "Fsync Errors").
        """
        self._buffer = bytearray()
        self._next = self._durable_next
        growing = self._growing
        if growing is None:
            return
        try:
            os.ftruncate(growing.fd, growing.durable)
            growing.size = growing.durable
        except OSError as error:
            self._growing = None
            os.close(growing.fd)
            raise failure(error, growing.path) from error

    # Reading after a restart.

    def _recover(self) -> None:
        record = self._read_record()
        last, position = -1, ""
        for path in sorted(self._own_files(), reverse=True):
            stat = path.stat()
            trusted = record.bytes if record is not None and record.file == path.name else 0
            if stat.st_size < trusted:
                raise Permanent(
                    f"{path} has {stat.st_size} bytes, and {trusted} were written to it",
                    hint=f"restore the file, or move all files of the flow and {self.record_path.name} "
                    "away to start anew",
                )
            size, last, position = _whole_lines(path, trusted)
            if size == 0:
                # Made for a line that never came.
                path.unlink()
                continue
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            if size < stat.st_size:
                os.ftruncate(fd, size)
            # What was handed over before the crash is in the system's memory, maybe not on disk.
            os.fsync(fd)
            # By the time of the last write before the cut, which is a new write.
            self._growing = _Growing(path, fd, size, size, int(stat.st_mtime // self._rotate.age))
            break
        self._next = self._durable_next = last + 1
        ends = [record.end] if record is not None else []
        self.checkpoint = max([*ends, last + 1]) if ends or last >= 0 else None
        if record is not None and record.end == self.checkpoint:
            position = record.position
        self.position = position if self.checkpoint is not None else ""

    def _own_files(self) -> list[Path]:
        return [path for path in self._directory.iterdir() if self._name.fullmatch(path.name)]

    def _read_record(self) -> _Record | None:
        """None where there is none, or only part of one."""
        try:
            found = orjson.loads(os.pread(self._record_fd, RECORD, 0))
            position = str(found.get("position", ""))  # the first versions had none
            return _Record(int(found["end"]), str(found["file"]), int(found["bytes"]), position)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return None


def _whole_lines(path: Path, start: int, below: int | None = None) -> tuple[int, int, str]:
    """From byte `start` on: where the whole lines end, or those of offsets below `below`, and offset and
    position of the last one (-1 and nothing: there is none)."""
    last, position = -1, ""
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            found = _place(line)
            if found is None or (below is not None and found[0] >= below):
                break
            if not _REDELIVERED.match(line):
                if found[0] <= last:
                    break
                last, position = found
            start += len(line)
    return start, last, position


def _redelivered_lines(path: Path, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int]]:
    """The lines of dead letters in a part of a file, each with its offset."""
    if path.stat().st_size <= start:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        for found in _REDELIVERED.finditer(view, start, len(view) if end is None else end):
            yield found[0], int(found[1])


def _insert(path: Path, at: int, lines: Iterable[bytes]) -> None:
    """Puts lines into a file, which may be a new one, all or none."""
    made = path.with_suffix(".moving")
    with made.open("wb") as target:
        made.chmod(0o600)
        if path.exists():
            with path.open("rb") as source:
                target.write(source.read(at))
                target.writelines(lines)
                shutil.copyfileobj(source, target)
        else:
            target.writelines(lines)
        target.flush()
        os.fsync(target.fileno())
    made.replace(path)
    _sync_directory(path.parent)


def _place(line: bytes) -> tuple[int, str] | None:
    """Offset and position of the line's change."""
    if not line.endswith(b"\n"):
        return None
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    offset = found.get("offset") if isinstance(found, dict) else None
    # A flow's steps can make several events of a change: `16/B374D848:7+1` is one of change 7.
    return (offset, str(found.get("position", "")).partition("+")[0]) if isinstance(offset, int) else None


def _sync_directory(directory: Path) -> None:
    """Makes new names durable (fsync(2): a file's own fsync does not)."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def failure(error: OSError, place: Path) -> DeliveryError:
    """What an error of the system means for delivery."""
    reason = error.strerror or type(error).__name__
    if error.errno in LASTING:
        return Permanent(
            f"cannot write events to {place}: {reason}",
            hint="make it a directory that the user of cdcflow can write, or give another path",
        )
    hint = "free some space; nothing is lost" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return Transient(f"cannot write events to {place}: {reason}", hint=hint)
