"""Appending: offsets, order, durability, one writer, one source."""

import errno
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from cdcflow.errors import JournalDamaged, JournalError, JournalFull
from cdcflow.journal import Asked, Reader, Tail, Writer, inspect, verify
from cdcflow.journal.segment import SegmentFile
from cdcflow.model import ORIGIN, Batch, Group, Op, Position
from cdcflow.testing.batches import Made, batch_of, inserts, made_message, make_batch, make_relation
from cdcflow.testing.journals import IDENTITY, ids, read_all, seen

ORDERS = make_relation("orders")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal"


def test_a_new_journal_is_empty_and_belongs_to_its_user_alone(path: Path) -> None:
    with Writer.open(path, IDENTITY) as writer, Reader(path) as reader:
        assert writer.tail == Tail(0, ORIGIN, 0, 0)
        assert reader.initial_rows() is None
        assert reader.head().offset == 0
        assert reader.first_offset() == 0
        assert reader.read(0, max_changes=10, max_bytes=10) == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.iterdir() if file.is_file()}
    assert set(modes.values()) == {0o600}
    assert set(modes) == {"manifest.json", "lock", "head", "00000000000000000000.seg"}


def test_offsets_count_changes_from_zero(path: Path) -> None:
    with Writer.open(path, IDENTITY) as writer:
        first = writer.append(inserts(ORDERS, range(3), commit_lsn=8))
        second = writer.append(inserts(ORDERS, range(3, 7), commit_lsn=16))
        assert (first.base, first.end) == (0, 3)
        assert (second.base, second.end) == (3, 7)
        assert writer.tail.offset == 0
        writer.sync()
        assert writer.tail == Tail(7, Position(16, 4), 700, 24)
    assert ids(read_all(path)) == list(range(7))


def test_what_is_not_synced_is_not_visible(path: Path) -> None:
    with Writer.open(path, IDENTITY) as writer, Reader(path) as reader:
        writer.append(inserts(ORDERS, range(3)))
        assert reader.head().offset == 0
        writer.sync()
        assert reader.head().offset == 3
        assert reader.head().committed == 16


def test_a_reopened_journal_goes_on_behind_its_tail(path: Path) -> None:
    with Writer.open(path, IDENTITY) as writer:
        writer.append(inserts(ORDERS, range(3), commit_lsn=8))
        writer.progress(400, 1)
        writer.sync()
        tail = writer.tail
    assert tail == Tail(3, Position(8, 3), 700, 400)
    with Writer.open(path, IDENTITY) as writer:
        assert writer.tail == tail
        assert (writer.cut, writer.lost) == (0, 0)
        assert writer.append(inserts(ORDERS, [3], commit_lsn=408)).base == 3
    assert ids(read_all(path)) == [0, 1, 2, 3]


def test_the_tail_survives_in_a_segment_that_has_only_begun(path: Path) -> None:
    with Writer.open(path, IDENTITY, segment_bytes=1) as writer:
        for i in range(3):
            writer.append(inserts(ORDERS, [i], commit_lsn=8 + 8 * i))
    last = max(path.glob("*.seg"))
    with closing(SegmentFile(last)) as file:
        _, changes = file.frames(2)
    os.truncate(last, changes.at)
    with Writer.open(path, IDENTITY) as writer:
        assert writer.tail == Tail(2, Position(16, 1), 700, 24)
        with pytest.raises(JournalError, match="positions must increase"):
            writer.append(inserts(ORDERS, [1], commit_lsn=16))
        writer.append(inserts(ORDERS, [2], commit_lsn=24))
    assert ids(read_all(path)) == [0, 1, 2]


def test_changes_that_do_not_come_behind_the_last_are_refused(path: Path) -> None:
    with Writer.open(path, IDENTITY) as writer:
        batch = inserts(ORDERS, range(3), commit_lsn=16)
        writer.append(batch)
        for repeated in (
            batch,
            inserts(ORDERS, [9], commit_lsn=8),
            inserts(ORDERS, [9], commit_lsn=16, ordinal=3),
        ):
            with pytest.raises(JournalError, match="positions must increase"):
                writer.append(repeated)
        writer.append(inserts(ORDERS, [3], commit_lsn=16, ordinal=4))
    assert ids(read_all(path)) == [0, 1, 2, 3]


