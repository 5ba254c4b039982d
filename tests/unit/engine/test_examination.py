"""The checks of a running engine."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cdcflow.config import Config, load
from cdcflow.engine import examination
from cdcflow.engine.examination import Examiner, check_journal, judge_claims, judge_flows
from cdcflow.errors import ConfigurationError
from cdcflow.model.expected import ExpectedTable
from cdcflow.sink import Finding
from cdcflow.testing.batches import make_relation
from cdcflow.testing.scripted import JournalSource
from cdcflow.testing.waiting import eventually

LOW = Finding("warning", "journal", "3 GB free", "lower it")
LOWER = Finding("warning", "journal", "2 GB free", "lower it")


def configured(folder: Path, keep: str = "1MB") -> Config:
    path = folder / "cdcflow.yaml"
    path.write_text(
        f"""\
source: {{dsn: "postgresql://127.0.0.1:1/shop", tables: [public.*]}}
journal: {{path: journal, keep: {{size: {keep}}}, segment_size: 1MiB}}
sinks:
  warehouse: {{type: duckdb, path: warehouse.duckdb}}
  events: {{type: jsonl, path: events}}
flows:
  - {{name: all, from: ["public.*"], to: warehouse}}
  - {{name: orders, from: [orders], to: events}}
""",
        encoding="utf-8",
    )
    return load(path)


def test_a_journal_that_may_outgrow_its_disk_is_a_warning(tmp_path: Path) -> None:
    (finding,) = check_journal(configured(tmp_path, keep="900TB"))
    assert (finding.severity, finding.subject) == ("warning", "journal")
    assert "journal.keep.size" in finding.remedy


def test_a_journal_that_cannot_be_where_it_should_be_is_an_error(tmp_path: Path) -> None:
    config = configured(tmp_path)
    (tmp_path / "journal").write_text("in the way", encoding="utf-8")
    (finding,) = check_journal(config)
    assert finding.severity == "error"
    assert "journal is not a directory" in finding.message


def test_what_the_journal_holds_already_needs_no_more_room(tmp_path: Path) -> None:
    config = configured(tmp_path, keep="10MB")
    (empty,) = check_journal(config)
    source = JournalSource(tmp_path / "journal")
    source.commit(range(50_000))
    source.writer.close()
    (partly,) = check_journal(config)
    assert (empty.severity, partly.severity) == ("ok", "ok")
    assert empty.message.startswith("may grow by 11 MB;")
    assert not partly.message.startswith("may grow by 11 MB;")


def test_each_flow_s_sink_judges_the_flow_s_own_tables(tmp_path: Path) -> None:
    documents = ExpectedTable(make_relation("documents", ["id", "body"], oid=1), ("body",), 8192)
    orders = ExpectedTable(make_relation("orders", ["id", "Id", "note"], oid=2), ("note",), 8192)
    found = judge_flows(configured(tmp_path), [documents, orders])
    assert [(f.severity, f.subject) for f in found] == [("error", "flow all"), ("warning", "flow orders")]
    assert "public.orders (note)" in found[1].message
    assert "documents" not in found[1].message
    assert not (tmp_path / "warehouse.duckdb").exists()


STEPS = {
    "filter: noet is not null": ("has no column 'noet'", "did you mean note"),
    "filter: note + 1 > 2": ("note + 1", ""),
    "filter: pg_sleep(9) is null": ("pg_sleep", ""),
    "set: {x: (select 1)}": ("select", ""),
    "python: {file: nowhere.py}": ("there is no file nowhere.py", "Python files there: broken.py"),
    "python: {file: broken.py}": ("broken.py", "nowhere_to_be_found"),
    "python: {file: ../outside.py}": ("only a file in the configuration's directory", "move it there"),
    "mask: {note: sha256}": ("key", "mask"),
    "route: \"''\"": ("gives no name", ""),
    "route: note": ("where they were is not known", "REPLICA IDENTITY FULL"),
    "lookup: {table: other, warehouse: nowhere, on: [id], columns: [x]}": ("no flow 'nowhere'", ""),
    "lookup: {table: 'o*', on: [id], columns: [x]}": ("names no single table", "schema.table"),
}


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "file"])
@pytest.mark.parametrize("step", STEPS)
def test_what_is_wrong_with_a_flow_s_steps_is_said_before_it_runs_with_file_line_and_remedy(
    tmp_path: Path, step: str, inline: bool
) -> None:
    main = """\
