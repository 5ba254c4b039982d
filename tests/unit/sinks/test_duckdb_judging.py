"""What the warehouse says beforehand is what it would say when the rows come."""

import asyncio
from pathlib import Path

import pytest

from cdcflow.errors import Permanent
from cdcflow.model import Column, Relation
from cdcflow.model.expected import ExpectedTable
from cdcflow.sink import Finding, FlowContext, Judges, SinkOptions
from cdcflow.testing.batches import make_relation
from cdcflow_sinks.duckdb import DuckDBSettings, DuckDBSink

NUMERIC = 1700


def make_sink(path: Path, schemas: dict[str, str]) -> DuckDBSink:
    settings = DuckDBSettings(type="duckdb", path=path / "warehouse.duckdb", schemas=schemas)
    return DuckDBSink(settings, SinkOptions(), FlowContext("all", path))


def judge(path: Path, relations: list[Relation], schemas: dict[str, str] | None = None) -> list[Finding]:
    sink = make_sink(path, schemas or {})
    assert isinstance(sink, Judges)
    return list(sink.judge([ExpectedTable(relation) for relation in relations]))


def refused(path: Path, relations: list[Relation], schemas: dict[str, str] | None = None) -> str:
    """The sink's own words when the tables come to it."""

    async def run() -> None:
        sink = make_sink(path, schemas or {})
        try:
            await sink.open()
            await sink.prepare(relations)
        finally:
            await sink.close()

    with pytest.raises(Permanent) as caught:
        asyncio.run(run())
    return str(caught.value)


@pytest.mark.parametrize(
    ("relations", "schemas", "words"),
    [
        ([make_relation("a", ["id", "Id"])], {}, "same name"),
        ([make_relation("a", [], key=[])], {}, "has no columns"),
        ([make_relation("a", schema="cdcflow")], {}, "keeps its checkpoints in"),
        ([make_relation("orders", oid=1), make_relation("Orders", oid=2)], {}, "same name"),
        ([make_relation("a", schema="s", oid=1), make_relation("b", schema="S", oid=2)], {}, "same name"),
        (
            [make_relation("a", schema="s", oid=1), make_relation("a", schema="t", oid=2)],
            {"s": "x", "t": "x"},
            "same",
        ),
    ],
)
def test_a_table_that_will_be_refused_is_an_error_before_its_first_row(
    tmp_path: Path, relations: list[Relation], schemas: dict[str, str], words: str
) -> None:
    (finding,) = judge(tmp_path, relations, schemas)
    assert (finding.severity, finding.subject) == ("error", "flow all")
    assert words in finding.message
    assert finding.remedy
    assert words in refused(tmp_path, relations, schemas)


def test_tables_that_a_setting_keeps_apart_are_no_complaint(tmp_path: Path) -> None:
    relations = [make_relation("a", schema="s", oid=1), make_relation("a", schema="S", oid=2)]
    assert judge(tmp_path, relations, {"S": "t"}) == []


def test_a_numeric_that_no_decimal_holds_is_noted_as_text(tmp_path: Path) -> None:
    bare, bounded = Column("bare", NUMERIC), Column("bounded", NUMERIC, (10 << 16 | 2) + 4)
    (finding,) = judge(tmp_path, [make_relation("sums", ["id", bare, bounded])])
    assert finding.severity == "ok"
    assert "public.sums.bare" in finding.message
    assert "bounded" not in finding.message
