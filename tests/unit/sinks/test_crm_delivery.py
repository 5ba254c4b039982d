"""CRM sinks in a worker, on a real journal and a real state database: poison among many rows, a wrong token,
and a load that has to stay within an account's limits."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from cdcflow.config import load, make_chain
from cdcflow.delivery import CheckpointStore, FlowPlan, FlowWorker, LetterStore, Selection
from cdcflow.journal import Writer
from cdcflow.model import Column, Op
from cdcflow.model.patterns import TablePatterns
from cdcflow.sink import BASE, SinkPlugin
from cdcflow.testing.batches import Row, make_batch, make_relation
from cdcflow.testing.hubspot import HubSpot, Limits
from cdcflow.testing.hubspot.account import Property
from cdcflow.testing.hubspot.server import TOKEN
from cdcflow.testing.salesforce import Salesforce
from cdcflow.testing.scripted import IDENTITY, until
from cdcflow.transform import Chain
from cdcflow_sinks.hubspot import plugin as hubspot_plugin
from cdcflow_sinks.salesforce import plugin as salesforce_plugin

CUSTOMERS = make_relation("customers", [Column("id", 23, key=True), "name", "stage"], oid=19_001)
HUBSPOT = {
    "object": "contacts",
    "match": {"customer_number": "id"},
    "fields": {"firstname": "name", "lifecyclestage": "stage"},
}
SALESFORCE = {"object": "Contact", "match": {"Number__c": "id"}, "fields": {"LastName": "name"}}


class Bench:
    """A journal, a state folder, and workers of one flow after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer = Writer.open(folder / "journal", IDENTITY, segment_bytes=128 << 20)
        self.store = CheckpointStore(folder / "cdcflow.db")
        self.letters = LetterStore(folder / "cdcflow.db")
        self._lsn = 8

    def close(self) -> None:
        self.letters.close()
        self.store.close()
        self.writer.close()

    def commit(self, rows: Sequence[Row]) -> int:
        """One transaction of inserts; the offset behind it."""
        self._lsn += 8
        changes = [(Op.INSERT, row, None) for row in rows]
        now = time.time_ns() // 1000
        batch = make_batch(CUSTOMERS, changes, commit_lsn=self._lsn, commit_time=now)
        end = self.writer.append(batch).end
        self.writer.sync()
        return end

    def worker(
        self,
        plugin: SinkPlugin,
        settings: Mapping[str, Any],
        options: Mapping[str, Any],
        chain: Chain | None = None,
    ) -> FlowWorker:
        context = {BASE: self.folder}
        plan = FlowPlan(
            "customers",
            TablePatterns(["public.*"]),
            plugin,
            plugin.settings.model_validate({"type": plugin.name, **settings}, context=context),
            plugin.options.model_validate(options, context=context),
            budget=self.folder / "budget",
            on_reject="supersede",
            revision="r1",
            chain=chain or Chain(),
        )
        return FlowWorker(
            plan,
            journal=self.folder / "journal",
            state=self.folder,
            store=self.store,
            letters=self.letters,
        )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def during(worker: FlowWorker, test: Callable[[], Awaitable[None]]) -> None:
    async def inside() -> None:
        running = asyncio.ensure_future(worker.run())
        try:
            await asyncio.wait_for(test(), 120)
        finally:
            worker.stop()
            await asyncio.wait_for(running, 20)

    asyncio.run(inside())


def customers(numbers: range, **values: str) -> list[Row]:
    return [{"id": str(i), "name": f"Customer {i}", "stage": "lead", **values} for i in numbers]


def test_one_poison_row_among_ten_thousand_is_the_one_dead_letter_and_a_retry_delivers_it(
    bench: Bench,
) -> None:
    rows = customers(range(10_000))
    rows[7_777] = {"id": "7777", "name": "Poison", "stage": "prospect"}
    end = bench.commit(rows)
    with HubSpot(limits=Limits(calls=10_000)) as hubspot:
        worker = bench.worker(hubspot_plugin, {"token": TOKEN, "url": hubspot.url}, HUBSPOT)

        async def test() -> None:
            await until(lambda: worker.report().checkpoint == end, 100)
            [letter] = bench.letters.select(Selection())
            assert (letter.offset, letter.key) == (7_777, '{"id":"7777"}')
            assert "lifecyclestage takes none but its options" in letter.reason
            assert "prospect" not in letter.reason
            assert len(hubspot.account.living("contacts")) == 9_999
            # The option is added in HubSpot.
            stage = Property("lifecyclestage", "enumeration", "radio", options=("lead", "prospect"))
            hubspot.account.add_property("contacts", stage)
            [outcome] = await worker.deliver_letters([letter.number], force=False)
            assert outcome.what == "delivered"

        during(worker, test)
        assert len(hubspot.account.living("contacts")) == 10_000
        assert not bench.letters.select(Selection())
        # Two calls that were not full, at the end of each batch, and the one of the retry.
        assert len(hubspot.called("batch/upsert")) <= 104


