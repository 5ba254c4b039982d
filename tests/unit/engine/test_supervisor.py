import re
from pathlib import Path

import pytest

from cdcflow.engine import supervisor
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


@pytest.mark.parametrize(
    ("file", "setting"),
    [
        ("deploy/cdcflow.service", r"TimeoutStopSec=(\d+)"),
        ("docker-compose.yml", r"stop_grace_period: (\d+)s"),
    ],
)
def test_what_starts_the_engine_lets_it_end_by_itself(file: str, setting: str) -> None:
    text = (Path(__file__).parents[3] / file).read_text(encoding="utf-8")
    limits = [int(seconds) for seconds in re.findall(setting, text)]
    own = supervisor.CAPTURE_SECONDS + supervisor.DRAIN_SECONDS + 4 * supervisor.HURRY_SECONDS
    assert len(limits) == 1
    assert limits[0] > own
