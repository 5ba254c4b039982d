"""What migrations do to tables while clients change their rows.

A `Migrator` alters one table after the other, as a person with a list of migrations would: the next one of
a table comes when capture has met the last one. That is what the warehouse promises to follow by itself
(`cdcflow_sinks.duckdb.generations`). What it stops at is for `tests/integration/test_schema_change.py`.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from cdcflow.errors import JournalError
from cdcflow.journal import Reader
from cdcflow.model import parse_lsn
from faults.project import COLLISIONS
from stress import rows

Connection = psycopg.Connection[Any]

#: Tables whose shapes change, by their number; a name may become another one, but begins with `shape`.
TABLES = 6
#: Seconds that a migration waits for a lock, so that it never holds up the clients for long.
LOCK_TIMEOUT = "2s"
#: Tables do not grow without end.
MOST_COLUMNS, MOST_ROWS = 14, 800

SCHEMA = (
    rows.SCHEMA
    + "".join(
        f"""
    CREATE TABLE shape{n} (id int PRIMARY KEY, v text, n int, w varchar(9), d numeric(6, 2));
    INSERT INTO shape{n} SELECT g, 'v' || g, g, 'w', g / 8.0 FROM generate_series(1, 200) g;
    """
        for n in range(TABLES)
    )
    + """
    ALTER TABLE shape1 REPLICA IDENTITY FULL;
    CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE parted_0 PARTITION OF parted FOR VALUES FROM (MINVALUE) TO (100);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (100) TO (200);
    INSERT INTO parted SELECT g, 'p' FROM generate_series(1, 199) g;
"""
)

#: Types of new columns, with a default that older rows then have.
KINDS = {
    "smallint": "7",
    "integer": "-5",
    "bigint": "5000000000",
    "text": "'it''s'",
    "character varying(9)": "'short'",
    "numeric(6,2)": "1.5",
    "real": "0.25",
    "double precision": "1e300",
    "boolean": "true",
    "date": "'2026-01-01'",
    "timestamp with time zone": "'2026-01-01 00:00:00+02'",
    "jsonb": """'{"a": [1, null]}'""",
    "uuid": "'6f1d2a4c-0000-4000-8000-000000000001'",
    "bytea": r"'\x00ff'",
    "integer[]": "'{1,NULL,3}'",
    "int4range": "'[1,9)'",
}
#: What a type may become with every value the same one.
WIDER = {
    "smallint": ["integer", "bigint"],
    "integer": ["bigint", "numeric"],
    "bigint": ["numeric"],
    "character varying(9)": ["character varying(20)", "text"],
    "character varying(20)": ["text"],
    "numeric(6,2)": ["numeric(9,3)", "numeric(12,2)"],
    "numeric(9,3)": ["numeric(14,4)"],
    "real": ["double precision"],
}


@dataclass(frozen=True)
class Shape:
    """A table as the catalog has it now. `columns`: all but `id`, with their types."""

    oid: int
    name: str
    columns: dict[str, str]

    @property
    def alter(self) -> str:
        return f"ALTER TABLE {self.name}"


_SHAPES = """
    SELECT c.oid::bigint, c.relname,
        (SELECT json_object_agg(a.attname, format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum)
         FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> 'id')
    FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname LIKE 'shape%'
    ORDER BY c.oid
