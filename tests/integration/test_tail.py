"""`cdcflow tail`: live changes with nothing but a DSN, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from cdcflow.source.tail import PREFIX
from cdcflow.testing.database import Database
from cdcflow.testing.waiting import TIMEOUT, eventually
from integration.capturing import publish

MAIN = "from cdcflow.cli.main import main; main()"
#: Waits longer than any test, so that only what wakes it can end it.
PATIENT = f"import cdcflow.source.tail as tail; tail.STATUS_INTERVAL = 600.0; {MAIN}"


class Tail:
    """A running `cdcflow tail`; its data and its words go to files."""

    def __init__(self, directory: Path, *arguments: str, program: str = MAIN) -> None:
        self._data, self._words = directory / "data", directory / "words"
        with self._data.open("w") as data, self._words.open("w") as words:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, "tail", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=data,
                stderr=words,
                cwd=directory,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    @property
    def words(self) -> str:
        return self._words.read_text()

    def lines(self, count: int) -> list[str]:
        """Waits for so many lines of data."""
        return eventually(
            lambda: found if len(found := self._data.read_text().split("\n")[:-1]) >= count else [],
            what=f"{count} lines; {self.words}",
        )


@contextmanager
def tailing(directory: Path, *arguments: str, program: str = MAIN) -> Iterator[Tail]:
    tail = Tail(directory, *arguments, program=program)
    try:
        eventually(lambda: "watching" in tail.words or tail.process.poll() is not None)
        assert tail.process.poll() is None, tail.words
        yield tail
    finally:
        tail.process.send_signal(signal.SIGTERM)
        assert tail.process.wait(TIMEOUT) == 0, tail.words


def leftovers(postgres: Database) -> list[str]:
    rows = postgres.execute("SELECT pubname::text FROM pg_publication")
    rows += postgres.execute(
        "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()"
    )
    return [name for (name,) in rows]


def test_a_dsn_is_all_that_it_takes(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE orders (id int PRIMARY KEY, note text, doc jsonb)")
    with tailing(tmp_path, postgres.dsn) as tail:
        postgres.execute("""INSERT INTO orders VALUES (1, 'a', '{"n": 12345678901234567890}')""")
        postgres.execute("UPDATE orders SET note = NULL")
        postgres.execute("DELETE FROM orders")
        events = [json.loads(line) for line in tail.lines(3)]
    assert [event["op"] for event in events] == ["insert", "update", "delete"]
    assert events[0]["new"] == {"id": 1, "note": "a", "doc": {"n": 12345678901234567890}}
    assert [event["key"] for event in events] == [{"id": 1}] * 3
    assert leftovers(postgres) == []


def test_messages_are_watched_without_any_table(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    with tailing(tmp_path, postgres.dsn, "--messages", "orders.*", "--format", "pretty") as tail:
        postgres.execute("INSERT INTO orders VALUES (1)")
        postgres.execute("SELECT pg_logical_emit_message(true, 'audit', 'no')")
        postgres.execute("SELECT pg_logical_emit_message(true, 'orders.paid', '42')")
        postgres.execute("SELECT pg_logical_emit_message(false, 'orders.raw', '\\xff'::bytea)")
        assert tail.lines(2) == ["» orders.paid  42", "» orders.raw  (bytes) /w=="]
    assert leftovers(postgres) == []


def test_a_signal_ends_it_at_once_on_a_quiet_database(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    with tailing(tmp_path, postgres.dsn, program=PATIENT) as tail:
        postgres.execute("INSERT INTO orders VALUES (1)")
        tail.lines(1)
        tail.process.send_signal(signal.SIGINT)
        assert tail.process.wait(TIMEOUT) == 0, tail.words
    assert leftovers(postgres) == []


def test_only_the_tables_that_were_asked_for_are_watched(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    postgres.execute("CREATE TABLE noise (id int PRIMARY KEY)")
    with tailing(tmp_path, postgres.dsn, "--table", "orders", "--format", "pretty") as tail:
        postgres.execute("INSERT INTO noise VALUES (1)")
        postgres.execute("INSERT INTO orders VALUES (7)")
        assert tail.lines(1) == ["+ public.orders id=7"]


def test_watching_does_not_break_updates_of_a_table_without_a_key(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE log (line text)")
    with tailing(tmp_path, postgres.dsn) as tail:
        postgres.execute("INSERT INTO log VALUES ('a')")
        postgres.execute("UPDATE log SET line = 'b'")  # would fail, were its updates published
        postgres.execute("INSERT INTO log VALUES ('c')")
        assert [json.loads(line)["new"]["line"] for line in tail.lines(2)] == ["a", "c"]


def test_what_a_killed_tail_left_is_dropped_by_the_next(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    tail = Tail(tmp_path, postgres.dsn)
    eventually(lambda: "watching" in tail.words)
    tail.process.kill()
    tail.process.wait()
    [orphan] = [name for name in leftovers(postgres) if name.endswith("_all")]
    assert orphan.startswith(PREFIX)

    def gone() -> bool:
        return not postgres.execute(
            "SELECT 1 FROM pg_stat_activity WHERE application_name = 'cdcflow tail'"
            " AND datname = current_database()"
        )

    eventually(gone, what="the end of the killed one's connections")
    with tailing(tmp_path, postgres.dsn):
        assert orphan not in leftovers(postgres)


def test_the_publication_of_the_configuration_is_used_where_there_is_one(
    postgres: Database, tmp_path: Path
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    publish(postgres, "t")
    (tmp_path / "cdcflow.yaml").write_text(
        f"source: {{dsn: '{postgres.dsn}', tables: [public.*], publication: {postgres.publication}}}\n"
        "sinks: {files: {type: jsonl, path: events}}\nflows: []\n"
    )
    with tailing(tmp_path) as tail:
        postgres.execute("INSERT INTO t VALUES (1)")
        assert json.loads(tail.lines(1)[0])["new"] == {"id": 1}
    assert sorted(leftovers(postgres)) == sorted([postgres.publication, postgres.slot])


@pytest.mark.parametrize(("pattern", "code"), [("public.nothing", 2), ("public.", 2)])
def test_a_pattern_that_matches_nothing_is_an_error(
    postgres: Database, tmp_path: Path, pattern: str, code: int
) -> None:
    tail = Tail(tmp_path, postgres.dsn, "--table", pattern)
    assert tail.process.wait(TIMEOUT) == code
    assert "error:" in tail.words
    assert leftovers(postgres) == []


def test_a_user_who_may_not_publish_is_told_so(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    role = f"{postgres.name}_reader"
    postgres.execute(f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'x'")
    try:
        postgres.execute(f"GRANT SELECT ON t TO {role}")
        dsn = psycopg.conninfo.make_conninfo(postgres.dsn, user=role, password="x")
        tail = Tail(tmp_path, dsn)
        assert tail.process.wait(TIMEOUT) == 3, tail.words
        assert "may not publish" in tail.words
        assert "hint:" in tail.words
    finally:
        postgres.execute(f"DROP OWNED BY {role}")
        postgres.execute(f"DROP ROLE {role}")
