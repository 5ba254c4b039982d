"""`cdcflow setup`, `check` and `teardown`, from an empty database to one that is ready, and back."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import duckdb
import pytest
from typer.testing import Result

from cdcflow.testing.database import Database

Run = Callable[..., Result]
EngineSaying = Callable[[Path, Mapping[str, Any]], AbstractContextManager[None]]


@pytest.fixture
def source(postgres: Database, project: Path) -> Database:
    """A database with a table, and a configuration for it."""
    postgres.execute("CREATE TABLE orders (id bigint PRIMARY KEY, note text)")
    (project / "cdcflow.yaml").write_text(
        f"""\
source:
  dsn: "{postgres.dsn}"
  tables: [public.*]
  publication: {postgres.publication}
  slot: {postgres.slot}
sinks:
  warehouse: {{type: duckdb, path: warehouse.duckdb}}
  nothing: {{type: "null"}}
flows:
  - {{name: all, from: [orders], to: warehouse}}
  - {{name: none, from: [orders], to: nothing}}
""",
        encoding="utf-8",
    )
    return postgres


def made(source: Database) -> tuple[int, int]:
    """How many publications and slots of ours there are."""
    ((publications,),) = source.execute(
        "SELECT count(*) FROM pg_publication WHERE pubname = %s", [source.publication]
    )
    ((slots,),) = source.execute(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s", [source.slot]
    )
    return publications, slots


def test_setup_makes_what_is_missing_and_check_is_content(source: Database, run: Run) -> None:
    before = run("check")
    assert before.exit_code == 3
    assert "error" in before.stdout
    assert "next: mend what is marked as error" in before.stderr
    first = run("setup")
    assert first.exit_code == 0, first.output
    assert source.publication in first.stderr
    assert made(source) == (1, 1)
    again = run("setup")
    assert again.exit_code == 0
    assert "are there already" in again.stderr
    after = run("check", "--json")
    assert after.exit_code == 0, after.output
    findings = json.loads(after.stdout)
    assert {finding["severity"] for finding in findings} <= {"ok", "warning"}
    assert any(finding["subject"].startswith("warehouse ") for finding in findings)
    assert "next: `cdcflow run`" in after.stderr


def test_the_sql_of_setup_can_be_printed_without_doing_it(source: Database, run: Run) -> None:
    result = run("setup", "--print-sql")
    assert result.exit_code == 0, result.output
    assert "CREATE PUBLICATION" in result.stdout
    assert "pg_create_logical_replication_slot" in result.stdout
    assert made(source) == (0, 0)


def test_teardown_asks_for_a_word_and_then_drops_both(source: Database, run: Run) -> None:
    assert run("setup").exit_code == 0
    refused = run("teardown")
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert made(source) == (1, 1)
    assert run("teardown", "--yes").exit_code == 0
    assert made(source) == (0, 0)
    again = run("teardown", "--yes")
    assert again.exit_code == 0
    assert "neither" in again.stderr


def test_check_says_what_a_sink_finds_of_itself(source: Database, project: Path, run: Run) -> None:
    assert run("setup").exit_code == 0
    path = project / "cdcflow.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("warehouse.duckdb", "nowhere/warehouse.duckdb"), encoding="utf-8")
    result = run("check")
    assert result.exit_code == 3
    assert f"the directory {project / 'nowhere'} does not exist" in result.stdout


def test_a_server_that_is_not_there_is_a_finding_without_the_password(project: Path, run: Run) -> None:
    result = run("check")
    assert result.exit_code == 3
    assert "127.0.0.1" in result.stdout
    assert "s3cret" not in result.output


@pytest.mark.parametrize(
    ("state", "severity"), [("up to date", "ok"), ("catching up", "ok"), ("needs attention", "warning")]
)
def test_a_warehouse_that_the_engine_has_open_is_no_trouble(
    source: Database, project: Path, run: Run, engine_saying: EngineSaying, state: str, severity: str
) -> None:
    assert run("setup").exit_code == 0
    flows = [{"name": "all", "state": state, "pid": 4711}, {"name": "none", "state": state, "pid": None}]
    with duckdb.connect(str(project / "warehouse.duckdb")), engine_saying(project, {"flows": flows}):
        result = run("check", "--json")
    [told] = [finding for finding in json.loads(result.stdout) if finding["subject"] == "sink warehouse"]
    assert told["severity"] == severity
    assert f"whose flow all is {state}" in told["message"]
    assert "next:" not in result.stderr


def test_a_script_that_cannot_be_made_is_an_error_and_leaves_stdout_empty(project: Path, run: Run) -> None:
    result = run("check", "--fix-sql")
    assert result.exit_code == 3
    assert "nothing listens" in result.stderr
    assert result.stdout == ""
    assert run("check", "--fix-sql", "--json").exit_code == 2
