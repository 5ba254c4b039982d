"""What a crash leaves is cut off, and what is damaged is named and never cut away."""

import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from cdcflow.errors import JournalDamaged, JournalError
from cdcflow.journal import Reader, Tail, Writer, verify
from cdcflow.journal.segment import Frame, SegmentFile
from cdcflow.testing.batches import inserts, make_relation
from cdcflow.testing.journals import IDENTITY, crash_image, ids, read_all

ORDERS = make_relation("orders", ["id"])
ROOM = 1 << 30


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def write(path: Path, frames: int, *, segment_bytes: int = 1 << 20) -> None:
    """A journal of synced frames of one change each; the ids are the offsets."""
    with Writer.open(path, IDENTITY, segment_bytes=segment_bytes) as writer:
        for i in range(frames):
            writer.append(inserts(ORDERS, [i], commit_lsn=8 + 8 * i))
            writer.sync()


def frames_of(segment: Path) -> list[Frame]:
    with closing(SegmentFile(segment)) as file:
        return list(file.frames(int(segment.stem)))


def flip(segment: Path, at: int) -> None:
    with segment.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def test_a_file_cut_at_any_byte_of_its_last_frame_recovers_to_the_one_before(
    path: Path, tmp_path: Path
) -> None:
    with Writer.open(path, IDENTITY) as writer:
        for i in range(3):
            writer.append(inserts(ORDERS, [i], commit_lsn=8 + 8 * i))
            if i < 2:
                writer.sync()
        crashed = crash_image(path, tmp_path / "crashed")
    (segment,) = crashed.glob("*.seg")
    image, head = segment.read_bytes(), (crashed / "head").read_bytes()
    last = frames_of(segment)[-1]
    assert last.end_at == len(image)
    for size in range(last.at, len(image)):
        segment.write_bytes(image[:size])
        (crashed / "head").write_bytes(head)
        torn = [(damage.at, damage.torn) for damage in verify(crashed)]
        assert torn == ([(last.at, True)] if size > last.at else [])
        with Writer.open(crashed, IDENTITY) as writer:
            assert writer.tail.offset == 2
            assert (writer.cut, writer.lost) == (size - last.at, 0)
        assert segment.stat().st_size == last.at
    with Writer.open(crashed, IDENTITY) as writer:
        writer.append(inserts(ORDERS, [2], commit_lsn=24))
    assert ids(read_all(crashed)) == [0, 1, 2]


def test_a_flipped_bit_in_any_byte_is_found_where_it_is(path: Path) -> None:
    write(path, 3)
    (segment,) = path.glob("*.seg")
    for frame in frames_of(segment):
        for at in range(frame.at, frame.end_at):
            flip(segment, at)
            found = [(damage.segment, damage.at, damage.torn) for damage in verify(path)]
            assert found == [(segment.name, frame.at, False)], f"byte {at} of the frame at {frame.at}"
            flip(segment, at)
    assert list(verify(path)) == []


def test_damage_before_the_end_is_never_cut_away(path: Path) -> None:
    write(path, 4)
    (segment,) = path.glob("*.seg")
    image = segment.read_bytes()
    for frame in frames_of(segment)[:-1]:
        # Bytes 20 to 28 are the body's length: with those, the frame seems to end behind the file.
        for at in (frame.at, frame.at + 8, frame.at + 24, frame.at + 27, frame.end_at - 1):
            flip(segment, at)
            with pytest.raises(
                JournalDamaged, match=rf"{segment.name} is damaged at byte {frame.at}:"
            ) as error:
                Writer.open(path, IDENTITY)
            assert error.value.hint
            flip(segment, at)
            assert segment.read_bytes() == image
    with Writer.open(path, IDENTITY) as writer:
        assert writer.tail.offset == 4


def test_frames_that_were_never_synced_may_be_lost_in_any_order(path: Path, tmp_path: Path) -> None:
    with Writer.open(path, IDENTITY) as writer:
        writer.append(inserts(ORDERS, [0], commit_lsn=8))
        writer.sync()
        for i in (1, 2, 3):
            writer.append(inserts(ORDERS, [i], commit_lsn=8 + 8 * i))
        crashed = crash_image(path, tmp_path / "crashed")
    (segment,) = crashed.glob("*.seg")
    second = frames_of(segment)[2]
    flip(segment, second.at + 70)
    assert [(damage.at, damage.torn) for damage in verify(crashed)] == [(second.at, True)]
    with Writer.open(crashed, IDENTITY) as writer:
        assert (writer.tail.offset, writer.lost) == (1, 0)
    assert ids(read_all(crashed)) == [0]


def test_what_a_killed_writer_had_not_synced_is_kept_when_it_is_whole(path: Path, tmp_path: Path) -> None:
    with Writer.open(path, IDENTITY) as writer:
        writer.append(inserts(ORDERS, [0], commit_lsn=8))
        crashed = crash_image(path, tmp_path / "crashed")
    assert read_all(crashed) == []
    with Writer.open(crashed, IDENTITY) as writer:
        assert writer.tail.offset == 1
    assert ids(read_all(crashed)) == [0]


