"""How fast a backfill is beside plain COPY, and what it does to live changes and to memory.

Throughput: the same table by two COPYs side by side to nothing, by one COPY, and by `cdcflow backfill` with
two readers: up to the journal while nobody reads that, up to a flow that drops everything, and up to DuckDB.
Latency: commit to webhook at 100 transactions/s without and with a backfill beside it. Memory: the peak of
each process with a small table and with the large one.
"""

import asyncio
import contextlib
import itertools
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from bench import latency
from bench.backlog import COLUMNS, ROW
from bench.engine import Engine, configure
from bench.processes import Use, Watch
from bench.server import Source
from cdcflow.config import load
from cdcflow.engine import control, lifecycle
from cdcflow.errors import CdcflowError

READERS = 2
#: The large table. Not the name of another measurement's: these may be made on the same server.
LARGE = "archive"
#: The table whose backfill shows what memory does not depend on.
FEW_ROWS = 10_000
LATENCY_RATE = 100


@dataclass(frozen=True)
class Backfill:
    """Seconds of each way to read `rows` rows of `mb` megabytes of text; `ratio` to the parallel COPY."""

    rows: int
    mb: float
    parallel_copy: float
    single_copy: float
    #: Until the first chunk was in the journal: much of it is the readers' start.
    first_chunk: float
    journal: float
    null: float
    duckdb: float
    p99_without: float | None = None
    p99_during: float | None = None
    few: dict[str, Use] = field(default_factory=dict)
    many: dict[str, Use] = field(default_factory=dict)

    @property
    def ratios(self) -> dict[str, float]:
        return {
            "single_copy": round(self.parallel_copy / self.single_copy, 3),
            "journal": round(self.parallel_copy / self.journal, 3),
            "null": round(self.parallel_copy / self.null, 3),
            "duckdb": round(self.parallel_copy / self.duckdb, 3),
        }


def measure(
    source: Source, rows: int, seconds: float, directory: Path, say: Callable[[str], None]
) -> Backfill:
    say(f"backfill: making {rows:,} rows")
    for name, count in ((LARGE, rows), ("few", FEW_ROWS)):
        source.execute(f"CREATE TABLE {name} ({COLUMNS})")
        source.execute(f"INSERT INTO {name} SELECT {ROW} FROM generate_series(1::bigint, {count}) AS i")
        # Hint bits are written now, and not by whoever comes first.
        source.execute(f"VACUUM (FREEZE, ANALYZE) {name}")
    source.execute("CHECKPOINT")
    say("backfill: two COPYs")
    parallel, size = _copies(source, LARGE, READERS)
    say("backfill: one COPY")
    single, _ = _copies(source, LARGE, 1)
    null, duckdb = {"null": {"type": "null"}}, {"duckdb": {"type": "duckdb", "path": "warehouse.duckdb"}}
    say("backfill: up to the journal")
    journal = _run(source, LARGE, directory / "journal", null, paused=True)
    say("backfill: up to a flow that drops everything")
    dropped = _run(source, LARGE, directory / "null", null)
    say("backfill: up to DuckDB")
    stored = _run(source, LARGE, directory / "duckdb", duckdb)
    many = {**dropped.uses, **journal.uses} | {f"{name} to DuckDB": use for name, use in stored.uses.items()}
    few = _run(source, "few", directory / "few", null).uses
    without, during = (None, None)
    if seconds:
        without, during = _latency(source, seconds, directory / "latency", say)
    for name in (LARGE, "few"):
        source.execute(f"DROP TABLE {name}")
    return Backfill(
        rows,
        size / 1e6,
        parallel,
        single,
        journal.first_chunk,
        journal.journaled,
        dropped.delivered,
        stored.delivered,
        without,
        during,
        few,
        many,
    )


def _copies(source: Source, table: str, number: int) -> tuple[float, int]:
    """So many COPYs of equal spans at once: seconds, and bytes."""
    pages = source.one("SELECT pg_relation_size(%s::regclass) / 8192", table)
    bounds = [pages * i // number for i in range(number)] + [pages + 1]
    script = str(Path(__file__).with_name("copying.py"))
    began = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, script, source.dsn, table, str(first), str(last)], stdout=subprocess.PIPE
        )
        for first, last in itertools.pairwise(bounds)
    ]
    outputs = [process.communicate()[0] for process in processes]
    seconds = time.monotonic() - began
    return seconds, sum(orjson.loads(output)["bytes"] for output in outputs)


@dataclass(frozen=True)
class _Run:
    """Seconds from asking for it until the journal holds the first chunk, until it holds all, and until the
    flow has all (a paused one: 0)."""

    first_chunk: float
    journaled: float
    delivered: float
    uses: dict[str, Use]


