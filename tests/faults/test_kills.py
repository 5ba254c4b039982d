"""SIGKILL of capture, of workers, of the supervisor, and of Postgres itself, in the middle of load, many
times, at random moments: nothing is lost, nothing is invented."""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdcflow.testing.receiver import Receiver
from cdcflow.testing.waiting import eventually
from conftest import OwnServer
from faults.project import SCHEMA, Chaos, Project, assert_whole, kill

#: Of each target.
KILLS = 6


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


def test_nothing_is_lost_or_invented_whatever_is_killed_and_when(project: Project, tmp_path: Path) -> None:
    seed = int(os.environ.get("CDCFLOW_SEED", time.time_ns() % 1_000_000))
    print(f"CDCFLOW_SEED={seed}")
    draw = random.Random(seed)
    project.start()
    killed = {"capture": 0, "worker": 0, "supervisor": 0, "postgres": 0}
    # The webhook takes a request at a time of each key: more rows are only more to wait for.
    chaos = Chaos(project.dsn, seed, bulk=50)
    try:
        # The first kills may well hit the initial backfill.
        targets = [name for name in killed for _ in range(KILLS)]
        draw.shuffle(targets)
        for target in targets:
            time_to_kill = time.monotonic() + draw.uniform(0.1, 1.5)
            eventually(lambda: time.monotonic() > time_to_kill)  # noqa: B023

            def killed_one() -> bool:
                project.ensure_running()
                return kill(project, target, draw)  # noqa: B023

            eventually(killed_one, interval=0.05, what=f"a kill of {target}")
            killed[target] += 1
        eventually(lambda: chaos.transactions > 100, what="a hundred transactions")
    finally:
        chaos.stop()
    assert set(killed.values()) == {KILLS}
    project.wait_until_streaming()
    project.drain()
    project.stop()

    assert_whole(project, tmp_path / "received.jsonl")
