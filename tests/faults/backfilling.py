"""A table that is backfilled while clients change it all over, and what must be true of it afterwards.

Every write of a row takes its `version` from one sequence, so that whoever sees the versions of one key can
say which is newer. Rows are spread over pages without room, so that every update moves its row to another
page; bodies are stored out of line, so that most updates leave them out.
"""

import random
import threading
from pathlib import Path
from typing import Any

import psycopg

from cdcflow.journal import Reader
from cdcflow.model import Op
from cdcflow.testing.waiting import eventually

SCHEMA = """
    CREATE SEQUENCE versions;
    CREATE TABLE goods (
        id bigint PRIMARY KEY,
        version bigint NOT NULL DEFAULT nextval('versions'),
        name text,
        body text
    );
    ALTER TABLE goods ALTER body SET STORAGE EXTERNAL;
"""

#: Every so many rows have a body that is stored out of line.
LARGE_EVERY = 20


def fill(dsn: str, rows: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO goods (id, name, body) SELECT g, 'name ' || g, CASE WHEN g %% %s = 0 THEN"
            " repeat(md5(g::text), 80) ELSE md5(g::text) END FROM generate_series(1, %s) g",
            (LARGE_EVERY, rows),
        )
        connection.execute("ANALYZE goods")


class Changing:
    """Clients that change rows everywhere until `stop`, and connect again when the server was killed."""

    def __init__(self, dsn: str, rows: int, seed: int, *, clients: int = 4, pause: float = 0.002) -> None:
        self._dsn = dsn
        self._rows = rows
        self._pause = pause
        self._stop = threading.Event()
        self._fresh = rows
        self._lock = threading.Lock()
        self.transactions = 0
        self._threads = [
            threading.Thread(target=self._client, args=(random.Random(seed * 100 + n),), name=f"client {n}")
            for n in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _client(self, draw: random.Random) -> None:
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._dsn, connect_timeout=5) as connection:
                    while not self._stop.wait(self._pause):
                        self._transact(connection, draw)
            except psycopg.Error:
                self._stop.wait(0.1)

    def _transact(self, connection: psycopg.Connection[Any], draw: random.Random) -> None:
        try:
            for _ in range(draw.choice([1, 1, 1, 3])):
                self._statement(connection, draw)
            connection.rollback() if draw.random() < 0.05 else connection.commit()
            self.transactions += 1
        except (psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected):
            connection.rollback()

    def _statement(self, connection: psycopg.Connection[Any], draw: random.Random) -> None:
        run = connection.execute
        some = draw.randint(1, self._rows)
        kind = draw.randrange(12)
        if kind < 5:
            run("UPDATE goods SET version = nextval('versions'), name = name || '.' WHERE id = %s", (some,))
        elif kind < 7:
            some = some // LARGE_EVERY * LARGE_EVERY  # those whose body stays out
            run("UPDATE goods SET version = nextval('versions') WHERE id = %s", (some,))
        elif kind == 7:
            body = "".join(draw.choices("abcdefghij\\\n\t", k=4000))
            run("UPDATE goods SET version = nextval('versions'), body = %s WHERE id = %s", (body, some))
        elif kind == 8:
            run("DELETE FROM goods WHERE id = %s", (some,))
        elif kind == 9:
            run("INSERT INTO goods (id, name, body) VALUES (%s, 'new', 'small')", (self._next(),))
        elif kind == 10:
            other = draw.choice([self._next(), draw.randint(1, self._rows)])
            some = some // LARGE_EVERY * LARGE_EVERY if draw.random() < 0.5 else some
            run(
                "UPDATE goods SET id = %s, version = nextval('versions') WHERE id = %s",
                (other, some),
            )
        else:
            run(
                "UPDATE goods SET version = nextval('versions') WHERE id BETWEEN %s AND %s",
                (some, some + draw.choice([3, 100])),
            )

    def _next(self) -> int:
        with self._lock:
            self._fresh += 1
            return self._fresh


def assert_never_older(journal: Path, offset: int = 0) -> int:
    """No version of a row is older than one that came before it, in the journal's order. Gives how many rows
    were read."""
    newest: dict[str, int] = {}
    reads = 0
    with Reader(journal) as reader:
        offset = max(offset, reader.first_offset())
        while batches := reader.read(offset, max_changes=50_000, max_bytes=16 << 20):
            offset = batches[-1].end
            for batch in batches:
                for change in batch.changes():
                    new = change.new
                    if change.relation.name != "goods" or new is None:
                        continue
                    key, version = str(new["id"]), int(str(new["version"]))
                    before = newest.get(key, 0)
                    assert version >= before, (
                        f"row {key} went back from {before} to {version} at {change.position}"
                    )
                    newest[key] = version
                    reads += change.op is Op.READ
    return reads


class Watching:
    """Looks at the server's sessions while a backfill runs: how old its transactions become, in seconds."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._stop = threading.Event()
        self.oldest = 0.0
        self.looks = 0
        self._thread = threading.Thread(target=self._look, name="watching")
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._dsn, autocommit=True, connect_timeout=5) as connection:
                    while not self._stop.wait(0.05):
                        [age] = connection.execute(
                            "SELECT coalesce(extract(epoch FROM max(now() - xact_start)), 0)::float8"
                            " FROM pg_stat_activity WHERE application_name LIKE 'cdcflow backfill%'"
                            " AND backend_type = 'client backend'"
                        ).fetchone() or [0.0]
                        self.oldest = max(self.oldest, age)
                        self.looks += 1
            except psycopg.Error:
                self._stop.wait(0.1)


def wait_for(condition: Any, timeout: float, what: str) -> Any:
    return eventually(condition, timeout=timeout, interval=0.1, what=what)
