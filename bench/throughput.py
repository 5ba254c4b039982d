"""How fast a backlog is read, by whom, and what it costs.

The rate of each contender is that of all changes of the backlog over the time from the start of its
walsender (`backend_start`, by the server's clock) to the moment when it is done, by its own clock on the same
machine. Processes are up before the walsender starts, so their own start is not counted; connecting is.
A ratio above 1 is no mistake: a reader that is busy lets more gather, and spares the server a wake-up for
every few messages. Done means:

* `drain`: the server has said that there is nothing more;
* `recvlogical`: pg_recvlogical has reached that place and ended;
* `journal`: the journal's durable end, behind the fsync, covers the last change;
* `null`, `duckdb`, `chained`: the flow's checkpoint covers the last change, so the sink holds everything
  durably. `chained` is DuckDB behind a chain of transforms.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import orjson

from bench.backlog import Backlog
from bench.engine import Child, configure
from bench.processes import Use, Watch
from bench.server import Source
from cdcflow.errors import CdcflowError
from cdcflow.journal import Reader

DRAIN = "drain"
CONTENDERS = ("recvlogical", "journal", "null", "duckdb", "chained")

#: Settings of the sinks that contend, by the contender's name.
SINKS: Mapping[str, Mapping[str, Any]] = {
    "null": {"type": "null"},
    "duckdb": {"type": "duckdb", "path": "warehouse.duckdb"},
    "chained": {"type": "duckdb", "path": "warehouse.duckdb"},
}

#: What a contender's flow has as `transforms`. All rows pass, so that the sink has as much to do as without.
TRANSFORMS: Mapping[str, list[Any]] = {
    "chained": [
        {"filter": "customer >= 0"},
        {"set": {"amount_eur": "round(amount * 0.92, 2)", "label": "upper(note)"}},
        {"mask": {"sku": "sha256"}},
        {"rename": {"amount": "amount_usd"}},
    ]
}


@dataclass(frozen=True, slots=True)
class Run:
    """One reading of the whole backlog: seconds, and each process by its part."""

    contender: str
    seconds: float
    processes: Mapping[str, Use]


@dataclass(frozen=True, slots=True)
class Figures:
    """A contender's median run. `ratio` is its rate over the median bare drain's; `ratios` those of all its
    runs. MB are 10^6 bytes of CopyData payload, as the drain counts them."""

    contender: str
    runs: int
    seconds: float
    changes_per_second: float
    mb_per_second: float
    ratio: float
    ratios: tuple[float, ...]
    processes: Mapping[str, Use]


@dataclass(frozen=True, slots=True)
class Race:
    """All contenders on one backlog. `messages` and `mb` are what the server sends for it."""

    backlog: str
    transactions: int
    changes: int
    messages: int
    mb: float
    figures: tuple[Figures, ...]

    def ratios(self) -> dict[str, float]:
        return {figures.contender: figures.ratio for figures in self.figures}


def chain_costs(races: Sequence[Race]) -> dict[str, float]:
    """The rate of DuckDB behind a chain over DuckDB's without one, by backlog. `computed`: over that of a
    flow without a chain from a table that has the chain's columns already, so that as much is stored."""
    rates = {(race.backlog, one.contender): one.changes_per_second for race in races for one in race.figures}
    found = {
        backlog: rates[backlog, "chained"] / rates[backlog, "duckdb"]
        for backlog, contender in rates
        if contender == "chained" and (backlog, "duckdb") in rates
    }
    if ("computed", "duckdb") in rates and ("orders", "chained") in rates:
        found["computed"] = rates["orders", "chained"] / rates["computed", "duckdb"]
    return {backlog: round(ratio, 3) for backlog, ratio in found.items()}


def race(
    source: Source,
    backlog: Backlog,
    contenders: tuple[str, ...],
    *,
    repeat: int,
    directory: Path,
    say: Callable[[str], None],
) -> Race:
    """Lets every contender read the backlog `repeat` times, a bare drain before, between and after them, so
    that the machine's mood shows in the drains as much as in what is held against them."""
    runs: list[Run] = []
    read: dict[str, float] = {}
    for name in _order(contenders, repeat):
        say(f"{backlog.name}: {name}")
        with (
            source.copied(backlog.name) as slot,
            tempfile.TemporaryDirectory(prefix=f"{name}-", dir=directory) as folder,
        ):
            if name == DRAIN:
                run, read = _drain(source, backlog, slot)
            elif name == "recvlogical":
                run = _recvlogical(source, backlog, slot)
            else:
                run = _cdcflow(source, backlog, slot, name, Path(folder))
        runs.append(run)
    size = read["bytes"] / 1e6
    yardstick = median(run.seconds for run in runs if run.contender == DRAIN)
    return Race(
        backlog=backlog.name,
        transactions=backlog.transactions,
        changes=backlog.changes,
        messages=int(read["messages"]),
        mb=round(size, 1),
        figures=tuple(
            _figures([run for run in runs if run.contender == name], backlog, size, yardstick)
            for name in (DRAIN, *contenders)
        ),
    )


def _order(contenders: tuple[str, ...], repeat: int) -> Iterator[str]:
    yield DRAIN
    for _ in range(repeat):
        for name in contenders:
            yield name
            yield DRAIN


