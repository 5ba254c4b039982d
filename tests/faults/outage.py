"""A destination that is down while the source goes on: refusing connections, then taking them and never
answering, then answering 503. Capture and the other flows must not notice, the memory of its worker must
not grow with what waits for it, and afterwards everything arrives: in order per key, the same ids, once.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import psycopg

from cdcflow.demo.deliveries import check, loads, receipts
from cdcflow.engine import control
from cdcflow.model import parse_lsn
from cdcflow.testing.postgres import Server
from cdcflow.testing.receiver import Answer, Received, Receiver
from cdcflow.testing.waiting import eventually
from faults.project import Project, assert_identical

#: Each change is a transaction, of a key that comes again after so many others.
KEYS = 1_000
#: At most so many a second, which flows that have nothing to do with the outage keep up with.
RATE = 3_000
SCHEMA = f"""
    CREATE TABLE orders (id int PRIMARY KEY, version int, note text);
    INSERT INTO orders SELECT g, 0, '' FROM generate_series(0, {KEYS - 1}) g;
    CREATE PROCEDURE trade(first int, total int) LANGUAGE plpgsql AS $$
        BEGIN
            FOR i IN first .. first + total - 1 LOOP
                UPDATE orders SET version = i, note = repeat(md5(i::text), 4) WHERE id = i % {KEYS};
                COMMIT;
                IF i % 100 = 0 THEN PERFORM pg_sleep(100.0 / {RATE}); END IF;
            END LOOP;
        END $$;
"""

FLOWS = ("dead", "live", "warehouse")
#: Seconds that a request may take: the receiver hangs for longer than anybody waits.
REQUEST_TIMEOUT = 3.0
#: The worker of the dead flow holds two batches and a frame, whatever waits in the journal. What an allocator
#: takes beyond that, in bytes.
GROWTH = 48 << 20
#: How old the oldest change may be, in seconds, that a flow which is not dead has not delivered.
LAG = 10.0
PATIENCE = 60.0


@dataclass
class Watch:
    """What was seen of the engine while the destination was down."""

    #: Resident memory of the dead flow's worker, in bytes.
    memory: list[int] = field(default_factory=list)
    #: The largest lag of the other flows and of capture, in seconds.
    lag: dict[str, float] = field(default_factory=dict)
    #: What the dead flow said.
    reasons: set[str] = field(default_factory=set)
    #: Requests that were sent in vain.
    requests: int = 0

    def look(self, project: Project) -> None:
        status = project.status()
        if status is None:
            return
        for flow in status["flows"]:
            if flow["name"] == "dead":
                assert not flow["delivered"], "the destination is down"
                if flow["reason"]:
                    self.reasons.add(flow["reason"])
                if flow["pid"] is not None:
                    self.memory.append(psutil.Process(flow["pid"]).memory_info().rss)
            else:
                self.lag[flow["name"]] = max(self.lag.get(flow["name"], 0.0), flow["lag_seconds"] or 0.0)

    @property
    def sizes(self) -> dict[str, int]:
        """When the first request had failed, the most that there ever was, and at the end of it."""
        return {"at first": self.memory[0], "at most": max(self.memory), "at last": self.memory[-1]}

    @property
    def growth(self) -> int:
        return max(self.memory) - self.memory[0]


def configured(directory: Path, server: Server, *, dead: str, live: str, together: bool) -> Project:
    """An engine with a flow to each of two webhooks, and a warehouse."""
    made = Project(directory, server)
    made.hooked = ("orders",)
    hook = "type: webhook, allow: [127.0.0.1]"
    (directory / "cdcflow.yaml").write_text(
        f"source: {{dsn: '{made.dsn}', tables: [public.orders]}}\n"
        "journal: {segment_size: 4MB}\n"
        "sinks:\n"
        f"  dead: {{{hook}, url: '{dead}', batch: {str(together).lower()}, timeout: {REQUEST_TIMEOUT}s}}\n"
        f"  live: {{{hook}, url: '{live}', batch: true}}\n"
        "  warehouse: {type: duckdb, path: warehouse.duckdb}\n"
        f"flows: [{', '.join(f'{{name: {name}, from: [public.orders], to: {name}}}' for name in FLOWS)}]\n"
    )
    return made


def outage(directory: Path, server: Server, *, changes: int, together: bool, hurry: bool = False) -> Watch:
    """The whole of it, with so many changes while the destination is down. `hurry`: whenever something has
    changed there, somebody says so (`cdcflow flow retry`), and the next probe need not be waited for. Raises
    AssertionError."""
    server.execute(SCHEMA)
    gone = directory / "dead.jsonl"
    with Receiver(record=directory / "live.jsonl") as live:
        back = Receiver(record=gone)
        back.start()
        back.stop()  # its port is known now, and nobody listens there
        project = configured(directory, server, dead=back.url, live=live.url, together=together)
        project.setup()
        project.start()
        watch = Watch()

        def changed() -> None:
            if hurry:
                control.retry(project.state, "dead")

        try:
            project.wait_until_streaming()
            _hears(project, watch, "Connection refused")
            part = changes // 3
            _trade(project, watch, 0, part)
            with _down(back, Answer(hang=True)) as hung:
                _trade(project, watch, part, part)
                changed()
                _hears(project, watch, f"did not answer within {REQUEST_TIMEOUT:g} s")
            with _down(back, Answer(503)) as refused:
                _trade(project, watch, 2 * part, changes - 2 * part)
                changed()
                _hears(project, watch, "answered 503")
            back.start()
            changed()
            project.drain(timeout=60 + changes / 500)
        finally:
            project.stop()
            back.stop()
    watch.requests = len(hung) + len(refused)
    _judge(project, watch, directory, [*hung, *refused])
    return watch


@contextmanager
def _down(port: Receiver, answer: Answer) -> Iterator[list[Received]]:
    """Somebody else listens at the destination's port, and never takes anything; gives what it was sent."""
    receiver = Receiver(port=int(port.url.rpartition(":")[2].strip("/")), respond=lambda _request: answer)
    with receiver:
        yield receiver.requests


