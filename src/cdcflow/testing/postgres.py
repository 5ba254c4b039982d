"""PostgreSQL servers of our own, for the demo, the bench and the tests.

A `Server` is one cluster in a directory of its own, on a port of its own, run by an unprivileged user,
and stopped at the latest when this process ends. Nothing outside its directory is changed.
"""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import quote

import psycopg

from cdcflow.errors import EnvironmentFault
from cdcflow.testing.binaries import Account, Binaries, find_binaries, reachable, server_account
from cdcflow.testing.ports import free_ports
from cdcflow.testing.waiting import eventually

__all__ = ["AnyServer", "Binaries", "ForeignServer", "Server", "Settings", "find_binaries"]

Settings = Mapping[str, str]
Auth = Literal["trust", "scram-sha-256"]

SUPERUSER = "postgres"
#: Recovery after a crash under load takes seconds on a slow disk; a start that takes longer is stuck.
START_TIMEOUT = 60.0
#: A fast stop waits for the shutdown checkpoint, and for walsenders to hand over what is left.
STOP_TIMEOUT = 60.0
#: What a server of ours is told unless the caller says otherwise.
DEFAULTS: Settings = {
    "listen_addresses": "127.0.0.1",
    # Socket paths are limited to about 100 bytes, and nothing here needs one.
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "log_timezone": "UTC",
    "timezone": "UTC",
}
#: Enough against the death of any process; a power cut would damage the cluster.
NOT_DURABLE: Settings = {"fsync": "off", "full_page_writes": "off"}
_EXIT_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class AnyServer(Protocol):
    """A server that tests may use, ours or the user's."""

    @property
    def version(self) -> int:
        """Major version."""
        ...

    def dsn(self, dbname: str = "postgres", user: str | None = None, password: str | None = None) -> str: ...

    def execute(
        self, sql: str, params: Sequence[Any] | None = None, *, dbname: str = "postgres"
    ) -> list[Any]:
        """Runs SQL as superuser outside of a transaction and returns the rows, if it gives any."""
        ...


def _execute(dsn: str, sql: str, params: Sequence[Any] | None) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True, application_name="cdcflow testing") as connection:
        return rows_of(connection.execute(sql, params))


def rows_of(cursor: psycopg.Cursor[Any]) -> list[Any]:
    """The rows of what was executed; none where it gives no rows. A row may have no columns."""
    result = cursor.pgresult
    return cursor.fetchall() if result and result.status == psycopg.pq.ExecStatus.TUPLES_OK else []


