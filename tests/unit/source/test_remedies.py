"""The script of all remedies, as text; `tests/integration/test_checks.py` runs it."""

from cdcflow.model.finding import Finding
from cdcflow.source.remedies import script


def lines(*findings: Finding, database: str = "shop") -> list[str]:
    return script(findings, database=database, role="cdc").splitlines()


def test_remedies_come_in_the_order_in_which_they_can_work() -> None:
    found = lines(
        Finding("error", "slot", "none", "make it", "MAKE SLOT;", "slot"),
        Finding("error", "publication", "none", "make it", "MAKE PUBLICATION;", "publication"),
        Finding("warning", "identity", "none", "", "GIVE IDENTITY;", "tables"),
        Finding("error", "role", "none", "", "GRANT;", "role"),
        Finding("warning", "limit", "small", "", "RAISE;", "settings"),
        Finding("error", "wal_level", "low", "", "ALTER SYSTEM SET wal_level = 'logical';", "restart"),
    )
    sql = [line for line in found if line.endswith(";")]
    assert sql == [
        "ALTER SYSTEM SET wal_level = 'logical';",
        "RAISE;",
        "GRANT;",
        "GIVE IDENTITY;",
        "MAKE PUBLICATION;",
        "MAKE SLOT;",
    ]
    # Between the first and the second the script ends, while the server has not been restarted.
    assert sql[0] < sql[1]
    assert found.index(sql[0]) < found.index("\\if :restart") < found.index(sql[1])
    assert "    AND name IN ('wal_level') \\gset" in found


def test_without_a_setting_that_takes_a_restart_nothing_asks_for_one() -> None:
    found = lines(Finding("error", "role", "none", "", "GRANT;", "role"))
    assert not any("restart" in line for line in found)


def test_sql_that_has_a_price_is_a_comment_on_every_line_of_it() -> None:
    found = lines(Finding("warning", "slot", "lost", "start anew", "DROP\nSLOT;"))
    assert found[-2:] == ["-- DROP", "-- SLOT;"]


def test_one_remedy_of_two_findings_is_run_once() -> None:
    found = lines(
        Finding("error", "identity", "breaks", "", "PUBLISH;", "publication"),
        Finding("warning", "columns", "missing", "", "PUBLISH;", "publication"),
    )
    assert found.count("PUBLISH;") == 1
    assert "-- warning: columns: missing" in found


def test_no_name_can_end_a_comment() -> None:
    found = lines(Finding("error", "tables", "no table\nDROP TABLE x;", "look\rhere"), database="a\n\\q")
    assert "-- error: tables: no table DROP TABLE x;" in found
    assert "-- Remedy: look here" in found
    assert all(line.startswith("--") for line in found if line)


def test_what_is_in_order_needs_no_script() -> None:
    found = lines(Finding("ok", "server", "fine", "", "NOTHING;"))
    assert found[-1] == "-- Everything is in order."
    assert all(line.startswith("--") for line in found)
