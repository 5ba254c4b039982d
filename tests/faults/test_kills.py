"""SIGKILL of capture, of workers, of the supervisor, and of Postgres itself, in the middle of load, many
times, at random moments: nothing is lost, nothing is invented."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from cdcflow.demo.compare import compare
from cdcflow.demo.deliveries import check
from cdcflow.journal import verify
from cdcflow.testing.journals import read_all
from cdcflow.testing.receiver import Receiver
from cdcflow.testing.waiting import eventually
from conftest import OwnServer
from faults.project import SCHEMA, TABLES, Chaos, Project, warehouse

KILLS = 24


@pytest.fixture
def project(own_server: OwnServer, tmp_path: Path) -> Iterator[Project]:
    server = own_server()
    server.execute(SCHEMA)
    with Receiver(record=tmp_path / "received.jsonl") as receiver:
        made = Project(tmp_path, server, hook=receiver.url)
        made.setup()
        try:
            yield made
        finally:
            made.stop()


def kill(project: Project, target: str, draw: random.Random) -> bool:
    """Kills one process; says whether there was one to kill."""
    if target == "postgres":
        if draw.random() < 0.5:
            project.server.stop("immediate")
        else:
            project.server.kill()
        project.server.start()
        return True
    if target == "supervisor":
        project.process.kill()
        project.process.wait()
        return True
    status = project.status()
    if status is None:
        return False
    if target == "capture":
        pid = status["capture"]["pid"]
    else:
        pid = draw.choice(status["flows"])["pid"]
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def test_nothing_is_lost_or_invented_whatever_is_killed_and_when(project: Project, tmp_path: Path) -> None:
    seed = int(os.environ.get("CDCFLOW_SEED", time.time_ns() % 1_000_000))
    print(f"CDCFLOW_SEED={seed}")
    draw = random.Random(seed)
    project.start()
    killed = {"capture": 0, "worker": 0, "supervisor": 0, "postgres": 0}
    chaos = Chaos(project.dsn, seed)
    try:
        # The first kills may well hit the initial backfill.
        targets = [name for name in killed for _ in range(KILLS // 4)]
        draw.shuffle(targets)
        for target in targets:
            time_to_kill = time.monotonic() + draw.uniform(0.1, 1.5)
            eventually(lambda: time.monotonic() > time_to_kill)  # noqa: B023
            project.ensure_running()
            eventually(lambda: kill(project, target, draw), timeout=60, interval=0.05)  # noqa: B023
            killed[target] += 1
    finally:
        chaos.stop()
    assert sum(killed.values()) >= 20
    assert chaos.transactions > 100
    project.wait_until_streaming()
    project.drain()
    project.stop()

    with psycopg.connect(project.dsn, autocommit=True) as connection, warehouse(project.warehouse) as ask:
        for comparison in compare(connection, ask, TABLES):
            assert comparison.identical, f"{comparison.table}: {comparison.verdict}"
        deliveries = check(connection, project.journal, tmp_path / "received.jsonl", ["accounts", "moves"])
        assert deliveries.complete, deliveries.verdict

    assert not list(verify(project.journal))
    ids = assert_no_gap(project)
    lines = [line for file in event_files(project) for line in file.read_text().splitlines()]
    assert [json.loads(line)["id"] for line in lines] == ids


def assert_no_gap(project: Project) -> list[str]:
    """Positions increase strictly, and within each transaction ordinals count 1, 2, 3 …"""
    ids = []
    lsn = ordinal = 0
    for batch in read_all(project.journal):
        for change in batch.changes():
            position = change.position
            if position.commit_lsn == lsn:
                assert position.ordinal == ordinal + 1, f"gap or repetition at {position}"
            else:
                assert position.commit_lsn > lsn
                assert position.ordinal == 1, f"a transaction begins at {position}"
            lsn, ordinal = position
            ids.append(str(position))
    return ids


def event_files(project: Project) -> list[Path]:
    return sorted(project.files.rglob("*.jsonl"))
