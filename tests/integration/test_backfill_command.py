"""`cdcflow backfill` as people use it: every option on a running engine, and what is wrong with what they
ask."""

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cdcflow.cli.main import app
from cdcflow.engine import control
from cdcflow.source.setup import setup
from cdcflow.testing.database import Database
from cdcflow.testing.waiting import eventually
from integration.program import PROGRAM, running, write

WRONG, ENVIRONMENT = 2, 3
ROWS = 3_000
SCHEMA = f"""
    CREATE TABLE t (id int PRIMARY KEY, v int, w text);
    INSERT INTO t SELECT g, g % 10, 'w' || g FROM generate_series(1, {ROWS}) g;
    CREATE TABLE keyless (v int);
    ALTER TABLE keyless REPLICA IDENTITY FULL;
    INSERT INTO keyless SELECT generate_series(1, 100);
    CREATE TABLE aside (id int PRIMARY KEY);
    ANALYZE;
"""


@dataclass
class Shop:
    """A configuration of a database with tables, and what its commands say."""

    postgres: Database
    directory: Path
    config: Path

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def say(self, *words: str) -> str:
        """The command's stdout; it must end well."""
        done = self.command(*words)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    def command(self, *words: str) -> Result:
        return CliRunner().invoke(app, ["-c", str(self.config), *words])

    def refused(self, code: int, *words: str) -> str:
        """What the command says against it, on one line."""
        done = self.command("backfill", *words)
        said = " ".join(done.stderr.split())
        assert done.exit_code == code, said
        assert "Traceback" not in said
        assert not done.stdout
        return said

    def backfill(self, name: str) -> dict[str, Any]:
        [found] = json.loads(self.say("backfill", "status", name, "--json"))
        assert isinstance(found, dict)
        return found

    def state_is(self, name: str, *states: str) -> None:
        eventually(lambda: self.backfill(name)["state"] in states, interval=0.2, what=f"{name} {states}")

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        answer = control.query(self.state, "warehouse", query)
        return list(zip(*(column.to_pylist() for column in answer.columns), strict=True))

    def events(self) -> list[dict[str, Any]]:
        files = sorted((self.directory / "events").rglob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().split("\n")[:-1]]


@pytest.fixture
def shop(newest_postgres: Database, tmp_path: Path) -> Shop:
    postgres = newest_postgres
    postgres.execute(SCHEMA)
    setup(postgres.dsn, ["public.t", "public.keyless"], postgres.publication, postgres.slot)
    config = write(
        tmp_path,
        postgres.dsn,
        postgres.name,
        source=f"{{dsn: '{postgres.dsn}', tables: [public.t, public.keyless], backfill: none,"
        f" publication: {postgres.name}, slot: {postgres.name}}}",
        sinks="{warehouse: {type: duckdb, path: warehouse.duckdb}, files: {type: jsonl, path: events}}",
        flows="[{name: warehouse, from: ['*.*'], to: warehouse}, {name: files, from: [t], to: files}]",
    )
    return Shop(postgres, tmp_path, config)


@pytest.fixture
def open_shop(shop: Shop) -> Iterator[Shop]:
    """Its engine runs."""
    with running(shop.config, shop.state):
        yield shop


def test_every_option_chooses_what_it_says(open_shop: Shop) -> None:
    shop = open_shop
    kept = json.loads(
        shop.say(
            *("backfill", "start", "public.t", "public.t", "--where", "v = 3", "--columns", "w, v"),
            *("--for", "files", "--for", "files", "--rate", "100000", "--wait", "--json"),
        )
    )
    assert (kept["tables"], kept["flows"], kept["columns"]) == (["public.t"], ["files"], ["w", "v"])
    found = shop.backfill(kept["name"])
    [table] = found["tables"]
    assert (found["state"], found["where"], found["for"], found["rate_limit"]) == (
        *("done", "v = 3", ["files"]),
        100_000,
    )
    assert (table["table"], table["state"], table["rows"], table["share"]) == ("public.t", "done", 300, 1.0)
    eventually(lambda: len(shop.events()) == 300, what="the rows in the files")
    assert {event["op"] for event in shop.events()} == {"read"}
    assert all(event["new"]["v"] == 3 for event in shop.events())
    with pytest.raises(Exception, match="does not exist"):
        shop.ask("SELECT count(*) FROM public.t")
    listed = shop.say("backfill", "status").splitlines()
    assert listed[0].split("\t")[:5] == ["backfill", "table", "state", "read", "rows"]
    assert listed[1].split("\t")[:5] == [kept["name"], "public.t", "done", "100%", "300"]


