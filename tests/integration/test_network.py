"""Bad networks, encryption, and the places where a password can be."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cdcflow.errors import SourceError, SourceUnavailable
from cdcflow.journal import verify
from cdcflow.source import acknowledge, connection, monitor
from cdcflow.source.connection import connect, connect_replication
from cdcflow.testing.database import Database
from cdcflow.testing.postgres import Server
from cdcflow.testing.proxy import Proxy
from cdcflow.testing.waiting import eventually
from integration.capturing import capturing, changes, journaled, publish

OwnServer = Callable[..., Server]

TABLE = "CREATE TABLE t (id int PRIMARY KEY, filler text); ALTER TABLE t ALTER filler SET STORAGE EXTERNAL"


def fill(database: Database, first: int, last: int) -> None:
    query = "INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(%s::int, %s::int) g"
    database.execute(query, [first, last])


def ids(journal: Path) -> list[int]:
    return [int(str((change.new or {})["id"])) for change in changes(journal)]


def walsender(database: Database) -> int:
    query = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s"

    def pid() -> int | None:
        found: int | None = database.execute(query, [database.slot])[0][0]
        return found

    return eventually(pid, what="a walsender") or 0


def test_a_slow_network_outlasts_wal_sender_timeout_in_one_session(
    postgres: Database, tmp_path: Path
) -> None:
    postgres.execute(TABLE)
    publish(postgres, "t")
    journal = tmp_path / "journal"
    dsn = make_conninfo(postgres.dsn, options="-c wal_sender_timeout=1s")
    with Proxy(dsn) as proxy, capturing(postgres, journal, dsn=proxy.dsn) as running:
        pid = walsender(postgres)
        proxy.throttle(400_000)
        fill(postgres, 1, 1500)  # takes four times as long as the timeout
        journaled(journal, 1500)
        assert walsender(postgres) == pid, "the server ended the session"
        # Cut while the server sends a transaction, of which the most takes ten seconds and more.
        before = running.latest["bytes"]
        proxy.throttle(100_000)
        fill(postgres, 1501, 3000)
        eventually(lambda: running.latest["bytes"] > before + 100_000, what="a part of the transaction")
        proxy.cut()
        assert len(ids(journal)) < 3000
        proxy.resume()
        journaled(journal, 3000)
    assert ids(journal) == list(range(1, 3001))
    assert not list(verify(journal))


def test_a_network_that_is_cut_silently_is_noticed_on_both_sides(
    postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acknowledge, "ASK_AFTER", 0.5)
    monkeypatch.setattr(acknowledge, "SILENCE", 1.5)
    monkeypatch.setattr(connection, "ANSWER_TIMEOUT", 1.0)
    monkeypatch.setattr(monitor, "INTERVAL", 0.1)
    monkeypatch.setattr(monitor, "STALE", 0.7)
    postgres.execute(TABLE)
    publish(postgres, "t")
    journal = tmp_path / "journal"
    dsn = make_conninfo(postgres.dsn, connect_timeout=2, options="-c wal_sender_timeout=2s")
    with Proxy(dsn) as proxy, capturing(postgres, journal, dsn=proxy.dsn) as running:
        eventually(lambda: running.latest["wal_status"] == "reserved", what="the slot's state")
        old = walsender(postgres)
        proxy.stall()
        # Known no more, and said so, before the stream itself is given up.
        eventually(lambda: running.latest["wal_status"] is None, what="the unknown to be unknown")
        assert running.latest["lag_bytes"] is None
        eventually(lambda: running.latest["state"] == "connecting", what="the silence to be noticed")
        fill(postgres, 1, 100)
        proxy.cut()
        proxy.resume()
        journaled(journal, 100)
        assert walsender(postgres) != old
    assert ids(journal) == list(range(1, 101))


def test_a_server_that_hangs_is_given_up_after_a_while(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ANSWER_TIMEOUT", 1.0)
    slow = connect(postgres.dsn, purpose="test")
    with pytest.raises(psycopg.OperationalError), connection.answering(slow.fileno()):
        slow.execute("SELECT pg_sleep(60)")
    slow.close()
    with connect(postgres.dsn, purpose="test") as fast:
        with connection.answering(fast.fileno()):
            fast.execute("SELECT 1")
        assert fast.execute("SELECT pg_sleep(1.2) IS NOT NULL").fetchone() == (True,)


def use_certificate(server: Server, directory: Path) -> Path:
    """Makes a self-signed certificate for another host name, and lets the server use it."""
    key, certificate = directory / "server.key", directory / "server.crt"
    command = ["openssl", "req", "-new", "-x509", "-nodes", "-days", "2", "-subj", "/CN=db.example.com"]
    command += ["-addext", "subjectAltName=DNS:db.example.com", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    # The server takes a key only where it is its own, and closed to others.
    for file in (key, certificate):
        target = server.data / file.name
        target.write_bytes(file.read_bytes())
        target.chmod(0o600)
        subprocess.run(["chown", f"--reference={server.data}", str(target)], check=True)
    server.configure({"ssl": "on"})
    server.restart()
    return certificate


def test_tls_is_as_strict_as_the_dsn_says(own_server: OwnServer, tmp_path: Path) -> None:
    server = own_server()
    [(library,)] = server.execute("SHOW ssl_library")
    if not library:
        pytest.skip("this server is built without TLS")
    certificate = use_certificate(server, tmp_path)
    ours = make_conninfo(server.dsn(), sslrootcert=str(certificate))
    named = make_conninfo(ours, host="db.example.com", hostaddr="127.0.0.1")
    with connect(make_conninfo(server.dsn(), sslmode="require"), purpose="test") as encrypted:
        used = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert encrypted.execute(used).fetchone() == (True,)
    for make in (connect, connect_replication):
        for dsn in (make_conninfo(ours, sslmode="verify-ca"), make_conninfo(named, sslmode="verify-full")):
            made = make(dsn, purpose="test")
            made.close() if hasattr(made, "close") else made.finish()
        wrong = {
            make_conninfo(ours, sslmode="verify-full"): r"certificate for .db\.example\.com.",
            make_conninfo(
                server.dsn(), sslmode="verify-full", sslrootcert=str(tmp_path / "none")
            ): "root cert",
        }
        for dsn, words in wrong.items():
            with pytest.raises(SourceError, match=words) as caught:
                make(dsn, purpose="test")
            assert not isinstance(caught.value, SourceUnavailable)
            assert "sslrootcert" in caught.value.hint
    # What streams and backfills is encrypted like everything else.
    database = Database(server)
    try:
        database.execute(TABLE)
        fill(database, 1, 5)
        publish(database, "t")
        strict = make_conninfo(
            database.dsn,
            sslmode="verify-full",
            sslrootcert=str(certificate),
            host="db.example.com",
            hostaddr="127.0.0.1",
        )
        with capturing(database, tmp_path / "journal", dsn=strict, backfill=True):
            journaled(tmp_path / "journal", 5)
            plain = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity USING (pid)"
            plain += " WHERE application_name IN ('cdcflow capture', 'cdcflow monitor') AND s.ssl"
            eventually(lambda: server.execute(plain) == [(2,)], what="two encrypted connections")
    finally:
        database.close()


def test_a_password_may_come_from_a_file_a_service_or_the_environment(
    own_server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_server(auth="scram-sha-256")
    database = Database(server)
    secret = str(server.password)
    bare = server.dsn(database.name, user="postgres")
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"127.0.0.1:{server.port}:*:postgres:{secret}\n")
    passfile.chmod(0o600)
    services = tmp_path / "services"
    services.write_text(
        f"[shop]\nhost=127.0.0.1\nport={server.port}\nuser=postgres\ndbname={database.name}\n"
        f"password={secret}\n"
    )
    try:
        database.execute(TABLE)
        publish(database, "t")
        ways: list[tuple[str, dict[str, str]]] = [
            (make_conninfo(bare, passfile=str(passfile)), {}),
            (bare, {"PGPASSFILE": str(passfile)}),
            (bare, {"PGPASSWORD": secret}),
            ("service=shop", {"PGSERVICEFILE": str(services)}),
        ]
        with pytest.raises(SourceError, match="asks for a password"):
            connect(bare, purpose="test")
        for number, (dsn, environment) in enumerate(ways, 1):
            with monkeypatch.context() as patch:
                for name, value in environment.items():
                    patch.setenv(name, value)
                with capturing(database, tmp_path / "journal", dsn=dsn) as running:
                    fill(database, number, number)
                    journaled(tmp_path / "journal", number)
                    assert secret not in repr(running.reports)
    finally:
        database.close()
