"""Runs the bench: `python -m bench [--scale X] [--only NAME,…] [--pg VERSION] [--repeat N]`.

Exits with 0 when everything could be measured, whatever came out.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench import backfill, backlog, crm, latency, memory, server, throughput, transforms, webhook
from bench.machine import machine, versions
from bench.report import RESULTS, Results
from cdcflow.errors import CdcflowError

#: What takes about three minutes on two cores, and is enough for a rate: changes of the first backlog are 21
#: times its transactions.
TRANSACTIONS = 60_000
SINGLE_ROWS = 200_000
LATENCY_SECONDS = 15.0
HUGE_TRANSACTION = 2_000_000
BACKFILL_ROWS = 5_000_000
CONTACTS = 50_000

NAMES = (*throughput.CONTENDERS, "transforms", "latency", "memory", "webhook", "crm", "backfill")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="how much to measure with (default 1)")
    parser.add_argument("--only", type=_names, default=NAMES, help=f"some of {','.join(NAMES)}")
    parser.add_argument("--pg", type=int, metavar="VERSION", help="a PostgreSQL found here (default: newest)")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each contender (default 1)")
    return parser.parse_args(arguments)


def _names(text: str) -> tuple[str, ...]:
    unknown = set(text.split(",")) - set(NAMES)
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not one of {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in text.split(","))


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    progress = Console(stderr=True)
    try:
        with tempfile.TemporaryDirectory(prefix="cdcflow-bench-") as folder:
            results = run(options, Path(folder), progress)
    except KeyboardInterrupt:
        return 130
    except CdcflowError as error:
        progress.print(f"error: {error}", style="red", markup=False)
        if error.hint:
            progress.print(f"hint: {error.hint}", markup=False)
        return error.exit_code
    results.write()
    results.show(Console(width=None if sys.stdout.isatty() else 100))
    progress.print(f"every figure is in {RESULTS}", style="dim")
    return 0


def run(options: argparse.Namespace, directory: Path, progress: Console) -> Results:
    def say(text: str) -> None:
        progress.print(text, style="dim", markup=False)

    about = machine()
    say("starting PostgreSQL")
    with server.started(directory / "postgres", options.pg) as source:
        results = Results(about, versions(source), options.scale)
        wanted = {*options.only, *(("duckdb", "chained") if "transforms" in options.only else ())}
        contenders = tuple(name for name in throughput.CONTENDERS if name in wanted)
        if "transforms" in options.only:
            results.transforms += transforms.measure(say)
        if "recvlogical" in contenders and source.program("pg_recvlogical") is None:
            say("pg_recvlogical is not installed: left out")
            contenders = tuple(name for name in contenders if name != "recvlogical")
        makers = [
            (backlog.transactions, TRANSACTIONS, contenders),
            (backlog.single_rows, SINGLE_ROWS, contenders),
        ]
        if {"duckdb", "chained"} <= set(contenders):
            makers.append((backlog.computed, TRANSACTIONS, ("duckdb",)))
        for make, count, racing in makers if contenders else ():
            say("making a backlog")
            waiting = make(source, max(round(count * options.scale), 100))
            results.races.append(
                throughput.race(source, waiting, racing, repeat=options.repeat, directory=directory, say=say)
            )
            source.drop(waiting.name)
        if "latency" in options.only:
            place = directory / "latency"
            place.mkdir()
            results.latencies += latency.measure(source, LATENCY_SECONDS * options.scale, place, say)
        if "memory" in options.only:
            place = directory / "memory"
            place.mkdir()
            results.memory = memory.measure(source, round(HUGE_TRANSACTION * options.scale), place, say)
        if "webhook" in options.only:
            place = directory / "webhook"
            place.mkdir()
            results.webhook = webhook.measure(max(round(webhook.ROWS * options.scale), 500), place, say)
        if "crm" in options.only:
            place = directory / "crm"
            place.mkdir()
            results.loads = crm.measure(round(CONTACTS * options.scale), place, say)
        if "backfill" in options.only:
            place = directory / "backfill"
            place.mkdir()
            rows = round(BACKFILL_ROWS * options.scale)
            results.backfill = backfill.measure(source, rows, LATENCY_SECONDS * options.scale, place, say)
    return results


if __name__ == "__main__":
    sys.exit(main())
