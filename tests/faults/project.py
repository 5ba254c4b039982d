"""A whole cdcflow under test: a server, a configuration, `cdcflow run` as a process, and a hard workload."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import psycopg

from cdcflow.demo.compare import Ask, compare
from cdcflow.demo.deliveries import check
from cdcflow.engine import control
from cdcflow.errors import EnvironmentFault
from cdcflow.journal import Reader, verify
from cdcflow.model import BACKFILLS, parse_lsn
from cdcflow.source.judgement import Wishes
from cdcflow.source.setup import setup
from cdcflow.testing.journals import batches
from cdcflow.testing.postgres import Server
from cdcflow.testing.waiting import eventually

TABLES = ("accounts", "documents", "moves", "visits")
SCHEMA = """
    CREATE TABLE accounts (id int PRIMARY KEY, owner text, balance numeric(12, 2), at timestamptz);
    CREATE TABLE documents (id int PRIMARY KEY, version int, body text, tags text[]);
    ALTER TABLE documents ALTER body SET STORAGE EXTERNAL;
    CREATE TABLE moves (place text PRIMARY KEY, piece text);
    CREATE TABLE visits (who text, at timestamptz, page text);
    ALTER TABLE visits REPLICA IDENTITY FULL;
    INSERT INTO accounts SELECT g, 'owner ' || g, g, now() FROM generate_series(1, 3000) g;
    INSERT INTO documents SELECT g, 0, repeat(md5(g::text), 200), '{a,"b c",NULL}'
        FROM generate_series(1, 200) g;
    INSERT INTO moves SELECT 'p' || g, 'piece ' || g FROM generate_series(1, 50) g;
    INSERT INTO visits SELECT 'v' || g % 7, '2026-01-01', '/' FROM generate_series(1, 100) g;
