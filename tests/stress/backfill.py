"""A table of millions of rows is backfilled while clients update, delete, insert, change keys and grow
TOASTed values all over it, and every process and the server are killed ten times; it is paused and goes on.

At the end the warehouse equals the source, no row has ever gone back to an older state, in the journal's
order or in any sink, and no transaction of ours was older than a chunk may be.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cdcflow.testing.postgres import Server
from cdcflow.testing.receiver import Receiver
from faults.backfilling import SCHEMA, Watching, assert_equal, configured, fill, run, run_first_load
from faults.project import Project
from faults.versions import Looking

KILLS = 10
#: The least time that the backfill of a million rows, or of fewer, takes: all kills come while it runs.
SECONDS = 45.0
#: Seconds that a chunk's transaction may take.
CHUNK_SECONDS = 10.0
#: Seconds for everything to end, for each million rows.
PATIENCE = 600.0
#: About so many rows go to the webhook, one request each.
HOOKED = 10_000


@dataclass(frozen=True)
class _Made:
    """A project with its table of rows, the webhook's record, and what the table's size asks for."""

    project: Project
    record: Path
    millions: float
    sample: int

    @property
    def patience(self) -> float:
        return PATIENCE * self.millions


def backfill(directory: Path, server: Server, *, rows: int, seed: int, clients: int) -> None:
    with _made(directory, server, rows, "none") as made:
        watching, looking = run(
            made.project,
            rows,
            seed,
            seconds=SECONDS * made.millions,
            kills=KILLS,
            sample=made.sample,
            clients=clients,
            pause=True,
            patience=made.patience,
        )
    _judge(made, watching, looking, rows)


def first_load(directory: Path, server: Server, *, rows: int, seed: int, clients: int) -> None:
    """The same of the load at the first start, which is as fast as it can be: killed as often as it lasts."""
    with _made(directory, server, rows, "initial") as made:
        watching, looking, killed = run_first_load(
            made.project,
            rows,
            seed,
            kills=KILLS,
            sample=made.sample,
            clients=clients,
            patience=made.patience,
        )
    print(f"{killed} kills", flush=True)
    assert killed, "it was over before the first kill: more rows"
    _judge(made, watching, looking, rows)


@contextmanager
def _made(directory: Path, server: Server, rows: int, backfill: str) -> Iterator[_Made]:
    server.execute(SCHEMA)
    print(f"{rows:,} rows", flush=True)
    fill(server.dsn("postgres"), rows)
    sample = max(rows // HOOKED, 1)
    record = directory / "received.jsonl"
    with Receiver(record=record) as receiver:
        project = configured(directory, server, receiver.url, sample, backfill=backfill)
        project.setup()
        try:
            yield _Made(project, record, max(rows / 1_000_000, 1), sample)
        finally:
            project.stop()


def _judge(made: _Made, watching: Watching, looking: Looking, rows: int) -> None:
    print(f"oldest transaction of ours: {watching.oldest:.2f} s, in {watching.looks} looks", flush=True)
    assert watching.oldest < CHUNK_SECONDS
    assert_equal(made.project, made.record, looking, rows)
