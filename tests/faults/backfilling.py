"""A table that is backfilled while clients change it all over, and what must be true of it afterwards.

Every write of a row takes its `version` from one sequence, so that whoever sees the versions of one key can
say which is newer. Rows are spread over pages without room, so that every update moves its row to another
page; bodies are stored out of line, so that most updates leave them out.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.compute as pc

from cdcflow.demo.compare import compare
from cdcflow.engine import control
from cdcflow.journal import Reader, verify
from cdcflow.model import Op
from cdcflow.source.requests import Requests
from cdcflow.testing.postgres import Server
from cdcflow.testing.waiting import eventually
from faults.project import Project, kill, warehouse

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
            for group in (group for batch in batches for group in batch.groups):
                if group.relation.name != "goods":
                    continue
                there = pc.not_equal(group.meta("op"), int(Op.DELETE))
                keys = group.new(0).filter(there).to_pylist()
                versions = group.new(1).filter(there).to_pylist()
                for key, version in zip(keys, map(int, versions), strict=True):
                    before = newest.get(key, 0)
                    assert version >= before, f"row {key} went back from version {before} to {version}"
                    newest[key] = version
                reads += pc.sum(pc.equal(group.meta("op"), int(Op.READ))).as_py() or 0
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


def configured(directory: Path, server: Server) -> Project:
    """An engine with a warehouse, whose rows all come by online backfills."""
    made = Project(directory, server)
    file = directory / "cdcflow.yaml"
    text = file.read_text().replace("tables: [public.*]}", "tables: [public.*], backfill: none}")
    file.write_text(text.replace("  - {name: files, from: ['*.*'], to: files}\n", ""))
    return made


def state_of(project: Project, name: str) -> dict[str, Any]:
    """What the engine says of a backfill; empty while it says nothing."""
    project.ensure_running()
    status = project.status()
    found = [one for one in (status or {}).get("backfills", []) if one["name"] == name]
    return found[0] if found else {}


def kill_some(project: Project, target: str, draw: random.Random) -> bool:
    """As `kill`, of a reader's process too."""
    if target != "reader":
        return kill(project, target, draw)
    status = project.status() or {"backfills": []}
    pids = [p for one in status["backfills"] for table in one["tables"] for p in table.get("readers", ())]
    if not pids:
        return False
    try:
        os.kill(draw.choice(pids), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


#: What is killed.
TARGETS = ("capture", "worker", "supervisor", "postgres", "reader")


def run(
    project: Project,
    rows: int,
    seed: int,
    *,
    seconds: float,
    kills: int,
    between: tuple[float, float],
    clients: int = 4,
    pause: bool = False,
    patience: float = 120,
) -> Watching:
    """Backfills the table while clients change it and processes are killed, and waits until the warehouse has
    everything. The backfill takes `seconds` at least, so that there is something to be killed."""
    draw = random.Random(seed)
    project.start()
    project.wait_until_streaming()
    asked = {"tables": ["public.goods"], "rate": rows / seconds}
    name = control.backfill(project.state, {"do": "start", "request": asked})["name"]

    def begun() -> bool:
        return any(table.get("rows") for table in state_of(project, name).get("tables", ()))

    _wait(project, begun, patience, "the first rows")
    changing, watching = Changing(project.dsn, rows, seed, clients=clients), Watching(project.dsn)
    try:
        targets = [TARGETS[i % len(TARGETS)] for i in range(kills)]
        draw.shuffle(targets)
        for number, target in enumerate(targets):
            due = time.monotonic() + draw.uniform(*between)
            eventually(lambda: time.monotonic() > due, timeout=patience)  # noqa: B023
            project.ensure_running()
            try:
                eventually(lambda: kill_some(project, target, draw), timeout=10, interval=0.05)  # noqa: B023
            except TimeoutError:
                assert target == "reader"  # between two of them, or over
            if pause and number == kills // 2:
                _pause(project, name, patience)
        _wait(
            project, lambda: state_of(project, name).get("state") in ("done", "failed"), patience, "its end"
        )
    finally:
        changing.stop()
        watching.stop()
    assert state_of(project, name)["state"] == "done", project.last_words()
    assert changing.transactions > 100
    project.wait_until_streaming()
    project.drain(patience)
    project.stop()
    return watching


def _pause(project: Project, name: str, patience: float) -> None:
    """Pauses it, kills capture meanwhile, and lets it go on."""
    wishes = Requests(project.state / "backfills")
    if wishes.get(name).state != "running":
        return
    project.wait_until_streaming()
    wishes.wish(name, "pause")
    _wait(project, lambda: state_of(project, name).get("state") in ("paused", "done"), patience, "the pause")
    kill_some(project, "capture", random.Random(0))
    project.wait_until_streaming()
    if wishes.get(name).state != "done":
        wishes.wish(name, "run")


def _wait(project: Project, condition: Callable[[], object], patience: float, what: str) -> None:
    try:
        eventually(condition, timeout=patience, interval=0.2)
    except TimeoutError:
        raise AssertionError(f"{what}: {project.status()}; {project.last_words()}") from None


def assert_equal(project: Project, rows: int) -> None:
    """The warehouse is the source, and no row has ever gone back to an older state."""
    assert assert_never_older(project.journal) >= rows // 2
    assert not list(verify(project.journal))
    with psycopg.connect(project.dsn, autocommit=True) as connection, warehouse(project.warehouse) as ask:
        [comparison] = compare(connection, ask, ("goods",))
        assert comparison.identical, comparison.verdict
