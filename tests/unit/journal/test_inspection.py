"""What `cdcflow journal inspect` and `verify` are told."""

import os
from pathlib import Path

import pytest

from cdcflow.errors import JournalError
from cdcflow.journal import Writer, inspect, verify
from cdcflow.model import Op, Position
from cdcflow.testing.batches import Made, batch_of, inserts, make_relation
from cdcflow.testing.journals import IDENTITY, crash_image

ORDERS, ITEMS = make_relation("orders"), make_relation("items", oid=2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_inspect_says_what_segments_hold(path: Path) -> None:
    with Writer.open(path, IDENTITY, segment_bytes=3000) as writer:
        writer.append(
            batch_of(
                [
                    Made(ORDERS, Op.INSERT, {"id": "1"}, position=Position(8, 1), commit_time=30),
                    Made(ITEMS, Op.INSERT, {"id": "1"}, position=Position(8, 2), commit_time=10),
                    Made(ORDERS, Op.INSERT, {"id": "2"}, position=Position(16, 1), commit_time=20),
                ]
            )
        )
        writer.progress(800, 5)
        writer.append(inserts(ORDERS, range(100), commit_lsn=808))
    first, second = inspect(path)
    assert (first.file, first.base, first.end, first.frames) == (f"{0:020d}.seg", 0, 3, 3)
    assert (first.first, first.last) == (Position(8, 1), Position(16, 1))
    assert first.relations == (ORDERS, ITEMS)
    assert (first.first_commit_time, first.last_commit_time) == (10, 30)
    assert first.bytes == (path / first.file).stat().st_size
    assert (second.base, second.end, second.frames, second.relations) == (3, 103, 2, (ORDERS,))
    assert (first.bad_at, second.bad_at) == (None, None)


def test_inspect_of_an_empty_journal_has_one_segment_without_changes(path: Path) -> None:
    Writer.open(path, IDENTITY).close()
    (info,) = inspect(path)
    assert (info.base, info.end, info.frames) == (0, 0, 1)
    assert (info.first, info.last, info.first_commit_time) == (None, None, None)


def test_inspect_goes_as_far_as_it_can(path: Path) -> None:
    with Writer.open(path, IDENTITY) as writer:
        for i in range(5):
            writer.append(inserts(ORDERS, [i], commit_lsn=8 + 8 * i))
    (whole,) = inspect(path)
    (segment,) = path.glob("*.seg")
    image = segment.read_bytes()
    for at in range(0, len(image), 17):
        segment.write_bytes(image[:at] + bytes(len(image) - at))
        (info,) = inspect(path)
        assert info.frames <= whole.frames
        if info.end < whole.end:
            assert info.bad_at is not None


def test_what_a_living_writer_is_writing_is_no_damage(path: Path, tmp_path: Path) -> None:
    with Writer.open(path, IDENTITY) as writer:
        writer.append(inserts(ORDERS, [0], commit_lsn=8))
        writer.sync()
        writer.append(inserts(ORDERS, [1], commit_lsn=16))
        (segment,) = path.glob("*.seg")
        size = segment.stat().st_size
        os.truncate(segment, size - 1)
        crashed = crash_image(path, tmp_path / "crashed")
        assert list(verify(path)) == []
        assert inspect(path)[0].bad_at is None
        os.truncate(segment, size - 1)
    (damage,) = verify(crashed)
    assert damage.torn
    assert inspect(crashed)[0].bad_at == damage.at


def test_without_a_journal_there_is_nothing_to_look_at(path: Path) -> None:
    with pytest.raises(JournalError, match="no journal"):
        inspect(path)
    with pytest.raises(JournalError, match="no journal"):
        verify(path)
