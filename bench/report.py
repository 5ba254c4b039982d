"""What a run of the bench has to say: a table for people, `bench/results/latest.json` for everything else."""

from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from bench.backfill import Backfill
from bench.crm import Load, worst
from bench.latency import Latency
from bench.memory import Memory
from bench.processes import Use
from bench.throughput import Race, chain_costs
from bench.transforms import Cost
from bench.webhook import Sending

RESULTS = Path(__file__).parent / "results" / "latest.json"

#: What the ratios of `chain_costs` are, by backlog.
_CHAINED = {
    "orders": "DuckDB behind the chain, of DuckDB without it (orders)",
    "events": "DuckDB behind the chain, of DuckDB without it (events)",
    "computed": "DuckDB behind the chain (orders), of DuckDB from a table with its columns (computed)",
}


@dataclass
class Results:
    """All figures of one run; parts that were not asked for are empty.

    In `document`, `ratio` holds the ratios of the backlog of transactions to the median bare drain of the
    same run, `latency_ms` commit to receipt by rate, and `peak_mb` the peak of each process with the huge
    transaction.
    """

    machine: dict[str, Any]
    versions: dict[str, str]
    scale: float
    races: list[Race] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)
    memory: Memory | None = None
    webhook: list[Sending] = field(default_factory=list)
    backfill: Backfill | None = None
    transforms: list[Cost] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        ratios = self.races[0].ratios() if self.races else {}
        return {
            "ratio": {name: ratio for name, ratio in ratios.items() if name != "drain"},
            "latency_ms": {str(each.rate): asdict(each.from_send) for each in self.latencies},
            "peak_mb": self.memory.peak_mb() if self.memory else {},
            "scale": self.scale,
            "machine": self.machine,
            "versions": self.versions,
            "throughput": [asdict(race) for race in self.races],
            "latency": [asdict(latency) for latency in self.latencies],
            "memory": asdict(self.memory) if self.memory else None,
            "webhook": [asdict(sending) | {"ratio": sending.ratio} for sending in self.webhook],
            "backfill": {**asdict(self.backfill), "ratio": self.backfill.ratios} if self.backfill else None,
            "chain": chain_costs(self.races),
            "transforms": [asdict(cost) for cost in self.transforms],
            "crm": [asdict(one) for one in self.loads],
        }

    def write(self, path: Path = RESULTS) -> None:
        path.parent.mkdir(exist_ok=True)
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        path.write_bytes(orjson.dumps(self.document(), option=options))

    def show(self, console: Console) -> None:
        about, versions = self.machine, self.versions
        console.print(
            f"[bold]{about['cpu']}[/], {about['cores']} cores, {about['memory_gb']} GB, {about['kernel']};"
            f" PostgreSQL {versions['postgres']}, Python {versions['python']}, decoder {versions['decoder']}"
        )
        if self.transforms:
            console.print(_transforms(self.transforms))
        for race in self.races:
            console.print(_race(race))
        for backlog, ratio in chain_costs(self.races).items():
            console.print(f"{ratio:.2f}: {_CHAINED.get(backlog, backlog)}")
        if self.latencies:
            console.print(_latencies(self.latencies))
        if self.memory:
            console.print(_memory(self.memory))
        if self.webhook:
            console.print(_webhook(self.webhook))
        if self.backfill:
            console.print(_backfill(self.backfill))
        if self.loads:
            console.print(_loads(self.loads))
            for broken in worst(self.loads):
                console.print(broken, style="red")


def _transforms(costs: list[Cost]) -> Table:
    table = Table(title="a chain of filter, two columns, mask and rename, by itself", title_justify="left")
    table.add_column("")
    table.add_column("changes in a batch", justify="right")
    table.add_column("µs per change", justify="right")
    for cost in costs:
        table.add_row(cost.what, f"{cost.batch:,}", f"{cost.microseconds:.2f}")
    return table