class ForeignServer:
    """The user's own server, reached by a DSN whose role may create databases and slots."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.version = int(self.execute("SHOW server_version_num")[0][0]) // 10_000

    def dsn(self, dbname: str = "postgres", user: str | None = None, password: str | None = None) -> str:
        changed = {"dbname": dbname, "user": user, "password": password}
        return psycopg.conninfo.make_conninfo(self._dsn, **{k: v for k, v in changed.items() if v})

    def execute(self, sql: str, params: Sequence[Any] | None = None, *, dbname: str = "") -> list[Any]:
        return _execute(self.dsn(dbname) if dbname else self._dsn, sql, params)


class Server:
    """One cluster below `directory`: `data/`, and the server's log in `postgres.log`.

    Where the user that the server runs as cannot enter `directory`, `data` is a link to a directory
    made for the purpose in the system's temporary directory. The port stays the same over restarts.
    """

    def __init__(
        self,
        binaries: Binaries,
        directory: Path,
        *,
        settings: Settings | None = None,
        port: int | None = None,
        durable: bool = False,
        auth: Auth = "trust",
    ) -> None:
        """`settings` are added to `DEFAULTS`. `auth` other than trust gives the superuser a random
        `password`. Nothing is done before `init` and `start`."""
        self.account: Account = server_account()
        self.binaries = reachable(binaries, self.account)
        self.directory = directory.absolute()
        self.log = self.directory / "postgres.log"
        self.auth: Auth = auth
        self.password = secrets.token_urlsafe(16) if auth != "trust" else None
        self._settings = {**DEFAULTS, **({} if durable else NOT_DURABLE), **(settings or {})}
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._finalizer: Any = None

    @property
    def version(self) -> int:
        """Major version."""
        return self.binaries.version

    @property
    def port(self) -> int:
        if self._port is None:
            raise EnvironmentFault("the server has no port before its first start")
        return self._port

    @property
    def data(self) -> Path:
        """The data directory, with links resolved."""
        return (self.directory / "data").resolve()

    @property
    def initialised(self) -> bool:
        return (self.data / "PG_VERSION").exists()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        if self._process is None or not self.is_running:
            raise EnvironmentFault(f"the server in {self.directory} does not run")
        return self._process.pid

    def init(self) -> None:
        """Makes the cluster: UTF8, locale C, superuser `postgres`. Raises EnvironmentFault when it cannot."""
        self.directory.mkdir(parents=True, exist_ok=True)
        data = self._place_of_data()
        command = [str(self.binaries.bin / "initdb"), "-D", str(data), "-U", SUPERUSER, "-A", self.auth]
        command += ["-E", "UTF8", "--locale=C", "--no-sync"]
        with tempfile.TemporaryDirectory(prefix="cdcflow-initdb-") as folder:
            if self.password:
                file = Path(folder) / "password"
                file.write_text(self.password + "\n", encoding="ascii")
                self._own(file)
                self._own(Path(folder))
                command.append(f"--pwfile={file}")
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, **self.account.popen_arguments()
            )
        if done.returncode != 0:
            raise EnvironmentFault(f"initdb failed in {data}: {done.stderr.strip()[-500:]}")
        with (data / "postgresql.conf").open("a", encoding="utf-8") as configuration:
            configuration.write("include 'cdcflow.conf'\n")
        self._write_settings()

    def standby(
        self, directory: Path, *, settings: Settings | None = None, port: int | None = None
    ) -> "Server":
        """A streaming standby of this server, through a physical slot `standby`; not started yet.

        Raises EnvironmentFault when the base backup fails.
        """
        other = Server(self.binaries, directory, settings={**self._settings, **(settings or {})}, port=port)
        other.directory.mkdir(parents=True, exist_ok=True)
        data = other._place_of_data()
        command = [str(self.binaries.bin / "pg_basebackup"), "-D", str(data), "-d", self.dsn(), "-R"]
        command += ["-C", "-S", "standby", "-c", "fast", "--no-sync"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, **self.account.popen_arguments()
        )
        if done.returncode != 0:
            raise EnvironmentFault(f"pg_basebackup failed in {data}: {done.stderr.strip()[-500:]}")
        other._write_settings()
        return other

    def promote(self) -> None:
        """Makes a standby a primary; returns when it is one."""
        self.execute("SELECT pg_promote()")

    def _place_of_data(self) -> Path:
        data = self.directory / "data"
        if data.exists():
            raise EnvironmentFault(f"{data} exists already", hint="start the server that it holds")
        if self.account.may("-x", self.directory):
            data.mkdir(mode=0o700)
        else:
            place = Path(tempfile.mkdtemp(prefix="cdcflow-data-"))
            if data.is_symlink():
                data.unlink()
            data.symlink_to(place)
        self._own(data.resolve())
        return data.resolve()

    def _own(self, path: Path) -> None:
        if self.account.uid is not None:
            os.chown(path, self.account.uid, self.account.gid or 0)

    def _write_settings(self) -> None:
        lines = (
            f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in self._settings.items()
        )
        file = self.data / "cdcflow.conf"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._own(file)

    def configure(self, settings: Settings) -> None:
        """Adds settings to the configuration file; `reload` or `restart` brings them into force."""
        self._settings.update(settings)
        self._write_settings()

    def reload(self) -> None:
        os.kill(self.pid, signal.SIGHUP)

    def start(self) -> None:
        """Starts the server and returns when it takes connections.

        Raises EnvironmentFault with the end of its log when it stops instead, or takes longer than
        `START_TIMEOUT`.
        """
        if self.is_running:
            return
        given = self._port is not None
        for port in [self._port] if self._port is not None else free_ports():
            self._port = port
            before = self.log.stat().st_size if self.log.exists() else 0
            if self._launch():
                return
            log = _tail(self.log, before)
            if given or "could not bind" not in log:
                break
        raise EnvironmentFault(f"PostgreSQL {self.version} did not start in {self.directory}: {log}")

    def _launch(self) -> bool:
        command = [str(self.binaries.bin / "postgres"), "-D", str(self.data), "-p", str(self._port)]
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C on the terminal is for us, not for the server.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self.account.popen_arguments(),
            )
        self._process = process
        watchdog = _watch_over(process.pid)
        self._finalizer = weakref.finalize(self, _end, process, watchdog)
        deadline = time.monotonic() + START_TIMEOUT
        while process.poll() is None:
            if self._is_ready(process.pid):
                return True
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        self._forget()
        return False

    def _is_ready(self, pid: int) -> bool:
        """Reads `postmaster.pid` as pg_ctl does: the first line is the process, the eighth its state."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def stop(
        self, mode: Literal["smart", "fast", "immediate"] = "fast", timeout: float = STOP_TIMEOUT
    ) -> None:
        """Stops the server and returns when it is gone; nothing happens when it does not run.

        `immediate` is a crash as far as the data is concerned. Raises EnvironmentFault when it takes
        longer than `timeout` seconds, and has then killed the server.
        """
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(_EXIT_SIGNALS[mode])
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise EnvironmentFault(
                f"the server in {self.directory} did not stop within {timeout:g} s and was killed"
            ) from None
        self._forget()

    def kill(self) -> None:
        """SIGKILL to the postmaster and every process of it, as by the kernel's out-of-memory killer."""
        if self._process is not None:
            _kill(self._process)
        self._forget()

    def _forget(self) -> None:
        """Ends what is left of the server, and its watchdog."""
        self._process = None
        if self._finalizer is not None:
            self._finalizer()
            self._finalizer = None

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        self.stop(mode)
        self.start()

    def destroy(self) -> None:
        """Stops the server at once and removes its data and its directory."""
        self.stop("immediate")
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def dsn(self, dbname: str = "postgres", user: str | None = None, password: str | None = None) -> str:
        """A URI over TCP loopback; as the superuser unless `user` says otherwise."""
        if password is None and user is None:
            password = self.password
        login = quote(user or SUPERUSER, safe="") + (f":{quote(password, safe='')}" if password else "")
        return f"postgresql://{login}@127.0.0.1:{self.port}/{quote(dbname, safe='')}"

    def execute(
        self, sql: str, params: Sequence[Any] | None = None, *, dbname: str = "postgres"
    ) -> list[Any]:
        """Runs SQL as superuser outside of a transaction and returns the rows, if it gives any."""
        return _execute(self.dsn(dbname), sql, params)


