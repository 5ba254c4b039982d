"""`cdcflow status`, asked of a real control socket."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from cdcflow.cli import output
from cdcflow.cli.status import remarks, rows, summary, troubles
from cdcflow.testing.waiting import TIMEOUT

Run = Callable[..., Result]
EngineSaying = Callable[[Path, Mapping[str, Any]], AbstractContextManager[None]]

DOCUMENT: dict[str, Any] = {
    "engine": {"state": "running", "pid": 4711, "started": time.time() - 7_300, "version": "0.1.0"},
    "capture": {
        "state": "streaming",
        "slot": "cdcflow",
        "received_lsn": "0/100",
        "confirmed_lsn": "0/100",
        "lag_bytes": 2_048,
        "journal": {"offset": 1_000, "first_offset": 10, "bytes": 5_000_000},
        "error": None,
        "backfill": None,
    },
    "flows": [
        {
            "name": "all",
            "state": "catching up",
            "reason": "",
            "lag_changes": 12,
            "lag_seconds": 3.25,
            "delivered": 988,
            "retries": 1,
            "restarts": 0,
            "last_delivery": time.time() - 1,
        },
        {
            "name": "orders",
            "state": "needs attention",
            "reason": "401 from the receiver",
            "lag_changes": None,
            "lag_seconds": None,
            "delivered": 0,
            "retries": 0,
            "restarts": 2,
            "last_delivery": None,
        },
    ],
    "findings": [
        {"severity": "warning", "subject": "clock", "message": "12 s behind", "remedy": "set it", "sql": ""}
    ],
}

TROUBLES = ["warning: clock: 12 s behind", "`cdcflow check` says what to do"]


@pytest.fixture
def engine(project: Path, engine_saying: EngineSaying) -> Iterator[None]:
    with engine_saying(project, DOCUMENT):
        yield


@pytest.mark.usefixtures("engine")
def test_the_engine_s_own_document_is_the_json(run: Run) -> None:
    result = run("status", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == DOCUMENT


def test_backfills_under_way_have_a_line_per_table_and_those_that_are_over_have_none() -> None:
    reading = {"state": "reading", "share": 0.25, "rate": 1_234.4, "remaining_seconds": 300.0}
    failed = {"state": "failed", "share": None, "rate": None, "remaining_seconds": None}
    backfills = [
        {"name": "one", "state": "running", "tables": [{"table": "public.a", **reading}]},
        {"name": "two", "state": "paused", "tables": [{"table": "public.b", "state": "waiting"}]},
        {
            "name": "three",
            "state": "failed",
            "tables": [{"table": "public.c", **failed}, {"table": "public.d", "state": "done"}],
        },
    ]
    told = [line for line in summary({**DOCUMENT, "backfills": backfills}) if line.startswith("backfill")]
    assert told == [
        "backfill one: public.a reading, 25% read, 1,234 rows/s, 5 min left",
        "backfill two: public.b paused",
        "backfill three: public.c failed",
    ]


@pytest.mark.usefixtures("engine")
def test_flows_are_data_and_what_is_unknown_is_empty_and_not_0(run: Run) -> None:
    result = run("status")
    header, first, second = (line.split("\t") for line in result.stdout.splitlines())
    assert header[:4] == ["flow", "state", "lag", "behind"]
    assert first[:5] == ["all", "catching up", "12", "3.2 s", "988"]
    assert second[:5] == ["orders", "needs attention", "", "", "0"]
    assert second[-1] == "401 from the receiver"
    assert "capture  streaming, slot cdcflow, 2.0 kB behind the server" in result.stderr
    assert "journal  990 changes kept, head 1,000, 5.0 MB" in result.stderr
    assert "process 4711, for 2 h" in result.stderr
    assert result.stderr.splitlines()[-2:] == TROUBLES


@pytest.mark.usefixtures("engine")
def test_a_person_sees_what_fits_and_a_remark_where_something_is_not_fine(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    result = run("status")
    header, first, second = result.stdout.splitlines()
    assert header.split() == ["flow", "state", "lag", "behind", "delivered", "last", "delivery"]
    assert first.split()[:5] == ["all", "catching", "up", "12", "3.2"]
    assert second.split() == ["orders", "needs", "attention", "–", "–", "0", "–"]
    assert result.stderr.splitlines()[-4:] == [
        "all: 1 retries",
        "orders: 401 from the receiver, 2 restarts",
        *TROUBLES,
    ]


def test_without_an_engine_everything_is_unknown_and_it_ends_with_3(project: Path, run: Run) -> None:
    result = run("status", "--json")
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert document["engine"]["state"] == "stopped"
    assert document["capture"] is None
    assert [(flow["name"], flow["state"]) for flow in document["flows"]] == [
        ("all", "unknown"),
        ("orders", "unknown"),
    ]
    assert "next: `cdcflow run`" in result.stderr


def test_a_watch_goes_on_until_it_is_interrupted(project: Path) -> None:
    code = "from cdcflow.cli.main import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "status", "--watch", "--json"], stdout=subprocess.PIPE, cwd=project
    ) as process:
        assert process.stdout is not None
        for _ in range(2):
            assert json.loads(process.stdout.readline())["engine"]["state"] == "stopped"
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0


def test_unknown_figures_of_capture_are_told_as_unknown() -> None:
    capture = {
        "state": "connecting",
        "slot": "s",
        "lag_bytes": None,
        "error": "connection refused",
        "journal": {"offset": None, "first_offset": None, "bytes": None},
    }
    lines = summary({"engine": {"state": "starting", "pid": None}, "capture": capture, "flows": []})
    assert lines == [
        "engine   starting",
        "capture  connecting, slot s, lag unknown",
        "         connection refused",
        "journal  unknown",
    ]
    assert rows({"flows": []}) == []
    assert remarks({"flows": []}) == []
    assert troubles({"flows": []}) == []


def test_what_the_slot_holds_back_is_shown_with_what_holds_back_the_slot() -> None:
    oldest = {"pid": 7, "prepared": None, "who": "psql, alice, shop, idle in transaction", "seconds": 3700.0}
    capture = {
        "state": "streaming",
        "slot": "s",
        "lag_bytes": 0,
        "retained_bytes": 3_000_000,
        "catalog_age": 1234,
        "oldest_transaction": oldest,
    }
    document = {"engine": {"state": "running", "pid": None}, "capture": capture, "flows": []}
    assert summary(document)[2:4] == [
        "slot     the server keeps 3.0 MB of WAL for it, and dead rows of its catalogs for 1,234"
        " transactions",
        "         held back by a transaction that is open for 1 h: process 7 (psql, alice, shop, idle in"
        " transaction)",
    ]
    capture["oldest_transaction"] = {**oldest, "seconds": 3.0}
    assert not any("held back" in line for line in summary(document))