source: {dsn: "postgresql://127.0.0.1:1/shop", tables: [public.*]}
sinks: {events: {type: jsonl, path: events}}
"""
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found\n", encoding="utf-8")
    path = tmp_path / "cdcflow.yaml"
    if inline:
        path.write_text(
            f"{main}flows:\n- name: one\n  from: [orders]\n  to: events\n  transforms:\n  - {step}\n",
            encoding="utf-8",
        )
        place = "cdcflow.yaml:8"
    else:
        path.write_text(main, encoding="utf-8")
        (tmp_path / "flows").mkdir()
        file = tmp_path / "flows" / "one.yaml"
        file.write_text(f"from: [orders]\nto: events\ntransforms:\n- {step}\n", encoding="utf-8")
        place = "one.yaml:4"
    try:
        orders = ExpectedTable(make_relation("orders", ["id", "note"]), (), 0)
        [finding] = judge_flows(load(path), [orders])
        assert (finding.severity, finding.subject) == ("error", "flow one")
        said = f"{finding.message} ({finding.remedy})"
    except ConfigurationError as error:
        said = f"{error} ({error.hint})"
    assert place in said
    for word in STEPS[step]:
        assert word in said


def test_every_mistake_in_a_flow_s_steps_is_a_finding_of_its_own_and_the_sink_judges_what_fits(
    tmp_path: Path,
) -> None:
    path = tmp_path / "cdcflow.yaml"
    path.write_text(
        """\
source: {dsn: "postgresql://127.0.0.1:1/shop", tables: [public.*]}
sinks: {events: {type: jsonl, path: events}}
flows:
- name: one
  from: [orders, copies, lines]
  to: events
  transforms:
  - mask: {noet: redact}
    tables: [orders, copies]
  - set: {a: note + 1, b: idd + 1}
    tables: [orders]
""",
        encoding="utf-8",
    )
    tables = [
        ExpectedTable(make_relation(name, ["id", "note"], oid=oid), ("note",), 8192)
        for oid, name in enumerate(("orders", "copies", "lines"), 1)
    ]
    found = judge_flows(load(path), tables)
    assert [(one.severity, one.subject) for one in found] == [
        *[("error", "flow one")] * 3,
        ("warning", "flow one"),
    ]
    mask, first, second, sink = found
    assert "cdcflow.yaml:8: flows[0].transforms[0].mask.noet: public.orders, public.copies: " in (
        mask.message
    )
    assert mask.remedy == "did you mean 'note'?"
    assert "cdcflow.yaml:10: flows[0].transforms[1].set.a: public.orders: " in first.message
    assert "cdcflow.yaml:10: flows[0].transforms[1].set.b: public.orders: " in second.message
    assert "public.lines (note)" in sink.message


def test_a_warehouse_that_cannot_be_asked_yet_is_no_error_before_the_first_run(tmp_path: Path) -> None:
    path = tmp_path / "cdcflow.yaml"
    step = "{table: public.orders, warehouse: all, on: [id], columns: {there: note}}"
    path.write_text(
        f"""\
source: {{dsn: "postgresql://127.0.0.1:1/shop", tables: [public.*]}}
sinks: {{duck: {{type: duckdb, path: w.duckdb}}, events: {{type: jsonl, path: events}}}}
flows:
- {{name: all, from: [orders], to: duck}}
- {{name: one, from: [orders], to: events, transforms: [{{lookup: {step}}}]}}
""",
        encoding="utf-8",
    )
    orders = ExpectedTable(make_relation("orders", ["id", "note"]), (), 0)
    [finding] = judge_flows(load(path), [orders])
    assert (finding.severity, finding.subject) == ("warning", "flow one")
    assert "flow 'all' does not run" in finding.message
    assert finding.remedy


def test_two_flows_that_bring_one_table_into_one_file_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cdcflow.yaml"
    sinks = """\
