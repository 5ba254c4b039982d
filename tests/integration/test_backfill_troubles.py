"""What goes wrong in the middle of a backfill, in the program itself: it says so, goes on where it can, and
is never called done before all rows have come."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner, Result

from cdcflow.cli.main import app
from cdcflow.engine import control
from cdcflow.errors import CdcflowError
from cdcflow.model import BACKFILLS, Op
from cdcflow.source.setup import setup
from cdcflow.testing.database import Database
from cdcflow.testing.journals import read_all
from cdcflow.testing.waiting import eventually
from integration.program import mounted, running, write

ENVIRONMENT = 3
ROWS = 20_000
#: Seconds for what an engine of several processes does on a busy machine.
PATIENCE = 90.0


def configured(postgres: Database, directory: Path, dsn: str = "", **changed: str) -> Path:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    # Too random to be compressed to nothing.
    postgres.execute(
        "INSERT INTO t SELECT g, md5(g::text) || md5((-g)::text) FROM generate_series(1, %s) g", [ROWS]
    )
    setup(postgres.dsn, ["public.t"], postgres.publication, postgres.slot)
    source = (
        f"{{dsn: '{dsn or postgres.dsn}', tables: [public.t], backfill: none,"
        f" publication: {postgres.name}, slot: {postgres.name}}}"
    )
    return write(directory, dsn, postgres.name, source=source, **changed)


def run(config: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["-c", str(config), "backfill", *words])


def begun(config: Path, rate: int = 3_000, table: str = "public.t") -> str:
    """Starts a backfill, and waits until some of its rows have come; its name."""
    started = run(config, "start", table, "--rate", str(rate))
    assert started.exit_code == 0, started.stderr
    name = started.stdout.strip()
    eventually(lambda: shown(config, name)["tables"][0].get("rows"), timeout=PATIENCE, interval=0.1)
    return name


def shown(config: Path, name: str) -> dict[str, Any]:
    [found] = json.loads(run(config, "status", name, "--json").stdout)
    assert isinstance(found, dict)
    return found


def comes_to(config: Path, name: str, *states: str) -> dict[str, Any]:
    eventually(
        lambda: shown(config, name)["state"] in states, timeout=PATIENCE, interval=0.2, what=f"{states}"
    )
    [table] = shown(config, name)["tables"]
    assert isinstance(table, dict)
    return table


def phases(journal: Path) -> list[str]:
    """What the journal tells sinks of backfills."""
    return [
        str((change.new or {})["phase"])
        for batch in read_all(journal)
        for change in batch.changes()
        if change.relation == BACKFILLS
    ]


def keys(journal: Path) -> set[str]:
    return {
        str(change.key[0])
        for batch in read_all(journal)
        for change in batch.changes()
        if change.op is Op.READ
    }


@contextmanager
def reader(postgres: Database) -> Iterator[tuple[sql.Identifier, str]]:
    """A role that may read the table, and a DSN with it."""
    name = f"{postgres.name}_reader"
    role = sql.Identifier(name)
    postgres.execute(sql.SQL("CREATE ROLE {} LOGIN REPLICATION").format(role))
    try:
        yield role, make_conninfo(postgres.dsn, user=name)
    finally:
        postgres.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))


def test_a_privilege_that_is_taken_away_fails_it_until_it_is_given_back(
    newest_postgres: Database, tmp_path: Path
) -> None:
    postgres = newest_postgres
    with reader(postgres) as (role, dsn):
        config = configured(postgres, tmp_path, dsn)
        refused = run(config, "start", "public.t")
        assert refused.exit_code == ENVIRONMENT
        assert "may not read" in refused.stderr
        assert "hint: let the owner run what `cdcflow setup --print-sql` prints" in refused.stderr
        postgres.execute(
            sql.SQL("GRANT SELECT ON t TO {0}; GRANT USAGE ON SCHEMA public TO {0}").format(role)
        )
        with running(config, tmp_path / "state"):
            name = begun(config)
            postgres.execute(sql.SQL("REVOKE SELECT ON t FROM {}").format(role))
            table = comes_to(config, name, "failed")
            assert "permission denied" in table["error"]
            assert "grant SELECT" in table["hint"]
            assert 0 < table["rows"] < ROWS
            assert phases(tmp_path / "state" / "journal") == ["begin"]
            listed = run(config, "status")
            assert "permission denied" in listed.stderr
            postgres.execute(sql.SQL("GRANT SELECT ON t TO {}").format(role))
            assert run(config, "resume", name).exit_code == 0
            assert comes_to(config, name, "done")["rows"] == ROWS
    assert phases(tmp_path / "state" / "journal") == ["begin", "end"]


def test_a_table_that_is_dropped_fails_it_and_it_can_be_cancelled(
    newest_postgres: Database, tmp_path: Path
) -> None:
    config = configured(newest_postgres, tmp_path)
    with running(config, tmp_path / "state"):
        name = begun(config)
        newest_postgres.execute("DROP TABLE t")
        table = comes_to(config, name, "failed")
        assert "the table public.t was dropped" in table["error"]
        assert "`cdcflow backfill cancel` ends it" in table["hint"]
        waited = run(config, "status", "--watch")
        assert (waited.exit_code, "was dropped" in waited.stderr) == (1, True)
        assert run(config, "cancel", name).exit_code == 0
        comes_to(config, name, "cancelled")
    assert phases(tmp_path / "state" / "journal") == ["begin", "cancel"]


#: As many at a time as are read side by side. Each table, what happens to it while it is read, and what of it
#: is the same here and there afterwards.
ALTERED = [
    {
        "added": ("ALTER TABLE added ADD w int DEFAULT 7", "id, v, n, w FROM added"),
        "dropped": ("ALTER TABLE dropped DROP v", "id, n FROM dropped"),
        "retyped": ("ALTER TABLE retyped ALTER n TYPE bigint", "id, v, n FROM retyped"),
        "packed": ("VACUUM FULL packed", "id, v, n FROM packed"),
    },
    {
        "relabelled": ("ALTER TABLE relabelled RENAME v TO x", "id, x, n FROM relabelled"),
        "moved": ("ALTER TABLE moved RENAME TO elsewhere", "id, v, n FROM elsewhere"),
        "emptied": ("TRUNCATE emptied", "id, v, n FROM emptied"),
    },
]


@pytest.mark.parametrize("altered", ALTERED, ids=" ".join)
def test_tables_that_are_altered_come_whole_in_their_new_shape(
    newest_postgres: Database, tmp_path: Path, altered: dict[str, tuple[str, str]]
) -> None:
    postgres = newest_postgres
    for name in altered:
        postgres.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, v text, n int)")
        postgres.execute(f"INSERT INTO {name} SELECT g, 'v' || g, g FROM generate_series(1, 6000) g")
    setup(postgres.dsn, ["public.*"], postgres.publication, postgres.slot)
    config = write(
        tmp_path,
        postgres.dsn,
        postgres.name,
        source=f"{{dsn: '{postgres.dsn}', tables: [public.*], backfill: none,"
        f" publication: {postgres.name}, slot: {postgres.name}}}",
        sinks="{warehouse: {type: duckdb, path: warehouse.duckdb}}",
        flows="[{name: warehouse, from: [public.*], to: warehouse}]",
    )
    state = tmp_path / "state"

    def same(columns: str, expected: list[Any]) -> bool:
        try:
            answer = control.query(state, "warehouse", f"SELECT {columns} ORDER BY id")
        except CdcflowError:
            return False  # it has not come to the new shape yet
        return list(zip(*(column.to_pylist() for column in answer.columns), strict=True)) == expected

    with running(config, state):
        names = {table: begun(config, rate=1_500, table=f"public.{table}") for table in altered}
        for statement, columns in altered.values():
            postgres.execute(statement)
            postgres.execute(f"INSERT INTO {columns.split()[-1]} (id) VALUES (0)")
        for table, name in names.items():
            assert comes_to(config, name, "done", "failed")["state"] == "done", table
        for _, columns in altered.values():
            expected = postgres.execute(f"SELECT {columns} ORDER BY id")
            eventually(partial(same, columns, expected), timeout=PATIENCE, interval=0.2, what=columns)


def test_a_full_disk_is_waited_out(newest_postgres: Database, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        config = configured(newest_postgres, tmp_path, journal=f"{{path: {disk}/journal}}")
        state = tmp_path / "state"
        with running(config, state):
            name = begun(config, 50_000)

            def waits() -> bool:
                status = control.status(state)
                return status is not None and status["capture"]["state"] == "waiting for disk"

            eventually(waits, timeout=PATIENCE, interval=0.1, what="the full disk")
            assert shown(config, name)["state"] == "running"
            assert phases(disk / "journal") == ["begin"]
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            comes_to(config, name, "done")
        assert phases(disk / "journal") == ["begin", "end"]
        assert keys(disk / "journal") == {str(key) for key in range(1, ROWS + 1)}


def test_a_slot_that_is_lost_ends_the_engine_and_the_backfill_is_not_done(
    newest_postgres: Database, tmp_path: Path
) -> None:
    postgres = newest_postgres
    config = configured(postgres, tmp_path)
    with running(config, tmp_path / "state") as engine:
        name = begun(config)

        def dropped() -> bool:
            try:
                postgres.execute(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s",
                    [postgres.slot],
                )
                postgres.execute("SELECT pg_drop_replication_slot(%s)", [postgres.slot])
            except psycopg.errors.ObjectInUse:
                return False
            return True

        eventually(dropped, timeout=PATIENCE)
        assert engine.wait(PATIENCE) == ENVIRONMENT
    said = (tmp_path / "engine.log").read_text()
    assert f"{postgres.slot}" in said
    assert "hint:" in said
    assert shown(config, name)["state"] == "running"
    assert shown(config, name)["tables"][0]["state"] != "done"
    assert phases(tmp_path / "state" / "journal") == ["begin"]
