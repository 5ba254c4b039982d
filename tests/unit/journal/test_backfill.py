"""The rows of a backfill show all at once, or never."""

from pathlib import Path

import pytest

from cdcflow.errors import JournalError
from cdcflow.journal import Reader, Writer, verify
from cdcflow.testing.batches import inserts, make_relation
from cdcflow.testing.journals import IDENTITY, crash_image, ids, read_all

ORDERS = make_relation("orders", ["id"])
ROOM = 1 << 30


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def state_of(writer: Writer) -> str:
    return writer.backfill


def test_rows_of_a_backfill_show_all_at_once(path: Path) -> None:
    with Writer.open(path, IDENTITY, segment_bytes=1) as writer, Reader(path) as reader:
        writer.progress(16, 1)
        writer.begin_backfill()
        assert state_of(writer) == "pending"
        for i in range(3):
            writer.append(inserts(ORDERS, [i], commit_lsn=23, ordinal=i + 1, committed=0))
            writer.sync()
            assert (reader.head().offset, reader.head().committed) == (0, 16)
        assert writer.retain(max_bytes=0, max_age=0, keep_from=3) == []
        writer.finish_backfill()
        assert state_of(writer) == "done"
        assert ids(reader.read(0, max_changes=9, max_bytes=ROOM)) == [0, 1, 2]
        with pytest.raises(JournalError, match="backfill already"):
            writer.begin_backfill()
    with Writer.open(path, IDENTITY) as writer:
        assert (writer.backfill, writer.tail.offset) == ("done", 3)


@pytest.mark.parametrize("segment_bytes", [1, 1 << 20])
@pytest.mark.parametrize("before", [0, 2])
def test_rows_of_an_unfinished_backfill_are_cut_off(
    path: Path, tmp_path: Path, segment_bytes: int, before: int
) -> None:
    with Writer.open(path, IDENTITY, segment_bytes=segment_bytes) as writer:
        for i in range(before):
            writer.append(inserts(ORDERS, [i], commit_lsn=8 + 8 * i))
        writer.begin_backfill()
        began = writer.tail
        writer.progress(900, 1)
        for i in range(3):
            writer.append(inserts(ORDERS, [100 + i], commit_lsn=95, ordinal=i + 1, committed=0))
        writer.sync()
        crashed = crash_image(path, tmp_path / "crashed")
    for again in (path, crashed):
        with Writer.open(again, IDENTITY, segment_bytes=segment_bytes) as writer:
            assert writer.backfill == "none"
            assert writer.tail == began
            writer.begin_backfill()
            writer.append(inserts(ORDERS, [7], commit_lsn=95, committed=0))
            writer.finish_backfill()
        assert ids(read_all(again)) == [*range(before), 7]
        assert list(verify(again)) == []


def test_a_cut_that_was_interrupted_is_cut_again(path: Path, tmp_path: Path) -> None:
    with Writer.open(path, IDENTITY, segment_bytes=1) as writer:
        writer.append(inserts(ORDERS, [0], commit_lsn=8))
        writer.begin_backfill()
        for i in range(4):
            writer.append(inserts(ORDERS, [100 + i], commit_lsn=95, ordinal=i + 1, committed=0))
    for removed in range(1, 5):
        crashed = crash_image(path, tmp_path / f"crashed{removed}")
        for segment in sorted(crashed.glob("*.seg"))[-removed:]:
            segment.unlink()
        with Writer.open(crashed, IDENTITY) as writer:
            assert (writer.backfill, writer.tail.offset) == ("none", 1)
        assert ids(read_all(crashed)) == [0]


@pytest.mark.parametrize("pending", [False, True])
def test_without_a_head_file_the_segments_say_how_far_they_can_be_read(path: Path, pending: bool) -> None:
    with Writer.open(path, IDENTITY) as writer:
        writer.append(inserts(ORDERS, [0], commit_lsn=8, committed=16))
        if pending:
            writer.begin_backfill()
            writer.append(inserts(ORDERS, [1], commit_lsn=23, committed=0))
    (path / "head").write_bytes(bytes(128))
    assert ids(read_all(path)) == [0]
    with Reader(path) as reader:
        assert reader.head().committed == 16
        Writer.open(path, IDENTITY).close()
        assert reader.head().offset == 1


def test_a_backfill_that_was_not_begun_cannot_be_finished(path: Path) -> None:
    with Writer.open(path, IDENTITY) as writer, pytest.raises(JournalError, match="no backfill to finish"):
        writer.finish_backfill()
