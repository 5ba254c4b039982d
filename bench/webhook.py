"""How fast a webhook flow sends its backlog, beside a bare httpx loop that posts the same bytes.

The flow is the engine's own delivery process on a journal that is there already, with signatures, order per
key, checkpoints and the whole policy. The loop is `httpx.AsyncClient` with as many requests at once as the
flow has (one, where a request holds several events), and nothing else. Both run in a process of their own;
the receiver, which accepts everything, is this one. Timed from the first request to the last, by its clock.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgpack
from ruamel.yaml import YAML

from cdcflow.journal import Identity, Writer
from cdcflow.model import Op
from cdcflow.testing.batches import make_batch, make_relation
from cdcflow.testing.receiver import Received, Receiver

ROWS = 20_000
#: Events of a request that holds several. Of them so many more are sent: 200 requests would be over in a
#: fifth of a second, which measures how a process warms up.
TOGETHER = 100
LONGER = 5
CONCURRENCY = 8
SECRET = "whsec_" + "YmVuY2ggYmVuY2ggYmVuY2ggYmVuY2ggYmVuY2ggYmU="
#: What a run may take.
TIMEOUT = 240.0

ORDERS = make_relation("orders", ["id", "customer", "status", "amount", "note"])

LOOP = """
import asyncio, sys
import httpx, msgpack
url, concurrency = sys.argv[1], int(sys.argv[2])
requests = msgpack.unpackb(sys.stdin.buffer.read())
async def main():
    waiting = iter(requests)
    async with httpx.AsyncClient(trust_env=False, timeout=15) as client:
        async def work():
            for headers, body in waiting:
                answer = await client.post(url, headers=headers, content=body)
                answer.raise_for_status()
        await asyncio.gather(*(work() for _ in range(concurrency)))
asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class Sending:
    """Events per second of the flow and of the loop; `events` is how many a request held at most."""

    events: int
    flow: float
    loop: float

    @property
    def ratio(self) -> float:
        return round(self.flow / self.loop, 3)


def measure(rows: int, place: Path, say: Callable[[str], None]) -> list[Sending]:
    """One event per request, for `rows` of them, and a hundred."""
    found = []
    for batch in (False, True):
        count = rows * LONGER if batch else rows
        folder = place / ("batched" if batch else "single")
        folder.mkdir()
        with Receiver(secrets=[SECRET]) as receiver:
            say(f"webhook: the flow, {f'{TOGETHER} events per request' if batch else 'an event per request'}")
            flow = _flow(folder, receiver, count, batch=batch)
            requests = list(receiver.requests)
            receiver.requests.clear()
            say("webhook: the bare loop")
            loop = _loop(receiver, requests, 1 if batch else CONCURRENCY)
        found.append(Sending(TOGETHER if batch else 1, count / flow, count / loop))
    return found


def _flow(folder: Path, receiver: Receiver, rows: int, *, batch: bool) -> float:
    _journal(folder / "state" / "journal", rows)
    sink = {"type": "webhook", "url": receiver.url, "secret": SECRET, "allow": ["127.0.0.1"], "batch": batch}
    if not batch:
        sink["concurrency"] = CONCURRENCY
    document = {
        "source": {"dsn": "postgresql://nobody@127.0.0.1:1/x", "tables": ["public.*"]},
        "sinks": {"hook": sink},
        "flows": [{"name": "flow", "from": ["public.*"], "to": "hook"}],
    }
    YAML(typ="safe").dump(document, folder / "cdcflow.yaml")
    module = [sys.executable, "-m", "cdcflow.engine.child", "deliver", "--config"]
    process = subprocess.Popen(
        [*module, str(folder / "cdcflow.yaml"), "flow"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        receiver.wait(rows // TOGETHER if batch else rows, TIMEOUT)
    finally:
        process.terminate()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
    return _seconds(receiver.requests)


def _loop(receiver: Receiver, requests: Sequence[Received], concurrency: int) -> float:
    kept = ("content-type", "webhook-id", "webhook-timestamp", "webhook-signature")
    given = [({name: one.headers[name] for name in kept}, one.body) for one in requests]
    subprocess.run(
        [sys.executable, "-c", LOOP, receiver.url, str(concurrency)],
        input=msgpack.packb(given),
        check=True,
        timeout=TIMEOUT,
    )
    return _seconds(receiver.requests)


def _seconds(requests: Sequence[Received]) -> float:
    return requests[-1].at - requests[0].at


def _journal(path: Path, rows: int) -> None:
    path.parent.mkdir(mode=0o700)
    with Writer.open(path, Identity("7000000000000000001", 1, "shop", "cdcflow", "cdcflow")) as writer:
        now = time.time_ns() // 1_000
        for start in range(0, rows, 500):
            batch = [
                (
                    Op.INSERT,
                    {
                        "id": str(i),
                        "customer": f"customer {i % 997}",
                        "status": "paid",
                        "amount": f"{i}.50",
                        "note": "n" * 80,
                    },
                    None,
                )
                for i in range(start, start + 500)
            ]
            writer.append(make_batch(ORDERS, batch, commit_lsn=1_000 + 8 * start, commit_time=now))
        writer.sync()
