"""A slot that is lost while the engine is down: it says so, and its own words bring everything back."""

import subprocess
import sys
from pathlib import Path

import psycopg

from cdcflow.demo.compare import compare
from conftest import OwnServer
from faults.project import SCHEMA, TABLES, Project, warehouse


def command(project: Project, *words: str) -> str:
    program = "from cdcflow.cli.main import main; main()"
    config = str(project.directory / "cdcflow.yaml")
    done = subprocess.run(
        [sys.executable, "-c", program, "--config", config, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_after_a_lost_slot_the_remedy_that_is_printed_works(own_server: OwnServer, tmp_path: Path) -> None:
    limits = {"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}
    server = own_server(settings={**limits, "wal_recycle": "off"})
    server.execute(SCHEMA)
    project = Project(tmp_path, server)
    project.setup()
    try:
        project.start()
        project.wait_until_streaming()
        project.drain()
        project.stop()
        # What no stream can tell any more.
        server.execute("DELETE FROM accounts WHERE id <= 1000")
        for _ in range(4):
            server.execute("UPDATE documents SET body = repeat(md5(random()::text), 300)")
            server.execute("SELECT pg_switch_wal()")
            server.execute("CHECKPOINT")
        project.start()
        assert project.process.wait(60) == 3
        words = project.last_words()
        assert "is lost" in words
        assert "`cdcflow teardown --yes`, move away the journal, the folder of engine.state" in words
        command(project, "teardown", "--yes")
        for place in (project.state, project.warehouse, project.files):
            place.rename(place.with_name(f"{place.name}.away"))
        command(project, "setup")
        project.start()
        project.wait_until_streaming()
        server.execute("INSERT INTO accounts VALUES (1, 'back', 1, now())")
        project.drain()
    finally:
        project.stop()
    with psycopg.connect(project.dsn, autocommit=True) as connection, warehouse(project.warehouse) as ask:
        for comparison in compare(connection, ask, TABLES):
            assert comparison.identical, f"{comparison.table}: {comparison.verdict}"