def test_what_the_server_is_asked_for_is_kept_and_changes_only_between_transactions(path: Path) -> None:
    with Writer.open(path, IDENTITY) as writer:
        assert writer.asked == Asked()
        writer.ask(Asked(True, "none"))
        writer.append(inserts(ORDERS, range(3), commit_lsn=16, committed=0))
        writer.sync()
        with pytest.raises(JournalError, match="inside of a transaction"):
            writer.ask(Asked(True))
    with Writer.open(path, IDENTITY) as writer:
        assert writer.asked == Asked(True, "none")
        writer.append(inserts(ORDERS, [3], commit_lsn=16, ordinal=4, committed=24))
        writer.sync()
        writer.ask(Asked(True))
    with Writer.open(path, IDENTITY) as writer:
        assert writer.asked == Asked(True)


def test_a_message_of_no_transaction_comes_before_one_that_commits_at_its_end(path: Path) -> None:
    alone = made_message("x", position=Position(16, 0), transactional=False)
    with Writer.open(path, IDENTITY) as writer:
        writer.append(inserts(ORDERS, [1], commit_lsn=8, committed=12))
        writer.append(batch_of([alone], committed=16))
        writer.sync()
        whole = [writer.tail.whole]
        with pytest.raises(JournalError, match="positions must increase"):
            writer.append(batch_of([alone], committed=16))
        writer.append(inserts(ORDERS, [2], commit_lsn=16, committed=0))
        writer.sync()
        assert [*whole, writer.tail.whole] == [True, False]
    assert [str(c.position) for b in read_all(path) for c in b.changes()] == ["0/8:1", "0/10:0", "0/10:1"]
    assert not list(verify(path))


def test_a_batch_that_lacks_rows_is_refused(path: Path) -> None:
    batch = inserts(ORDERS, range(3))
    thinned = batch.with_groups([batch.groups[0].take(pa.array([True, False, True]))])
    with Writer.open(path, IDENTITY) as writer:
        for wrong in (thinned, batch.with_groups([]), replace(batch, last=Position(8, 9))):
            with pytest.raises(JournalError, match="cannot be journaled"):
                writer.append(wrong)
        assert writer.written == Tail()


def test_a_batch_without_changes_moves_only_the_committed_lsn(path: Path) -> None:
    with Writer.open(path, IDENTITY) as writer, Reader(path) as reader:
        assert writer.append(Batch((), 0, ORIGIN, committed=88)).base == 0
        writer.append(Batch((), 0, ORIGIN))
        writer.sync()
        assert (reader.head().offset, reader.head().committed) == (0, 88)


def test_progress_never_goes_back(path: Path) -> None:
    with Writer.open(path, IDENTITY) as writer:
        writer.progress(88, 1)
        size = sum(file.stat().st_size for file in path.glob("*.seg"))
        writer.progress(88, 2)
        writer.progress(80, 3)
        writer.sync()
        assert writer.tail.committed == 88
        assert sum(file.stat().st_size for file in path.glob("*.seg")) == size


def test_progress_alone_never_starts_a_segment(path: Path) -> None:
    with Writer.open(path, IDENTITY, segment_bytes=1) as writer:
        for i in range(20):
            writer.progress(8 * (i + 1), i)
            writer.sync()
    assert len(list(path.glob("*.seg"))) == 1
    with Writer.open(path, IDENTITY) as writer:
        assert writer.tail == Tail(0, ORIGIN, 0, 160)


def test_all_that_a_batch_says_comes_back(path: Path) -> None:
    full = make_relation("bücher", ["a", "b"], replica_identity="f")
    batch = batch_of(
        [
            Made(ORDERS, Op.READ, {"id": "1", "status": "", "note": None}, position=Position(7, 1), xid=0),
            Made(full, Op.UPDATE, {"a": "ä\x01\U0001f600"}, {"a": None, "b": "x"}, Position(8, 1), 5, -7),
            Made(ORDERS, Op.TRUNCATE, None, None, Position(8, 2), 5, 9, truncate=3),
        ],
        committed=16,
    )
    with Writer.open(path, IDENTITY) as writer:
        stored = writer.append(batch)
    (back,) = read_all(path)
    assert seen(back) == seen(stored)
    assert (back.last, back.committed, back.count) == (batch.last, 16, 3)
    for group, wanted in zip(back.groups, batch.groups, strict=True):
        assert group.data.equals(wanted.data)
        assert group.data.schema == Group.schema(group.relation, old=group.old, unchanged=group.unchanged)