@pytest.mark.parametrize("crm", ["hubspot", "salesforce"])
def test_a_wrong_token_needs_attention_refuses_no_row_and_is_over_when_its_file_is_replaced(
    bench: Bench, crm: str
) -> None:
    end = bench.commit(customers(range(300)))
    (bench.folder / "secret").write_text("wrong\n")
    with HubSpot() as hubspot, Salesforce() as salesforce:
        if crm == "hubspot":
            settings = {"token": "file:secret", "url": hubspot.url}
            worker = bench.worker(hubspot_plugin, settings, HUBSPOT)
        else:
            settings = {
                "url": salesforce.url,
                "client_id": salesforce.client_id,
                "client_secret": "file:secret",
            }
            worker = bench.worker(salesforce_plugin, settings, SALESFORCE)
        right = TOKEN if crm == "hubspot" else salesforce.client_secret

        async def test() -> None:
            await until(lambda: worker.report().state == "needs attention", 30)
            assert not bench.letters.select(Selection())
            (bench.folder / "secret").write_text(f"{right}\n")
            await until(lambda: worker.report().checkpoint == end, 60)

        during(worker, test)
        assert not bench.letters.select(Selection())
        there = hubspot.account.living("contacts") or salesforce.org.living("Contact")
        assert len(there) == 300


def test_a_load_costs_hardly_more_calls_than_it_must_and_never_exceeds_the_limit(bench: Bench) -> None:
    for start in range(0, 10_000, 2_500):
        end = bench.commit(customers(range(start, start + 2_500)))
    with HubSpot(limits=Limits(calls=40, window=1.0)) as hubspot:
        worker = bench.worker(hubspot_plugin, {"token": TOKEN, "url": hubspot.url}, HUBSPOT)

        async def test() -> None:
            await until(lambda: worker.report().checkpoint == end, 100)

        during(worker, test)
        assert len(hubspot.account.living("contacts")) == 10_000
        assert len(hubspot.called("batch/upsert")) <= 105
        assert hubspot.limits.refused == 0
        assert hubspot.limits.most <= 40


def test_two_flows_on_one_account_share_its_limit(bench: Bench, tmp_path: Path) -> None:
    end = bench.commit(customers(range(2_000)))
    with HubSpot(limits=Limits(calls=10, window=1.0)) as hubspot:
        hubspot.account.add_type("machines", Property("serial", unique=True), Property("name"))
        machines = {"object": "machines", "match": {"serial": "id"}, "fields": {"name": "name"}}
        settings = {"token": TOKEN, "url": hubspot.url}
        first = bench.worker(hubspot_plugin, settings, HUBSPOT)
        other_folder = tmp_path / "other"
        other_folder.mkdir()
        with CheckpointStore(other_folder / "cdcflow.db") as store, LetterStore(store.path) as letters:
            second = bench.worker(hubspot_plugin, settings, machines)
            second = FlowWorker(
                second.plan,
                journal=bench.folder / "journal",
                state=other_folder,
                store=store,
                letters=letters,
            )

            async def test() -> None:
                running = asyncio.ensure_future(second.run())
                try:
                    await until(lambda: first.report().checkpoint == end, 60)
                    await until(lambda: second.report().checkpoint == end, 60)
                finally:
                    second.stop()
                    await running

            during(first, test)
        assert hubspot.limits.refused == 0
        assert len(hubspot.account.living("machines")) == 2_000


@pytest.mark.parametrize("bulk", [None, 2_000])
def test_a_load_into_salesforce_costs_hardly_more_calls_than_it_must(bench: Bench, bulk: int | None) -> None:
    for start in range(0, 10_000, 2_500):
        end = bench.commit(customers(range(start, start + 2_500)))
    with Salesforce() as salesforce:
        settings = {
            "url": salesforce.url,
            "client_id": salesforce.client_id,
            "client_secret": salesforce.client_secret,
        }
        worker = bench.worker(salesforce_plugin, settings, {**SALESFORCE, "bulk": bulk})

        async def test() -> None:
            await until(lambda: worker.report().checkpoint == end, 100)

        during(worker, test)
        assert len(salesforce.org.living("Contact")) == 10_000
        calls = len(salesforce.called("composite|jobs"))
        assert calls <= (52 if bulk is None else 40)


def test_a_property_may_come_from_an_expression(bench: Bench) -> None:
    end = bench.commit(customers(range(3)))
    mapping = {
        "object": "contacts",
        "match": {"customer_number": {"formula": "'C-' || name"}},
        "fields": {"firstname": {"formula": "name || '!'"}, "revenue": {"formula": "id * 2"}},
    }
    document = {
        "source": {"dsn": "postgresql://nobody@127.0.0.1/none", "tables": ["public.*"]},
        "sinks": {"crm": {"type": "hubspot", "token": "x"}},
        "flows": [{"name": "customers", "from": ["public.*"], "to": "crm", "with": mapping}],
    }
    (bench.folder / "cdcflow.yaml").write_bytes(orjson.dumps(document))
    flow = load(bench.folder / "cdcflow.yaml").flows["customers"]
    with HubSpot() as hubspot:
        settings = {"token": TOKEN, "url": hubspot.url}
        chain = make_chain(flow, base=bench.folder, mask_key=None)
        worker = bench.worker(hubspot_plugin, settings, mapping, chain)

        async def test() -> None:
            await until(lambda: worker.report().checkpoint == end, 60)

        during(worker, test)
        record = hubspot.account.find("contacts", "customer_number", "C-Customer 2")
        assert record is not None
        assert (record.properties["firstname"], record.properties["revenue"]) == ("Customer 2!", "4")
