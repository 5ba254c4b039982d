"""Watches the slot from outside the stream: how much WAL the server holds for us, how far it is ahead.

A thread with a connection of its own, so that a slow catalog query never delays the stream. What it
does not know is None, never 0.
"""

import threading
from dataclasses import dataclass

import psycopg

from cdcflow.errors import CdcflowError
from cdcflow.source import catalog
from cdcflow.source.connection import connect

#: Seconds between two looks: often enough for a person, nothing for the server.
INTERVAL = 2.0


@dataclass(frozen=True, slots=True)
class SlotHealth:
    """What the server says: WAL end, bytes of WAL held back by the slot, and `wal_status`."""

    current_lsn: int
    retained_bytes: int | None
    wal_status: str | None


class Monitor:
    """Keeps `latest` fresh while the database can be reached; None while it cannot."""

    def __init__(self, dsn: str, slot: str) -> None:
        self._dsn = dsn
        self._slot = slot
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self.latest: SlotHealth | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with connect(self._dsn, purpose="monitor") as connection:
                    while not self._stop.is_set():
                        self.latest = self._look(connection)
                        self._stop.wait(INTERVAL)
            except (CdcflowError, psycopg.Error):
                # The stream meets the same trouble and is the one that reports it.
                self.latest = None
                self._stop.wait(INTERVAL)

    def _look(self, connection: psycopg.Connection[tuple[object, ...]]) -> SlotHealth:
        current = catalog.current_lsn(connection)
        slot = catalog.slot(connection, self._slot)
        if slot is None:
            return SlotHealth(current, None, None)
        retained = None if slot.restart_lsn is None else max(current - slot.restart_lsn, 0)
        return SlotHealth(current, retained, slot.wal_status)