"""


#: One random statement, or a few that belong together, by the client of a number.
Act = Callable[[psycopg.Connection[Any], random.Random, int], None]

#: What a client must live with when many of them change rows, and shapes, at the same time.
COLLISIONS = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.ForeignKeyViolation,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.NotNullViolation,
    psycopg.errors.LockNotAvailable,
    # A column of the name has another type by now.
    psycopg.errors.DatatypeMismatch,
    psycopg.DataError,
)


class Chaos:
    """Clients that do random DML until `stop`, and connect again when the server was killed.

    An error that neither a collision nor the loss of the server explains is the load's own mistake: `stop`
    raises it.
    """

    def __init__(
        self,
        dsn: str,
        seed: int,
        *,
        clients: int = 2,
        bulk: int = 500,
        act: Act | None = None,
        pause: float = 0.003,
    ) -> None:
        """`pause`: seconds between two transactions of a client."""
        self._dsn = dsn
        self._bulk = bulk
        self._pause = pause
        self._act = act or self._statement
        self._mistake: psycopg.Error | None = None
        self._stop = threading.Event()
        self.transactions = 0
        self._threads = [
            threading.Thread(target=self._client, args=(random.Random(seed + n), n), name=f"client {n}")
            for n in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._mistake is not None:
            raise self._mistake

    def _client(self, draw: random.Random, number: int) -> None:
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._dsn, connect_timeout=5) as connection:
                    while not self._stop.wait(self._pause):
                        self._transact(connection, draw, number)
            except psycopg.OperationalError:
                self._stop.wait(0.1)
            except psycopg.Error as error:
                self._mistake = error
                return

    def _transact(self, connection: psycopg.Connection[Any], draw: random.Random, number: int) -> None:
        try:
            for _ in range(draw.choice([1, 1, 2, 5])):
                self._act(connection, draw, number)
            if draw.random() < 0.05:
                connection.rollback()
            else:
                connection.commit()
            self.transactions += 1
        except COLLISIONS:
            connection.rollback()

    def _statement(self, connection: psycopg.Connection[Any], draw: random.Random, number: int) -> None:
        scuffle(connection, draw, number, bulk=self._bulk)


def scuffle(
    connection: psycopg.Connection[Any], draw: random.Random, number: int, *, bulk: int = 500
) -> None:
    """One random statement or two on the four tables of `SCHEMA`."""
    run = connection.execute
    some = draw.randint(1, 3000)
    kind = draw.randrange(12)
    if kind < 3:
        amount = draw.randint(-999, 999) / 100
        run("UPDATE accounts SET balance = balance + %s WHERE id = %s", (amount, some))
    elif kind == 3:
        first = draw.randint(10_000, 10**9)
        run(
            "INSERT INTO accounts SELECT g, 'new', 0, now() FROM generate_series(%s::int, %s::int) g",
            (first, first + draw.choice([0, 10, bulk])),
        )
    elif kind == 4:
        run("DELETE FROM accounts WHERE id BETWEEN %s AND %s", (some, some + 2))
        run("INSERT INTO accounts VALUES (%s, NULL, NULL, '-infinity')", (some,))
    elif kind == 5:
        run("UPDATE documents SET version = version + 1 WHERE id = %s", (draw.randint(1, 200),))
    elif kind == 6:
        body = "".join(draw.choices("abcdefghij\\\n\t'\"", k=6000))
        run(
            "UPDATE documents SET body = %s, tags = tags || 'x' WHERE id = %s",
            (body, draw.randint(1, 200)),
        )
    elif kind == 7:
        there = f"p{draw.randint(1, 90)}"
        run("UPDATE moves SET place = %s WHERE place = %s", (there, f"p{draw.randint(1, 90)}"))
    elif kind == 8:
        run("INSERT INTO visits VALUES (%s, now(), NULL), (%s, '2026-01-01', '/')", (f"v{number}", "v1"))
    elif kind == 9:
        run(
            "UPDATE visits SET page = page || %s WHERE who = %s AND page < '/5'",
            (some % 10, f"v{some % 7}"),
        )
    elif kind == 10:
        run("DELETE FROM visits WHERE ctid = (SELECT ctid FROM visits LIMIT 1)")
    elif draw.random() < 0.05:
        run("TRUNCATE visits")


class Project:
    """A configuration in `directory`, and its engine."""

    def __init__(
        self,
        directory: Path,
        server: Server,
        *,
        hook: str = "",
        extra: str = "",
        dsn: str = "",
        tables: Sequence[str] = ("public.*",),
        messages: Sequence[str] = (),
        warehouse: str = "",
        hooked: Sequence[str] = ("accounts", "moves"),
        failover: bool = False,
    ) -> None:
        """`warehouse`: further settings of that sink. `messages` go to the files, which take all there is;
        of what goes to the webhook, `hooked` are the tables."""
        self.directory = directory
        self.server = server
        self.dsn = dsn or server.dsn("postgres")
        self.tables = tables
        self.hooked = hooked
        self.failover = failover
        self.state = directory / "state"
        self.journal = self.state / "journal"
        self.warehouse = directory / "warehouse.duckdb"
        self.files = directory / "events"
        self.log = directory / "engine.log"
        self._process: subprocess.Popen[bytes] | None = None
        wanted = ", ".join(messages)
        hook_sink = f"  hook: {{type: webhook, url: '{hook}', allow: [127.0.0.1]}}\n" if hook else ""
        taken = ", ".join(f"public.{table}" for table in hooked)
        hook_flow = f"  - {{name: hook, from: [{taken}], to: hook}}\n" if hook else ""
        (directory / "cdcflow.yaml").write_text(
            f"source: {{dsn: '{self.dsn}', tables: [{', '.join(tables)}]"
            f"{f', messages: [{wanted}]' if wanted else ''}{', failover: true' if failover else ''}}}\n"
            "journal: {segment_size: 4MB}\n"
            "sinks:\n"
            f"  warehouse: {{type: duckdb, path: warehouse.duckdb{warehouse and f', {warehouse}'}}}\n"
            "  files: {type: jsonl, path: events}\n"
            f"{hook_sink}"
            "flows:\n"
            "  - {name: warehouse, from: ['*.*'], to: warehouse}\n"
            f"  - {{name: files, from: ['*.*'], to: files{f', messages: [{wanted}]' if wanted else ''}}}\n"
            f"{hook_flow}{extra}"
        )

    def setup(self) -> None:
        setup(self.dsn, self.tables, "cdcflow", "cdcflow", Wishes(failover=self.failover))

    def start(self) -> None:
        program = "from cdcflow.cli.main import main; main()"
        config = str(self.directory / "cdcflow.yaml")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program, "--config", config, "run"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def ensure_running(self) -> None:
        """What systemd's Restart=on-failure does: an engine that has ended is started again."""
        code = self.process.poll()
        if code is not None:
            assert code != 2, self.last_words()  # RestartPreventExitStatus: the test's own mistake
            self.start()

    def stop(self) -> int:
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            raise AssertionError(f"the engine did not stop: {self.last_words()}") from None

    def status(self) -> dict[str, Any] | None:
        """None where no engine runs, or it is too busy to answer, or ends while it does."""
        try:
            return control.status(self.state)
        except EnvironmentFault:
            return None

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def wait_until_streaming(self) -> None:
        def streaming() -> bool:
            self.ensure_running()
            status = self.status()
            return status is not None and status["capture"]["state"] == "streaming"

        eventually(streaming, timeout=60, interval=0.1, what=f"streaming; {self.last_words()}")

    def drain(self, timeout: float = 300, *, unless: Callable[[], object] = lambda: None) -> None:
        """Waits until every flow holds everything that is committed now, or `unless` gives a reason."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            row = connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
        assert row is not None
        until = parse_lsn(row[0])

        def delivered() -> bool:
            reason = unless()
            assert not reason, reason
            self.ensure_running()
            status = self.status()
            if status is None:
                return False
            with Reader(self.journal) as reader:
                head = reader.head()
            return head.committed >= until and all(
                flow.get("checkpoint") == head.offset for flow in status["flows"]
            )

        try:
            eventually(delivered, timeout=timeout, interval=0.1)
        except TimeoutError as error:
            raise AssertionError(f"not delivered: {self.status()}; {self.last_words()}") from error


@contextmanager
def warehouse(path: Path) -> Iterator[Ask]:
    """Asks the warehouse's file, which no engine may have open."""
    connection = duckdb.connect(str(path), read_only=True)
    try:
        yield lambda query: connection.execute(query).fetchall()
    finally:
        connection.close()


