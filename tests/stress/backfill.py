"""A table of millions of rows is backfilled while clients update, delete, insert, change keys and grow
TOASTed values all over it, and every process and the server are killed ten times; it is paused and goes on.

At the end the warehouse equals the source, no row has ever gone back to an older state, in the journal's
order or in any sink, and no transaction of ours was older than a chunk may be.
"""

from pathlib import Path

from cdcflow.testing.postgres import Server
from cdcflow.testing.receiver import Receiver
from faults.backfilling import SCHEMA, assert_equal, configured, fill, run, run_first_load

KILLS = 10
#: The least time that the backfill of a million rows, or of fewer, takes: all kills come while it runs.
SECONDS = 45.0
#: Seconds that a chunk's transaction may take.
CHUNK_SECONDS = 10.0
#: Seconds for everything to end, for each million rows.
PATIENCE = 600.0
#: About so many rows go to the webhook, one request each.
HOOKED = 10_000


def backfill(directory: Path, server: Server, *, rows: int, seed: int, clients: int) -> None:
    server.execute(SCHEMA)
    print(f"{rows:,} rows", flush=True)
    fill(server.dsn("postgres"), rows)
    millions, sample = max(rows / 1_000_000, 1), max(rows // HOOKED, 1)
    record = directory / "received.jsonl"
    with Receiver(record=record) as receiver:
        project = configured(directory, server, receiver.url, sample)
        project.setup()
        try:
            watching, looking = run(
                project,
                rows,
                seed,
                seconds=SECONDS * millions,
                kills=KILLS,
                sample=sample,
                clients=clients,
                pause=True,
                patience=PATIENCE * millions,
            )
        finally:
            project.stop()
    print(f"oldest transaction of ours: {watching.oldest:.2f} s, in {watching.looks} looks", flush=True)
    assert watching.oldest < CHUNK_SECONDS
    assert_equal(project, record, looking, rows)


def first_load(directory: Path, server: Server, *, rows: int, seed: int, clients: int) -> None:
    """The same of the load at the first start, which is as fast as it can be: killed as often as it lasts."""
    server.execute(SCHEMA)
    print(f"{rows:,} rows", flush=True)
    fill(server.dsn("postgres"), rows)
    millions, sample = max(rows / 1_000_000, 1), max(rows // HOOKED, 1)
    record = directory / "received.jsonl"
    with Receiver(record=record) as receiver:
        project = configured(directory, server, receiver.url, sample, backfill="initial")
        project.setup()
        patience = PATIENCE * millions
        try:
            watching, looking, killed = run_first_load(
                project, rows, seed, kills=KILLS, sample=sample, clients=clients, patience=patience
            )
        finally:
            project.stop()
    print(f"{killed} kills; oldest transaction of ours: {watching.oldest:.2f} s", flush=True)
    assert killed, "it was over before the first kill: more rows"
    assert watching.oldest < CHUNK_SECONDS
    assert_equal(project, record, looking, rows)