def _trade(project: Project, watch: Watch, first: int, count: int) -> None:
    """Changes, while somebody looks at the engine; returns when capture and
    the other flows have them."""
    done = threading.Event()

    def load() -> None:
        try:
            with psycopg.connect(project.dsn, autocommit=True) as connection:
                connection.execute("SET synchronous_commit = off")
                connection.execute("CALL trade(%s, %s)", (first, count))
        finally:
            done.set()

    thread = threading.Thread(target=load, name="load")
    thread.start()
    while not done.wait(0.2):
        watch.look(project)
    thread.join()
    with psycopg.connect(project.dsn, autocommit=True) as connection:
        row = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        assert row is not None
        end = parse_lsn(row[0])

        def kept_up() -> bool:
            """WAL does not pile up for the dead destination, nor do changes for the others."""
            watch.look(project)
            slot = connection.execute("SELECT confirmed_flush_lsn::text FROM pg_replication_slots").fetchone()
            status = project.status()
            assert slot is not None
            if status is None or parse_lsn(slot[0]) < end:
                return False
            head = status["capture"]["journal"]["offset"]
            return all(flow["checkpoint"] == head for flow in status["flows"] if flow["name"] != "dead")

        eventually(kept_up, timeout=PATIENCE, interval=0.1, what="capture and the other flows")


def _hears(project: Project, watch: Watch, reason: str) -> None:
    """Waits until the dead flow has found out what is wrong now: its longest pause is half a minute."""

    def heard() -> bool:
        watch.look(project)
        return any(reason in one for one in watch.reasons)

    eventually(heard, timeout=90, interval=0.1, what=f"the flow's saying {reason!r}")


def _judge(project: Project, watch: Watch, directory: Path, before: list[Received]) -> None:
    assert watch.growth < GROWTH, f"the worker grew by {watch.growth >> 20} MB"
    late = {name: seconds for name, seconds in watch.lag.items() if seconds > LAG}
    assert not late, f"flows that have nothing to do with it were late: {late}"
    assert_identical(project, project.warehouse, [("public", "orders")])
    with psycopg.connect(project.dsn, autocommit=True) as connection:
        for name in ("dead", "live"):
            found = check(connection, project.journal, directory / f"{name}.jsonl", ["orders"])
            assert found.complete, f"{name}: {found.verdict}"
            assert not found.repeated, f"{name}: {found.repeated} came again, and no process has ended"
    # What was sent in vain has come under the same id, unchanged.
    wanted = {}
    for request in before:
        body = loads(request.body.decode())
        wanted.update({event["id"]: event for event in body.get("events", [body])})
    for receipt in receipts(directory / "dead.jsonl"):
        if receipt.id in wanted:
            assert wanted.pop(receipt.id) == receipt.event
    assert not wanted, f"{len(wanted)} event(s) have another id now"