def _tail(log: Path, offset: int) -> str:
    try:
        with log.open("rb") as file:
            file.seek(offset)
            return file.read()[-2000:].decode(errors="replace").strip()
    except FileNotFoundError:
        return "no log was written"


def _watch_over(pid: int) -> subprocess.Popen[bytes]:
    """A process that stops the server when ours is gone, by whatever way: its standard input ends then."""
    return subprocess.Popen(
        ["sh", "-c", 'read -r _; kill -QUIT "$0"', str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )


def _end(process: subprocess.Popen[bytes], watchdog: subprocess.Popen[bytes]) -> None:
    """An immediate stop where the server still runs, and a kill where that does not help."""
    if process.poll() is None:
        process.send_signal(signal.SIGQUIT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            _kill(process)
    watchdog.kill()
    watchdog.wait()
    if watchdog.stdin is not None:
        watchdog.stdin.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    # Stopped first, so that it neither starts new children nor tidies up after those we kill. Backends
    # make sessions of their own, so the process group would not reach them.
    process.send_signal(signal.SIGSTOP)
    children = _children(process.pid)
    process.kill()
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    process.wait()
    eventually(lambda: not any(map(_is_alive, children)), what="the death of the server's processes")


def _process_table() -> Iterator[tuple[int, int, str]]:
    """`(pid, parent, state)` of every process."""
    table = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,state="], capture_output=True, text=True, check=True
    ).stdout
    for line in table.splitlines():
        pid, parent, state = line.split()[:3]
        yield int(pid), int(parent), state


def _children(parent: int) -> list[int]:
    try:
        # One file per thread of the parent; the postmaster has a single one.
        return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except FileNotFoundError:
        return [pid for pid, above, _ in _process_table() if above == parent]


def _is_alive(pid: int) -> bool:
    """A zombie is not: it holds neither files nor memory, and not every container's init reaps."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return False
        return any(number == pid and not state.startswith("Z") for number, _, state in _process_table())
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