def _race(race: Race) -> Table:
    title = (
        f"{race.backlog}: {race.transactions:,} transactions, {race.changes:,} changes,"
        f" {race.messages:,} messages, {race.mb:,.0f} MB"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for heading in ("seconds", "changes/s", "MB/s", "of the drain", "range"):
        table.add_column(heading, justify="right")
    table.add_column("CPU, peak memory")
    for figures in race.figures:
        spread = f"{figures.ratios[-1]:.2f}–{figures.ratios[0]:.2f}" if figures.runs > 1 else ""
        table.add_row(
            figures.contender,
            f"{figures.seconds:.2f}",
            f"{figures.changes_per_second:,}",
            f"{figures.mb_per_second:.1f}",
            f"{figures.ratio:.2f}",
            spread,
            _uses(dict(figures.processes)),
        )
    return table


def _uses(processes: dict[str, Use]) -> str:
    return "\n".join(
        f"{name} {use.cpu_seconds:.1f} s, {use.peak_mb:.0f} MB" for name, use in processes.items()
    )


def _latencies(latencies: list[Latency]) -> Table:
    table = Table(title="commit → webhook receipt, milliseconds", title_justify="left")
    table.add_column("")
    for heading in ("p50", "p95", "p99", "max"):
        table.add_column(heading, justify="right")
    table.add_column("CPU, peak memory", no_wrap=True)
    for each in latencies:
        rows = (
            (f"{each.achieved:.0f}/s, from sending COMMIT", each.from_send),
            ("from its answer", each.from_answer),
            ("COMMIT itself", each.commit),
        )
        uses = _uses(each.processes).splitlines()
        for row, use in zip_longest(rows, uses):
            what, figures = row or ("", None)
            values = (figures.p50, figures.p95, figures.p99, figures.max) if figures else ("",) * 4
            table.add_row(what, *map(str, values), use or "")
        table.add_section()
    return table


def _loads(loads: list[Load]) -> Table:
    table = Table(
        title=f"{loads[0].rows:,} changed contacts into a CRM",
        caption="again: the same rows once more, unchanged",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("")
    for heading in ("calls", "fewest", "seconds", "of the limit", "refused", "again, seconds", "calls"):
        table.add_column(heading, justify="right")
    for one in loads:
        allowed = f"{one.seconds / one.allowed:.2f}" if one.allowed else ""
        table.add_row(
            one.crm,
            str(one.calls),
            str(one.least),
            f"{one.seconds:.1f}",
            allowed,
            str(one.refused),
            f"{one.again:.1f}",
            str(one.calls_again),
        )
    return table


def _memory(memory: Memory) -> Table:
    table = Table(
        title=f"one transaction of {memory.rows:,} rows",
        caption=f"in the warehouse {memory.seconds:.1f} s after its commit",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("process")
    table.add_column("peak MB", justify="right")
    table.add_column("CPU s", justify="right")
    for name, use in sorted(memory.processes.items()):
        table.add_row(name, f"{use.peak_mb:.0f}", f"{use.cpu_seconds:.1f}")
    return table


def _webhook(webhook: list[Sending]) -> Table:
    table = Table(title="a webhook's backlog, events per second", title_justify="left")
    for heading in ("events per request", "flow", "bare httpx loop", "ratio"):
        table.add_column(heading, justify="right")
    for each in webhook:
        table.add_row(str(each.events), f"{each.flow:,.0f}", f"{each.loop:,.0f}", f"{each.ratio:.2f}")
    return table


def _backfill(backfill: Backfill) -> Table:
    table = Table(title=f"a table of {backfill.rows:,} rows, {backfill.mb:,.0f} MB", title_justify="left")
    table.add_column("")
    for heading in ("seconds", "rows/s", "of two COPYs"):
        table.add_column(heading, justify="right")
    ways = (
        ("two COPYs to nothing", backfill.parallel_copy),
        ("one COPY to nothing", backfill.single_copy),
        ("backfill, up to the journal", backfill.journal),
        ("backfill, up to a flow that drops all", backfill.null),
        ("backfill, up to DuckDB", backfill.duckdb),
    )
    for name, seconds in ways:
        rate, share = backfill.rows / seconds, backfill.parallel_copy / seconds
        table.add_row(name, f"{seconds:.2f}", f"{rate:,.0f}", f"{share:.2f}")
    table.add_row("the first chunk in the journal", f"{backfill.first_chunk:.2f}", "", "")
    if backfill.p99_without and backfill.p99_during:
        table.caption = (
            f"commit → webhook, p99: {backfill.p99_without} ms, beside a backfill {backfill.p99_during} ms"
        )
    for name, use in sorted(backfill.many.items()):
        few = backfill.few.get(name)
        few_mb = f", {few.peak_mb:.0f} MB with 10,000 rows" if few else ""
        cost = f"CPU {use.cpu_seconds / backfill.rows * 1e6:.2f} µs/row"
        table.add_row(name, cost, f"{use.peak_mb:.0f} MB{few_mb}" if use.peak_mb else "", "")
    return table
