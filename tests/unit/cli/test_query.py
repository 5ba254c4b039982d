"""`cdcflow query`, on a real DuckDB file."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pytest
from typer.testing import Result

from cdcflow.engine.control import ControlServer, ipc_bytes
from cdcflow.engine.places import Places

Run = Callable[..., Result]

CONFIGURATION = """\
source: {dsn: x, tables: [public.*]}
sinks:
  warehouse: {type: duckdb, path: warehouse.duckdb}
  other: {type: duckdb, path: other.duckdb}
  events: {type: jsonl, path: events}
flows:
  - {name: all, from: ["*.*"], to: warehouse}
  - {name: orders, from: [orders], to: events}
"""
SECOND = "  - {name: second, from: [orders], to: other}\n"


@pytest.fixture
def warehouse(project: Path) -> Path:
    """A project with a warehouse that holds something."""
    (project / "cdcflow.yaml").write_text(CONFIGURATION, encoding="utf-8")
    with duckdb.connect(str(project / "warehouse.duckdb")) as connection:
        connection.execute("CREATE TABLE orders (id BIGINT, amount DECIMAL(12, 2), note VARCHAR, raw BLOB)")
        connection.execute("INSERT INTO orders VALUES (1, 12.50, NULL, '\\xAA'), (2, 3, 'a\tb', NULL)")
    return project


def test_without_an_engine_the_file_itself_answers(warehouse: Path, run: Run) -> None:
    result = run("query", "SELECT id, amount, note FROM orders ORDER BY id")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == 'id\tamount\tnote\n1\t12.50\t\n2\t3.00\t"a\tb"\n'


def test_an_answer_as_json_keeps_exact_numbers(warehouse: Path, run: Run) -> None:
    result = run("query", "--json", "SELECT id, amount, note, raw FROM orders ORDER BY id")
    assert json.loads(result.stdout) == [
        {"id": 1, "amount": "12.50", "note": None, "raw": "qg=="},
        {"id": 2, "amount": "3.00", "note": "a\tb", "raw": None},
    ]


def test_asking_without_an_engine_makes_no_file(warehouse: Path, run: Run) -> None:
    (warehouse / "warehouse.duckdb").unlink()
    result = run("query", "SELECT 1")
    assert result.exit_code != 0
    assert "cdcflow run" in result.stderr
    assert not (warehouse / "warehouse.duckdb").exists()


@pytest.mark.parametrize("sql", ["DELETE FROM orders", "SELEC 1", "SELECT nope FROM orders"])
def test_what_writes_or_is_wrong_is_refused(warehouse: Path, run: Run, sql: str) -> None:
    result = run("query", sql)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert run("query", "SELECT count(*) AS n FROM orders").stdout == "n\n2\n"


def test_one_of_several_sinks_has_to_be_named(warehouse: Path, run: Run) -> None:
    with (warehouse / "cdcflow.yaml").open("a", encoding="utf-8") as file:
        file.write(SECOND)
    result = run("query", "SELECT 1 AS one")
    assert result.exit_code == 2
    assert "several sinks answer SQL: warehouse, other" in result.stderr
    assert run("query", "--sink", "warehouse", "SELECT 1 AS one").stdout == "one\n1\n"


@pytest.mark.parametrize(
    ("sink", "said"),
    [
        ("warehose", "there is no sink 'warehose'"),
        ("events", "a jsonl sink cannot be asked"),
        ("other", "no flow writes to it"),
    ],
)
def test_a_sink_that_cannot_be_asked_is_told(warehouse: Path, run: Run, sink: str, said: str) -> None:
    result = run("query", "--sink", sink, "SELECT 1")
    assert result.exit_code == 2
    assert said in result.stderr


def test_without_any_sink_that_answers_it_says_what_to_add(project: Path, run: Run) -> None:
    result = run("query", "SELECT 1")
    assert result.exit_code == 2
    assert "no flow has a sink that answers SQL" in result.stderr


@pytest.fixture
def worker(warehouse: Path) -> Iterator[list[Mapping[str, Any]]]:
    """The sockets of an engine and of the worker of flow `all`; gives the requests that came."""
    places = Places(warehouse / "state")
    places.make()
    loop = asyncio.new_event_loop()
    listening = threading.Event()
    ended = asyncio.Event()
    asked: list[Mapping[str, Any]] = []

    async def status(_: Mapping[str, Any]) -> bytes:
        return orjson.dumps({"engine": {}})

    async def query(request: Mapping[str, Any]) -> bytes:
        asked.append(request)
        return ipc_bytes(pa.table({"answer": [42]}))

    async def serve() -> None:
        servers = [
            await ControlServer.start(places.engine_socket, status),
            await ControlServer.start(places.flow_socket("all"), query),
        ]
        listening.set()
        await ended.wait()
        for server in servers:
            await server.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert listening.wait(10)
    yield asked
    loop.call_soon_threadsafe(ended.set)
    thread.join(10)
    loop.close()


def test_a_running_worker_answers_for_its_sink(worker: list[Mapping[str, Any]], run: Run) -> None:
    assert run("query", "SELECT 6 * 7").stdout == "answer\n42\n"
    assert worker == [{"op": "query", "flow": "all", "sql": "SELECT 6 * 7"}]
