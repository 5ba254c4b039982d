"""Runs `cdcflow` as people do, on a configuration of its own."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cdcflow.cli.main import app

Run = Callable[..., Result]

CONFIGURATION = """\
source: {dsn: "postgresql://ada:s3cret@127.0.0.1:1/shop", tables: [public.*]}
sinks:
  events: {type: jsonl, path: events}
  nothing: {type: "null"}
flows:
  - {name: all, from: ["*.*"], to: events}
  - {name: orders, from: [orders], to: nothing, start: latest}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a cdcflow.yaml, which is also the current one."""
    for name in ("CDCFLOW_CONFIG", "DATABASE_URL", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cdcflow.yaml").write_text(CONFIGURATION, encoding="utf-8")
    return tmp_path


@pytest.fixture
def run() -> Run:
    """Runs a command line without a terminal; takes `input` for stdin."""

    def invoke(*arguments: str, **options: str) -> Result:
        words: Sequence[str] = arguments
        return CliRunner().invoke(app, words, **options)  # type: ignore[arg-type]

    return invoke
