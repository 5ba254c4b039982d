"""DDL at a real source, through capture and journal, into the warehouse: equal to the source afterwards, or
stopped with a remedy that makes it equal."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from psycopg import sql

from cdcflow.errors import Permanent
from cdcflow.model import Batch, join
from cdcflow.sink import FlowContext, SinkOptions
from cdcflow.testing.database import Database
from cdcflow.testing.journals import read_all
from cdcflow.testing.waiting import eventually
from cdcflow_sinks.duckdb import DuckDBSettings, DuckDBSink
from integration.capturing import capturing, make_slot, publish

Rows = Counter[tuple[str | None, ...]]


def captured(postgres: Database, journal: Path) -> None:
    """Waits until the journal holds everything that is committed now."""
    [(mark,)] = postgres.execute("INSERT INTO cut DEFAULT VALUES RETURNING id::text")

    def reached() -> bool:
        changes = (c for batch in read_all(journal) for c in batch.changes() if c.relation.name == "cut")
        return any((change.new or {})["id"] == mark for change in changes)

    eventually(reached, what="all changes in the journal")


@contextmanager
def running(postgres: Database, journal: Path, *, backfill: bool) -> Iterator[None]:
    with capturing(postgres, journal, backfill=backfill):
        yield
        captured(postgres, journal)


def pieces(journal: Path, chance: random.Random) -> Iterator[Batch]:
    """The whole journal in batches of any size, as a worker may cut and join them."""
    parts: list[Batch] = []
    for frame in read_all(journal):
        start = 0
        while start < frame.count:
            stop = min(frame.count, start + chance.choice([1, 2, 5, 1_000]))
            parts.append(frame.slice(start, stop))
            start = stop
    while parts:
        number = chance.choice([1, 1, 3, 50])
        yield from join(parts[:number])
        del parts[:number]


async def deliver(batches: Sequence[Batch], path: Path, chance: random.Random, **settings: Any) -> None:
    def make() -> DuckDBSink:
        context = FlowContext(flow="flow", state=path.parent)
        return DuckDBSink(DuckDBSettings(type="duckdb", path=path, **settings), SinkOptions(), context)

    sink = make()
    await sink.open()
    try:
        for batch in batches:
            if chance.random() < 0.2:
                await sink.close()
                sink = make()
                await sink.open()
            await sink.prepare([group.relation for group in batch.groups])
            await sink.write(batch)
    finally:
        await sink.close()


def replay(journal: Path, path: Path, seed: int = 1, **settings: Any) -> Permanent | None:
    """Delivers all that the warehouse lacks; the error that stopped it, if one did."""
    chance = random.Random(seed)
    try:
        asyncio.run(deliver(list(pieces(journal, chance)), path, chance, **settings))
    except Permanent as error:
        return error
    return None


def at_source(postgres: Database) -> dict[str, tuple[list[str], Rows]]:
    """Every table: its columns and its rows as text."""
    found = {}
    for (name,) in postgres.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    ):
        columns = [
            column
            for (column,) in postgres.execute(
                "SELECT attname FROM pg_attribute "
                "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
                [f'public."{name}"'],
            )
        ]
        listed = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in columns)
        rows = postgres.execute(sql.SQL("SELECT {} FROM public.{}").format(listed, sql.Identifier(name)))
        found[name] = (columns, Counter(map(tuple, rows)))
    return found


def in_warehouse(path: Path, name: str, columns: Sequence[str]) -> Rows:
    with duckdb.connect(str(path), read_only=True) as connection:
        listed = ", ".join(f'"{column}"::VARCHAR' for column in columns)
        return Counter(connection.execute(f'SELECT {listed} FROM public."{name}"').fetchall())


def assert_equal(postgres: Database, path: Path) -> None:
    for name, (columns, rows) in at_source(postgres).items():
        assert in_warehouse(path, name, columns) == rows, name


class Application:
    """Somebody who changes rows and shapes at random. Statements that Postgres refuses are rolled back.

    `rough`: also in ways that change older rows without a word.
    """

    def __init__(self, postgres: Database, seed: int, *, rough: bool) -> None:
        self.rough = rough
        self.chance = random.Random(seed)
        self.connection = postgres.connect()
        self.postgres = postgres
        self.number = 0
        self.log: list[str] = []

    def fresh(self, prefix: str) -> str:
        self.number += 1
        return f"{prefix}{self.number}"

    def tables(self) -> dict[str, list[tuple[str, str]]]:
        query = (
            "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_class c "
            "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
            "WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname <> 'cut' "
            "ORDER BY 1, a.attnum"
        )
        found: dict[str, list[tuple[str, str]]] = {}
        for table, column, kind in self.connection.execute(query):
            found.setdefault(table, []).append((column, kind))
        return found

    def run(self, statement: str) -> None:
        try:
            with self.connection.transaction():
                self.connection.execute(statement)
            self.log.append(statement)
        except psycopg.Error:
            pass

    def value(self, kind: str) -> str:
        number = self.chance.randint(0, 9)
        if self.chance.random() < 0.15:
            return "NULL"
        return f"'{number}.5'" if kind.startswith(("numeric", "double")) else f"'{number}'"

    def write(self) -> None:
        table, columns = self.chance.choice([*self.tables().items()])
        some = self.chance.randint(1, 30)
        which = self.chance.random()
        if which < 0.5:
            names = ", ".join(f'"{name}"' for name, _ in columns)
            values = ", ".join(
                str(self.chance.randint(1, 60)) if name == "id" else self.value(kind)
                for name, kind in columns
            )
            self.run(f'INSERT INTO "{table}" ({names}) VALUES ({values})')
        elif which < 0.8:
            name, kind = self.chance.choice(columns)
            if name != "id":
                self.run(f'UPDATE "{table}" SET "{name}" = {self.value(kind)} WHERE id % 3 = {some % 3}')
        elif which < 0.95:
            self.run(f'DELETE FROM "{table}" WHERE id = {some}')
        else:
            self.run(f'TRUNCATE "{table}"')

    def alter(self) -> None:
        table, columns = self.chance.choice([*self.tables().items()])
        others = [(name, kind) for name, kind in columns if name != "id"]
        name, kind = self.chance.choice(others) if others else ("none", "integer")
        wider = {"integer": "bigint", "character varying(9)": "text", "numeric(6,2)": "numeric(9,3)"}.get(
            kind, kind
        )
        added = self.chance.choice(["integer", "text", "character varying(9)", "numeric(6,2)"])
        again = self.chance.choice(["gone", self.fresh("c")])
        alter = f'ALTER TABLE "{table}"'
        rough = [
            f'{alter} DROP COLUMN "{name}", ADD COLUMN "{name}" {kind}',
            f'{alter} ALTER COLUMN "{name}" TYPE bigint USING 7',
            f'{alter} ADD COLUMN "{again}" double precision DEFAULT floor(random() * 100) + 0.25',
        ]
        self.run(
            self.chance.choice(
                [
                    f'{alter} ADD COLUMN "{again}" {added}',
                    f'{alter} ADD COLUMN "{again}" {added} DEFAULT {self.value(added)}',
                    f'{alter} ADD COLUMN "{again}" {added}, ADD COLUMN "{self.fresh("c")}" integer',
                    f'{alter} DROP COLUMN "{name}"',
                    f'{alter} RENAME COLUMN "{name}" TO "{again}"',
                    f'{alter} ALTER COLUMN "{name}" TYPE {wider}',
                    f'{alter} ALTER COLUMN "{name}" SET DEFAULT {self.value(kind)}',
                    f'{alter} RENAME TO "{self.fresh("t")}"',
                    f"{alter} REPLICA IDENTITY {self.chance.choice(['FULL', 'DEFAULT'])}",
                    f'DROP TABLE "{table}"; CREATE TABLE "{table}" (id integer PRIMARY KEY, v text)',
                    *(rough if self.rough else []),
                ]
            )
        )

    def act(self, steps: int) -> None:
        for _ in range(steps):
            if self.chance.random() < 0.3:
                with self.connection.transaction():
                    for _ in range(self.chance.randint(2, 6)):
                        (self.alter if self.chance.random() < 0.3 else self.write)()
            else:
                (self.alter if self.chance.random() < 0.15 else self.write)()

    def touch(self) -> None:
        """A change to every table: shapes come with changes only."""
        for table in self.tables():
            self.run(f'INSERT INTO "{table}" (id) VALUES ({1000 + self.chance.randint(0, 1 << 20)})')


def history(postgres: Database, journal: Path, seed: int, *, rough: bool) -> Application:
    """A random history, captured with interruptions."""
    for table in ("cut", "a", "b"):
        postgres.execute(f'DROP TABLE IF EXISTS "{table}"')
    postgres.execute("CREATE TABLE cut (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY)")
    postgres.execute("CREATE TABLE a (id integer PRIMARY KEY, v text, n integer)")
    postgres.execute("CREATE TABLE b (id integer PRIMARY KEY, v varchar(9), n numeric(6,2), gone integer)")
    postgres.execute("ALTER TABLE b REPLICA IDENTITY FULL")
    postgres.execute("INSERT INTO a SELECT i, i, i FROM generate_series(1, 20) i")
    postgres.execute("INSERT INTO b SELECT i, i, i FROM generate_series(1, 20) i")
    publish(postgres)
    application = Application(postgres, seed, rough=rough)
    with running(postgres, journal, backfill=True):
        application.act(10)
    for _ in range(3):
        application.act(application.chance.randint(0, 6))  # while capture is down
        with running(postgres, journal, backfill=False):
            application.act(12)
            application.touch()
    return application


def read_anew(postgres: Database, place: Path) -> Path:
    """What the remedy says: teardown, journal and warehouse away, setup, run."""
    postgres.execute("SELECT pg_drop_replication_slot(%s)", [postgres.slot])
    make_slot(postgres)
    with running(postgres, place / "journal anew", backfill=True):
        pass
    path = place / "anew.duckdb"
    assert replay(place / "journal anew", path) is None
    return path


@pytest.mark.parametrize("seed", range(4))
def test_any_history_of_shapes_ends_equal_or_stops_with_a_remedy_that_ends_equal(
    newest_postgres: Database, tmp_path: Path, seed: int
) -> None:
    application = history(newest_postgres, tmp_path / "journal", seed, rough=seed % 2 == 1)
    path = tmp_path / "warehouse.duckdb"
    stopped = replay(tmp_path / "journal", path, seed)
    if stopped is not None:
        assert "read everything anew" in stopped.hint
        path = read_anew(newest_postgres, tmp_path)
    try:
        assert_equal(newest_postgres, path)
    except BaseException:
        print("\n".join(application.log))
        raise


def statements(script: str) -> list[str]:
    return [statement for statement in map(str.strip, script.split(";")) if statement]


#: One history of each kind. While the part behind `|` happens, capture is down.
FOLLOWED = {
    "defaults": "ALTER TABLE t ADD d int DEFAULT 5; ALTER TABLE t ADD e int4range DEFAULT '[1,9)'; "
    "ALTER TABLE t ADD f text; ALTER TABLE t ADD g timestamptz DEFAULT '2026-01-01 00:00:00+02'; "
    "INSERT INTO t (id, f) VALUES (7, 'x')",
    "inside a transaction": "BEGIN; INSERT INTO t VALUES (7, 'x', 1); "
    "ALTER TABLE t ADD d text DEFAULT 'it''s'; INSERT INTO t VALUES (8, 'y', 2, 'z'); "
    "ALTER TABLE t DROP n; INSERT INTO t VALUES (9, 'y', 'z'); COMMIT",
    "while capture is down": "| BEGIN; UPDATE t SET n = 9 WHERE id = 1; ALTER TABLE t RENAME v TO w; COMMIT; "
    "INSERT INTO t VALUES (7, 'x', 1); ALTER TABLE t DROP n; INSERT INTO t VALUES (8, 'x'); "
    "ALTER TABLE t ADD m text; INSERT INTO t VALUES (9, 'x', 'y'); ALTER TABLE t RENAME TO u; "
    "DELETE FROM u WHERE id = 1",
    "types": "ALTER TABLE t ALTER n TYPE bigint, ALTER v TYPE varchar; "
    "INSERT INTO t VALUES (7, 'x', 5000000000)",
    "a dropped column comes back": "ALTER TABLE t DROP n; DELETE FROM t WHERE id = 1; "
    "ALTER TABLE t ADD n text; INSERT INTO t VALUES (7, 'x', 'y')",
    "made anew": "DROP TABLE t; CREATE TABLE t (id bigint PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)",
    "exchanged": "CREATE TABLE s (LIKE t INCLUDING ALL); INSERT INTO s SELECT id + 10, v, n FROM t; "
    "BEGIN; ALTER TABLE t RENAME TO old; ALTER TABLE s RENAME TO t; COMMIT; "
    "DELETE FROM t WHERE id = 11; DELETE FROM old WHERE id = 2",
    "keys": "ALTER TABLE t REPLICA IDENTITY FULL; UPDATE t SET v = 'f' WHERE id = 1; "
    "ALTER TABLE t ALTER n SET NOT NULL; CREATE UNIQUE INDEX i ON t (n); "
    "ALTER TABLE t REPLICA IDENTITY USING INDEX i; UPDATE t SET id = 70, n = 71 WHERE id = 2; "
    "DELETE FROM t WHERE id = 3; ALTER TABLE t REPLICA IDENTITY DEFAULT; UPDATE t SET id = 72 WHERE id = 1",
    "maintenance": "ALTER TABLE t ADD d int DEFAULT 5; UPDATE t SET v = 'x' WHERE id = 1; VACUUM FULL t; "
    "ANALYZE t; UPDATE t SET v = 'y' WHERE id = 2",
}


def test_what_an_ordinary_migration_does_is_followed_without_a_stop(
    postgres: Database, tmp_path: Path
) -> None:
    for number, (name, script) in enumerate(FOLLOWED.items()):
        for table in ("t", "s", "u", "old", "cut"):
            postgres.execute(f"DROP TABLE IF EXISTS {table}")
        postgres.execute("CREATE TABLE cut (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY)")
        postgres.execute("CREATE TABLE t (id int PRIMARY KEY, v text, n int)")
        postgres.execute("INSERT INTO t SELECT i, i, i FROM generate_series(1, 5) i")
        if number == 0:
            publish(postgres)
        else:
            postgres.execute("SELECT pg_drop_replication_slot(%s)", [postgres.slot])
            make_slot(postgres)
        journal, path = tmp_path / f"journal {number}", tmp_path / f"{number}.duckdb"
        up, _, down = script.partition("|")
        with running(postgres, journal, backfill=True):
            in_transaction = False
            for statement in statements(up):
                postgres.execute(statement)
                in_transaction = statement == "BEGIN" or (in_transaction and statement != "COMMIT")
                if not in_transaction:
                    captured(postgres, journal)
        for statement in statements(down):
            postgres.execute(statement)
        with running(postgres, journal, backfill=False):
            pass
        assert replay(journal, path, number) is None, name
        assert_equal(postgres, path)
