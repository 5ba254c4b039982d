"""The journal knows from where on the rows come that the source held already."""

from pathlib import Path

from cdcflow.journal import Reader, Writer
from cdcflow.testing.batches import inserts, make_relation
from cdcflow.testing.journals import IDENTITY, ids, read_all

ORDERS = make_relation("orders", ["id"])


def test_a_journal_knows_where_existing_rows_begin_also_when_they_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Writer.open(path, IDENTITY, segment_bytes=1) as writer, Reader(path) as reader:
        writer.append(inserts(ORDERS, [0], commit_lsn=8))
        assert reader.initial_rows() is None
        writer.rows_come()
        for i in range(1, 4):
            writer.append(inserts(ORDERS, [i], commit_lsn=8 + 8 * i))
        assert writer.retain(max_bytes=0, max_age=0, keep_from=3)
        assert (reader.initial_rows(), reader.first_offset()) == (1, 3)
    with Writer.open(path, IDENTITY):
        pass
    with Reader(path) as reader:
        assert reader.initial_rows() == 1


def test_without_a_head_file_the_segments_say_how_far_they_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Writer.open(path, IDENTITY) as writer:
        writer.append(inserts(ORDERS, [0], commit_lsn=8, committed=16))
    (path / "head").write_bytes(bytes(128))
    assert ids(read_all(path)) == [0]
    with Reader(path) as reader:
        assert reader.head().committed == 16
        Writer.open(path, IDENTITY).close()
        assert reader.head().offset == 1