def test_a_segment_can_be_read_alone(path: Path) -> None:
    with Writer.open(path, IDENTITY, segment_bytes=1) as writer:
        for i in range(4):
            writer.append(inserts(ORDERS, [i], commit_lsn=8 + 8 * i))
    assert [info.relations for info in inspect(path)] == [(ORDERS,)] * 4
    for file in sorted(path.glob("*.seg"))[:-1]:
        file.unlink()
    with Reader(path) as reader:
        assert reader.first_offset() == 3
        assert ids(reader.read(3, max_changes=10, max_bytes=10)) == [3]
    assert list(verify(path)) == []


def test_a_new_generation_of_a_table_is_another_relation(path: Path) -> None:
    wider = make_relation("orders", ["id", "status", "note", "added"])
    with Writer.open(path, IDENTITY) as writer:
        writer.append(inserts(ORDERS, [0], commit_lsn=8))
        writer.append(inserts(wider, [1], commit_lsn=16))
    with Writer.open(path, IDENTITY) as writer:
        writer.append(inserts(ORDERS, [2], commit_lsn=24))
    batches = read_all(path)
    assert [batch.groups[0].relation for batch in batches] == [ORDERS, wider, ORDERS]
    assert inspect(path)[0].relations == (ORDERS, wider)


def test_only_one_writer_has_the_journal(path: Path) -> None:
    holder = rf"written by process {os.getpid()}\b"
    with Writer.open(path, IDENTITY), pytest.raises(JournalError, match=holder):
        Writer.open(path, IDENTITY)
    Writer.open(path, IDENTITY).close()


def test_the_lock_of_a_killed_writer_is_free(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from cdcflow.journal import Writer\n"
        "from cdcflow.testing.journals import IDENTITY\n"
        "writer = Writer.open(Path(sys.argv[1]), IDENTITY); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(JournalError, match=rf"written by process {process.pid}\b"):
            Writer.open(path, IDENTITY)
        process.send_signal(signal.SIGKILL)
        Writer.open(path, IDENTITY, lock_timeout=20).close()


@pytest.mark.parametrize(
    ("field", "value"),
    [("system_identifier", "1"), ("timeline", 2), ("database", "x"), ("slot", "x"), ("publication", "x")],
)
def test_a_journal_of_another_source_is_refused(path: Path, field: str, value: object) -> None:
    Writer.open(path, IDENTITY).close()
    with pytest.raises(JournalError) as caught:
        Writer.open(path, replace(IDENTITY, **{field: value}))  # type: ignore[arg-type]
    assert field.replace("_", " ") in str(caught.value)
    assert repr(value) in str(caught.value)
    assert repr(getattr(IDENTITY, field)) in str(caught.value)
    assert caught.value.hint
    Writer.open(path, IDENTITY).close()


def test_a_timeline_is_adopted_only_when_told_and_never_back(path: Path) -> None:
    with Writer.open(path, IDENTITY) as writer:
        writer.append(inserts(ORDERS, [0]))
        with pytest.raises(JournalError, match="written by process"):
            Writer.adopt_timeline(path, 3)
    Writer.adopt_timeline(path, 3)
    with Writer.open(path, replace(IDENTITY, timeline=3)) as writer:
        assert writer.tail.offset == 1
    with pytest.raises(JournalError, match="cannot go back"):
        Writer.adopt_timeline(path, 2)


def test_segments_without_a_manifest_are_not_taken_over(path: Path) -> None:
    Writer.open(path, IDENTITY).close()
    (path / "manifest.json").unlink()
    with pytest.raises(JournalError, match="no manifest"):
        Writer.open(path, IDENTITY)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 3, "identity": {}, "initial_rows": null}'])
def test_a_manifest_that_is_none_is_damage(path: Path, text: str) -> None:
    Writer.open(path, IDENTITY).close()
    (path / "manifest.json").write_text(text)
    with pytest.raises(JournalDamaged, match=r"manifest\.json"):
        Writer.open(path, IDENTITY)


@pytest.mark.parametrize("found", [2, 99])
def test_a_journal_of_another_format_is_refused(path: Path, found: int) -> None:
    Writer.open(path, IDENTITY).close()
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 3', f'"format": {found}'))
    for use in (lambda: Writer.open(path, IDENTITY), lambda: Reader(path)):
        with pytest.raises(JournalError, match=f"format {found}"):
            use()


