"""The journal's end read backwards, and places in it found by time."""

from pathlib import Path

import pytest

from cdcflow.errors import JournalError
from cdcflow.journal import recent
from cdcflow.journal.recent import backwards
from cdcflow.journal.seeking import offset_at
from cdcflow.model import Op
from cdcflow.testing.batches import make_batch
from cdcflow.testing.scripted import ORDERS, JournalSource


def filled(path: Path, transactions: int) -> JournalSource:
    """Of so many transactions, each of two changes and a second after the one before, in small segments."""
    source = JournalSource(path, segment_bytes=1 << 12)
    for number in range(transactions):
        rows = [(Op.INSERT, {"id": str(2 * number + i), "note": "x" * 50}, None) for i in (0, 1)]
        batch = make_batch(ORDERS, rows, commit_lsn=8 * (number + 1), commit_time=number * 1_000_000)
        source.writer.append(batch)
        source.writer.sync()
    return source


@pytest.mark.parametrize("stretch", [1, 5, 5_000])
def test_the_newest_changes_come_first_over_all_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stretch: int
) -> None:
    monkeypatch.setattr(recent, "STRETCH", stretch)
    source = filled(tmp_path / "journal", 60)
    assert len(list((tmp_path / "journal").glob("*.seg"))) > 2
    found = [
        str(change.new["id"])
        for batch in backwards(tmp_path / "journal")
        for change in reversed(list(batch.changes()))
        if change.new
    ]
    assert found == [str(number) for number in reversed(range(120))]
    source.writer.close()


def test_a_time_leads_to_the_first_change_at_or_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    source = filled(path, 60)
    for seconds in (0, 1, 17, 59):
        assert offset_at(path, seconds * 1_000_000) == 2 * seconds
    assert offset_at(path, 17_000_001) == 36
    assert offset_at(path, -5) == 0
    assert offset_at(path, 60_000_000) == 120
    source.writer.close()


def test_without_a_journal_there_is_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="there is no journal"):
        next(iter(backwards(tmp_path / "journal")))
    with pytest.raises(JournalError, match="there is no journal"):
        offset_at(tmp_path / "journal", 0)
