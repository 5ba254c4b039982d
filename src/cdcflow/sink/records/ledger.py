"""What a destination holds of a flow's records, as far as is needed to leave it alone: per record the
fingerprint of the values that it acknowledged last. A change is never lost by it:

* `begin` takes a record's fingerprint away, durably, before anything else is sent for it. A crash between
  sending and `settle` then costs a repeated call. Were the old fingerprint still there, a record that went
  A → B (sent, not settled) → A would be taken for delivered, with B at the destination.
* `settle` stores what was acknowledged, together with the match values under which rows are known now.
* An `identity` that is another one (another account, another object) empties the ledger at `open`.
* `linking` keeps, durably and before it is made, every link of a record to another one, so that what a row no
  longer points to is known, whatever came in between. `unlinked` lets go of it once it is no more.

An SQLite file of mode 0600 beside the flow's other state. Record and row are named by 16 bytes of a hash; the
match values are kept as text where rows that disappear are removed, since there is no other way to name them.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from hashlib import blake2b
from pathlib import Path
from threading import RLock
from typing import Any

import orjson

from cdcflow.errors import EnvironmentFault
from cdcflow.sink.records.collapse import SKIP

#: Parameters of one statement: SQLite takes 32,766 of them, and beyond some hundred nothing gets faster.
_CHUNK = 500

#: A write holds the lock for one fsync; `cdcflow flow resync` may want it at the same time.
BUSY_SECONDS = 10.0

_TABLES = (
    "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS records (record BLOB PRIMARY KEY, sent BLOB) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS sources"
    " (source BLOB PRIMARY KEY, origin TEXT NOT NULL, match TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS links"
    " (record BLOB, name TEXT, target TEXT, PRIMARY KEY (record, name, target)) WITHOUT ROWID",
)


def record_id(match: str) -> bytes:
    """16 bytes that name the record with this (folded) match value."""
    return blake2b(match.encode(errors="surrogatepass"), digest_size=16).digest()


def fingerprint(values: Mapping[str, object]) -> bytes:
    """8 bytes of the names and values of a record's fields. By a 64-bit hash two states of one record are
    taken for the same once in 10^19 changes."""
    plain = {name: {"skip": True} if value is SKIP else value for name, value in values.items()}
    return blake2b(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS), digest_size=8).digest()


class Ledger:
    """See the module. Not opened, it makes no file. Usable from any thread.

    Every method raises EnvironmentFault where the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db: sqlite3.Connection | None = None
        self._lock = RLock()

    def open(self, identity: str, *, keep: bool = True) -> None:
        """`identity` names the destination. What is known of another one, or without `keep`, is forgotten:
        fingerprints of both, and rows of the other."""
        with self._telling("opened"):
            # SQLite gives its -wal and -shm files the mode of the database.
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            db = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._db = db
            db.execute("PRAGMA journal_mode = WAL")
            # In WAL mode a commit is synced only so; `begin` is worth nothing without.
            db.execute("PRAGMA synchronous = FULL")
            with self._transaction():
                for statement in _TABLES:
                    db.execute(statement)
                known = db.execute("SELECT value FROM facts WHERE name = 'identity'").fetchone()
                if known is not None and known[0] != identity:
                    db.execute("DELETE FROM sources")
                    db.execute("DELETE FROM links")
                if known is None or known[0] != identity or not keep:
                    db.execute("DELETE FROM records")
                db.execute("INSERT OR REPLACE INTO facts VALUES ('identity', ?)", (identity,))

    def look(self) -> bool:
        """Opens it for reading alone, also beside a worker that has it open; False where there is none."""
        if not self.path.exists():
            return False
        with self._telling("opened"):
            self._db = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA query_only = ON")
        return True

    def note(self, name: str, value: str) -> None:
        """Something to know of the destination without asking it: for `fact`."""
        with self._telling("written"), self._transaction():
            self._open.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def fact(self, name: str) -> str | None:
        with self._telling("read"), self._lock:
            found = self._open.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
            return None if found is None else str(found[0])

    def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def sent(self, records: Sequence[bytes]) -> dict[bytes, bytes]:
        """The fingerprints of those of the records that the destination is known to hold."""
        with self._telling("read"), self._lock:
            return dict(
                self._chosen("SELECT record, sent FROM records WHERE sent IS NOT NULL AND record", records)
            )

    def begin(self, records: Iterable[bytes]) -> None:
        """What the destination holds of these is unknown from now on."""
        with self._telling("written"), self._transaction():
            self._open.executemany(
                "UPDATE records SET sent = NULL WHERE record = ?", ((one,) for one in records)
            )

    def settle(
        self,
        sent: Mapping[bytes, bytes | None],
        removed: Iterable[bytes] = (),
        moved: Mapping[bytes, tuple[str, str | None]] | None = None,
    ) -> None:
        """The destination has acknowledged these. A fingerprint may be None: not all values were known."""
        with self._telling("written"), self._transaction():
            db = self._open
            db.executemany("INSERT OR REPLACE INTO records VALUES (?, ?)", sent.items())
            gone = [(one,) for one in removed]
            db.executemany("DELETE FROM records WHERE record = ?", gone)
            db.executemany("DELETE FROM links WHERE record = ?", gone)
            there = moved or {}
            db.executemany(
                "INSERT OR REPLACE INTO sources VALUES (?, ?, ?)",
                ((key, origin, match) for key, (origin, match) in there.items() if match is not None),
            )
            db.executemany(
                "DELETE FROM sources WHERE source = ?",
                ((key,) for key, (_, match) in there.items() if match is None),
            )

    def forget(self) -> int:
        """Takes all fingerprints away, so that every record is sent the next time it comes; how many. Also
        without `open`, beside a worker that has it open."""
        if not self.path.exists():
            return 0
        with self._telling("written"), closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS)) as db, db:
            return db.execute("UPDATE records SET sent = NULL WHERE sent IS NOT NULL").rowcount

    # Links: `name` tells those of one kind, `target` is what the destination knows the other record by.

    def linking(self, name: str, links: Iterable[tuple[bytes, str]]) -> None:
        """These are about to be made."""
        with self._telling("written"), self._transaction():
            self._open.executemany(
                "INSERT OR IGNORE INTO links VALUES (?, ?, ?)",
                ((record, name, target) for record, target in links),
            )

    def links(self, name: str, records: Sequence[bytes]) -> list[tuple[bytes, str]]:
        """All that may be there, of these records."""
        with self._telling("read"), self._lock:
            query = "SELECT record, target FROM links WHERE name = ? AND record"
            return list(self._chosen(query, records, name))

    def unlinked(self, name: str, links: Iterable[tuple[bytes, str]]) -> None:
        """These are no more."""
        with self._telling("written"), self._transaction():
            self._open.executemany(
                "DELETE FROM links WHERE record = ? AND name = ? AND target = ?",
                ((record, name, target) for record, target in links),
            )

    # Sources (see `collapse`).

    def matches(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        with self._telling("read"), self._lock:
            return dict(self._chosen("SELECT source, match FROM sources WHERE source", keys))

    def of_table(self, origin: str) -> dict[bytes, str]:
        with self._telling("read"), self._lock:
            found = self._open.execute("SELECT source, match FROM sources WHERE origin = ?", (origin,))
            return dict(found.fetchall())

    @property
    def _open(self) -> sqlite3.Connection:
        assert self._db is not None, "the ledger is not open"
        return self._db

    def _chosen(self, query: str, keys: Sequence[bytes], *given: str) -> Iterator[tuple[bytes, Any]]:
        for start in range(0, len(keys), _CHUNK):
            part = keys[start : start + _CHUNK]
            marks = ",".join("?" * len(part))
            yield from self._open.execute(f"{query} IN ({marks})", [*given, *part])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        db = self._open
        with self._lock:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise EnvironmentFault(
                f"the ledger {self.path} cannot be {what}: {error}",
                hint="make its folder writable, on a disk with free space; a ledger that is damaged may be"
                " deleted: every record is then sent once more",
            ) from error
