"""What a load into a CRM costs: calls beside the fewest that would do, time beside what the account's limit
allows; and the same rows once more, which nothing of has changed.

A real worker in a process of its own, and a real journal; the CRM is the test server of the same API, with a
Professional account's limit, which answers at once: a real one takes longer for each call, and the calls go
on beside each other.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from cdcflow.delivery import CheckpointStore, FlowPlan, FlowWorker, LetterStore
from cdcflow.journal import Writer
from cdcflow.model import Column, Op
from cdcflow.model.patterns import TablePatterns
from cdcflow.sink.registry import load
from cdcflow.testing.batches import make_batch, make_relation
from cdcflow.testing.hubspot import HubSpot
from cdcflow.testing.hubspot.server import TOKEN
from cdcflow.testing.salesforce import Salesforce
from cdcflow.testing.scripted import IDENTITY, until

CUSTOMERS = make_relation("customers", [Column("id", 23, key=True), "name", "email", "stage"], oid=20_001)

#: Rows of one transaction of the load.
TRANSACTION = 2_500
TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class Load:
    """One load. `least`: the fewest calls; `allowed`: seconds that the limit makes it take; `again`: seconds
    for the same rows once more, and `calls_again` what they cost."""

    crm: str
    rows: int
    calls: int
    least: int
    seconds: float
    allowed: float | None
    refused: int
    again: float
    calls_again: int

    @property
    def fits(self) -> bool:
        """What is promised: 1.05 × the fewest calls, 1.1 × the time of the limit, and never above it."""
        in_time = self.allowed is None or self.seconds <= 1.1 * self.allowed + 1.0
        return self.calls <= 1.05 * self.least and in_time and not self.refused and not self.calls_again


def measure(rows: int, directory: Path, say: Callable[[str], None]) -> list[Load]:
    """Loads `rows` contacts into each CRM."""
    return [
        _hubspot(rows, directory / "hubspot", say),
        _salesforce(rows, directory / "collections", say, None),
        _salesforce(rows, directory / "jobs", say, 2_000),
    ]


def _hubspot(rows: int, place: Path, say: Callable[[str], None]) -> Load:
    say(f"{rows:,} contacts into HubSpot, at 190 calls in 10 s")
    with HubSpot() as hubspot:
        options = {
            "object": "contacts",
            "match": {"customer_number": "id"},
            "fields": {"firstname": "name", "email": "email", "lifecyclestage": "stage"},
        }
        settings = {"type": "hubspot", "token": TOKEN, "url": hubspot.url}
        least = ceil(rows / 100)
        seconds, again, first = _deliver(
            place, rows, "hubspot", settings, options, lambda: len(hubspot.called("batch/upsert"))
        )
        calls = len(hubspot.called("batch/upsert"))
        limits = hubspot.limits
        allowed = (ceil(least / limits.calls) - 1) * limits.window
        return Load("HubSpot", rows, first, least, seconds, allowed, limits.refused, again, calls - first)


def _salesforce(rows: int, place: Path, say: Callable[[str], None], bulk: int | None) -> Load:
    name = "Salesforce, calls of 200" if bulk is None else "Salesforce, bulk jobs"
    say(f"{rows:,} contacts into {name}")
    with Salesforce() as salesforce:
        settings = {
            "type": "salesforce",
            "url": salesforce.url,
            "client_id": salesforce.client_id,
            "client_secret": salesforce.client_secret,
        }
        options = {
            "object": "Contact",
            "match": {"Number__c": "id"},
            "fields": {"LastName": "name", "Email": "email"},
            "bulk": bulk,
        }
        seconds, again, first = _deliver(
            place, rows, "salesforce", settings, options, lambda: _data_calls(salesforce)
        )
        # Of a job: made, given its data, closed, and two lists read; how often it is asked is not counted.
        least = ceil(rows / 200) if bulk is None else 5 * len(salesforce.bulk.jobs)
        return Load(name, rows, first, least, seconds, None, 0, again, _data_calls(salesforce) - first)


def _data_calls(salesforce: Salesforce) -> int:
    asked = len(salesforce.called(r"jobs/ingest/\w+$", "GET"))
    return len(salesforce.called("composite|jobs/ingest")) - asked


def _deliver(
    place: Path,
    rows: int,
    sink: str,
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
    calls: Callable[[], int],
) -> tuple[float, float, int]:
    """Seconds of a load and of the same once more, and the calls of the first."""
    place.mkdir()
    journal = Writer.open(place / "journal", IDENTITY, segment_bytes=128 << 20)
    try:
        lsn = 8
        for begin in range(0, rows, TRANSACTION):
            lsn += 8
            part = [_customer(i) for i in range(begin, min(begin + TRANSACTION, rows))]
            now = time.time_ns() // 1_000
            journal.append(make_batch(CUSTOMERS, part, commit_lsn=lsn, commit_time=now))
        journal.sync()
        with ProcessPoolExecutor(1, get_context("spawn")) as processes:
            first = processes.submit(_run, place, place / "one.db", rows, sink, settings, options).result()
            spent = calls()
            # A rewind: the same flow and its folder, with a checkpoint at the beginning.
            second = processes.submit(_run, place, place / "two.db", rows, sink, settings, options).result()
        return first, second, spent
    finally:
        journal.close()


def _customer(i: int) -> tuple[Op, Mapping[str, str], None]:
    row = {"id": str(i), "name": f"Customer {i}", "email": f"customer{i}@example.org", "stage": "lead"}
    return Op.INSERT, row, None


def _run(
    place: Path,
    state: Path,
    rows: int,
    sink: str,
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
) -> float:
    plugin = load(sink)
    plan = FlowPlan(
        "customers",
        TablePatterns(["public.*"]),
        plugin,
        plugin.settings.model_validate(settings),
        plugin.options.model_validate(options),
        budget=place / "budget",
    )
    with CheckpointStore(state) as store, LetterStore(state) as letters:
        worker = FlowWorker(plan, journal=place / "journal", state=place, store=store, letters=letters)

        async def run() -> float:
            begun = time.monotonic()
            running = asyncio.ensure_future(worker.run())
            try:
                await until(lambda: worker.report().checkpoint == rows, TIMEOUT)
                return time.monotonic() - begun
            finally:
                worker.stop()
                await running

        return asyncio.run(run())


def worst(loads: Sequence[Load]) -> list[str]:
    """The loads that do not keep what is promised, in words."""
    return [f"{one.crm}: more calls or more time than promised" for one in loads if not one.fits]
