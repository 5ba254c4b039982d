"""A flow that is rewound leaves its warehouse equal to the source. To the start: through older shapes of its
tables, with rows that nothing identifies and values that were not sent. To anywhere else: where that may be.
Also when it is cut short."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import duckdb

from cdcflow.config import Config, load
from cdcflow.delivery import CheckpointStore, FlowWorker, Wishes
from cdcflow.engine import lifecycle
from cdcflow.engine.delivering import plan_of
from cdcflow.journal import Reader
from cdcflow.testing.database import Database
from cdcflow.testing.scripted import until
from integration.capturing import capturing, publish
from integration.test_schema_change import assert_equal, captured


def configured(folder: Path) -> Config:
    path = folder / "cdcflow.yaml"
    path.write_text(
        f"""\
source: {{dsn: "postgresql://127.0.0.1:1/none", tables: [public.*]}}
journal: {{path: {folder / "journal"}}}
engine: {{state: {folder / "state"}}}
sinks:
  warehouse: {{type: duckdb, path: warehouse.duckdb}}
flows:
  - {{name: all, from: ["public.*"], to: warehouse}}
""",
        encoding="utf-8",
    )
    return load(path)


def deliver(config: Config, reached: Callable[[int | None], bool]) -> str:
    """Runs the flow's worker until its checkpoint is as wanted; gives the reason it then shows."""
    with lifecycle.state(config) as store:
        worker = FlowWorker(
            plan_of(config, "all"), journal=config.journal.path, state=config.engine.state, store=store
        )

        async def run() -> str:
            running = asyncio.ensure_future(worker.run())
            try:
                await until(lambda: reached(worker.report().checkpoint), seconds=60)
                return worker.report().reason
            finally:
                worker.stop()
                await running

        return asyncio.run(run())


def test_a_rewind_to_the_start_gives_an_equal_warehouse_also_when_cut_short(
    postgres: Database, tmp_path: Path
) -> None:
    postgres.execute("CREATE TABLE cut (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)")
    postgres.execute("CREATE TABLE goods (id int PRIMARY KEY, name text, body text)")
    postgres.execute("ALTER TABLE goods ALTER COLUMN body SET STORAGE EXTERNAL")
    postgres.execute("CREATE TABLE views (path text, seconds int)")
    postgres.execute("ALTER TABLE views REPLICA IDENTITY FULL")
    postgres.execute(
        "INSERT INTO goods SELECT i, 'good ' || i, repeat('x', 3000) FROM generate_series(1, 20) i"
    )
    postgres.execute("INSERT INTO views SELECT '/', 1 FROM generate_series(1, 5)")
    publish(postgres)
    config = configured(tmp_path)
    with capturing(postgres, config.journal.path, backfill=True):
        captured(postgres, config.journal.path)
        postgres.execute("UPDATE goods SET name = 'other' WHERE id % 3 = 0")
        postgres.execute("UPDATE goods SET id = id + 100 WHERE id % 5 = 0")
        postgres.execute("DELETE FROM views WHERE ctid IN (SELECT ctid FROM views LIMIT 2)")
        captured(postgres, config.journal.path)
        postgres.execute("ALTER TABLE goods ADD COLUMN price int DEFAULT 7")
        postgres.execute("ALTER TABLE goods RENAME COLUMN name TO title")
        postgres.execute("UPDATE goods SET price = 8 WHERE id < 5")
        postgres.execute("INSERT INTO views SELECT '/cart', 2 FROM generate_series(1, 3)")
        captured(postgres, config.journal.path)
    with Reader(config.journal.path) as reader:
        end = reader.head().offset
    warehouse = tmp_path / "warehouse.duckdb"
    deliver(config, lambda checkpoint: checkpoint == end)
    assert_equal(postgres, warehouse)

    planned = lifecycle.plan_move(config, "all", "start")
    assert (planned.present, planned.offset, planned.whole) == (end, 0, True)
    assert planned.counts["public.goods"] > 20
    lifecycle.move(config, planned, who="ana")
    # Cut short as soon as it has begun, and on the way, and then left alone.
    deliver(config, lambda checkpoint: checkpoint is not None and checkpoint < end)
    with CheckpointStore(config.engine.state / "cdcflow.db") as store:
        assert Wishes(store).move("all") is None
    deliver(config, lambda checkpoint: checkpoint == end)
    assert_equal(postgres, warehouse)

    # Anywhere else rows without a key would come twice: refused, and the flow stays where it is.
    planned = lifecycle.plan_move(config, "all", str(end - 3))
    assert "identifies a row of public.views" in planned.refused
    lifecycle.move(config, planned, who="ana")
    deliver(config, lambda checkpoint: checkpoint == end)
    with CheckpointStore(config.engine.state / "cdcflow.db") as store:
        refused = Wishes(store).move("all")
    assert refused is not None
    assert "identifies a row of public.views" in refused.refused
    assert "rewind to `start`" in refused.refused
    assert_equal(postgres, warehouse)