def test_a_repair_takes_away_what_the_source_has_not_and_only_with_replace(open_shop: Shop) -> None:
    """What a flow missed: rows that were deleted, and changed, while the publication left that out."""
    shop = open_shop
    shop.say("backfill", "start", "public.t", "--wait")
    ids = "SELECT count(*), sum(v) FROM public.t"
    eventually(lambda: shop.ask(ids) == [(ROWS, sum(g % 10 for g in range(1, ROWS + 1)))])
    name = shop.postgres.publication
    shop.postgres.execute(f"ALTER PUBLICATION {name} SET (publish = 'insert')")
    shop.postgres.execute("DELETE FROM t WHERE id > 1000; UPDATE t SET v = 100")
    shop.postgres.execute(f"ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate')")
    shop.say("backfill", "start", "public.t", "--for", "warehouse", "--wait")
    changed = 1000 * 100 + sum(g % 10 for g in range(1001, ROWS + 1))
    eventually(lambda: shop.ask(ids) == [(ROWS, changed)], what="rows that are changed, and no row gone")
    shop.say("backfill", "start", "public.t", "--replace", "--for", "warehouse", "--wait")
    eventually(lambda: shop.ask(ids) == [(1000, 100_000)], what="the source's rows alone")


def test_one_is_paused_goes_on_and_is_cancelled(open_shop: Shop) -> None:
    shop = open_shop
    name = shop.say("backfill", "start", "public.t", "--rate", "20").strip()
    eventually(lambda: shop.backfill(name)["tables"][0].get("rows"), interval=0.1, what="the first rows")
    [table] = shop.backfill(name)["tables"]
    assert 0 < table["rows"] < ROWS
    assert 0 < table["share"] < 1
    assert table["bytes"] > 0
    assert table["chunks"] > 0
    assert table["estimated_rows"] == ROWS
    assert 0 < table["rate"] < 1_000
    assert table["remaining_seconds"] > 0
    whole = json.loads(shop.say("status", "--json"))["backfills"]
    assert [one["name"] for one in whole] == [name]
    assert whole[0]["tables"][0].keys() == table.keys()
    assert f"a backfill of public.t is running already: {name}" in shop.refused(WRONG, "start", "public.t")

    paused = shop.command("backfill", "pause", name)
    assert f"next: `cdcflow backfill resume {name}`" in paused.stderr
    shop.state_is(name, "paused")
    assert "paused" in shop.say("backfill", "status", name)
    shop.say("backfill", "resume", name)
    shop.state_is(name, "running")
    shop.say("backfill", "cancel", name)
    shop.state_is(name, "cancelled")
    assert 0 < shop.backfill(name)["tables"][0]["rows"] < ROWS
    for command in ("pause", "resume", "cancel"):
        said = shop.refused(WRONG, command, name)
        assert f"the backfill '{name}' has ended: it is cancelled" in said
        assert "hint:" in said


