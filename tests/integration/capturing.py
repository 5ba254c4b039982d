"""Capture in a thread of the test, and what its journal then holds."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from psycopg import sql

from cdcflow.model import BACKFILLS, Batch, Change
from cdcflow.source.capture import Capture, CaptureSettings
from cdcflow.testing.database import Database
from cdcflow.testing.journals import read_all
from cdcflow.testing.waiting import TIMEOUT, eventually


def publish(postgres: Database, *tables: str) -> None:
    """Makes the publication (of all tables where none is named) and the slot, in this order."""
    name = sql.Identifier(postgres.publication)
    which: sql.Composable = sql.SQL("ALL TABLES")
    if tables:
        which = sql.SQL("TABLE ") + sql.SQL(", ").join(sql.Identifier(table) for table in tables)
    postgres.execute(sql.SQL("CREATE PUBLICATION {} FOR {}").format(name, which))
    make_slot(postgres)


def make_slot(postgres: Database) -> None:
    postgres.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [postgres.slot])


class Running:
    """A capture that runs. `latest` is its last report, `error` what ended it."""

    def __init__(self, settings: CaptureSettings) -> None:
        self.reports: list[Mapping[str, Any]] = []
        self.error: BaseException | None = None
        self.capture = Capture(settings, self.reports.append)
        self._thread = threading.Thread(target=self._run, name="capture under test")
        self._thread.start()

    def _run(self) -> None:
        try:
            self.capture.run()
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.error = error

    @property
    def latest(self) -> Mapping[str, Any]:
        return self.reports[-1] if self.reports else {}

    def stop(self) -> None:
        if self._thread.is_alive():
            self.capture.stop()
        self._thread.join()

    def join(self) -> BaseException | None:
        """Waits until it has ended by itself, and gives the error that ended it."""
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive(), "capture goes on"
        return self.error


def settings(postgres: Database, journal: Path, **changed: Any) -> CaptureSettings:
    given: dict[str, Any] = {
        "dsn": postgres.dsn,
        "slot": postgres.slot,
        "publication": postgres.publication,
        "journal": journal,
        "backfill": False,
        "backfills": journal.parent / f"{journal.name} backfills",
        "heartbeat": None,  # the source's WAL is the test's alone
    }
    return CaptureSettings(**{**given, **changed})


@contextmanager
def capturing(postgres: Database, journal: Path, *, loaded: bool = True, **changed: Any) -> Iterator[Running]:
    """Captures while the block runs, which begins behind the first load, if there is one, or with it (not
    `loaded`); a capture that failed fails the test."""
    running = Running(settings(postgres, journal, **changed))
    states = ("streaming",) if loaded else ("streaming", "backfilling")
    try:
        eventually(lambda: running.latest.get("state") in states or running.error, what="the stream's start")
        yield running
    finally:
        running.stop()
    if running.error is not None:
        raise running.error


def changes(journal: Path) -> list[Change]:
    """All but the marks of backfills."""
    found = (change for batch in read_all(journal) for change in batch.changes())
    return [change for change in found if change.relation != BACKFILLS]


def marks(journal: Path) -> list[dict[str, Any]]:
    """The marks of backfills."""
    found = (change for batch in read_all(journal) for change in batch.changes())
    return [change.new for change in found if change.relation == BACKFILLS and change.new is not None]


def batches(journal: Path) -> list[Batch]:
    return read_all(journal)


def journaled(journal: Path, count: int) -> list[Change]:
    """Waits until the journal holds at least so many changes, and gives all of them."""

    def reached() -> bool:
        try:
            return len(changes(journal)) >= count
        except Exception as error:
            if "no journal" in str(error):
                return False
            raise

    eventually(reached, what=f"{count} changes in the journal")
    return changes(journal)


@contextmanager
def memory_bounded(megabytes: int) -> Iterator[Callable[[], bool]]:
    """Gives a function that looks at this process' memory, and fails the test if it grew by more than so
    much since the start."""
    process = psutil.Process()
    before = process.memory_info().rss
    most = before

    def look() -> bool:
        nonlocal most
        most = max(most, process.memory_info().rss)
        return True

    yield look
    look()
    assert (most - before) >> 20 < megabytes
