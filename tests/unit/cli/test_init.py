"""`cdcflow init`, on a real database."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from cdcflow.config import load
from cdcflow.testing.database import Database

Run = Callable[..., Result]


@pytest.fixture
def empty(project: Path) -> Path:
    """The current directory, with nothing in it."""
    (project / "cdcflow.yaml").unlink()
    return project


def with_password(dsn: str) -> str:
    separator = "&" if "?" in dsn else "?"
    return f"{dsn}{separator}password=s3cret"


def test_it_writes_a_configuration_for_what_it_finds(postgres: Database, empty: Path, run: Run) -> None:
    postgres.execute("CREATE TABLE orders (id bigint PRIMARY KEY, note text)")
    postgres.execute("CREATE TABLE audit (what text)")
    postgres.execute('CREATE SCHEMA "My Shop"')
    postgres.execute('CREATE TABLE "My Shop"."T.x" (id int PRIMARY KEY) PARTITION BY RANGE (id)')
    postgres.execute('CREATE TABLE "My Shop".part PARTITION OF "My Shop"."T.x" FOR VALUES FROM (0) TO (9)')
    postgres.execute("INSERT INTO orders VALUES (1), (2)")
    postgres.execute("ANALYZE")
    result = run("init", postgres.dsn)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == ["cdcflow.yaml", "flows/warehouse.yaml"]
    assert "left out, for want of a primary key: public.audit" in result.stderr
    assert "3 table(s) in 2 schema(s)" in result.stderr
    assert "next: cdcflow setup, then cdcflow run" in result.stderr
    config = load(empty / "cdcflow.yaml")
    assert config.source.dsn.get_secret_value() == postgres.dsn
    assert config.source.tables == ('"My Shop".*', "public.*", "!public.audit")
    assert "# 2 tables, about 2 rows, " in (empty / "cdcflow.yaml").read_text(encoding="utf-8")


def test_a_password_is_never_written(
    postgres: Database, empty: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = with_password(postgres.dsn)
    result = run("init", dsn)
    assert result.exit_code == 0, result.stderr
    assert "next: export DATABASE_URL=" in result.stderr
    written = "".join(path.read_text(encoding="utf-8") for path in empty.rglob("*.yaml"))
    assert "s3cret" not in written + result.output
    assert "dsn: ${DATABASE_URL}" in written
    monkeypatch.setenv("DATABASE_URL", dsn)
    assert load(empty / "cdcflow.yaml").source.dsn.get_secret_value() == dsn


def test_the_address_may_come_from_the_environment(
    postgres: Database, empty: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", with_password(postgres.dsn))
    result = run("init")
    assert result.exit_code == 0, result.stderr
    assert "export" not in result.stderr
    assert "dsn: ${DATABASE_URL}" in (empty / "cdcflow.yaml").read_text(encoding="utf-8")


def test_files_that_are_there_are_kept_unless_forced(postgres: Database, project: Path, run: Run) -> None:
    before = (project / "cdcflow.yaml").read_text(encoding="utf-8")
    result = run("init", postgres.dsn)
    assert result.exit_code == 2
    assert "cdcflow.yaml is there already" in result.stderr
    assert "--force" in result.stderr
    assert (project / "cdcflow.yaml").read_text(encoding="utf-8") == before
    assert run("init", postgres.dsn, "--force").exit_code == 0
    assert (project / "cdcflow.yaml").read_text(encoding="utf-8") != before


def test_it_writes_where_it_is_told(postgres: Database, empty: Path, run: Run) -> None:
    result = run("init", postgres.dsn, "--output", "deep/er")
    assert result.exit_code == 0, result.stderr
    assert load(empty / "deep" / "er" / "cdcflow.yaml").flows.keys() == {"warehouse"}
    assert "cdcflow --config deep/er/cdcflow.yaml setup" in result.stderr
    assert run("init", postgres.dsn, "--config", "other.yaml").exit_code == 0
    assert (empty / "other.yaml").is_file()


def test_a_place_that_cannot_be_written_ends_with_3(postgres: Database, empty: Path, run: Run) -> None:
    (empty / "taken").write_text("a file", encoding="utf-8")
    result = run("init", postgres.dsn, "--output", "taken/below")
    assert result.exit_code == 3
    assert "cannot be written" in result.stderr


def test_without_an_address_and_a_terminal_it_says_what_is_missing(empty: Path, run: Run) -> None:
    result = run("init")
    assert result.exit_code == 2
    assert "cdcflow init postgresql://" in result.stderr


def test_an_address_that_is_none_is_not_repeated(empty: Path, run: Run) -> None:
    result = run("init", "postgresql://ada:s3cret@[bad/shop")
    assert result.exit_code == 2
    assert "s3cret" not in result.output
    assert not list(empty.iterdir())


def test_a_server_that_is_not_there_ends_with_3_and_leaves_nothing(empty: Path, run: Run) -> None:
    result = run("init", "postgresql://ada:s3cret@127.0.0.1:1/shop")
    assert result.exit_code == 3
    assert "s3cret" not in result.output
    assert not list(empty.iterdir())
