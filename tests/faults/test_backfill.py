"""An online backfill under load, killed in every way at random moments: the warehouse equals the source, and
no row ever goes back to an older state. `make stress ARGS="--scenario backfill"` does it at any size."""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cdcflow.demo.compare import compare
from cdcflow.engine import control
from cdcflow.journal import verify
from cdcflow.testing.waiting import eventually
from conftest import OwnServer
from faults.backfilling import SCHEMA, Changing, Watching, assert_never_older, fill
from faults.project import Project, kill, warehouse

ROWS = 40_000
KILLS = 5
#: Seconds that a chunk's transaction may take on a machine that is busy with other things.
CHUNK_SECONDS = 10.0


@pytest.fixture
def project(own_server: OwnServer, tmp_path: Path) -> Iterator[Project]:
    server = own_server()
    server.execute(SCHEMA)
    made = Project(tmp_path, server)
    configuration = tmp_path / "cdcflow.yaml"
    text = configuration.read_text().replace("tables: [public.*]}", "tables: [public.*], backfill: none}")
    configuration.write_text(text.replace("  - {name: files, from: [public.*], to: files}\n", ""))
    made.setup()
    try:
        yield made
    finally:
        made.stop()


def backfill_of(project: Project, name: str) -> dict[str, Any] | None:
    project.ensure_running()
    status = project.status()
    found = [one for one in (status or {}).get("backfills", []) if one["name"] == name]
    return found[0] if found else None


def kill_reader(project: Project, draw: random.Random) -> bool:
    status = project.status()
    if status is None:
        return False
    pids = [pid for one in status["backfills"] for table in one["tables"] for pid in table.get("readers", ())]
    if not pids:
        return False
    try:
        os.kill(draw.choice(pids), 9)
    except ProcessLookupError:
        return False
    return True


def test_a_backfill_that_is_killed_at_random_moments_under_load_loses_nothing(
    project: Project,
) -> None:
    seed = int(os.environ.get("CDCFLOW_SEED", time.time_ns() % 1_000_000))
    print(f"CDCFLOW_SEED={seed}")
    draw = random.Random(seed)
    fill(project.dsn, ROWS)
    project.start()
    project.wait_until_streaming()
    # A rate, so that there is something left to be killed.
    asked = {"tables": ["public.goods"], "rate": ROWS / 6}
    name = control.backfill(project.state, {"do": "start", "request": asked})["name"]
    eventually(
        lambda: (backfill_of(project, name) or {"tables": [{"rows": 0}]})["tables"][0].get("rows"),
        timeout=60,
        what=f"the first rows; {project.last_words()}",
    )
    changing = Changing(project.dsn, ROWS, seed)
    watching = Watching(project.dsn)
    try:
        for target in draw.sample(["capture", "worker", "supervisor", "postgres", "reader"], KILLS):
            due = time.monotonic() + draw.uniform(0.2, 1.5)
            eventually(lambda: time.monotonic() > due)  # noqa: B023
            project.ensure_running()
            killing = kill_reader if target == "reader" else kill
            given = (project, draw) if target == "reader" else (project, target, draw)
            try:
                eventually(lambda: killing(*given), timeout=10, interval=0.05)  # noqa: B023
            except TimeoutError:
                assert target == "reader"  # it was over, or is between two attempts
        try:
            eventually(
                lambda: (backfill_of(project, name) or {}).get("state") in ("done", "failed"),
                timeout=120,
                interval=0.2,
            )
        except TimeoutError:
            raise AssertionError(f"no end: {project.status()}; {project.last_words()}") from None
    finally:
        changing.stop()
        watching.stop()
    assert (backfill_of(project, name) or {})["state"] == "done", project.last_words()
    assert changing.transactions > 100
    assert watching.looks
    assert watching.oldest < CHUNK_SECONDS
    project.wait_until_streaming()
    project.drain()
    project.stop()

    assert assert_never_older(project.journal) >= ROWS // 2
    assert not list(verify(project.journal))
    with psycopg.connect(project.dsn, autocommit=True) as connection, warehouse(project.warehouse) as ask:
        [comparison] = compare(connection, ask, ("goods",))
        assert comparison.identical, comparison.verdict
