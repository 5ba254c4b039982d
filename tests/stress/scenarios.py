"""The scenarios: a source under load, an engine whose parts are killed, and the judge at the end."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdcflow.testing.postgres import Server
from cdcflow.testing.receiver import Receiver
from faults import outage as dead
from faults.project import Act, Chaos, Project
from stress import backfill as online
from stress import rows, shapes
from stress.asking import Asker
from stress.failover import Pair
from stress.judge import judge
from stress.kills import kills
from stress.shapes import Migrator

#: Makes a started server; takes `Server`'s keywords.
Make = Callable[..., Server]

#: Seconds for the last deliveries: a long load on a small machine leaves a backlog.
DRAIN = 600.0
#: Seconds between two transactions of a client: with less, a small machine is busy with the load alone.
PAUSE = 0.02
#: Seconds: a new standby is copied in the meantime.
BETWEEN_FAILOVERS = 30.0
#: By schema, so that a table that is made anew is published; partitions as their root.
PUBLICATION = (
    "CREATE PUBLICATION cdcflow FOR TABLES IN SCHEMA public, TABLE leafwise.near, leafwise.far"
    " WITH (publish_via_partition_root = true)"
)


@dataclass
class Run:
    """One run: where, with which luck, for how long and by how many clients."""

    directory: Path
    make: Make
    seed: int
    seconds: float = 60.0
    clients: int = 4
    #: Of the table that the scenarios backfill and first-load read; changes of the scenario outage.
    rows: int = 1_000_000

    @property
    def record(self) -> Path:
        return self.directory / "received.jsonl"

    def chance(self, what: str) -> random.Random:
        """Luck of its own for each part, so that one's choices do not move another's."""
        return random.Random(f"{what} {self.seed}")


def dml(run: Run) -> None:
    server = run.make()
    server.execute(rows.SCHEMA)
    with engine(run, server) as project:
        with load(run, project, rows.act):
            tell(kills(project, run.chance("kills"), run.seconds))
        drain(project)
    judge(project, run.record, run.chance("judge"))


def ddl(run: Run) -> None:
    server = run.make()
    server.execute(shapes.SCHEMA)
    with engine(run, server) as project:
        with load(run, project, shapes.act):
            migrator = Migrator(project.dsn, project.journal, run.seed)
            asker = Asker(project, run.chance("backfills"))
            try:
                tell(kills(project, run.chance("kills"), run.seconds, unless=lambda: bool(stuck(project))))
            finally:
                migrator.stop()
                asker.stop()
                (run.directory / "migrations.log").write_text("\n".join(migrator.log))
                (run.directory / "backfills.log").write_text("\n".join(asker.log))
        print(f"migrations: {_counts(migrator.done)}", flush=True)
        print(f"backfills: {_counts(asker.ended())}", flush=True)
        migrator.touch()
        drain(project)
        project.stop()
        judge(project, run.record, run.chance("judge"))


def failover(run: Run) -> None:
    """Only what the new primary has counts: it is what the judge asks."""
    server = run.make()
    server.execute(rows.SCHEMA)
    pair = Pair(server, run.directory)
    times = max(1, round(run.seconds / BETWEEN_FAILOVERS))
    chance = run.chance("kills")
    try:
        with engine(run, server, dsn=pair.dsn, failover=True) as project:
            with load(run, project, rows.act):
                done: Counter[str] = Counter()
                for _ in range(times):
                    done += kills(project, chance, run.seconds / (times + 1))
                    pair.fail_over()
                    project.server = pair.primary
                    done["primary"] += 1
                tell(done + kills(project, chance, run.seconds / (times + 1)))
            drain(project)
        judge(project, run.record, run.chance("judge"))
    finally:
        pair.close()


def backfill(run: Run) -> None:
    online.backfill(run.directory, run.make(), rows=run.rows, seed=run.seed, clients=run.clients)


def first_load(run: Run) -> None:
    online.first_load(run.directory, run.make(), rows=run.rows, seed=run.seed, clients=run.clients)


def outage(run: Run) -> None:
    watch = dead.outage(run.directory, run.make(), changes=run.rows, together=True)
    memory = ", ".join(f"{name} {size >> 20} MB" for name, size in watch.sizes.items())
    lag = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in sorted(watch.lag.items()))
    print(f"{run.rows:,} changes; the dead flow's worker: {memory}; largest lag of others: {lag}", flush=True)
    print(f"requests in vain: {watch.requests}; it said: {'; '.join(sorted(watch.reasons))}", flush=True)


SCENARIOS: dict[str, Callable[[Run], None]] = {
    "dml": dml,
    "ddl": ddl,
    "failover": failover,
    "backfill": backfill,
    "first-load": first_load,
    "outage": outage,
}


@contextmanager
def engine(run: Run, server: Server, **options: Any) -> Iterator[Project]:
    """A project that runs, and is stopped behind the block."""
    server.execute(PUBLICATION)
    with Receiver(record=run.record) as receiver:
        project = Project(
            run.directory,
            server,
            hook=receiver.url,
            tables=rows.TABLES,
            messages=rows.MESSAGES,
            warehouse="dropped_columns: drop",
            # A request at a time and key: what clients do to the accounts would take it minutes.
            hooked=["moves"],
            **options,
        )
        project.setup()
        project.start()
        try:
            yield project
        finally:
            project.stop()


@contextmanager
def load(run: Run, project: Project, act: Act) -> Iterator[None]:
    """Clients at work during the block."""
    chaos = Chaos(project.dsn, run.seed, clients=run.clients, act=act, pause=PAUSE)
    try:
        yield
    finally:
        chaos.stop()
        print(f"{chaos.transactions} transactions", flush=True)


def stuck(project: Project) -> dict[str, str]:
    """Flows that a person must look after, and why. That we kill their processes is no such reason."""
    status = project.status()
    flows = status["flows"] if status else []
    return {
        flow["name"]: flow["reason"]
        for flow in flows
        if flow.get("state") == "needs attention" and "SIGKILL" not in flow["reason"]
    }


def tell(done: Counter[str]) -> None:
    print(f"killed: {_counts(done)}", flush=True)


def drain(project: Project) -> None:
    """Waits for the last deliveries."""
    project.wait_until_streaming()
    status = project.status()
    behind = {flow["name"]: flow.get("lag_changes") for flow in status["flows"]} if status else {}
    print(f"waiting for the last deliveries: {behind}", flush=True)
    project.drain(DRAIN, unless=lambda: stuck(project))


def _counts(done: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(done.items()))