"""


def shapes(connection: Connection) -> list[Shape]:
    found = connection.execute(_SHAPES).fetchall()
    return [Shape(oid, name, columns or {}) for oid, name, columns in found]


def act(connection: Connection, draw: random.Random, number: int) -> None:
    """One random act of a client: on rows of all kinds of tables."""
    how = draw.random()
    if how < 0.5:
        rows.act(connection, draw, number)
    elif how < 0.6:
        _write_parted(connection, draw)
    else:
        write(connection, draw, draw.choice(shapes(connection)))


def write(connection: Connection, draw: random.Random, table: Shape) -> None:
    """Changes rows of a table whose shape may be another one by now."""
    some = draw.randint(1, MOST_ROWS)
    how = draw.random()
    if how < 0.4 or not table.columns:
        names = ["id", *table.columns]
        values = [str(some), *(value(draw, kind) for kind in table.columns.values())]
        connection.execute(
            f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({', '.join(values)}) "
            "ON CONFLICT (id) DO NOTHING"
        )
    elif how < 0.8:
        name, kind = draw.choice([*table.columns.items()])
        connection.execute(f"UPDATE {table.name} SET {name} = {value(draw, kind)} WHERE id % 9 = {some % 9}")
    elif how < 0.9:
        connection.execute(f"DELETE FROM {table.name} WHERE id % 40 = {some % 40}")
    else:
        connection.execute(f"UPDATE {table.name} SET id = {draw.randint(1, MOST_ROWS)} WHERE id = {some}")


def _write_parted(connection: Connection, draw: random.Random) -> None:
    some = draw.randint(1, 199)
    connection.execute(
        f"INSERT INTO parted (id) VALUES ({some}) ON CONFLICT (id) DO UPDATE SET v = 'again'"
        if draw.random() < 0.6
        else f"UPDATE parted SET id = {draw.randint(1, 199)} WHERE id = {some}"
    )


def value(draw: random.Random, kind: str) -> str:
    """A literal of a type, at times NULL."""
    if draw.random() < 0.15:
        return "NULL"
    number = draw.randint(0, 99)
    if kind in ("text", "character varying(9)", "character varying(20)"):
        return f"'x{number}'"
    if kind.startswith("numeric") or kind in ("real", "double precision"):
        return f"{number}.5"
    if kind in ("smallint", "integer", "bigint"):
        return str(number)
    return KINDS[kind]


class Migrator:
    """One migration after the other, until `stop`."""

    def __init__(self, dsn: str, journal: Path, seed: int) -> None:
        self._dsn = dsn
        self._journal = journal
        self._draw = random.Random(f"migrations {seed}")
        self._stop = threading.Event()
        self._number = 0
        #: Table → where the WAL was behind its last migration, and when capture had met that. 0: not yet.
        self._unmet: dict[int, list[int]] = {}
        self._known: set[int] = set()
        self._dropped: list[str] = []
        self._mistake: psycopg.Error | None = None
        #: What was done, in order: `table: statements`.
        self.log: list[str] = []
        self.done: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name="migrations")
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        if self._mistake is not None:
            raise self._mistake

    def touch(self) -> None:
        """A change to every table: a shape comes with changes only."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            oids = connection.execute(
                "SELECT oid::bigint FROM pg_class WHERE relnamespace = 'public'::regnamespace"
                " AND (relname LIKE 'shape%' OR relname LIKE 'parted%')"
                " AND relkind IN ('r', 'p') AND NOT relispartition"
            ).fetchall()
            for (oid,) in oids:
                assert self._touch(connection, oid)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._dsn, autocommit=True, connect_timeout=5) as connection:
                    connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
                    while not self._stop.wait(0.02):
                        self._migrate(connection)
            except psycopg.OperationalError:
                self._stop.wait(0.1)
            except psycopg.Error as error:
                self._mistake = error
                return

    def _migrate(self, connection: Connection) -> None:
        table = self._draw.choice(shapes(connection))
        if self._draw.random() < 0.15:
            self._partition(connection)
            return
        if not self._met(connection, table.oid):
            return
        migration = self._draw.choice(_FOLLOWED)
        statements = migration(self, table)
        if statements:
            self._alter(connection, table, migration.__name__.strip("_"), statements)

    def _alter(self, connection: Connection, table: Shape, kind: str, statements: Sequence[str]) -> None:
        self._unmet[table.oid] = [0, 0]
        try:
            for statement in statements:
                connection.execute(statement)
        except COLLISIONS:
            connection.execute("ROLLBACK")
            return
        self.done[kind] += 1
        self.log.append(f"{table.name} ({table.oid}): {'; '.join(statements)}")

    def _met(self, connection: Connection, oid: int) -> bool:
        """Whether capture has met the table as it is, and come to where the WAL was when it did: then it
        knows a layout from before whatever is altered next."""
        if oid not in self._known:
            self._known.add(oid)
            self._unmet[oid] = [0, 0]
        until = self._unmet.get(oid)
        if until is None:
            return True
        if not until[0]:
            until[0] = self._touch(connection, oid) and self._wal_end(connection)
        elif not until[1]:
            until[1] = self._reached(until[0]) and self._wal_end(connection)
        elif self._reached(until[1]):
            del self._unmet[oid]
            return True
        return False

    def _reached(self, lsn: int) -> bool:
        try:
            with Reader(self._journal) as reader:
                return reader.head().committed >= lsn
        except JournalError:
            return False  # the very first moments

    @staticmethod
    def _wal_end(connection: Connection) -> int:
        [(lsn,)] = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchall()
        return parse_lsn(lsn)

    def _touch(self, connection: Connection, oid: int) -> bool:
        [(name,)] = connection.execute("SELECT %s::regclass::text", (str(oid),)).fetchall()
        if name == str(oid):
            return False  # dropped meanwhile
        self._number += 1
        which = -1 if name == "parted" else 10_000 + self._number
        try:
            connection.execute(
                f"INSERT INTO {name} (id) VALUES ({which}) ON CONFLICT (id) DO UPDATE SET id = excluded.id"
            )
        except COLLISIONS:
            return False
        return True

    def fresh(self, prefix: str) -> str:
        self._number += 1
        return f"{prefix}{self._number}"

    # Migrations: each gives its statements, or none where the table is not one for it.

    def _a_column(self, table: Shape, *, besides: Sequence[str] = ()) -> str | None:
        names = [name for name in table.columns if name not in besides]
        return self._draw.choice(names) if names else None

    def _addition(self, table: Shape) -> str:
        """A new column, at times under the name of one that is gone, and what older rows hold in it."""
        again = [name for name in self._dropped if name not in table.columns]
        name = self._draw.choice(again) if again and self._draw.random() < 0.4 else self.fresh("c")
        kind = self._draw.choice([*KINDS])
        how = self._draw.randrange(3)
        default = ["", f" DEFAULT {KINDS[kind]}", f" NOT NULL DEFAULT {KINDS[kind]}"][how]
        return f"ADD COLUMN {name} {kind}{default}"

    def _add(self, table: Shape) -> list[str]:
        if len(table.columns) > MOST_COLUMNS:
            return self._drop(table)
        return [f"{table.alter} {self._addition(table)}"]

    def _add_several(self, table: Shape) -> list[str]:
        if len(table.columns) > MOST_COLUMNS:
            return self._drop(table)
        return [f"{table.alter} {self._addition(table)}, ADD COLUMN {self.fresh('c')} text DEFAULT 'x'"]

    def _drop(self, table: Shape) -> list[str]:
        name = self._a_column(table)
        if name is None:
            return []
        self._dropped = [*self._dropped[-5:], name]
        return [f"{table.alter} DROP COLUMN {name}"]

    def _rename_column(self, table: Shape) -> list[str]:
        name = self._a_column(table)
        return [f"{table.alter} RENAME COLUMN {name} TO {self.fresh('r')}"] if name else []

    def _widen(self, table: Shape) -> list[str]:
        wider = [(name, kind) for name, kind in table.columns.items() if kind in WIDER]
        if not wider:
            return []
        name, kind = self._draw.choice(wider)
        return [f"{table.alter} ALTER COLUMN {name} TYPE {self._draw.choice(WIDER[kind])}"]

    def _rename_table(self, table: Shape) -> list[str]:
        return [f"{table.alter} RENAME TO {self.fresh('shape_')}"]

    def _exchange(self, table: Shape) -> list[str]:
        """Another table takes the name, at once."""
        return [
            "BEGIN",
            f"CREATE TABLE passing (LIKE {table.name} INCLUDING ALL)",
            f"INSERT INTO passing SELECT * FROM {table.name} WHERE id < 50",
            f"DROP TABLE {table.name}",
            f"ALTER TABLE passing RENAME TO {table.name}",
            "COMMIT",
        ]

    def _make_anew(self, table: Shape) -> list[str]:
        made = f"CREATE TABLE {table.name} (id int PRIMARY KEY, v text, n int, w varchar(9), d numeric(6, 2))"
        filled = f"INSERT INTO {table.name} SELECT g, 'anew', g FROM generate_series(1, 60) g"
        statements = [f"DROP TABLE {table.name}", made, filled]
        return ["BEGIN", *statements, "COMMIT"] if self._draw.random() < 0.7 else statements

    def _identity(self, table: Shape) -> list[str]:
        how = self._draw.choice(["FULL", "DEFAULT", "index"])
        if how != "index":
            return [f"{table.alter} REPLICA IDENTITY {how}"]
        index = self.fresh("i")
        return [
            f"CREATE UNIQUE INDEX {index} ON {table.name} (id)",
            f"{table.alter} REPLICA IDENTITY USING INDEX {index}",
        ]

    def _inside(self, table: Shape) -> list[str]:
        """Rows before, between and after DDL of one transaction. Each column is altered once at most."""
        write = [
            f"UPDATE {table.name} SET id = id + 2000 WHERE id % 11 = 3 AND id < 2000",
            f"DELETE FROM {table.name} WHERE id > 2000 AND id % 3 = 1",
            _insertion(table, 4_000),
        ]
        first = self._a_column(table)
        second = self._a_column(table, besides=[first] if first else [])
        kind, default = self._draw.choice([*KINDS.items()])
        steps = [f"{table.alter} ADD COLUMN {self.fresh('c')} {kind} DEFAULT {default}"]
        if first:
            steps.append(f"{table.alter} RENAME COLUMN {first} TO {self.fresh('r')}")
        if second:
            steps.append(f"{table.alter} DROP COLUMN {second}")
        self._draw.shuffle(steps)
        found = ["BEGIN"]
        for step in steps:
            found += [self._draw.choice(write), step]
        return [*found, self._draw.choice(write), "COMMIT"]

    def _taken_back(self, table: Shape) -> list[str]:
        name = self._a_column(table)
        write = _insertion(table, 5_000)
        alter = f"{table.alter} DROP COLUMN {name}" if name else f"{table.alter} ADD COLUMN never int"
        if self._draw.random() < 0.5:
            return ["BEGIN", write, alter, write, "ROLLBACK"]
        return [
            "BEGIN",
            write,
            "SAVEPOINT s",
            alter,
            f"DELETE FROM {table.name} WHERE id > 5000",
            "ROLLBACK TO s",
            f"DELETE FROM {table.name} WHERE id = 5000",
            "COMMIT",
        ]

    def _maintain(self, table: Shape) -> list[str]:
        return [f"{self._draw.choice(['VACUUM FULL', 'ANALYZE', 'TRUNCATE'])} {table.name}"]

    def _partition(self, connection: Connection) -> None:
        """Partitions come and go, empty: of rows that come or go with them the server says nothing."""
        [(oid,)] = connection.execute("SELECT 'parted'::regclass::oid::bigint").fetchall()
        if not self._met(connection, oid):
            return
        more = connection.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'parted'::regclass"
            " AND inhrelid::regclass::text NOT IN ('parted_0', 'parted_1')"
        ).fetchall()
        self._number += 1
        low = 1_000 + 10 * self._number
        name = f"parted_{low}"
        if not more or (len(more) < 4 and self._draw.random() < 0.5):
            values = f"FOR VALUES FROM ({low}) TO ({low + 10})"
            made = [f"CREATE TABLE {name} PARTITION OF parted {values}"]
            if self._draw.random() < 0.5:
                made = [
                    f"CREATE TABLE {name} (LIKE parted INCLUDING ALL)",
                    f"ALTER TABLE parted ATTACH PARTITION {name} {values}",
                ]
            statements = [
                *made,
                f"INSERT INTO parted SELECT g, 'new' FROM generate_series({low}, {low + 9}) g",
            ]
        else:
            [name] = self._draw.choice(more)
            going = self._draw.choice(
                [
                    [f"DROP TABLE {name}"],
                    [
                        f"ALTER TABLE parted DETACH PARTITION {name}",
                        f"INSERT INTO {name} VALUES (1, 'alone')",
                    ],
                ]
            )
            statements = [f"DELETE FROM {name}", *going]
        self._alter(connection, Shape(oid, "parted", {}), "partition", statements)


def _insertion(table: Shape, first: int) -> str:
    numbers = f"generate_series({first}, {first + 9})"
    return f"INSERT INTO {table.name} (id) SELECT g FROM {numbers} g ON CONFLICT DO NOTHING"


Migration = Callable[[Migrator, Shape], list[str]]

_FOLLOWED: list[Migration] = [
    Migrator._add,
    Migrator._add,
    Migrator._add_several,
    Migrator._drop,
    Migrator._rename_column,
    Migrator._widen,
    Migrator._rename_table,
    Migrator._exchange,
    Migrator._make_anew,
    Migrator._identity,
    Migrator._inside,
    Migrator._inside,
    Migrator._taken_back,
    Migrator._maintain,
]
