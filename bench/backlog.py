"""The WAL that is read: two tables of eight columns, filled by transactions as pgbench would make them.

Written inside the server, so that making it takes less time than reading it, and with asynchronous
commit, which changes when the WAL reaches the disk but not what is in it.
"""

from dataclasses import dataclass

from bench.server import Source

COLUMNS = """
    id bigint PRIMARY KEY,
    customer int NOT NULL,
    sku text NOT NULL,
    amount numeric(12,2) NOT NULL,
    placed timestamptz NOT NULL,
    paid boolean NOT NULL,
    weight float8 NOT NULL,
    note text
"""

#: A row whose values are as long as those of a real order, from its number alone.
ROW = """
    i, i % 10000, 'SKU-' || md5(i::text), (i % 1000000) / 100.0,
    timestamptz '2026-01-01 00:00:00+00' + i * interval '1.234567 s', i % 2 = 0, i / 7.0::float8,
    CASE WHEN i % 10 <> 0 THEN 'a note about order ' || i END
"""

#: What the chain of the bench makes of a row (`throughput.TRANSFORMS`), as columns of the source, so that a
#: flow without a chain has as much to store.
COMPUTED_COLUMNS = (
    COLUMNS.rstrip()
    + """,
    amount_eur numeric NOT NULL,
    label text
"""
)
COMPUTED_ROW = """
    i, i % 10000, encode(sha256(i::text::bytea), 'hex'), (i % 1000000) / 100.0,
    timestamptz '2026-01-01 00:00:00+00' + i * interval '1.234567 s', i % 2 = 0, i / 7.0::float8,
    CASE WHEN i % 10 <> 0 THEN 'a note about order ' || i END,
    round((i % 1000000) / 100.0 * 0.92, 2), CASE WHEN i % 10 <> 0 THEN 'A NOTE ABOUT ORDER ' || i END
"""

INSERTS_PER_TRANSACTION = 20


@dataclass(frozen=True)
class Backlog:
    """What waits in the slot `name`, for the publication of the same name and the table `name`.

    `end` is the WAL's end when it was made, and `rows` what the table then holds.
    """

    name: str
    transactions: int
    changes: int
    rows: int
    end: int


def transactions(source: Source, count: int) -> Backlog:
    """Transactions of 20 inserts, row by row, and 1 update of one of these rows."""
    return _transactions(source, "orders", COLUMNS, ROW, count)


def computed(source: Source, count: int) -> Backlog:
    """The same transactions of rows that have in the source already what the chain would compute."""
    return _transactions(source, "computed", COMPUTED_COLUMNS, COMPUTED_ROW, count)


def _transactions(source: Source, name: str, columns: str, row: str, count: int) -> Backlog:
    _table(source, name, columns)
    source.execute(f"""
        CREATE PROCEDURE fill_{name}(transactions int) LANGUAGE plpgsql AS $$
        BEGIN
            FOR t IN 0..transactions - 1 LOOP
                FOR i IN t * {INSERTS_PER_TRANSACTION} + 1..(t + 1) * {INSERTS_PER_TRANSACTION} LOOP
                    INSERT INTO {name} SELECT {row};
                END LOOP;
                UPDATE {name} SET paid = NOT paid, note = 'changed'
                    WHERE id = t * {INSERTS_PER_TRANSACTION} + 1 + t % {INSERTS_PER_TRANSACTION};
                COMMIT;
            END LOOP;
        END $$""")
    return _fill(source, name, count, rows_each=INSERTS_PER_TRANSACTION, changes_each=21)


def single_rows(source: Source, count: int) -> Backlog:
    """Transactions of one insert each."""
    name = "events"
    _table(source, name)
    source.execute(f"""
        CREATE PROCEDURE fill_{name}(transactions int) LANGUAGE plpgsql AS $$
        BEGIN
            FOR i IN 1..transactions LOOP
                INSERT INTO {name} SELECT {ROW};
                COMMIT;
            END LOOP;
        END $$""")
    return _fill(source, name, count, rows_each=1, changes_each=1)


def one_transaction(source: Source, name: str, rows: int) -> None:
    """Fills the table in a single transaction of so many inserts."""
    source.execute(f"INSERT INTO {name} SELECT {ROW} FROM generate_series(1, {rows}) AS i")


def _table(source: Source, name: str, columns: str = COLUMNS) -> None:
    source.execute(f"CREATE TABLE {name} ({columns})")
    source.publish(name, name)


def _fill(source: Source, name: str, count: int, *, rows_each: int, changes_each: int) -> Backlog:
    source.execute("SET synchronous_commit = off")
    source.execute(f"CALL fill_{name}({count})")
    source.execute("RESET synchronous_commit")
    return Backlog(name, count, count * changes_each, count * rows_each, source.wal_end())