def test_a_table_without_a_key_is_read_once_its_cost_is_accepted(open_shop: Shop) -> None:
    shop = open_shop
    said = shop.refused(WRONG, "start", "public.keyless")
    assert "nothing tells the rows of public.keyless apart" in said
    assert "while all other changes wait" in said
    assert "hint: say --halt where that is bearable" in said
    for options in (["--rate", "10"], ["--columns", "v"], ["--where", "v = '1'"]):
        said = shop.refused(WRONG, "start", "public.keyless", "--halt", *options)
        assert "is read as a whole, without --where, --columns and --rate" in said
        assert "hint:" in said
    done = shop.command("backfill", "start", "public.keyless", "--halt", "--wait")
    assert done.exit_code == 0
    assert "warning: nothing tells the rows" in done.stderr
    eventually(lambda: shop.ask("SELECT count(*) FROM public.keyless") == [(100,)])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["public.none"], "there is no table public.none hint: name it as schema.table"),
        (["t"], "there is no table t hint: name it as schema.table"),
        (
            ["public.t", "--where", "nothing = 1"],
            'does not fit public.t: column "nothing" does not exist hint:',
        ),
        (["public.t", "--where", "v = 1; DROP TABLE t"], "the condition holds a semicolon hint:"),
        (["public.t", "--where", " "], "--where is empty hint:"),
        (["public.t", "--columns", "v,x"], "public.t has no published column x hint: it has id, v, w"),
        (["public.t", "--columns", " ,"], "--columns names none hint:"),
        (["public.t", "--for", "nobody"], "there is no flow 'nobody' hint: there are: warehouse, files"),
        (["public.keyless", "--for", "files"], "the flow files does not take public.keyless hint:"),
        (["public.t", "--rate", "0"], "Invalid value for '--rate'"),
        (["public.t", "--rate", "inf"], "--rate must be a number of rows hint:"),
        (["public.t", "--replace", "--where", "v = 1"], "--where and --columns leave rows out hint:"),
        (["public.t", "--replace", "--columns", "v"], "--where and --columns leave rows out hint:"),
    ],
)
def test_what_is_wrong_is_said_before_anything_happens(shop: Shop, words: list[str], said: str) -> None:
    found = shop.refused(WRONG, "start", *words)
    assert said in found, found
    assert not (shop.state / "backfills").exists()


def test_what_the_database_is_not_ready_for_is_said_with_its_remedy(shop: Shop) -> None:
    said = shop.refused(ENVIRONMENT, "start", "public.aside")
    assert f"the publication {shop.postgres.publication} does not hold public.aside" in said
    assert "hint: add it to source.tables and run `cdcflow setup`" in said
    said = shop.refused(ENVIRONMENT, "start", "public.t")
    assert "the engine is not running hint: start it with `cdcflow run`" in said
    for command in ("pause", "resume", "cancel"):
        assert "the engine is not running" in shop.refused(ENVIRONMENT, command, "any")
    assert "there is no backfill 'any' hint:" in shop.refused(WRONG, "status", "any")
    assert json.loads(shop.say("backfill", "status", "--json")) == []


def test_a_backfill_that_is_unknown_is_named_with_those_that_are_there(open_shop: Shop) -> None:
    shop = open_shop
    name = shop.say("backfill", "start", "public.t", "--rate", "20").strip()
    for command in ("pause", "resume", "cancel"):
        assert f"there is no backfill 'any' hint: there are: {name}" in shop.refused(WRONG, command, "any")


def test_a_terminal_shows_a_bar_until_it_is_over(open_shop: Shop) -> None:
    shop = open_shop
    words = ["-c", str(shop.config), "backfill", "start", "public.t", "--rate", "2000", "--wait"]
    shown, code = on_a_terminal([*PROGRAM, *words])
    assert code == 0
    assert "━" in shown
    assert "100%" in shown
    assert f"{ROWS:,} rows" in shown
    shown, code = on_a_terminal([*PROGRAM, "-c", str(shop.config), "backfill", "status", "--watch"])
    assert (code, "done" in shown) == (0, True)


def on_a_terminal(command: list[str]) -> tuple[str, int]:
    """What a command writes to a terminal, and its exit code."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "COLUMNS": "100"}
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65_536)
        except OSError:  # EIO: nobody has the other end any more (pty(7))
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return shown.decode(errors="replace"), process.wait(60)