def _run(
    source: Source, table: str, directory: Path, sinks: Mapping[str, Any], *, paused: bool = False
) -> _Run:
    directory.mkdir()
    source.publish(table, table)
    config = configure(directory, source.dsn, table, table, sinks)
    try:
        with Engine(config) as engine, Watch() as watch:
            engine.wait_until_streaming()
            if paused:
                _pause(engine, config)
            for name, pid in engine.pids().items():
                if pid is not None:
                    watch.add(name, pid)
            watch.add("server", source.server.pid, family=True)
            began = time.time()
            _ask(directory, table)
            first = 0.0
            while True:
                status = engine.eventually(engine.status, "its status")
                [one] = status["backfills"]
                [entry] = one["tables"]
                for number, pid in enumerate(entry.get("readers", ())):
                    watch.add(f"reader {number}", pid, from_birth=True)
                if not first and entry["rows"]:
                    first = time.time() - began
                if one["state"] == "failed":
                    raise CdcflowError(f"the backfill failed: {entry['error']}")
                if one["state"] == "done":
                    [flow] = status["flows"]
                    if paused or flow["checkpoint"] == status["capture"]["journal"]["offset"]:
                        watch.stop()
                        delivered = 0.0 if paused else flow["last_delivery"] - began
                        return _Run(first, entry["ended"] - began, delivered, dict(watch.uses))
                # The moments that count are the engine's own: to be asked often would only cost it time.
                time.sleep(0.25 if first else 0.02)
    finally:
        source.drop(table)
        source.execute(f"DROP PUBLICATION {table}")
        shutil.rmtree(directory, ignore_errors=True)


def _pause(engine: Engine, config: Path) -> None:
    """Pauses the only flow, so that nobody reads the journal."""
    [flow] = engine.status()["flows"]
    lifecycle.pause(load(config), flow["name"], who="bench")
    engine.eventually(lambda: engine.status()["flows"][0]["state"] == "paused" or None, "the flow paused")


def _ask(directory: Path, table: str, **more: Any) -> str:
    asked = {"tables": [f"public.{table}"], **more}
    name: str = control.backfill(directory / "state", {"do": "start", "request": asked})["name"]
    return name


def _latency(
    source: Source, seconds: float, directory: Path, say: Callable[[str], None]
) -> tuple[float, float]:
    """p99 of commit → webhook in milliseconds, without and with a backfill into a warehouse beside it."""
    directory.mkdir()
    source.execute(f"DROP TABLE IF EXISTS {latency.TABLE}")
    source.execute(f"CREATE TABLE {latency.TABLE} ({COLUMNS})")
    source.publish("beside", latency.TABLE, LARGE)
    record = directory / "received.jsonl"
    with latency._receiver(record) as url:
        sinks = {
            "hook": {
                "type": "webhook",
                "url": url,
                "secret": latency.SECRET,
                "allow": ["127.0.0.1"],
            },
            "duckdb": {"type": "duckdb", "path": "warehouse.duckdb"},
        }
        config = configure(directory, source.dsn, "beside", "beside", sinks)
        document = orjson.loads(config.read_bytes())
        document["source"]["tables"] = ["public.*"]
        document["flows"][0]["from"] = [f"public.{latency.TABLE}"]
        document["flows"][1]["from"] = [f"public.{LARGE}"]
        config.write_bytes(orjson.dumps(document))
        with Engine(config) as engine:
            engine.wait_until_streaming()
            asyncio.run(latency._load(source.dsn, 1, latency._moments(LATENCY_RATE, latency.WARM_UP)))
            latency._wait_for(record, latency.WARM_UP)
            first, found = latency.WARM_UP + 1, []
            for beside in (False, True):
                say(f"latency: {LATENCY_RATE} transactions/s" + (" beside a backfill" if beside else ""))
                count = round(LATENCY_RATE * seconds)
                with _under_way(engine, directory) if beside else contextlib.nullcontext():
                    moments = latency._moments(LATENCY_RATE, count)
                    sent = asyncio.run(latency._load(source.dsn, first, moments))
                received = latency._wait_for(record, first - 1 + count)
                found.append(latency.Percentiles.of([received[row.id] - row.sent for row in sent]).p99)
                first += count
    source.drop("beside")
    source.execute("DROP PUBLICATION beside")
    return found[0], found[1]


@contextlib.contextmanager
def _under_way(engine: Engine, directory: Path) -> Iterator[None]:
    """One backfill after the other, so that there is always one; the last is cancelled."""
    over = threading.Event()

    def keep_on() -> None:
        while not over.wait(0.2):
            if not any(one["state"] == "running" for one in engine.status()["backfills"]):
                _ask(directory, LARGE)

    thread = threading.Thread(target=keep_on, name="backfills")
    _ask(directory, LARGE)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for one in engine.status()["backfills"]:
            if one["state"] == "running":
                with contextlib.suppress(CdcflowError):  # it has ended meanwhile
                    control.backfill(directory / "state", {"do": "cancel", "name": one["name"]})
