"""`cdcflow flow`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from cdcflow.engine import accepted
from cdcflow.engine.accepted import Refusal
from cdcflow.engine.status import refused_flow
from cdcflow.sink.records import Ledger
from unit.cli.conftest import EngineSaying

Run = Callable[..., Result]


def test_flows_are_listed_as_tab_separated_lines_off_a_terminal(project: Path, run: Run) -> None:
    assert run("flow", "list").stdout.splitlines() == [
        "flow\tfrom\tto\ttype",
        "all\t*.*\tevents\tjsonl",
        "orders\torders\tnothing\tnull",
    ]


def test_flows_are_listed_as_json(project: Path, run: Run) -> None:
    found = json.loads(run("flow", "list", "--json").stdout)
    assert [flow["name"] for flow in found] == ["all", "orders"]
    assert found[1] == {
        "name": "orders",
        "from": ["orders"],
        "messages": [],
        "to": "nothing",
        "sink": {"type": "null"},
        "with": {},
        "start": "latest",
        "file": str(project / "cdcflow.yaml"),
        "line": 7,
    }


def test_a_flow_is_shown(project: Path, run: Run) -> None:
    shown = run("flow", "show", "all").stdout
    assert "from:      *.*\n" in shown
    assert "line:      6\n" in shown


def test_a_secret_of_a_sink_is_shown_as_stars(project: Path, run: Run) -> None:
    path = project / "cdcflow.yaml"
    text = path.read_text(encoding="utf-8").replace(
        'nothing: {type: "null"}',
        "nothing: {type: webhook, url: 'https://x.example', secret: whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0}",
    )
    path.write_text(text, encoding="utf-8")
    for form in ([], ["--json"]):
        shown = run("flow", "show", "orders", *form).stdout
        assert "https://x.example" in shown
        assert "c2VjcmV0" not in shown
        assert "**********" in shown


def test_an_unknown_flow_gives_the_nearest_name(project: Path, run: Run) -> None:
    result = run("flow", "show", "order")
    assert result.exit_code == 2
    assert "there is no flow 'order'" in result.stderr
    assert "did you mean 'orders'?" in result.stderr


def test_without_flows_it_says_where_to_write_one(project: Path, run: Run) -> None:
    (project / "cdcflow.yaml").write_text("source: {dsn: x, tables: [a]}\n", encoding="utf-8")
    result = run("flow", "list")
    assert result.exit_code == 0
    assert f"write a flow into {project / 'flows'}" in result.stderr


def test_a_flow_s_records_are_no_longer_taken_for_delivered(project: Path, run: Run) -> None:
    path = project / "cdcflow.yaml"
    text = path.read_text(encoding="utf-8").replace(
        'nothing: {type: "null"}', "nothing: {type: hubspot, token: x}"
    )
    mapping = "with: {object: deals, match: order_id, fields: {amount: amount}}"
    path.write_text(text.replace("start: latest", mapping), encoding="utf-8")
    folder = project / "state" / "flows" / "orders"
    assert (
        run("flow", "resync", "orders").stdout == "0 records of nothing are no longer taken for delivered\n"
    )
    folder.mkdir(parents=True)
    ledger = Ledger(folder / "ledger.sqlite")
    ledger.open("hubspot")
    ledger.settle({b"one": b"1", b"two": b"2"})
    assert (
        run("flow", "resync", "orders").stdout == "2 records of nothing are no longer taken for delivered\n"
    )
    assert ledger.sent([b"one", b"two"]) == {}
    ledger.close()


def test_a_sink_that_sends_every_row_has_nothing_to_forget(project: Path, run: Run) -> None:
    result = run("flow", "resync", "all")
    assert result.exit_code == 2
    assert "a jsonl sink sends every row" in result.stderr


WISHES = (
    ("pause", "one"),
    ("resume", "one"),
    ("rewind", "one", "--to", "start"),
    ("rewind", "one", "--cancel"),
    ("skip", "one", "--to", "now"),
    ("history", "one"),
)


@pytest.fixture
def broken(project: Path) -> Path:
    """A flow whose file says nothing that can be run."""
    path = project / "cdcflow.yaml"
    path.write_text(path.read_text(encoding="utf-8").split("flows:")[0], encoding="utf-8")
    (project / "flows").mkdir()
    file = project / "flows" / "one.yaml"
    file.write_text("from: ['*']\nto: events\ntransforms:\n- filter: id = = 1\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("words", WISHES, ids=" ".join)
def test_a_flow_whose_file_was_never_right_is_said_to_be_refused_and_why(
    broken: Path, run: Run, words: tuple[str, ...]
) -> None:
    result = run("flow", *words)
    assert result.exit_code == 2
    said = result.stderr[result.stderr.index("error: ") :]
    for word in (
        "the file of flow 'one' is refused",
        "nothing of it has ever run",
        "one.yaml:4",
        "syntax error",
    ):
        assert word in said
    assert "there is no flow" not in said


@pytest.mark.parametrize("words", WISHES[:2], ids=" ".join)
def test_a_flow_that_an_engine_refuses_and_that_never_ran_is_said_to_be_refused(
    broken: Path, run: Run, engine_saying: EngineSaying, words: tuple[str, ...]
) -> None:
    broken.write_text("from: ['*']\nto: events\n", encoding="utf-8")
    refusal = Refusal(broken, "one", "one.yaml:4: there is no column 'x'", 0.0, False)
    with engine_saying(broken.parents[1], {"flows": [refused_flow(refusal)]}):
        result = run("flow", *words)
    assert result.exit_code == 2
    assert "the file of flow 'one' is refused" in result.stderr
    assert "there is no column 'x'" in result.stderr


def test_a_flow_that_runs_on_with_what_its_file_was_can_be_paused(broken: Path, run: Run) -> None:
    wrong = broken.read_text(encoding="utf-8")
    broken.write_text("from: ['*']\nto: events\n", encoding="utf-8")
    (broken.parents[1] / "state").mkdir()
    accepted.keep(accepted.start(broken.parents[1] / "cdcflow.yaml"))
    broken.write_text(wrong, encoding="utf-8")
    result = run("flow", "pause", "one")
    assert result.exit_code == 0, result.exception
    assert "one.yaml:4" in result.stderr
    assert run("flow", "resume", "one").exit_code == 0