def _figures(runs: list[Run], backlog: Backlog, megabytes: float, yardstick: float) -> Figures:
    runs = sorted(runs, key=lambda run: run.seconds)
    middle = runs[len(runs) // 2]
    seconds = median(run.seconds for run in runs)
    return Figures(
        contender=middle.contender,
        runs=len(runs),
        seconds=round(seconds, 3),
        changes_per_second=round(backlog.changes / seconds),
        mb_per_second=round(megabytes / seconds, 1),
        ratio=round(yardstick / seconds, 3),
        ratios=tuple(round(yardstick / run.seconds, 3) for run in runs),
        processes=middle.processes,
    )


def _walsender(source: Source, slot: str, watch: Watch) -> float | None:
    """When the reader's walsender started, in seconds since 1970, watched from now on; None for one that was
    never seen, because it had too little to do."""
    rows = source.execute(
        "SELECT extract(epoch FROM backend_start)::float8, pid FROM pg_stat_activity"
        " JOIN pg_replication_slots ON active_pid = pid WHERE slot_name = %s",
        slot,
    )
    if not rows:
        return None
    [(started, pid)] = rows
    watch.add("walsender", pid)
    return float(started)


def _program(command: list[str], name: str, source: Source, slot: str) -> tuple[str, float, float, Watch]:
    """Runs a program that reads the slot to its end: its output, when its walsender started (the program,
    where the walsender was too quick to be seen) and when the program ended."""
    started: float | None = None
    with Watch() as watch:
        launched = time.time()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        while process.poll() is None and started is None:
            started = _walsender(source, slot, watch)
        watch.add(name, process.pid)
        output, errors = process.communicate()
        ended = time.time()
    if process.returncode != 0:
        raise CdcflowError(f"{name} ended with code {process.returncode}: {errors.strip()}")
    return output, started or launched, ended, watch


def _drain(source: Source, backlog: Backlog, slot: str) -> tuple[Run, dict[str, float]]:
    script = str(Path(__file__).with_name("drain.py"))
    command = [sys.executable, script, source.dsn, slot, backlog.name, str(backlog.end)]
    output, started, _, watch = _program(command, DRAIN, source, slot)
    read: dict[str, float] = orjson.loads(output)
    return Run(DRAIN, read["ended"] - started, watch.uses), read


def _recvlogical(source: Source, backlog: Backlog, slot: str) -> Run:
    program = source.program("pg_recvlogical")
    assert program is not None
    command = [str(program), "--start", "--no-loop", "-f", "/dev/null", "-d", source.dsn, "-S", slot]
    command += ["-o", "proto_version=1", "-o", f"publication_names={backlog.name}"]
    command += ["--endpos", f"{backlog.end >> 32:X}/{backlog.end & 0xFFFFFFFF:X}"]
    _, started, ended, watch = _program(command, "recvlogical", source, slot)
    return Run("recvlogical", ended - started, watch.uses)


def _cdcflow(source: Source, backlog: Backlog, slot: str, name: str, directory: Path) -> Run:
    """Capture alone, or with the flow `name` beside it."""
    sinks = {name: SINKS[name]} if name in SINKS else {}
    config = configure(directory, source.dsn, slot, backlog.name, sinks, TRANSFORMS)
    with Watch() as watch, ExitStack() as stack:
        worker = None
        if sinks:
            worker = stack.enter_context(Child("deliver", config, name))
            worker.eventually(lambda: worker.reported, "its first report")
            watch.add("worker", worker.pid)
        capture = stack.enter_context(Child("capture", config))
        started = capture.eventually(lambda: _walsender(source, slot, watch), "its walsender started")
        watch.add("capture", capture.pid)
        with Reader(directory / "journal") as reader:
            ended = capture.eventually(lambda: _journaled(reader, backlog.changes), "the journal held it all")
        if worker is not None:
            ended = worker.eventually(lambda: _delivered(worker, backlog.changes), "everything was delivered")
        watch.stop()
    if name == "duckdb":
        _check_warehouse(source, backlog, directory / "warehouse.duckdb")
    return Run(name, ended - started, watch.uses)


def _journaled(reader: Reader, changes: int) -> float | None:
    """When the journal's end was made durable, once it covers the last change."""
    head = reader.head()
    return head.time_us / 1e6 if head.offset >= changes else None


def _delivered(worker: Child, changes: int) -> float | None:
    """When the last change was delivered, once the checkpoint covers it."""
    report = worker.flow
    return report.last_delivery if (report.checkpoint or 0) >= changes else None


def _check_warehouse(source: Source, backlog: Backlog, path: Path) -> None:
    """A rate means nothing where rows are missing. Compares figures of every column but the texts' bytes."""
    query = (
        "SELECT count(*), sum(id), sum(customer), sum(length(sku)), sum(amount),"
        f" count(*) FILTER (WHERE paid), sum(length(note)) FROM {{}}{backlog.name}"
    )
    expected = source.execute(query.format(""))[0]
    with duckdb.connect(str(path), read_only=True) as warehouse:
        found = warehouse.execute(query.format("public.")).fetchone()
    if found is None or [int(value * 100) for value in found] != [int(value * 100) for value in expected]:
        raise CdcflowError(f"the warehouse differs from the source: {found} instead of {expected}")