def test_a_rewind_to_an_offset_gives_an_equal_warehouse_again_and_the_tables_it_does_not_touch_stay(
    postgres: Database, tmp_path: Path
) -> None:
    """Rows that are deleted, that come again under an old key, whose key changes, and values that were not
    sent; the warehouse was touched by hand in between."""
    postgres.execute("CREATE TABLE cut (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)")
    postgres.execute("CREATE TABLE goods (id int PRIMARY KEY, name text, body text)")
    postgres.execute("ALTER TABLE goods ALTER COLUMN body SET STORAGE EXTERNAL")
    postgres.execute("CREATE TABLE views (path text, seconds int)")
    postgres.execute("ALTER TABLE views REPLICA IDENTITY FULL")
    postgres.execute(
        "INSERT INTO goods SELECT i, 'good ' || i, repeat('x', 3000) FROM generate_series(1, 20) i"
    )
    postgres.execute("INSERT INTO views SELECT '/', 1 FROM generate_series(1, 5)")
    publish(postgres)
    config = configured(tmp_path)
    with capturing(postgres, config.journal.path, backfill=True):
        captured(postgres, config.journal.path)
        with Reader(config.journal.path) as reader:
            noon = reader.head().offset
        postgres.execute("UPDATE goods SET name = 'updated' WHERE id % 2 = 0")
        postgres.execute("DELETE FROM goods WHERE id IN (4, 5)")
        postgres.execute("UPDATE goods SET id = 5, body = repeat('y', 3000) WHERE id = 6")
        postgres.execute("INSERT INTO goods VALUES (6, 'second life', repeat('z', 3000))")
        postgres.execute("UPDATE goods SET name = 'twice' WHERE id IN (6, 8)")
        captured(postgres, config.journal.path)
        warehouse = tmp_path / "warehouse.duckdb"
        with Reader(config.journal.path) as reader:
            evening = reader.head().offset
        deliver(config, lambda checkpoint: checkpoint == evening)
        assert_equal(postgres, warehouse)
        with duckdb.connect(str(warehouse)) as connection:
            connection.execute("UPDATE public.goods SET name = 'by hand' WHERE id IN (2, 5, 6)")
            connection.execute("DELETE FROM public.goods WHERE id = 8")
            connection.execute("INSERT INTO public.goods VALUES (8, 'by hand', repeat('x', 3000))")
            connection.execute("INSERT INTO public.goods VALUES (4, 'by hand', '')")

        planned = lifecycle.plan_move(config, "all", str(noon))
        assert (planned.offset, planned.whole, planned.refused) == (noon, False, "")
        assert planned.counts["public.goods"] == evening - noon - 1  # and the table `cut`
        lifecycle.move(config, planned, who="ana")
        # Cut short as soon as it has begun.
        deliver(config, lambda checkpoint: checkpoint is not None and checkpoint < evening)
        deliver(config, lambda checkpoint: checkpoint == evening)
        assert_equal(postgres, warehouse)
        with CheckpointStore(config.engine.state / "cdcflow.db") as store:
            assert Wishes(store).move("all") is None

        # A key that changes while a value is left out: whose it is now, nobody knows.
        postgres.execute("UPDATE goods SET id = 500 WHERE id = 10")
        captured(postgres, config.journal.path)
    with Reader(config.journal.path) as reader:
        end = reader.head().offset
    deliver(config, lambda checkpoint: checkpoint == end)
    assert "a change of a key of public.goods" in lifecycle.plan_move(config, "all", str(evening)).refused
    assert lifecycle.plan_move(config, "all", "start").refused == ""
    assert_equal(postgres, warehouse)
