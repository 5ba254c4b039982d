"""What goes wrong outside ends with a message that says what to do and the right exit code, and loses
nothing. All through the program itself, as a person runs it."""

import json
import subprocess
from pathlib import Path

import psycopg

from cdcflow.engine import control
from cdcflow.journal import verify
from cdcflow.model import parse_lsn
from cdcflow.source.setup import setup
from cdcflow.testing.database import Database
from cdcflow.testing.waiting import eventually
from conftest import OwnServer
from integration.capturing import changes
from integration.program import cdcflow, mounted, running, write

WRONG, ENVIRONMENT = 2, 3


def refused(config: Path, code: int, *words: str, command: str = "run") -> str:
    """Runs the command, which must end with this code and say these words; gives what it said."""
    done = cdcflow("-c", config, command)
    assert done.returncode == code, done.stderr
    said = " ".join(done.stderr.split())
    for word in words:
        assert word in said, said
    assert "Traceback" not in said
    return said


def prepared(postgres: Database, tables: str = "public.*") -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, filler text)")
    setup(postgres.dsn, [tables], postgres.publication, postgres.slot)


def test_a_dsn_that_is_none(tmp_path: Path) -> None:
    refused(write(tmp_path, "postgres//nonsense"), WRONG, "dsn", "hint:")


def test_a_host_where_nobody_listens(tmp_path: Path) -> None:
    config = write(tmp_path, "postgresql://someone:secretword@127.0.0.1:1/nowhere")
    said = refused(config, ENVIRONMENT, "127.0.0.1:1", "hint:")
    assert "secretword" not in said


def test_a_wrong_password(own_server: OwnServer, tmp_path: Path) -> None:
    server = own_server(auth="scram-sha-256")
    dsn = psycopg.conninfo.make_conninfo(server.dsn(), password="wrongword")
    said = refused(write(tmp_path, dsn), ENVIRONMENT, "password", "hint:")
    assert "wrongword" not in said


def test_a_database_that_does_not_exist(postgres: Database, tmp_path: Path) -> None:
    dsn = psycopg.conninfo.make_conninfo(postgres.dsn, dbname="no_such_database")
    refused(write(tmp_path, dsn), ENVIRONMENT, "no_such_database", "hint:")


def test_a_server_without_logical_wal(own_server: OwnServer, tmp_path: Path) -> None:
    server = own_server(settings={"wal_level": "replica"})
    server.execute("CREATE TABLE t (id int PRIMARY KEY)")
    refused(write(tmp_path, server.dsn()), ENVIRONMENT, "wal_level", "ALTER SYSTEM SET wal_level")


def test_a_missing_publication(postgres: Database, tmp_path: Path) -> None:
    prepared(postgres)
    postgres.execute(f"DROP PUBLICATION {postgres.publication}")
    refused(write(tmp_path, postgres.dsn, postgres.name), ENVIRONMENT, "publication", "cdcflow setup")


def test_a_missing_slot(postgres: Database, tmp_path: Path) -> None:
    prepared(postgres)
    postgres.execute("SELECT pg_drop_replication_slot(%s)", [postgres.slot])
    refused(write(tmp_path, postgres.dsn, postgres.name), ENVIRONMENT, "slot", "cdcflow setup")


def test_a_pattern_that_matches_nothing(postgres: Database, tmp_path: Path) -> None:
    prepared(postgres)
    source = (
        f"{{dsn: '{postgres.dsn}', tables: [public.t, public.oders],"
        f" publication: {postgres.publication}, slot: {postgres.slot}}}"
    )
    refused(write(tmp_path, "", source=source), ENVIRONMENT, "public.oders", "hint:")


def test_an_unknown_key(tmp_path: Path) -> None:
    config = write(tmp_path, "postgresql://", journal="{pth: somewhere}")
    refused(config, WRONG, "cdcflow.yaml", "pth", "path")


def test_an_unknown_sink(tmp_path: Path) -> None:
    config = write(tmp_path, "postgresql://", sinks="{files: {type: jsonI, path: events}}")
    refused(config, WRONG, "jsonI", "'jsonl'")


def test_no_configuration_at_all(tmp_path: Path) -> None:
    refused(tmp_path / "cdcflow.yaml", WRONG, "cdcflow.yaml", "cdcflow init")


def test_a_journal_made_by_another_database(postgres: Database, tmp_path: Path) -> None:
    prepared(postgres)
    config = write(tmp_path, postgres.dsn, postgres.name)
    with running(config, tmp_path / "state"):
        pass
    other = Database(postgres.server)
    try:
        prepared(other)
        refused(write(tmp_path, other.dsn, other.name), ENVIRONMENT, postgres.name, other.name, "hint:")
    finally:
        other.drop()


def test_a_state_folder_that_is_read_only(postgres: Database, tmp_path: Path) -> None:
    prepared(postgres)
    with mounted(tmp_path / "disk", "ro,size=1m") as disk:
        config = write(tmp_path, postgres.dsn, postgres.name, engine=f"{{state: {disk}/state}}")
        refused(config, ENVIRONMENT, str(disk), "hint:")


def test_a_full_disk_is_waited_out_and_loses_nothing(postgres: Database, tmp_path: Path) -> None:
    prepared(postgres)
    with mounted(tmp_path / "disk", "size=3m") as disk:
        config = write(tmp_path, postgres.dsn, postgres.name, journal=f"{{path: {disk}/journal}}")
        state = tmp_path / "state"
        with running(config, state):
            # Too random to be compressed below what the disk holds.
            postgres.execute(
                "INSERT INTO t SELECT g, md5(g::text) || md5((-g)::text) FROM generate_series(1, 100000) g"
            )

            def waits() -> bool:
                status = control.status(state)
                return status is not None and status["capture"]["state"] == "waiting for disk"

            eventually(waits, timeout=60, what="the full disk")
            done = cdcflow("-c", config, "status", "--json")
            assert json.loads(done.stdout)["capture"]["state"] == "waiting for disk"
            [(confirmed, end)] = postgres.execute(
                "SELECT confirmed_flush_lsn::text, pg_current_wal_lsn()::text FROM pg_replication_slots"
                " WHERE slot_name = %s",
                [postgres.slot],
            )
            assert parse_lsn(confirmed) < parse_lsn(end), "confirmed what is not stored"
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)

            def delivered() -> bool:
                status = control.status(state)
                # With the marks of where the first load begins and ends.
                return status is not None and status["flows"][0]["checkpoint"] == 100_002

            eventually(delivered, timeout=60, what="everything, once there is room")
        ids = [int(str((c.new or {})["id"])) for c in changes(disk / "journal")]
        assert ids == list(range(1, 100_001))
        assert not list(verify(disk / "journal"))