source: {dsn: "postgresql://127.0.0.1:1/shop", tables: [public.*]}
sinks:
  a: {type: duckdb, path: warehouse.duckdb}
  b: {type: duckdb, path: ./warehouse.duckdb}
  raw: {type: duckdb, path: warehouse.duckdb, schemas: {public: raw}}
  other: {type: duckdb, path: other.duckdb}
  events: {type: jsonl, path: events}
"""
    tables = [ExpectedTable(make_relation(n, oid=i)) for i, n in enumerate(("orders", "lines"))]

    def found(*flows: str) -> list[Finding]:
        listed = "".join(f"  - {{name: f{i}, {flow}}}\n" for i, flow in enumerate(flows))
        path.write_text(f"{sinks}flows:\n{listed}", encoding="utf-8")
        return judge_claims(load(path), tables)

    (finding,) = found("from: ['*'], to: a", "from: [orders], to: b")
    assert (finding.severity, finding.subject) == ("error", "flow f1")
    assert "public.orders" in finding.message
    assert "the flow f0" in finding.message
    assert '"!public.orders"' in finding.remedy
    assert len(found("from: ['*'], to: a", "from: ['*'], to: a")) == 2
    for apart in ("to: raw", "to: other", "to: events"):
        assert found("from: ['*'], to: a", f"from: ['*'], {apart}") == []
    assert found("from: ['*', '!orders'], to: a", "from: [orders], to: b") == []
    kept = "transforms: [{filter: 'id = 1'}]"
    assert len(found("from: ['*'], to: a", f"from: [orders], to: b, {kept}")) == 1
    moved = "transforms: [{route: \"'copy'\"}]"
    assert found("from: ['*'], to: a", f"from: [orders], to: b, {moved}") == []


def test_a_defect_in_a_sink_is_a_finding_without_its_words(tmp_path: Path) -> None:
    class Defective:
        async def open(self) -> None: ...
        async def write(self, batch: Any) -> None: ...
        async def close(self) -> None: ...
        def judge(self, tables: Sequence[ExpectedTable]) -> Sequence[Finding]:
            raise KeyError("a row's value")

    config = configured(tmp_path)
    entry = config.sinks["events"]
    defective = replace(entry, plugin=replace(entry.plugin, create=lambda *_: Defective()))
    config = replace(config, sinks={**config.sinks, "events": defective})
    (finding,) = judge_flows(config, [])
    assert (finding.severity, finding.subject) == ("warning", "flow orders")
    assert "KeyError" in finding.message
    assert "value" not in finding.message


def test_a_look_is_repeated_and_only_what_is_new_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(examination, "INTERVAL", 0.001)
    slot = Finding("error", "slot", "is lost")
    found = [[LOWER], [LOWER, Finding("ok", "server", "fine")], [LOW, slot], [slot], [slot]]
    left = list(found)

    def look() -> Sequence[Finding]:
        if not left:
            raise ConfigurationError("the pattern is none", hint="correct it")
        return left.pop(0)

    examiner = Examiner(look, known=[LOW])
    assert examiner.latest == (LOW,)
    with caplog.at_level(logging.WARNING, "cdcflow"):
        examiner.start()
        eventually(lambda: examiner.latest and examiner.latest[0].subject == "check", what="all looks")
        examiner.stop()
    assert [record.getMessage() for record in caplog.records] == [
        "error: slot: is lost",
        "error: check: the pattern is none",
    ]


def test_a_look_that_hangs_holds_up_nobody_and_says_nothing_after_the_stop() -> None:
    began, ended = threading.Event(), threading.Event()

    def look() -> Sequence[Finding]:
        began.set()
        ended.wait(20)
        return [LOWER]

    examiner = Examiner(look, known=[LOW])
    examiner.start()
    assert began.wait(10)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "examination"]
    assert thread.daemon
    examiner.stop()
    assert thread.is_alive()
    ended.set()
    thread.join(10)
    assert examiner.latest == (LOW,)
