"""The flows of `examples/` over the demo's shop while it is busy: each does what its file promises."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdcflow.config import Config, load
from cdcflow.delivery import FlowWorker
from cdcflow.demo.goods import Goods
from cdcflow.demo.shop import open_shop
from cdcflow.demo.workload import KINDS, Shopping
from cdcflow.engine import lifecycle
from cdcflow.engine.delivering import plan_of
from cdcflow.journal import Reader
from cdcflow.testing.database import Database
from cdcflow.testing.receiver import Receiver
from cdcflow.testing.scripted import until
from integration.capturing import capturing, publish
from integration.test_schema_change import captured

ROOT = Path(__file__).parents[2]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def deliver(config: Config, flow: str, end: int) -> None:
    with lifecycle.state(config) as store:
        worker = FlowWorker(
            plan_of(config, flow), journal=config.journal.path, state=config.engine.state, store=store
        )

        async def run() -> None:
            running = asyncio.ensure_future(worker.run())
            try:
                await until(lambda: worker.report().checkpoint == end, seconds=60)
            finally:
                worker.stop()
                await running

        asyncio.run(run())


def test_each_example_flow_tells_what_a_busy_shop_does(
    newest_postgres: Database, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres = newest_postgres
    monkeypatch.setenv("DATABASE_URL", postgres.dsn)
    for name in ("helpdesk", "success", "marketing"):
        monkeypatch.setenv(f"{name.upper()}_URL", f"{receiver.url.rstrip('/')}/{name}")
    for name in ("cdcflow.yaml", "schema.yaml"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    shutil.copytree(ROOT / "examples" / "flows", tmp_path / "flows")
    config = load(tmp_path / "cdcflow.yaml")

    goods = Goods(7)
    connection = postgres.connect()
    stock = open_shop(connection, goods)
    postgres.execute("CREATE TABLE cut (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)")
    publish(postgres)
    with capturing(postgres, config.journal.path, backfill=True):
        captured(postgres, config.journal.path)
        shopping = Shopping(connection, goods, stock)
        for _ in range(8):
            for kind in KINDS:
                shopping.transact(kind)
        # One who wants letters, and looks at a product for long.
        postgres.execute(
            "INSERT INTO page_views (customer_id, path, duration_ms, viewed_at)"
            " SELECT c.id, '/products/' || p.sku, 45000, now() FROM customers c, products p"
            " WHERE c.newsletter ORDER BY c.id, p.sku LIMIT 3"
        )
        captured(postgres, config.journal.path)
        with Reader(config.journal.path) as reader:
            end = reader.head().offset
        for flow in config.flows:
            deliver(config, flow, end)

    told: dict[str, list[dict[str, Any]]] = {"helpdesk": [], "success": [], "marketing": []}
    for request in receiver.requests:
        told[request.path.rpartition("/")[2]] += request.events
    names = dict(postgres.execute("SELECT id, name FROM customers"))

    orders = [event["new"] for event in told["helpdesk"]]
    assert {order["headline"].split(":")[0] for order in orders} >= {"Paid", "Shipped", "Delivered"}
    assert all(set(order) & {"note", "shipping_address", "total"} == set() for order in orders)
    known = [order for order in orders if order["customer_id"] in names]
    assert known
    assert all(order["customer"] == names[order["customer_id"]] for order in known)

    listed: dict[int, dict[str, Any]] = {}
    for event in told["success"]:
        if event["op"] == "delete":
            listed.pop(event["old"]["id"], None)
        else:
            listed[event["new"]["id"]] = event["new"]
    urgent = postgres.execute("SELECT id FROM support_tickets WHERE status = 'open' AND priority >= 3")
    assert set(listed) == {number for (number,) in urgent}
    assert listed
    assert all("has been open since" in one["reason"] and "body" not in one for one in listed.values())

    letters = [event["new"] for event in told["marketing"]]
    assert len(letters) >= 3
    assert [one["seconds"] for one in letters[-3:]] == [45, 45, 45]
    assert all(len(one["email"]) == 64 and one["sku"] and one["product"] for one in letters)
