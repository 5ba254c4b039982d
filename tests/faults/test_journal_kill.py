"""A writer that is killed again and again, and a disk that is full: no change is lost, none comes twice.

The file is also the program of the processes: `write` plays a source that goes on behind the journal's
tail, `follow` a flow with a checkpoint of its own.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cdcflow.errors import JournalFull
from cdcflow.journal import Reader, Writer, verify
from cdcflow.model import Batch, Position
from cdcflow.testing.batches import inserts, make_relation
from cdcflow.testing.journals import IDENTITY, ids, read_all

KILLS = 30
READERS = 3
SEGMENT_BYTES = 64 << 10
DEADLINE = 120.0

ORDERS = make_relation("orders", ["id", "note"])


def batch_at(offset: int, count: int) -> Batch:
    """What the source holds from `offset` on: change n has id n and a position that follows from n."""
    return inserts(ORDERS, range(offset, offset + count), commit_lsn=8, ordinal=offset + 1)


def write(path: Path, seed: int, end: int) -> None:
    """Appends up to the offset `end`, in batches and syncs at random."""
    rng = random.Random(seed)
    with Writer.open(path, IDENTITY, segment_bytes=SEGMENT_BYTES, lock_timeout=30) as writer:
        assert writer.lost == 0
        assert writer.tail.offset in (0, writer.tail.last.ordinal)
        while (at := writer.written.offset) < end:
            writer.append(batch_at(at, min(rng.choice([1, 2, 30, 500]), end - at)))
            if rng.random() < 0.5:
                writer.sync()


def follow(path: Path, end: int) -> None:
    """Reads from 0 to `end` and fails at the first change that is not the one that must come next."""
    at = 0
    with Reader(path) as reader:
        while at < end:
            if not reader.wait(at, DEADLINE):
                raise SystemExit(f"nothing came behind {at}")
            for batch in reader.read(at, max_changes=1000, max_bytes=1 << 20):
                if batch.base != at or ids([batch]) != list(range(at, batch.end)):
                    raise SystemExit(f"offset {at} is followed by {batch.base}: {ids([batch])[:3]}")
                at = batch.end


def start(*args: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, *map(str, args)])


def test_followers_miss_nothing_while_the_writer_is_killed_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    rng = random.Random()
    Writer.open(path, IDENTITY, segment_bytes=SEGMENT_BYTES).close()
    end = 1 << 40
    with ExitStack() as stack, Reader(path) as reader:
        for kill in range(KILLS):
            before = reader.head().offset
            writer = stack.enter_context(start("write", path, kill, end))
            stack.callback(writer.kill)
            # From the first published change on, at any moment of append, sync, roll and publish.
            assert reader.wait(before + rng.choice([0, 0, 1, 100, 1000]), DEADLINE)
            spin(rng.random() * 0.02)
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        end = reader.head().offset + 5000
        followers = [start("follow", path, end) for _ in range(READERS)]
        last = stack.enter_context(start("write", path, KILLS, end))
        assert last.wait(DEADLINE) == 0
        assert [follower.wait(DEADLINE) for follower in followers] == [0] * READERS
    assert list(verify(path)) == []
    assert len(list(path.glob("*.seg"))) > 3
    batches = read_all(path)
    assert ids(batches) == list(range(end))
    assert batches[-1].last == Position(8, end)


def spin(seconds: float) -> None:
    """Lets the others run for a moment; what is tested does not depend on how long it is."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        os.sched_yield()


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A tmpfs of that size at `path`; the test is skipped where none can be mounted."""
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs takes root")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def test_on_a_full_disk_the_writer_waits_and_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(1 << 20))
        journal = disk / "journal"
        with Writer.open(journal, IDENTITY, segment_bytes=SEGMENT_BYTES) as writer:
            refused = 0
            while not refused:
                batch = batch_at(writer.written.offset, 700)
                try:
                    writer.append(batch)
                except JournalFull:
                    refused += 1
            for _ in range(3):
                with pytest.raises(JournalFull, match="no room"):
                    writer.append(batch)
            writer.sync()
            durable = writer.tail.offset
            assert durable > 0
            assert ids(read_all(journal)) == list(range(durable))
            ballast.unlink()
            assert writer.append(batch).base == durable
            writer.sync()
        with Writer.open(journal, IDENTITY) as writer:
            assert writer.tail.offset == durable + 700
        assert ids(read_all(journal)) == list(range(durable + 700))
        assert list(verify(journal)) == []


def test_a_journal_cannot_be_made_on_a_full_disk_and_can_be_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        ballast = disk / "ballast"
        with pytest.raises(OSError, match="No space left"):
            ballast.write_bytes(bytes(1 << 20))
        for _ in range(2):
            with pytest.raises(JournalFull):
                Writer.open(disk / "journal", IDENTITY)
        ballast.unlink()
        with Writer.open(disk / "journal", IDENTITY) as writer:
            writer.append(batch_at(0, 3))
        assert ids(read_all(disk / "journal")) == [0, 1, 2]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", path, seed, end]:
            write(Path(path), int(seed), int(end))
        case ["follow", path, end]:
            follow(Path(path), int(end))
