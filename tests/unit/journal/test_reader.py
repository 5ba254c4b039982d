"""Reading: from any offset, in any pieces, while segments come and go."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from cdcflow.errors import JournalDamaged, JournalError
from cdcflow.journal import Reader, Writer
from cdcflow.journal.segment import SegmentFile
from cdcflow.testing.batches import inserts, make_relation
from cdcflow.testing.journals import IDENTITY, ids

ORDERS = make_relation("orders")
ROOM = 1 << 30


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of ten frames of ten changes; the ids are the offsets."""
    path = tmp_path / "journal"
    with Writer.open(path, IDENTITY) as writer:
        for i in range(10):
            writer.append(inserts(ORDERS, range(10 * i, 10 * i + 10), commit_lsn=8 + 8 * i))
    return path


def test_every_offset_can_be_read_from(path: Path) -> None:
    for offset in [*range(100), *reversed(range(100))]:
        with Reader(path) as reader:
            assert ids(reader.read(offset, max_changes=1, max_bytes=ROOM)) == list(
                range(offset, offset // 10 * 10 + 10)
            )


def test_one_reader_can_go_back_and_forth(path: Path) -> None:
    with Reader(path) as reader:
        for offset in (55, 3, 99, 98, 0, 50, 51, 95, 20):
            found = reader.read(offset, max_changes=100, max_bytes=ROOM)
            assert ids(found) == list(range(offset, 100))
            assert found[0].base == offset
            assert found[-1].end == 100


def test_a_read_stops_at_its_limits_but_gives_at_least_one_batch(path: Path) -> None:
    with Reader(path) as reader:
        assert len(reader.read(0, max_changes=30, max_bytes=ROOM)) == 3
        assert len(reader.read(30, max_changes=29, max_bytes=ROOM)) == 2
        assert len(reader.read(50, max_changes=1, max_bytes=ROOM)) == 1
        assert len(reader.read(60, max_changes=100, max_bytes=1)) == 1
        assert len(reader.read(70, max_changes=100, max_bytes=ROOM)) == 3
        assert reader.read(100, max_changes=100, max_bytes=ROOM) == []


def test_bytes_count_as_they_are_in_memory(path: Path) -> None:
    with Reader(path) as reader:
        (first,) = reader.read(0, max_changes=1, max_bytes=ROOM)
        two = reader.read(0, max_changes=100, max_bytes=5 * first.nbytes)
        assert 2 <= len(two) <= 5


def test_an_offset_beyond_the_head_is_an_error(path: Path) -> None:
    with (
        Reader(path) as reader,
        pytest.raises(JournalError, match="ends at offset 100, before offset 101") as e,
    ):
        reader.read(101, max_changes=1, max_bytes=1)
    assert e.value.hint


def test_an_offset_that_retention_removed_is_an_error_that_asks_for_a_backfill(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Writer.open(path, IDENTITY, segment_bytes=1) as writer, Reader(path) as reader:
        for i in range(4):
            writer.append(inserts(ORDERS, [i], commit_lsn=8 + 8 * i))
        writer.retain(max_bytes=0, max_age=None, keep_from=2)
        assert reader.first_offset() == 2
        with pytest.raises(JournalError, match="does not hold offset 1 any more: it begins at 2") as caught:
            reader.read(1, max_changes=1, max_bytes=1)
        assert "backfill" in caught.value.hint
        assert ids(reader.read(2, max_changes=9, max_bytes=ROOM)) == [2, 3]


def test_a_segment_that_is_removed_while_it_is_read_can_be_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Writer.open(path, IDENTITY, segment_bytes=3000) as writer, Reader(path) as reader:
        for i in range(20):
            writer.append(inserts(ORDERS, [i], commit_lsn=8 + 8 * i))
        writer.sync()
        assert ids(reader.read(0, max_changes=1, max_bytes=1)) == [0]
        removed = writer.retain(max_bytes=0, max_age=None, keep_from=20)
        assert len(removed) > 1
        end = removed[0].end
        assert end is not None
        assert end > 2
        got = []
        for offset in range(1, end):
            got += ids(reader.read(offset, max_changes=1, max_bytes=1))
        assert got == list(range(1, end))
        with pytest.raises(JournalError, match="any more"):
            reader.read(end, max_changes=1, max_bytes=1)


def test_a_reader_holds_one_segment_open_at_most(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Writer.open(path, IDENTITY, segment_bytes=1) as writer:
        for i in range(30):
            writer.append(inserts(ORDERS, [i], commit_lsn=8 + 8 * i))
    with Reader(path) as reader:
        reader.read(0, max_changes=100, max_bytes=ROOM)
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]  # noqa: PTH208, PTH115
        assert sum(link.startswith(str(path)) and link.endswith(".seg") for link in links) == 1


def _is_open(fd: str) -> bool:
    return Path(f"/proc/self/fd/{fd}").is_symlink()


def test_a_reader_follows_what_is_appended(path: Path) -> None:
    with Reader(path) as reader, Writer.open(path, IDENTITY, segment_bytes=3000) as writer:
        at = 100
        for i in range(100, 160):
            writer.append(inserts(ORDERS, [i], commit_lsn=8 + 8 * i))
            if i % 3:
                writer.progress(16 + 8 * i, i)
            if i % 7 == 0:
                assert reader.read(at, max_changes=99, max_bytes=ROOM) == []
                writer.sync()
                found = reader.read(at, max_changes=99, max_bytes=ROOM)
                assert ids(found) == list(range(at, i + 1))
                at = i + 1


def test_bytes_that_were_read_ahead_are_not_believed_later(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    writer = Writer.open(path, IDENTITY)
    writer.append(inserts(ORDERS, [0], commit_lsn=8))
    writer.sync()
    (segment,) = path.glob("*.seg")
    size = segment.stat().st_size
    writer.append(inserts(ORDERS, range(1, 5), commit_lsn=16))
    with Reader(path) as reader:
        assert ids(reader.read(0, max_changes=9, max_bytes=ROOM)) == [0]
        # A crash takes the frame that the reader has read ahead, and another comes to stand there.
        head = (path / "head").read_bytes()
        writer.close()
        (path / "head").write_bytes(head)
        os.truncate(segment, size)
        with Writer.open(path, IDENTITY) as writer:
            writer.append(inserts(ORDERS, [77], commit_lsn=24))
            writer.sync()
            assert ids(reader.read(1, max_changes=9, max_bytes=ROOM)) == [77]


def test_a_damaged_frame_is_named_and_never_returned(path: Path) -> None:
    (segment,) = path.glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    with Reader(path) as reader:
        sound = reader.read(0, max_changes=100, max_bytes=ROOM)
        assert 0 < len(sound) < 10
        for _ in range(2):
            with pytest.raises(JournalDamaged, match=rf"{segment.name} is damaged at byte \d+: the checksum"):
                reader.read(sound[-1].end, max_changes=100, max_bytes=ROOM)
        assert ids(reader.read(0, max_changes=1, max_bytes=ROOM)) == list(range(10))
        assert ids(reader.read(90, max_changes=1, max_bytes=ROOM)) == list(range(90, 100))


def test_a_small_batch_does_not_keep_what_was_read_around_it(path: Path) -> None:
    with Reader(path) as reader:
        (batch,) = reader.read(30, max_changes=1, max_bytes=ROOM)
    # The reader is closed; the batch stands by itself.
    assert ids([batch]) == list(range(30, 40))


def test_where_there_is_no_journal_a_reader_says_so(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(JournalError, match="there is no journal at") as caught:
            Reader(place)
        assert caught.value.hint


def test_a_closed_reader_reads_nothing(path: Path) -> None:
    reader = Reader(path)
    reader.close()
    reader.close()
    with pytest.raises(JournalError, match="closed"):
        reader.read(0, max_changes=1, max_bytes=1)


def test_the_head_says_when_it_was_published(path: Path) -> None:
    with Reader(path) as reader:
        before = reader.head()
        Writer.open(path, IDENTITY).close()
        assert reader.head().time_us > before.time_us > 1_600_000_000_000_000
        assert reader.head().offset == before.offset == 100


def test_changes_that_a_flipped_bit_disguises_as_something_else_are_not_skipped(path: Path) -> None:
    (segment,) = path.glob("*.seg")
    with closing(SegmentFile(segment)) as file:
        frame = list(file.frames(0))[3]
    data = bytearray(segment.read_bytes())
    data[frame.at + 12] ^= 1  # the kind in the prefix: changes become progress
    segment.write_bytes(data)
    with Reader(path) as reader:
        assert ids(reader.read(0, max_changes=100, max_bytes=ROOM)) == list(range(20))
        with pytest.raises(JournalDamaged, match=f"at byte {frame.at}:"):
            reader.read(20, max_changes=100, max_bytes=ROOM)
