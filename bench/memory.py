"""How much memory a single huge transaction takes, in each process of the engine."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.backlog import COLUMNS, one_transaction
from bench.engine import Engine, configure
from bench.processes import Use, Watch
from bench.server import Source

TABLE = "history"
#: Seconds between two looks at the engine, whose own clock says when a flow was done.
ASK_EVERY = 0.5


@dataclass(frozen=True, slots=True)
class Memory:
    """One transaction of `rows` inserts, and `seconds` from its commit until the warehouse held it."""

    rows: int
    seconds: float
    processes: dict[str, Use]

    def peak_mb(self) -> dict[str, float]:
        return {name: use.peak_mb for name, use in self.processes.items()}


def measure(source: Source, rows: int, directory: Path, say: Callable[[str], None]) -> Memory:
    """Runs the engine with a DuckDB warehouse and a file of events while the transaction commits, until both
    hold all of it."""
    source.execute(f"CREATE TABLE {TABLE} ({COLUMNS})")
    source.publish(TABLE, TABLE)
    sinks = {
        "duckdb": {"type": "duckdb", "path": "warehouse.duckdb"},
        "jsonl": {"type": "jsonl", "path": "events"},
    }
    config = configure(directory, source.dsn, TABLE, TABLE, sinks)
    with Engine(config) as engine, Watch() as watch:
        engine.wait_until_streaming()
        for name, pid in engine.pids().items():
            watch.add(name, pid)
        say(f"memory: one transaction of {rows:,} rows")
        one_transaction(source, TABLE, rows)
        committed = float(source.one("SELECT extract(epoch FROM clock_timestamp())::float8"))

        def delivered() -> list[float] | None:
            flows = engine.status()["flows"]
            if all((flow["checkpoint"] or 0) >= rows for flow in flows):
                return [flow["last_delivery"] for flow in flows if flow["name"] == "duckdb"]
            return None

        [ended] = engine.eventually(delivered, "everything was delivered", ASK_EVERY)
        watch.stop()
    source.drop(TABLE)
    return Memory(rows, round(ended - committed, 1), dict(watch.uses))
