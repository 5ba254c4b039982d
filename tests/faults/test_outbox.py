"""The outbox, end to end: messages beside the rows of their transactions, to a webhook, files and the
warehouse, while capture is killed in the middle of a transaction."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdcflow.engine import control
from cdcflow.journal import Reader, verify
from cdcflow.testing.database import Database
from cdcflow.testing.postgres import AnyServer
from cdcflow.testing.receiver import Receiver
from cdcflow.testing.waiting import eventually
from conftest import FOREIGN, _available
from faults.project import Project, warehouse
from integration.capturing import publish


@pytest.fixture
def postgres(_servers: Callable[[int | str], AnyServer], pytestconfig: pytest.Config) -> Iterator[Database]:
    """On the newest server only: the other tests hold each version to what is sent."""
    foreign = pytestconfig.getoption("--dsn")
    database = Database(_servers(FOREIGN if foreign else max(_available(pytestconfig))))
    yield database
    database.drop()


#: The row of the first load, and the marks of its beginning and end.
LOADED = 3
#: Each of them gets a row and two messages, one of which nobody wants.
ORDERS = 600


class Outbox(Project):
    """A project on a database of its own, with flows of messages."""

    def __init__(self, directory: Path, postgres: Database, hook: str) -> None:
        super().__init__(directory, postgres.server)  # type: ignore[arg-type]
        self.dsn = postgres.dsn
        (directory / "cdcflow.yaml").write_text(
            f"source: {{dsn: '{postgres.dsn}', tables: [public.*], messages: [order.*, beat],\n"
            f"  slot: {postgres.slot}, publication: {postgres.publication}}}\n"
            "sinks:\n"
            "  warehouse: {type: duckdb, path: warehouse.duckdb}\n"
            "  files: {type: jsonl, path: events}\n"
            f"  hook: {{type: webhook, url: '{hook}', allow: [127.0.0.1]}}\n"
            "flows:\n"
            "  - {name: hook, messages: [order.paid, beat], to: hook}\n"
            "  - {name: files, from: [public.*], to: files}\n"
            "  - {name: warehouse, from: [public.orders], messages: [order.*], to: warehouse}\n"
        )


def test_messages_reach_who_subscribed_once_and_in_order(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    postgres.execute("INSERT INTO orders VALUES (0)")  # for the backfill
    publish(postgres, "orders")
    end = LOADED + 2 * ORDERS + 1
    with Receiver() as receiver:
        project = Outbox(tmp_path, postgres, receiver.url)
        project.start()
        try:
            project.wait_until_streaming()
            postgres.execute(
                f"DO $$ BEGIN FOR i IN 1..{ORDERS} LOOP"
                "  INSERT INTO orders VALUES (i);"
                "  PERFORM pg_logical_emit_message(true, 'order.paid', 'paid ' || i);"
                "  PERFORM pg_logical_emit_message(true, 'unwanted', repeat('x', 20000));"
                " END LOOP; END $$"
            )
            kill_capture(project, journaled=LOADED + 1)
            kill_capture(project, journaled=ORDERS)
            postgres.execute("SELECT pg_logical_emit_message(false, 'beat', '\\xff'::bytea)")
            # The server flushes such a message when it likes, so there is no LSN yet to drain to.
            eventually(
                lambda: offset(project) == 2 * ORDERS + LOADED + 1, timeout=60, what="all in the journal"
            )
            project.drain()
        finally:
            project.stop()
        received = [request.json for request in receiver.requests]
    assert not list(verify(project.journal))
    assert offset(project) == end

    paid = [f"paid {i}" for i in range(1, ORDERS + 1)]
    # Some may come twice, never with another id, and never behind a later one for the first time.
    first = {event["id"]: event for event in received}
    assert [event["content"] for event in first.values() if event["prefix"] == "order.paid"] == paid
    [beat] = [event for event in first.values() if event["prefix"] == "beat"]
    assert (beat["op"], beat["content"], beat["bytes"]) == ("message", None, "/w==")
    assert (beat["transactional"], beat["xid"], beat["id"][-2:]) == (False, 0, ":0")
    with warehouse(project.warehouse) as ask:
        assert ask('SELECT content FROM cdcflow.messages ORDER BY "offset"') == [(text,) for text in paid]
        assert ask("SELECT count(*)::text FROM public.orders") == [(str(ORDERS + 1),)]
    # `public.*` means no messages.
    lines = [line for file in project.files.rglob("*.jsonl") for line in file.read_text().splitlines()]
    assert [json.loads(line)["op"] for line in lines] == ["read", *["insert"] * ORDERS]


def offset(project: Project) -> int:
    with Reader(project.journal) as reader:
        return reader.head().offset


def kill_capture(project: Project, *, journaled: int) -> None:
    """As soon as the journal holds so many changes."""

    def kill() -> bool:
        status = control.status(project.state)
        if status is None or not status["capture"]["pid"]:
            return False
        if offset(project) < journaled:
            return False
        try:
            os.kill(status["capture"]["pid"], signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    eventually(kill, timeout=60, what=f"a kill of capture; {project.last_words()}")