def kill(project: Project, target: str, draw: random.Random) -> bool:
    """Kills one process; says whether there was one to kill."""
    if target == "postgres":
        if draw.random() < 0.5:
            project.server.stop("immediate")
        else:
            project.server.kill()
        project.server.start()
        return True
    if target == "supervisor":
        project.process.kill()
        project.process.wait()
        return True
    status = project.status()
    if status is None:
        return False
    if target == "capture":
        pid = status["capture"]["pid"]
    else:
        pid = draw.choice(status["flows"])["pid"]
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


#: Schema and name of a table.
Named = tuple[str, str]

_OURS: list[Named] = [("public", name) for name in TABLES]


def assert_identical(project: Project, path: Path, tables: Sequence[Named] = _OURS) -> None:
    """Every table of the source is, value by value, what the warehouse's file holds."""
    wrong = []
    with psycopg.connect(project.dsn, autocommit=True) as connection, warehouse(path) as ask:
        for schema, table in tables:
            [comparison] = compare(connection, ask, [table], schema)
            # A table without rows is made with its first change.
            if not comparison.identical and (
                comparison.source or not comparison.shape.endswith("no such table")
            ):
                wrong.append(f"{schema}.{table}: {comparison.verdict}")
    assert not wrong, "; ".join(wrong)


def assert_whole(project: Project, record: Path, tables: Sequence[Named] = _OURS) -> None:
    """Nothing was lost and nothing invented: in the warehouse, at the webhook, in the journal, in the
    files. The engine is stopped and has delivered everything."""
    assert_identical(project, project.warehouse, tables)
    with psycopg.connect(project.dsn, autocommit=True) as connection:
        deliveries = check(connection, project.journal, record, project.hooked)
        assert deliveries.complete, deliveries.verdict
    assert not list(verify(project.journal))
    ids = assert_no_gap(project)
    files = sorted(project.files.rglob("*.jsonl"))
    lines = [line for file in files for line in file.read_text().splitlines()]
    assert [json.loads(line)["id"] for line in lines] == ids


def assert_no_gap(project: Project) -> list[str]:
    """Positions increase strictly, and within each transaction ordinals count 1, 2, 3 …; a message outside
    of any has 0. Gives them all but those of marks of backfills, which no file gets."""
    ids = []
    lsn = ordinal = 0
    for batch in batches(project.journal):
        for change in batch.changes():
            position = change.position
            if position.commit_lsn == lsn:
                assert position.ordinal == ordinal + 1, f"gap or repetition at {position}"
            else:
                assert position.commit_lsn > lsn
                assert position.ordinal <= 1, f"a transaction begins at {position}"
            lsn, ordinal = position
            if change.relation != BACKFILLS:
                ids.append(str(position))
    return ids