def test_lost_segments_are_noticed(path: Path) -> None:
    with Writer.open(path, IDENTITY) as writer:
        writer.append(inserts(ORDERS, range(3)))
    for file in path.glob("*.seg"):
        file.unlink()
    with pytest.raises(JournalDamaged, match="up to offset 3 were published"):
        Writer.open(path, IDENTITY)


def test_a_place_that_cannot_hold_a_journal_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="cannot be opened for writing") as caught:
        Writer.open(tmp_path / "file" / "journal", IDENTITY)
    assert caught.value.hint
    assert caught.value.exit_code == 3


def test_a_closed_writer_takes_nothing(path: Path) -> None:
    writer = Writer.open(path, IDENTITY)
    writer.close()
    writer.close()
    with pytest.raises(JournalError, match="closed"):
        writer.append(inserts(ORDERS, [0]))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: a write is cut short there, and the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 1, 64, 100, 300, 5000])
def test_without_room_a_batch_is_refused_whole_and_can_be_given_again(path: Path, room: int) -> None:
    second = inserts(ORDERS, range(1, 1000), commit_lsn=16)
    with Writer.open(path, IDENTITY) as writer:
        writer.append(inserts(ORDERS, [0], commit_lsn=8))
        writer.sync()
        (segment,) = path.glob("*.seg")
        size = segment.stat().st_size
        for _ in range(2):
            with largest_file(size + room), pytest.raises(JournalFull, match="no room") as caught:
                writer.append(second)
            assert caught.value.hint
            assert segment.stat().st_size == size
        assert writer.written.offset == 1
        writer.sync()
        writer.append(second)
    assert ids(read_all(path)) == list(range(1000))
    assert list(verify(path)) == []


def test_without_room_for_a_new_segment_the_old_one_stays(path: Path) -> None:
    with Writer.open(path, IDENTITY, segment_bytes=1) as writer:
        writer.append(inserts(ORDERS, [0], commit_lsn=8))
        for room in (0, 40):
            with largest_file(room), pytest.raises(JournalFull):
                writer.append(inserts(ORDERS, [1], commit_lsn=16))
            assert len(list(path.glob("*.seg"))) == 1
        writer.sync()
        writer.append(inserts(ORDERS, [1], commit_lsn=16))
    assert ids(read_all(path)) == [0, 1]
    assert len(list(path.glob("*.seg"))) == 2


def test_progress_without_room_can_be_repeated(path: Path) -> None:
    with Writer.open(path, IDENTITY) as writer:
        (segment,) = path.glob("*.seg")
        with largest_file(segment.stat().st_size + 9), pytest.raises(JournalFull):
            writer.progress(88, 1)
        writer.progress(88, 1)
        writer.sync()
        assert writer.tail.committed == 88
    assert list(verify(path)) == []


