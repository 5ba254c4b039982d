"""Where flows look rows up, as far as that is known before anything is asked."""

from pathlib import Path

import pytest

from cdcflow.config import load
from cdcflow.engine.preview import misfit
from cdcflow.testing.scripted import JournalSource


@pytest.mark.parametrize(
    ("warehouse", "said"),
    [
        ("wharehouse", "there is no flow 'wharehouse' to look anything up in"),
        ("events", "the flow 'events' brings its rows to null, which answers no questions"),
    ],
)
def test_what_is_no_warehouse_is_said_with_its_line(tmp_path: Path, warehouse: str, said: str) -> None:
    path = tmp_path / "cdcflow.yaml"
    path.write_text(
        f"""\
source: {{dsn: "postgresql://127.0.0.1:1/shop", tables: [public.*]}}
journal: {{path: journal}}
sinks: {{duck: {{type: duckdb, path: w.duckdb}}, none: {{type: "null"}}}}
flows:
  - {{name: warehouse, from: [orders], to: duck}}
  - {{name: events, from: [orders], to: none}}
  - name: enriched
    from: [orders]
    to: none
    transforms:
      - lookup:
          table: public.orders
          on: [id]
          columns: {{there: note}}
          warehouse: {warehouse}
""",
        encoding="utf-8",
    )
    source = JournalSource(tmp_path / "journal")
    source.commit([1])
    source.writer.close()
    config = load(path)
    found = misfit(config, config.flows["enriched"])
    assert said in found
    assert "cdcflow.yaml:15: flows[2].transforms[0].lookup.warehouse" in found
    assert "(" in found, "with a remedy"
