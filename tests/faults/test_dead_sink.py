"""A destination that is down for the whole load holds up nobody else, and gets everything afterwards."""

from pathlib import Path
from typing import Any

import psycopg

from cdcflow.demo.compare import compare
from cdcflow.demo.deliveries import check
from cdcflow.model import parse_lsn
from cdcflow.testing.receiver import Receiver
from cdcflow.testing.waiting import eventually
from conftest import OwnServer
from faults.project import SCHEMA, TABLES, Chaos, Project, warehouse


def test_a_dead_receiver_holds_up_neither_capture_nor_the_warehouse(
    own_server: OwnServer, tmp_path: Path
) -> None:
    server = own_server()
    server.execute(SCHEMA)
    server.execute("VACUUM documents")  # its size out of line is in the statistics from now on
    record = tmp_path / "received.jsonl"
    receiver = Receiver(record=record)
    receiver.start()
    receiver.stop()  # its port is known now, and nobody listens there
    project = Project(tmp_path, server, hook=receiver.url)
    project.setup()
    project.start()
    try:
        project.wait_until_streaming()
        chaos = Chaos(project.dsn, seed=4, bulk=20)
        try:
            eventually(lambda: chaos.transactions >= 600, timeout=120, what="the load")
        finally:
            chaos.stop()
        with psycopg.connect(project.dsn, autocommit=True) as connection:
            wal_is_confirmed(connection)

            def given_up() -> dict[str, Any] | None:
                """What the engine says once the flow has found nobody there, and knows how much waits."""
                status = project.status() or {"flows": []}
                hooks = [flow for flow in status["flows"] if flow["name"] == "hook"]
                return status if any(hook["reason"] and hook["lag_changes"] for hook in hooks) else None

            status = eventually(given_up, what="the flow's trouble")
            assert status is not None
            [hook] = [flow for flow in status["flows"] if flow["name"] == "hook"]
            assert hook["delivered"] == 0
            assert hook["lag_changes"] > 0
            assert ("warning", "flow files") in [(f["severity"], f["subject"]) for f in status["findings"]]
            head = status["capture"]["journal"]["offset"]
            eventually(lambda: checkpoint(project, "warehouse") == head, what="the warehouse's checkpoint")

            receiver.start()
            project.drain()
            project.stop()
            receiver.stop()
            deliveries = check(connection, project.journal, record, ["accounts", "moves"])
            assert deliveries.complete, deliveries.verdict
            with warehouse(project.warehouse) as ask:
                for comparison in compare(connection, ask, TABLES):
                    assert comparison.identical, f"{comparison.table}: {comparison.verdict}"
    finally:
        receiver.stop()
        project.stop()


def wal_is_confirmed(connection: psycopg.Connection[Any]) -> None:
    """The slot keeps up with the server: no WAL piles up for the dead destination."""
    end = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
    assert end is not None

    def confirmed() -> bool:
        row = connection.execute("SELECT confirmed_flush_lsn::text FROM pg_replication_slots").fetchone()
        assert row is not None
        return parse_lsn(str(row[0])) >= parse_lsn(str(end[0]))

    eventually(confirmed, what="the slot's confirmation")


def checkpoint(project: Project, flow: str) -> int | None:
    status = project.status()
    if status is None:
        return None
    [found] = [each["checkpoint"] for each in status["flows"] if each["name"] == flow]
    return int(found)
