"""An online backfill under load, killed in every way at random moments: the warehouse equals the source, and
no row ever goes back to an older state. `make stress ARGS="--scenario backfill"` does it at any size."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdcflow.testing.receiver import Receiver
from conftest import OwnServer
from faults.backfilling import SCHEMA, assert_equal, configured, fill, run
from faults.project import Project

ROWS = 30_000
KILLS = 5
#: The webhook gets the rows whose id is a multiple of it.
SAMPLE = 50
#: Seconds that a chunk's transaction may take on a machine that is busy with other things.
CHUNK_SECONDS = 10.0


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "received.jsonl"


@pytest.fixture
def project(own_server: OwnServer, tmp_path: Path, record: Path) -> Iterator[Project]:
    server = own_server()
    server.execute(SCHEMA)
    with Receiver(record=record) as receiver:
        made = configured(tmp_path, server, receiver.url, SAMPLE)
        made.setup()
        try:
            yield made
        finally:
            made.stop()


def test_a_backfill_that_is_killed_at_random_moments_under_load_loses_nothing(
    project: Project, record: Path
) -> None:
    seed = int(os.environ.get("CDCFLOW_SEED", time.time_ns() % 1_000_000))
    print(f"CDCFLOW_SEED={seed}")
    fill(project.dsn, ROWS)
    watching, looking = run(project, ROWS, seed, seconds=5, kills=KILLS, sample=SAMPLE, clients=2)
    assert watching.looks
    assert watching.oldest < CHUNK_SECONDS
    assert_equal(project, record, looking, ROWS)
