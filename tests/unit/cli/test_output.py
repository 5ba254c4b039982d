"""Where words go, and what a person sees of tables and findings."""

import json
from datetime import timedelta
from decimal import Decimal

import pytest

from cdcflow.cli import output
from cdcflow.cli.findings import described, print_findings
from cdcflow.sink import Finding

FINDINGS = [
    Finding("ok", "connection", "PostgreSQL 18"),
    Finding(
        "warning", "tables", "audit has no key", "give it one", "ALTER TABLE audit\n  ADD PRIMARY KEY (id);"
    ),
    Finding("error", "wal_level", "is replica", "set it to logical"),
]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "on_terminal", lambda: True)


@pytest.mark.usefixtures("terminal")
def test_a_person_sees_a_table_and_what_is_unknown_as_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("flow", "lag"), [("all", 3), ("orders [a]", None)])
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["flow", "lag"]
    assert first.split() == ["all", "3"]
    assert second.split() == ["orders", "[a]", output.ABSENT]


@pytest.mark.usefixtures("terminal")
def test_a_value_cannot_give_orders_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("name",), [("\x1b]0;owned\x07\x9b31m\x7f",)])
    assert capsys.readouterr().out.splitlines()[1].strip() == "␛]0;owned␇\ufffd31m␡"


@pytest.mark.usefixtures("terminal")
def test_a_column_may_have_any_name(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("[/a]", "[red]b"), [(1, 2)])
    assert capsys.readouterr().out.splitlines()[0].split() == ["[/a]", "[red]b"]


def test_a_machine_sees_tab_separated_lines(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("a", "b", "c"), [(None, True, [1, "x"]), ("tab\t", b"\xaa", Decimal("1.50"))])
    assert capsys.readouterr().out == 'a\tb\tc\n\ttrue\t"[1,""x""]"\n"tab\t"\t\\xaa\t1.50\n'


def test_json_is_one_line_for_a_machine(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"amount": Decimal("1.50"), "raw": b"\xaa", "took": timedelta(seconds=1), 1: None}
    output.json(value)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert json.loads(printed) == {"amount": "1.50", "raw": "qg==", "took": "0:00:01", "1": None}


@pytest.mark.usefixtures("terminal")
def test_json_is_indented_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    output.json({"a": 1})
    assert capsys.readouterr().out == '{\n  "a": 1\n}\n'


def test_what_is_said_along_the_way_is_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    output.say("one")
    output.warn("two")
    output.next_step("three")
    output.error("four", "five")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "one\nwarning: two\nnext: three\nerror: four\nhint: five\n"


def test_a_finding_comes_with_its_remedy_and_sql_that_can_be_copied(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_findings(FINDINGS)
    assert capsys.readouterr().out.splitlines() == [
        "ok      connection: PostgreSQL 18",
        "warning tables: audit has no key",
        "        give it one",
        "          ALTER TABLE audit",
        "            ADD PRIMARY KEY (id);",
        "error   wal_level: is replica",
        "        set it to logical",
    ]
    assert described(FINDINGS[2]) == {
        "severity": "error",
        "subject": "wal_level",
        "message": "is replica",
        "remedy": "set it to logical",
        "sql": "",
        "stage": "choice",
    }
