"""The writing side of capture, on a real journal in a folder of limited size."""

from pathlib import Path

import pytest

from cdcflow.errors import JournalFull
from cdcflow.journal import Identity, Writer
from cdcflow.journal.layout import segments
from cdcflow.model import Batch, Op
from cdcflow.source.appender import Appender, Retention
from cdcflow.testing.batches import make_batch, make_relation
from cdcflow.testing.waiting import eventually

IDENTITY = Identity("7000000000000000001", 1, "shop", "cdcflow", "cdcflow")
ORDERS = make_relation("orders", oid=1)
ROOM = 40_000


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Writer:
    path = tmp_path / "journal"
    write = Writer.append

    def append(self: Writer, batch: Batch) -> Batch:
        if sum(segment.path.stat().st_size for segment in segments(path)) > ROOM:
            raise JournalFull("no room")
        return write(self, batch)

    monkeypatch.setattr(Writer, "append", append)
    return Writer.open(path, IDENTITY, segment_bytes=4_096)


def change(number: int) -> Batch:
    rows = [(Op.INSERT, {"id": str(number), "note": "x" * 100}, None)]
    return make_batch(ORDERS, rows, commit_lsn=number * 8, commit_time=number)


def test_a_disk_that_retention_can_empty_does_not_stay_full(writer: Writer) -> None:
    appender = Appender(writer, Retention(max_bytes=8_192), lambda: None)
    try:
        # A flow that was down has pinned everything from the beginning.
        appender.keep_from = 0
        number = 0
        while not appender.disk_full:
            eventually(lambda: appender.room or appender.disk_full, what="room for a batch")
            number += 1
            appender.put(change(number))
        # It has come back, and has read all that there is.
        appender.keep_from = appender.tail.offset
        eventually(lambda: appender.idle, what="what waited to be stored")
        assert appender.tail.offset == number
        assert not appender.disk_full
    finally:
        appender.close()
