"""Hours of what the tests do in a minute: `make stress ARGS="--seconds 300 --seed N"`.

Clients do random DML (key changes, TOASTed values, a keyless table, truncates, rollbacks) while capture,
workers, supervisor and server are killed every few seconds. Then source, warehouse, webhook, files and
journal are compared, and the journal is replayed into a second warehouse, in other batches, which must
come to the same. Exits with 0 only if all of it is equal; the seed that it prints repeats the choices.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from cdcflow.journal import Reader
from cdcflow.model import join
from cdcflow.sink import FlowContext, SinkOptions, TransactionalSink, registry
from cdcflow.testing.postgres import Server, find_binaries
from cdcflow.testing.receiver import Receiver
from cdcflow.testing.waiting import eventually
from faults.project import SCHEMA, Chaos, Project, assert_identical, assert_whole, kill
from stress.backfill import backfill

#: Seconds between two kills: short against a restart's back-off, long enough that load builds up.
BETWEEN_KILLS = (0.5, 4.0)
TARGETS = ("capture", "worker", "supervisor", "postgres")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make stress", description=__doc__)
    parser.add_argument("--scenario", choices=("dml", "backfill"), default="dml")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the scenario backfill")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--pg", type=int, metavar="VERSION", help="a PostgreSQL found here (default: newest)")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    binaries = next(b for b in find_binaries() if options.pg in (None, b.version))
    directory = Path(tempfile.mkdtemp(prefix="cdcflow-stress-"))
    directory.chmod(0o711)
    server = Server(binaries, directory / "postgres")
    server.init()
    server.start()
    try:
        if options.scenario == "backfill":
            backfill(directory, server, rows=options.rows, seed=options.seed, clients=options.clients)
        else:
            stress(directory, server, options)
    except BaseException:
        print(f"what there is to look at is in {directory}", file=sys.stderr)
        server.stop("immediate")
        raise
    server.destroy()
    shutil.rmtree(directory)
    print("everything is equal")
    return 0


def stress(directory: Path, server: Server, options: argparse.Namespace) -> None:
    draw = random.Random(options.seed)
    server.execute(SCHEMA)
    record = directory / "received.jsonl"
    with Receiver(record=record) as receiver:
        project = Project(directory, server, hook=receiver.url)
        project.setup()
        project.start()
        try:
            killed = load(project, draw, options)
            print(f"{killed} kills; waiting for the last deliveries", flush=True)
            project.wait_until_streaming()
            project.drain(timeout=600)
        finally:
            project.stop()
    assert_whole(project, record)
    second = directory / "second.duckdb"
    asyncio.run(replay(project.journal, second, draw))
    assert_identical(project, second)


def load(project: Project, draw: random.Random, options: argparse.Namespace) -> int:
    """Load and kills for the time that was asked for; gives the number of kills."""
    chaos = Chaos(project.dsn, options.seed, clients=options.clients)
    end = time.monotonic() + options.seconds
    killed = 0
    try:
        while time.monotonic() < end:
            due = time.monotonic() + draw.uniform(*BETWEEN_KILLS)
            eventually(lambda: time.monotonic() > due)  # noqa: B023
            project.ensure_running()
            killed += kill(project, draw.choice(TARGETS), draw)
    finally:
        chaos.stop()
    print(f"{chaos.transactions} transactions", flush=True)
    return killed


async def replay(journal: Path, path: Path, draw: random.Random) -> None:
    """The whole journal into another warehouse, in batches of other sizes."""
    plugin = registry.load("duckdb")
    settings = plugin.settings.model_validate({"type": "duckdb", "path": str(path)})
    state = path.parent / "second"
    state.mkdir()
    sink = plugin.create(settings, SinkOptions(), FlowContext("second", state))
    assert isinstance(sink, TransactionalSink)
    await sink.open()
    try:
        with Reader(journal) as reader:
            offset = 0
            while batches := reader.read(offset, max_changes=draw.randint(1, 60_000), max_bytes=16 << 20):
                for batch in join(batches):
                    await sink.write(batch)
                offset = batches[-1].end
    finally:
        await sink.close()


if __name__ == "__main__":
    sys.exit(main())
