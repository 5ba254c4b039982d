"""The harness itself: servers and databases of our own."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cdcflow.errors import EnvironmentFault
from cdcflow.testing.binaries import server_account
from cdcflow.testing.database import Database
from cdcflow.testing.postgres import Server
from cdcflow.testing.waiting import eventually

MakeServer = Callable[..., Server]


def test_a_test_gets_an_empty_database_ready_for_logical_replication(postgres: Database) -> None:
    assert postgres.execute("SELECT current_database()") == [(postgres.name,)]
    assert postgres.execute("SHOW wal_level") == [("logical",)]
    assert postgres.execute("SHOW server_encoding") == [("UTF8",)]
    assert postgres.execute("SHOW server_version")[0][0].startswith(str(postgres.server.version))


def test_a_database_is_dropped_with_its_slots_even_when_they_are_in_use(postgres: Database) -> None:
    other = Database(postgres.server)
    other.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [other.slot])
    other.execute("CREATE TABLE t (i int)")
    streaming = psycopg.pq.PGconn.connect(make_conninfo(other.dsn, replication="database").encode())
    streaming.exec_(
        f"START_REPLICATION SLOT {other.slot} LOGICAL 0/0 "
        "(proto_version '1', publication_names 'none')".encode()
    )
    assert streaming.transaction_status == psycopg.pq.TransactionStatus.ACTIVE
    other.drop()
    streaming.finish()
    slots = postgres.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", [other.slot])
    databases = postgres.execute("SELECT 1 FROM pg_database WHERE datname = %s", [other.name])
    assert (slots, databases) == ([], [])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a server as somebody else")
def test_a_server_started_by_root_runs_as_somebody_else(own_server: MakeServer) -> None:
    server = own_server()
    assert Path(f"/proc/{server.pid}").stat().st_uid == server_account().uid != 0


def test_a_killed_server_leaves_no_process_and_recovers_on_its_port(own_server: MakeServer) -> None:
    server = own_server()
    dsn = server.dsn()
    server.execute("CREATE TABLE t (i int)")
    server.execute("INSERT INTO t VALUES (1)")
    (backend,) = server.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")[0]
    server.kill()
    assert not server.is_running
    state = Path(f"/proc/{backend}/stat")
    assert not state.exists() or ") Z " in state.read_text()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)
    server.start()
    assert server.dsn() == dsn
    assert server.execute("SELECT i FROM t") == [(1,)]


def test_stop_modes_end_the_server_and_new_settings_hold_after_a_restart(own_server: MakeServer) -> None:
    server = own_server(settings={"wal_level": "replica"})
    assert server.execute("SHOW wal_level") == [("replica",)]
    server.configure({"wal_level": "logical", "application_name": "it's"})
    server.restart("immediate")
    assert server.execute("SHOW wal_level") == [("logical",)]
    server.stop()
    assert not server.is_running
    server.stop()


def test_a_server_with_password_authentication_refuses_a_wrong_one(own_server: MakeServer) -> None:
    server = own_server(auth="scram-sha-256")
    assert server.execute("SELECT 1") == [(1,)]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.dsn(user="postgres", password="wrong"))


def test_a_server_that_cannot_start_says_why_with_its_log(own_server: MakeServer) -> None:
    server = own_server()
    server.stop()
    server.configure({"shared_buffers": "none at all"})
    with pytest.raises(EnvironmentFault, match="invalid value for parameter"):
        server.start()
    assert not server.is_running


def test_data_goes_elsewhere_when_the_servers_user_cannot_enter_the_directory(
    own_server: MakeServer, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    server = Server(own_server().binaries, tmp_path / "cluster")
    try:
        server.init()
        server.start()
        assert server.execute("SELECT 1") == [(1,)]
        assert (tmp_path.stat().st_mode & 0o777) == 0o700
    finally:
        server.destroy()
    assert not server.data.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has directories that others cannot enter")
def test_binaries_that_the_servers_user_cannot_reach_are_copied_to_where_it_can(
    own_server: MakeServer, tmp_path: Path
) -> None:
    original = own_server().binaries
    install = original.bin.parent
    if not (install / "share").is_dir():
        pytest.skip("Debian's packages keep half of an installation in /usr/share, and cannot be moved")
    tmp_path.chmod(0o700)
    hidden = tmp_path / install.parent.name / install.name
    shutil.copytree(install, hidden, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a"))
    libraries = install.parent.with_name(f"{install.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, tmp_path / libraries.name, symlinks=True)
    server = Server(replace(original, bin=hidden / "bin"), tmp_path / "cluster")
    assert not server.binaries.bin.is_relative_to(tmp_path)
    try:
        server.init()
        server.start()
        assert server.execute("SELECT 1") == [(1,)]
    finally:
        server.destroy()


def test_a_server_ends_with_the_process_that_started_it_however_that_ends(
    postgres_version: int, tmp_path: Path
) -> None:
    script = tmp_path / "start.py"
    script.write_text(
        "import os, signal, sys, tempfile\n"
        "from pathlib import Path\n"
        "from cdcflow.testing.postgres import Server, find_binaries\n"
        "binaries = next(b for b in find_binaries() if b.version == int(sys.argv[1]))\n"
        "server = Server(binaries, Path(sys.argv[2]))\n"
        "server.init()\n"
        "server.start()\n"
        "print(server.pid, server.data, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n",
        encoding="utf-8",
    )
    command = [sys.executable, str(script), str(postgres_version), str(tmp_path / "cluster")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    pid, data = done.stdout.split()
    try:
        eventually(lambda: not Path(data, "postmaster.pid").exists(), what=f"the end of server {pid}")
    finally:
        shutil.rmtree(data)
