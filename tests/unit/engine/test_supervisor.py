import pytest

from cdcflow.engine.supervisor import passed
from cdcflow.sink import Finding


def test_findings_that_are_not_errors_let_the_engine_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert passed(
        [Finding("ok", "server", "PostgreSQL 18"), Finding("warning", "tables", "no key", "add one")]
    )
    said = capsys.readouterr()
    assert said.err == "warning: tables: no key\nhint: add one\n"
    assert said.out == ""


def test_an_error_stops_it_with_all_that_there_is_to_mend(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [
        Finding(
            "error",
            "server",
            "wal_level is replica",
            "set it and restart",
            "ALTER SYSTEM SET wal_level = logical",
        ),
        Finding("error", "slot", "there is none"),
    ]
    assert not passed(findings)
    said = capsys.readouterr().err
    assert "error: server: wal_level is replica\nhint: set it and restart\nALTER SYSTEM" in said
    assert "error: slot: there is none\n" in said
