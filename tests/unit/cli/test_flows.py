"""`cdcflow flow`."""

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

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
