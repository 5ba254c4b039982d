"""How long a change takes from its commit to the webhook's receiver, under steady load.

Clients insert a row per transaction at moments that are drawn beforehand (a Poisson process), whether or
not earlier ones are done, so that a slow moment of the engine is not hidden by clients that wait for it.
Latency is receipt, by the receiver's clock, less the moment when the client sent its transaction, by the
same clock: the server's own work and fsync are part of it, so that it never flatters. `from_answer` counts
from the moment when the client had the answer to its COMMIT: what somebody sees who has just saved something.
"""

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psycopg

from bench.backlog import COLUMNS, ROW
from bench.engine import TIMEOUT, Engine, configure
from bench.processes import Use, Watch
from bench.server import Source
from cdcflow.errors import CdcflowError
from cdcflow.testing.waiting import eventually

#: Transactions per second.
RATES = (100, 500)
#: Enough connections that none is needed before it is free, even where an fsync takes 20 ms.
CONNECTIONS = 16
#: Rows before the measurement, for imports, caches and connections.
WARM_UP = 100
SECRET = "whsec_" + "YmVuY2ggYmVuY2ggYmVuY2ggYmVuY2ggYmVuY2ggYmU="

TABLE = "clicks"


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds."""

    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Percentiles":
        ordered = sorted(seconds)

        def at(share: float) -> float:
            return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1e3, 2)

        return cls(at(0.50), at(0.95), at(0.99), at(1.0))


@dataclass(frozen=True, slots=True)
class Latency:
    """At `rate` transactions per second asked for and `achieved` ones. `commit` is what the clients' own
    INSERT took."""

    rate: int
    achieved: float
    transactions: int
    from_send: Percentiles
    from_answer: Percentiles
    commit: Percentiles
    processes: dict[str, Use]


@dataclass(frozen=True, slots=True)
class Sent:
    """One transaction: seconds since 1970."""

    id: int
    sent: float
    committed: float


def measure(source: Source, seconds: float, directory: Path, say: Callable[[str], None]) -> list[Latency]:
    """Runs the engine with a webhook at each of `RATES` for so long. Raises CdcflowError when a change does
    not arrive."""
    source.execute(f"CREATE TABLE {TABLE} ({COLUMNS})")
    source.publish(TABLE, TABLE)
    record = directory / "received.jsonl"
    with _receiver(record) as url:
        sinks = {"hook": {"type": "webhook", "url": url, "secret": SECRET, "allow": ["127.0.0.1"]}}
        config = configure(directory, source.dsn, TABLE, TABLE, sinks)
        with Engine(config) as engine:
            engine.wait_until_streaming()
            asyncio.run(_load(source.dsn, 1, _moments(RATES[0], WARM_UP)))
            _wait_for(record, WARM_UP)
            found = []
            first = WARM_UP + 1
            for rate in RATES:
                say(f"latency: {rate} transactions/s")
                count = round(rate * seconds)
                found.append(_at(rate, count, first, source.dsn, engine, record))
                first += count
    source.drop(TABLE)
    return found


def _at(rate: int, count: int, first: int, dsn: str, engine: Engine, record: Path) -> Latency:
    with Watch() as watch:
        for name, pid in engine.pids().items():
            watch.add(name, pid)
        sent = asyncio.run(_load(dsn, first, _moments(rate, count)))
        received = _wait_for(record, first - 1 + count)
    return Latency(
        rate=rate,
        achieved=round(count / (max(row.sent for row in sent) - min(row.sent for row in sent)), 1),
        transactions=count,
        from_send=Percentiles.of([received[row.id] - row.sent for row in sent]),
        from_answer=Percentiles.of([received[row.id] - row.committed for row in sent]),
        commit=Percentiles.of([row.committed - row.sent for row in sent]),
        processes=dict(watch.uses),
    )


def _moments(rate: int, count: int) -> list[float]:
    """Seconds from the start, the same in every run."""
    gaps = random.Random(rate)
    moments, now = [], 0.0
    for _ in range(count):
        now += gaps.expovariate(rate)
        moments.append(now)
    return moments


async def _load(dsn: str, first: int, moments: Sequence[float]) -> list[Sent]:
    """One INSERT at each moment, of the rows from number `first` on."""
    pool: asyncio.Queue[psycopg.AsyncConnection[Any]] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        pool.put_nowait(await psycopg.AsyncConnection.connect(dsn, autocommit=True))
    insert = f"INSERT INTO {TABLE} SELECT {ROW} FROM (SELECT %s::bigint AS i) AS given".replace(" % ", " %% ")
    done: list[Sent] = []

    async def one(number: int) -> None:
        connection = await pool.get()
        sent = time.time()
        await connection.execute(insert.encode(), [number])
        done.append(Sent(number, sent, time.time()))
        pool.put_nowait(connection)

    start = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number, moment in enumerate(moments, first):
            await asyncio.sleep(max(start + moment - time.monotonic(), 0.0))
            tasks.create_task(one(number))
    while not pool.empty():
        await pool.get_nowait().close()
    return done


@contextmanager
def _receiver(record: Path) -> Iterator[str]:
    """The receiver in a process of its own; its URL."""
    command = [sys.executable, "-m", "cdcflow.testing.receiver", "--record", str(record), "--secret", SECRET]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(TIMEOUT)


def _wait_for(record: Path, count: int) -> dict[int, float]:
    """When each row came first, by its id, once `count` rows have come."""

    def all_of_them() -> dict[int, float] | None:
        received = _received(record)
        return received if len(received) >= count else None

    received = eventually(all_of_them, interval=0.2, timeout=TIMEOUT, what=f"the receipt of {count} changes")
    assert received is not None
    return received


def _received(record: Path) -> dict[int, float]:
    received: dict[int, float] = {}
    if not record.exists():
        return received
    with record.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            request = orjson.loads(line)
            if request["verified"] is not True:
                raise CdcflowError("the receiver got a request whose signature does not hold")
            body = request["body"]
            for event in body.get("events", [body]):
                received.setdefault(int(event["key"]["id"]), request["received"])
    return received