def test_after_a_failed_sync_nothing_is_taken_for_durable(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    writer = Writer.open(path, IDENTITY)
    writer.append(inserts(ORDERS, [0], commit_lsn=8))
    writer.sync()
    writer.append(inserts(ORDERS, [1], commit_lsn=16))
    with monkeypatch.context() as patch:
        patch.setattr("cdcflow.journal.writer.datasync", fail)
        with pytest.raises(JournalError, match="cannot be made durable"):
            writer.sync()
    for use in (writer.sync, lambda: writer.append(inserts(ORDERS, [1], commit_lsn=16))):
        with pytest.raises(JournalError, match="opened anew"):
            use()
    writer.close()
    assert ids(read_all(path)) == [0]
    with Writer.open(path, IDENTITY) as writer:
        assert writer.tail.offset == 1
        writer.append(inserts(ORDERS, [1], commit_lsn=16))
    assert ids(read_all(path)) == [0, 1]


def test_a_failed_sync_of_a_new_segment_leaves_the_one_before(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer.open(path, IDENTITY, segment_bytes=1)
    writer.append(inserts(ORDERS, [0], commit_lsn=8))
    writer.append(inserts(ORDERS, [1], commit_lsn=16))

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("cdcflow.journal.writer.datasync", fail)
        with pytest.raises(JournalError, match="cannot be made durable"):
            writer.sync()
    writer.close()
    with Writer.open(path, IDENTITY) as writer:
        assert writer.tail.offset == 1
        writer.append(inserts(ORDERS, [1], commit_lsn=16))
    assert ids(read_all(path)) == [0, 1]
    assert list(verify(path)) == []


def test_a_batch_of_many_megabytes_goes_through(path: Path) -> None:
    value = os.urandom(20 << 20).hex()
    rows = [(Op.INSERT, {"id": str(i), "note": value}, None) for i in range(2)]
    with Writer.open(path, IDENTITY, segment_bytes=1 << 20) as writer:
        writer.append(inserts(ORDERS, [0], commit_lsn=8))
        writer.append(make_batch(ORDERS, rows, commit_lsn=16))
        writer.append(inserts(ORDERS, [3], commit_lsn=24))
    with Reader(path) as reader:
        first, large = (reader.read(offset, max_changes=9, max_bytes=9)[0] for offset in (0, 1))
        assert [len(first), len(large)] == [1, 2]
        assert large.groups[0].new(2)[1].as_py() == value
        assert ids(reader.read(3, max_changes=9, max_bytes=9)) == [3]
    assert list(verify(path)) == []


def test_a_batch_of_more_tables_than_one_write_takes_goes_through(path: Path) -> None:
    tables = [make_relation(f"t{i}", ["id"], oid=i) for i in range(1500)]
    batch = batch_of(
        [Made(t, Op.INSERT, {"id": "1"}, position=Position(8, i + 1)) for i, t in enumerate(tables)]
    )
    with Writer.open(path, IDENTITY) as writer:
        stored = writer.append(batch)
    (back,) = read_all(path)
    assert seen(back) == seen(stored)


def segments_of(path: Path) -> list[int]:
    return [int(file.stem) for file in sorted(path.glob("*.seg"))]


def test_retention_by_size_keeps_what_is_not_read_and_the_last_segment(path: Path) -> None:
    with Writer.open(path, IDENTITY, segment_bytes=1) as writer:
        for i in range(6):
            writer.append(inserts(ORDERS, [i], commit_lsn=8 + 8 * i))
        assert writer.retain(max_bytes=None, max_age=None, keep_from=6) == []
        assert writer.retain(max_bytes=1 << 30, max_age=None, keep_from=6) == []
        assert [s.base for s in writer.retain(max_bytes=0, max_age=None, keep_from=2)] == [0, 1]
        assert segments_of(path) == [2, 3, 4, 5]
        size = (path / f"{5:020d}.seg").stat().st_size
        assert [s.base for s in writer.retain(max_bytes=2 * size, max_age=None, keep_from=6)] == [2, 3]
        writer.retain(max_bytes=0, max_age=None, keep_from=6)
        assert segments_of(path) == [5]
        writer.append(inserts(ORDERS, [6], commit_lsn=80))
    with Writer.open(path, IDENTITY) as writer:
        assert writer.tail.offset == 7
    assert ids(read_all(path, 5)) == [5, 6]


def test_retention_by_age_goes_by_when_a_segment_was_written(path: Path) -> None:
    with Writer.open(path, IDENTITY, segment_bytes=1) as writer:
        for i in range(3):
            writer.append(inserts(ORDERS, [i], commit_lsn=8 + 8 * i))
        os.utime(path / f"{0:020d}.seg", (1, 1))
        assert [s.base for s in writer.retain(max_bytes=None, max_age=3600, keep_from=3)] == [0]
        assert segments_of(path) == [1, 2]


def test_an_old_segment_takes_no_more_changes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Writer.open(path, IDENTITY) as writer:
        writer.append(inserts(ORDERS, [0], commit_lsn=8))
        writer.append(inserts(ORDERS, [1], commit_lsn=16))
        monkeypatch.setattr("cdcflow.journal.writer.SEGMENT_AGE", -1.0)
        writer.append(inserts(ORDERS, [2], commit_lsn=24))
    assert segments_of(path) == [0, 2]
    assert ids(read_all(path)) == [0, 1, 2]


def test_a_copied_journal_is_the_same_journal(path: Path, tmp_path: Path) -> None:
    with Writer.open(path, IDENTITY) as writer:
        writer.append(inserts(ORDERS, range(5)))
    shutil.copytree(path, tmp_path / "copy")
    assert ids(read_all(tmp_path / "copy")) == list(range(5))