def test_a_disk_that_loses_what_it_had_synced_is_told_of(path: Path) -> None:
    write(path, 3)
    (segment,) = path.glob("*.seg")
    last = frames_of(segment)[-1]
    os.truncate(segment, last.at)
    assert [(damage.at, damage.torn) for damage in verify(path)] == [(last.at, False)]
    with Reader(path) as reader:
        assert reader.head().offset == 3
        assert ids(reader.read(0, max_changes=9, max_bytes=ROOM)) == [0, 1]
        assert reader.head().offset == 2  # or a reader that waits for more would spin
        assert reader.read(2, max_changes=9, max_bytes=ROOM) == []
        assert not reader.wait(2, 0)
        with Writer.open(path, IDENTITY) as writer:
            assert (writer.tail.offset, writer.lost) == (2, 1)
            writer.append(inserts(ORDERS, [7], commit_lsn=80))
            writer.sync()
            assert ids(reader.read(2, max_changes=9, max_bytes=ROOM)) == [7]


@pytest.mark.parametrize("size", [0, 1, 63, 64, 100])
def test_a_segment_whose_beginning_is_torn_is_begun_again(path: Path, size: int) -> None:
    write(path, 2, segment_bytes=1)
    torn = path / f"{2:020d}.seg"
    torn.write_bytes((path / f"{1:020d}.seg").read_bytes()[:size])
    with Writer.open(path, IDENTITY, segment_bytes=1) as writer:
        assert (writer.tail.offset, writer.cut) == (2, size)
        assert not torn.exists()
        writer.append(inserts(ORDERS, [2], commit_lsn=80))
    assert ids(read_all(path)) == [0, 1, 2]


def test_a_crash_while_the_journal_was_made_is_made_good(path: Path) -> None:
    Writer.open(path, IDENTITY).close()
    (segment,) = path.glob("*.seg")
    for size in (0, 1, 64):
        os.truncate(segment, size)
        with Writer.open(path, IDENTITY) as writer:
            assert writer.tail == Tail()
    segment.unlink()
    with Writer.open(path, IDENTITY) as writer:
        writer.append(inserts(ORDERS, [0]))
    assert ids(read_all(path)) == [0]


def test_the_only_segment_left_cannot_be_begun_again(path: Path) -> None:
    write(path, 2, segment_bytes=1)
    (path / f"{0:020d}.seg").unlink()
    os.truncate(path / f"{1:020d}.seg", 10)
    with pytest.raises(JournalDamaged, match="only segment"):
        Writer.open(path, IDENTITY)


def test_a_head_that_a_power_cut_made_old_is_published_anew(path: Path) -> None:
    with Writer.open(path, IDENTITY) as writer:
        writer.append(inserts(ORDERS, [0], commit_lsn=8))
        writer.sync()
        old = (path / "head").read_bytes()
        writer.append(inserts(ORDERS, [1], commit_lsn=16))
    (path / "head").write_bytes(old)
    with Reader(path) as reader:
        assert reader.head().offset == 1
        # A flow that had got further than this head is not told that its place does not exist.
        assert reader.read(2, max_changes=9, max_bytes=9) == []
        with pytest.raises(JournalError, match="ends at offset 1"):
            reader.read(3, max_changes=9, max_bytes=9)
        Writer.open(path, IDENTITY).close()
        assert reader.head().offset == 2


def test_a_missing_segment_in_the_middle_is_damage_for_readers_and_for_verify(path: Path) -> None:
    write(path, 4, segment_bytes=1)
    (path / f"{1:020d}.seg").rename(path / "aside")
    (damage,) = verify(path)
    assert (damage.segment, damage.at) == (f"{2:020d}.seg", 0)
    with Reader(path) as reader:
        assert ids(reader.read(0, max_changes=9, max_bytes=ROOM)) == [0]
        for _ in range(2):
            with pytest.raises(JournalDamaged, match="lacks offset 1"):
                reader.read(1, max_changes=9, max_bytes=ROOM)
        assert ids(reader.read(2, max_changes=9, max_bytes=ROOM)) == [2, 3]


def test_damage_in_one_segment_does_not_hide_damage_in_the_next(path: Path) -> None:
    write(path, 9, segment_bytes=2000)
    files = sorted(path.glob("*.seg"))
    assert len(files) > 2
    wanted = []
    for file in files[:2]:
        frame = frames_of(file)[1]
        flip(file, frame.at + 9)
        wanted.append((file.name, frame.at, False))
    assert [(damage.segment, damage.at, damage.torn) for damage in verify(path)] == wanted


def test_verify_finds_a_segment_that_does_not_belong_where_it_is(path: Path) -> None:
    write(path, 2, segment_bytes=1)
    # Every checksum is right, and yet it is wrong: the same changes stand there twice.
    shutil.copyfile(path / f"{1:020d}.seg", path / f"{2:020d}.seg")
    assert next(damage.segment for damage in verify(path)) == f"{2:020d}.seg"
