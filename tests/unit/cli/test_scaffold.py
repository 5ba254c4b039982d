"""The text of a first configuration: it reads back as what was found, whatever things are called."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdcflow.cli.scaffold import Plan, configuration, plain, warehouse_flow
from cdcflow.cli.survey import Survey, SurveyedTable
from cdcflow.config import Config, load
from cdcflow.model.patterns import TablePatterns

#: What Postgres takes as an identifier (manual, 4.1.1), odd ones included.
NAMES = st.one_of(
    st.sampled_from(
        ["public", "My Schema", "a.b", "x*", "!no", 'say "hi"', "${HOME}", "# x", "true", "a: b"]
    ),
    st.text(st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="\0"), min_size=1, max_size=20),
).filter(lambda name: not name.startswith("pg_") and name != "information_schema")


def table(name: str, *, schema: str = "public", identified: bool = True, rows: int = 1_200) -> SurveyedTable:
    return SurveyedTable(schema, name, rows, 340_000, identified)


def survey(*tables: SurveyedTable) -> Survey:
    return Survey(18, "logical", "shop", tables)


def written(directory: Path, plan: Plan) -> Config:
    """The configuration that `init` would leave there, read back."""
    (directory / "flows").mkdir(exist_ok=True)
    (directory / "flows" / "warehouse.yaml").write_text(warehouse_flow(), encoding="utf-8")
    path = directory / "cdcflow.yaml"
    path.write_text(configuration(plan), encoding="utf-8")
    return load(path)


def test_it_is_a_configuration_that_holds(tmp_path: Path) -> None:
    plan = Plan(survey(table("orders"), table("log", identified=False)), ["public"], "service=shop")
    config = written(tmp_path, plan)
    assert config.source.dsn.get_secret_value() == "service=shop"
    assert config.source.tables == ("public.*", "!public.log")
    assert config.source.backfill == "initial"
    assert config.sinks["warehouse"].plugin.name == "duckdb"
    assert config.flows["warehouse"].to == "warehouse"
    assert set(config.flows) == {"warehouse"}


def test_its_commented_sink_can_be_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    path = tmp_path / "cdcflow.yaml"
    text = configuration(Plan(survey(), [], "x")).replace("  # hook:", "  hook:")
    path.write_text(text.replace("flows: flows/", ""), encoding="utf-8")
    assert load(path).sinks["hook"].plugin.name == "webhook"


def test_it_says_how_much_there_is(tmp_path: Path) -> None:
    tables = [table("orders"), table("lines", rows=3_000), table("new", rows=0, identified=False)]
    text = " ".join(configuration(Plan(survey(*tables), ["public"], "x")).split())
    assert "- public.* # 3 tables, about 4,200 rows, 1.0 MB" in text
    assert '- "!public.new" # rows not counted yet, 340.0 kB' in text
    assert "REPLICA IDENTITY FULL" in text


def test_tables_with_a_key_get_no_warning() -> None:
    assert "REPLICA IDENTITY" not in configuration(Plan(survey(table("orders")), ["public"], "x"))


def test_an_empty_database_gets_the_public_schema(tmp_path: Path) -> None:
    assert written(tmp_path, Plan(survey(), [], "x")).source.tables == ("public.*",)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(database=NAMES, dsn=NAMES, tables=st.lists(st.tuples(NAMES, NAMES, st.booleans()), max_size=4))
def test_whatever_things_are_called_the_same_tables_are_meant(
    tmp_path: Path, database: str, dsn: str, tables: list[tuple[str, str, bool]]
) -> None:
    found = [table(name, schema=schema, identified=known) for schema, name, known in tables]
    told = Survey(15, "replica", database, tuple(found))
    text = configuration(Plan(told, told.schemas, plain(dsn)))
    if dsn.strip():
        config = written(tmp_path, Plan(told, told.schemas, plain(dsn)))
        assert config.source.dsn.get_secret_value() == dsn
        patterns = TablePatterns(config.source.tables)
        excluded = {(schema, name) for schema, name, known in tables if not known}
        for schema, name, _ in tables:
            assert patterns.matches(schema, name) == ((schema, name) not in excluded)
    assert text.count("\nsource:\n") == 1
