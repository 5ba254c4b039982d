"""The program as a whole: cheap to start, global options anywhere, errors in words with the right code."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cdcflow.cli import journal, main, output
from cdcflow.cli.main import app, hoist

HEAVY = ("pyarrow", "duckdb", "psycopg", "pydantic", "ruamel", "httpx", "orjson", "asyncio")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_importing_the_program_loads_no_heavy_module() -> None:
    code = "import sys, cdcflow.cli.main; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {name.split(".")[0] for name in loaded.split()} & set(HEAVY)


def test_help_is_there_at_once() -> None:
    def cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    spent = []
    for _ in range(3):
        before = cpu()
        command = [sys.executable, "-c", "from cdcflow.cli.main import main; main()", "--help"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
        spent.append(cpu() - before)
        assert "status" in shown.stdout
    assert min(spent) < 0.3


def test_without_arguments_it_shows_what_it_can_do() -> None:
    assert "Commands" in run().output


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["run", "-c", "x"], ["-c", "x", "run"]),
        (["run", "--config=x", "-v"], ["--config=x", "-v", "run"]),
        (["status", "--json"], ["status", "--json"]),
        (["query", "--", "-c"], ["query", "--", "-c"]),
        (["run", "-c"], ["-c", "run"]),
    ],
)
def test_global_options_may_stand_anywhere(given: list[str], expected: list[str]) -> None:
    assert hoist(given) == expected


def test_the_configuration_is_named_by_option_or_environment(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "cdcflow.yaml").rename(project / "other.yaml")
    assert run("flow", "list").exit_code == 2
    assert run("flow", "list", "-c", "other.yaml").exit_code == 0
    monkeypatch.setenv("CDCFLOW_CONFIG", "other.yaml")
    assert run("flow", "list").exit_code == 0


def test_a_wrong_configuration_ends_with_2_and_says_what_to_do(project: Path) -> None:
    (project / "cdcflow.yaml").write_text("sorce: {}\n", encoding="utf-8")
    result = run("flow", "list")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "cdcflow.yaml:1: sorce: unknown key (did you mean 'source'?)" in result.stderr


def test_an_error_has_its_hint_on_a_line_of_its_own(project: Path) -> None:
    (project / "cdcflow.yaml").unlink()
    lines = run("flow", "list").stderr.splitlines()
    assert lines == [
        "error: there is no configuration file cdcflow.yaml",
        "hint: write one with `cdcflow init DSN`, or name it with --config",
    ]


def test_a_wrong_environment_ends_with_3(project: Path) -> None:
    result = run("journal", "inspect", "nowhere")
    assert result.exit_code == 3
    assert "nowhere" in result.stderr


def test_an_unknown_command_ends_with_2() -> None:
    assert run("launch").exit_code == 2


def _end_of(monkeypatch: pytest.MonkeyPatch, raised: BaseException, *arguments: str) -> int:
    """The exit code of a real `main` in which reading the configuration raises this."""

    def broken(*_: object) -> None:
        raise raised

    monkeypatch.setattr(journal, "load_config", broken)
    monkeypatch.setattr(sys, "argv", ["cdcflow", "journal", "inspect", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    code = ended.value.code
    assert isinstance(code, int)
    return code


def test_an_interruption_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _end_of(monkeypatch, KeyboardInterrupt()) == 130


def test_a_defect_is_told_in_short_and_without_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _end_of(monkeypatch, RuntimeError("row value 42")) == 1
    said = capsys.readouterr().err
    assert "unexpected RuntimeError" in said
    assert "in broken" in said
    assert "42" not in said


def test_a_defect_shows_its_whole_trace_when_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _end_of(monkeypatch, RuntimeError("row value 42"), "--verbose") == 1
    assert "RuntimeError: row value 42" in capsys.readouterr().err


def test_version_says_what_runs_here() -> None:
    found = json.loads(run("version", "--json").stdout)
    assert set(found) == {
        "cdcflow", "python", "platform", "decoder", "psycopg", "libpq", "pyarrow", "duckdb",
    }  # fmt: skip
    assert found["decoder"] in ("compiled", "pure Python")
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert f"cdcflow   {found['cdcflow']}" in run("version").stdout


def test_a_reader_that_goes_away_is_no_error(project: Path) -> None:
    program = "from cdcflow.cli.main import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", program, "flow", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (2_500_000_000_000, "2.5 TB")]
)
def test_sizes_are_shown_for_people(count: int, expected: str) -> None:
    assert output.size(count) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (720, "12 min"), (7_200, "2 h"), (1e6, "11.6 d")],
)
def test_durations_are_shown_for_people(seconds: float, expected: str) -> None:
    assert output.duration(seconds) == expected
