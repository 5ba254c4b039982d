"""A flow that looks rows up in the warehouse of another one, in an engine that runs both."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from cdcflow.cli.main import app
from cdcflow.testing import waiting
from integration.test_delivery import PLUGIN, Engine

eventually = partial(waiting.eventually, timeout=60.0)

ROWS = 5


class Enriching(Engine):
    """`warehouse` keeps the table `orders`; `enriched` adds each change the warehouse's note of the row."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ())
        lookup = {
            "table": "public.orders",
            "warehouse": "warehouse",
            "on": ["id"],
            "columns": {"there": "note"},
            "lifetime": "0s",
        }
        self.configure(
            sinks={
                "duck": {"type": "duckdb", "path": "warehouse.duckdb"},
                "files": {"type": "jsonl", "path": "files"},
                "probe": {"type": "probe", "path": "sink"},
            },
            flows=[
                {"name": "enriched", "from": ["orders"], "to": "files", "transforms": [{"lookup": lookup}]},
                {"name": "quiet", "from": ["orders"], "to": "probe"},
                {"name": "warehouse", "from": ["orders"], "to": "duck"},
            ],
        )

    def found(self) -> list[tuple[str, str, str | None]]:
        """Id, own note and the note that was looked up, of each change that was delivered."""
        lines = [
            orjson.loads(line)["new"]
            for path in sorted((self.folder / "files").rglob("*.jsonl"))
            for line in path.read_bytes().split(b"\n")[:-1]  # the last one may be half written
        ]
        return [(str(new["id"]), new["note"], new["there"]) for new in lines]

    def run(self, *words: str) -> None:
        done = CliRunner().invoke(app, ["--config", str(self.config), "flow", *words])
        assert done.exit_code == 0, done.output


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Enriching]:
    monkeypatch.syspath_prepend(str(PLUGIN))
    made = Enriching(tmp_path)
    yield made
    made.kill_everything()


def test_rows_are_looked_up_in_a_warehouse_whose_flow_comes_and_goes(engine: Enriching) -> None:
    # Both begin together: the table is not there at first, and is waited for.
    engine.start(changes=50, PROBE_ROWS=str(ROWS))
    for flow in ("warehouse", "enriched", "quiet"):
        eventually(engine.is_up_to_date(flow, 50), what=flow)
    pid = engine.flow("quiet")["pid"]
    found = engine.found()
    assert [own for _, own, _ in found] == [f"note {i}" for i in range(50)]
    for key, _, there in found:
        assert there is None or int(there.removeprefix("note ")) % ROWS == int(key)
    # What the warehouse holds by now, of every row.
    engine.run("rewind", "enriched", "--to", "start", "--yes")
    eventually(
        lambda: [there for _, _, there in engine.found()] == [f"note {45 + i % ROWS}" for i in range(50)]
    )
    # Its checkpoint comes behind its writes.
    eventually(engine.is_up_to_date("enriched", 50))

    engine.run("pause", "warehouse")
    engine.run("rewind", "enriched", "--to", "20", "--yes")
    eventually(lambda: "warehouse of flow 'warehouse'" in str(engine.flow("enriched").get("reason")))
    waits = engine.flow("enriched")
    assert waits["state"] != "up to date"
    assert "cdcflow status" in waits["reason"]
    assert engine.flow("quiet")["state"] == "up to date"
    engine.run("resume", "warehouse")
    eventually(engine.is_up_to_date("enriched", 50))
    assert engine.flow("quiet")["pid"] == pid
    assert engine.stop() == 0
    assert len(engine.found()) == 50

    # Rows that have changed since are found as they are now; the miss is a row that is not there yet.
    engine.start(changes=53, PROBE_ROWS="60")
    for flow in ("warehouse", "enriched"):
        eventually(engine.is_up_to_date(flow, 53), what=flow)
    engine.run("rewind", "enriched", "--to", "45", "--yes")
    eventually(lambda: engine.found()[-3:] == [(str(i), f"note {i}", f"note {i}") for i in (50, 51, 52)])
