"""A table of millions of rows is backfilled while clients update, delete, insert, change keys and grow
TOASTed values all over it, and every process and the server are killed ten times; it is paused and goes on.

At the end the warehouse equals the source, no row has ever gone back to an older state in the journal's
order, and no transaction of the backfill was older than a chunk may be.
"""

from pathlib import Path

from cdcflow.testing.postgres import Server
from faults.backfilling import SCHEMA, assert_equal, configured, fill, run

KILLS = 10
#: The least time that the backfill takes, so that all kills come while it runs.
SECONDS = 45.0
BETWEEN_KILLS = (2.0, 5.0)
#: Seconds that a chunk's transaction may take.
CHUNK_SECONDS = 10.0
#: Seconds for everything to end, for each million rows.
PATIENCE = 600.0


def backfill(directory: Path, server: Server, *, rows: int, seed: int, clients: int) -> None:
    server.execute(SCHEMA)
    print(f"{rows:,} rows", flush=True)
    fill(server.dsn("postgres"), rows)
    project = configured(directory, server)
    project.setup()
    try:
        watching = run(
            project,
            rows,
            seed,
            seconds=SECONDS,
            kills=KILLS,
            between=BETWEEN_KILLS,
            clients=clients,
            pause=True,
            patience=PATIENCE * max(rows / 1_000_000, 1),
        )
    finally:
        project.stop()
    print(
        f"oldest transaction of the backfill: {watching.oldest:.2f} s, in {watching.looks} looks", flush=True
    )
    assert watching.oldest < CHUNK_SECONDS
    assert_equal(project, rows)
