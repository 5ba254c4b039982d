"""A table that is backfilled while clients change it all over, and what must be true of it afterwards.

Every write of a row takes its `version` from one sequence, so that whoever sees the versions of one key can
say which is newer. Rows are spread over pages without room, so that every update moves its row to another
page; bodies are stored out of line, so that most updates leave them out.
"""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from cdcflow.engine import control
from cdcflow.journal import verify
from cdcflow.source.requests import INITIAL, Requests
from cdcflow.testing.postgres import Server
from cdcflow.testing.waiting import eventually
from faults.blocks import assert_same_rows
from faults.project import Project, kill, warehouse
from faults.versions import (
    Looking,
    assert_files_never_go_back,
    assert_journal_never_goes_back,
    assert_webhook_never_goes_back,
)

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


class Watching:
    """Looks at the server's sessions while a backfill runs: how old our transactions become, in seconds."""

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
                            " FROM pg_stat_activity WHERE application_name LIKE 'cdcflow %'"
                            " AND backend_type = 'client backend'"
                        ).fetchone() or [0.0]
                        self.oldest = max(self.oldest, age)
                        self.looks += 1
            except psycopg.Error:
                self._stop.wait(0.1)


def configured(directory: Path, server: Server, hook: str, sample: int, *, backfill: str = "none") -> Project:
    """An engine with a warehouse, files and a webhook. Rows come by backfills that are asked for, or at the
    first start (`initial`). The webhook gets those whose id is a multiple of `sample`."""
    made = Project(directory, server, hook=hook, hooked=["goods"])
    file = directory / "cdcflow.yaml"
    text = file.read_text().replace("tables: [public.*]}", f"tables: [public.*], backfill: {backfill}}}")
    taken = f"{{name: hook, from: [public.goods], to: hook, transforms: [{{filter: 'id % {sample} = 0'}}]}}"
    file.write_text(text.replace("{name: hook, from: [public.goods], to: hook}", taken))
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
    sample: int,
    clients: int = 4,
    pause: bool = False,
    patience: float = 120,
) -> tuple[Watching, Looking]:
    """Backfills the table while clients change it and processes are killed, and waits until every sink has
    everything. The backfill takes `seconds` at least, and all kills come while it runs."""
    draw = random.Random(seed)
    project.start()
    project.wait_until_streaming()
    asked = {"tables": ["public.goods"], "rate": rows / seconds}
    name = control.backfill(project.state, {"do": "start", "request": asked})["name"]
    with _changing(project, name, rows, seed, sample, clients, patience) as found:
        targets = [TARGETS[i % len(TARGETS)] for i in range(kills)]
        draw.shuffle(targets)
        for number, target in enumerate(targets):
            _let_pass(seconds / kills * draw.uniform(0.3, 0.7), patience)
            project.ensure_running()
            what = f"a {target} to be killed"
            _wait(project, lambda: kill_some(project, target, draw), patience, what)  # noqa: B023
            assert found.requests.get(name).state == "running", "it was over before the last kill"
            if pause and number == kills // 2:
                _pause(project, found.requests, name, patience)
    return found.watching, found.looking


def run_first_load(
    project: Project,
    rows: int,
    seed: int,
    *,
    kills: int,
    sample: int,
    clients: int = 4,
    patience: float = 120,
) -> tuple[Watching, Looking, int]:
    """As `run`, of the load that comes by itself at the first start and is as fast as it can be: processes
    are killed while it is under way, `kills` times at most. The third of the results says how often."""
    draw, done = random.Random(seed), 0
    project.start()
    with _changing(project, INITIAL, rows, seed, sample, clients, patience) as found:
        while done < kills:
            _let_pass(draw.uniform(0.2, 1.5), patience)
            if state_of(project, INITIAL).get("state") not in (None, "running"):
                break
            done += kill_some(project, draw.choice(TARGETS), draw)
    return found.watching, found.looking, done


def _let_pass(seconds: float, patience: float) -> None:
    """So long the clients and the backfill go on."""
    due = time.monotonic() + seconds
    eventually(lambda: time.monotonic() > due, timeout=patience)


@dataclass(frozen=True)
class _Found:
    requests: Requests
    watching: Watching
    looking: Looking


@contextlib.contextmanager
def _changing(
    project: Project, name: str, rows: int, seed: int, sample: int, clients: int, patience: float
) -> Iterator[_Found]:
    """While the block runs, clients change rows; it begins with the first rows of the backfill, and behind it
    every sink gets everything."""

    def begun() -> bool:
        return any(table.get("rows") for table in state_of(project, name).get("tables", ()))

    _wait(project, begun, patience, "the first rows")
    changing = Changing(project.dsn, rows, seed, clients=clients)
    found = _Found(Requests(project.state / "backfills"), Watching(project.dsn), Looking(project, sample))
    try:
        yield found
        _wait(
            project, lambda: state_of(project, name).get("state") in ("done", "failed"), patience, "its end"
        )
        eventually(lambda: changing.transactions > 100, what="a hundred transactions")
        changing.stop()
        assert state_of(project, name)["state"] == "done", project.last_words()
        project.wait_until_streaming()
        project.drain(patience)
    finally:
        changing.stop()
        found.watching.stop()
        found.looking.stop()
    project.stop()


def _pause(project: Project, requests: Requests, name: str, patience: float) -> None:
    """Pauses it, kills capture meanwhile, and lets it go on."""
    project.wait_until_streaming()
    requests.wish(name, "pause")
    _wait(project, lambda: state_of(project, name).get("state") == "paused", patience, "the pause")
    kill_some(project, "capture", random.Random(0))
    project.wait_until_streaming()
    requests.wish(name, "run")


def _wait(project: Project, condition: Callable[[], object], patience: float, what: str) -> None:
    try:
        eventually(condition, timeout=patience, interval=0.2)
    except TimeoutError:
        raise AssertionError(f"{what}: {project.status()}; {project.last_words()}") from None


def assert_equal(project: Project, record: Path, looking: Looking, rows: int) -> None:
    """The warehouse is the source, and no row has ever gone back to an older state: in the journal, in any
    sink, and in what the warehouse has shown meanwhile."""
    reads, changes = assert_journal_never_goes_back(project.journal)
    assert reads >= rows // 2
    assert not list(verify(project.journal))
    assert_files_never_go_back(project, changes)
    received = assert_webhook_never_goes_back(record)
    assert looking.looks > 3
    assert not looking.went_back, looking.went_back[:5]
    with warehouse(project.warehouse) as ask:
        left = assert_same_rows(project.server.execute, ask)
    print(
        f"{changes:,} changes, {reads:,} of them rows that were read; {received:,} at the webhook; the"
        f" warehouse was looked at {looking.looks} times, and has the source's {left:,} rows",
        flush=True,
    )
