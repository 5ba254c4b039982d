import asyncio
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from cdcflow.engine import control
from cdcflow.engine.control import ControlServer, ipc_bytes
from cdcflow.engine.places import Places
from cdcflow.errors import CdcflowError, ConfigurationError, EnvironmentFault


async def answer(request: Mapping[str, Any]) -> bytes:
    match request:
        case {"op": "status"}:
            return orjson.dumps({"engine": {"state": "running"}})
        case {"op": "query", "sql": "large"}:
            return ipc_bytes(pa.table({"n": list(range(300_000))}))
        case {"op": "query", "sql": "wrong"}:
            raise ConfigurationError("there is no such table", hint="see `cdcflow flow list`")
        case {"op": "query", "sql": "defect"}:
            raise KeyError("a row's value")
    return b"{}"


@pytest.fixture
def serve() -> Iterator[Callable[[Path], None]]:
    """Serves on a path in a thread, until the test is over."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    servers: list[ControlServer] = []

    def start(path: Path) -> None:
        starting = asyncio.run_coroutine_threadsafe(ControlServer.start(path, answer), loop)
        servers.append(starting.result(10))

    yield start
    for server in servers:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture(params=["short", "long" * 60])
def state(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    places = Places(tmp_path / request.param)
    places.make()
    return places.state


def test_a_status_is_answered_at_a_path_of_any_length(state: Path, serve: Callable[[Path], None]) -> None:
    assert control.status(state) is None
    serve(Places(state).engine_socket)
    assert control.status(state) == {"engine": {"state": "running"}}
    assert stat.S_IMODE(Places(state).engine_socket.stat().st_mode) == 0o600


def test_what_a_killed_engine_leaves_behind_is_not_an_engine(
    state: Path, serve: Callable[[Path], None]
) -> None:
    path = Places(state).engine_socket
    with control.listening(path):
        pass
    assert path.exists()
    assert control.status(state) is None
    serve(path)
    assert control.status(state) is not None


def test_a_table_comes_back_whole(state: Path, serve: Callable[[Path], None]) -> None:
    serve(Places(state).flow_socket("warehouse"))
    table = control.query(state, "warehouse", "large")
    assert table.column("n").to_pylist() == list(range(300_000))


def test_an_error_comes_back_as_it_was_raised(state: Path, serve: Callable[[Path], None]) -> None:
    serve(Places(state).flow_socket("warehouse"))
    with pytest.raises(ConfigurationError, match="there is no such table") as caught:
        control.query(state, "warehouse", "wrong")
    assert caught.value.hint == "see `cdcflow flow list`"


def test_a_defect_tells_no_values_and_the_engine_goes_on(state: Path, serve: Callable[[Path], None]) -> None:
    serve(Places(state).flow_socket("warehouse"))
    with pytest.raises(CdcflowError, match=r"a defect: KeyError$"):
        control.query(state, "warehouse", "defect")
    control.retry(state, "warehouse")


def test_a_flow_that_does_not_run_cannot_be_asked(state: Path) -> None:
    with pytest.raises(EnvironmentFault, match="'warehouse' does not run"):
        control.query(state, "warehouse", "SELECT 1")
    with pytest.raises(EnvironmentFault, match="'warehouse' does not run"):
        control.retry(state, "warehouse")


def test_a_request_that_is_no_json_gets_an_error_and_no_answer_at_all_is_one_too(
    state: Path, serve: Callable[[Path], None]
) -> None:
    path = Places(state).engine_socket
    serve(path)
    with control.connection(path) as asking:
        asking.sendall(b"hello\n")
        assert b"not one line of JSON" in asking.makefile("rb").read()


def test_a_request_under_way_ends_with_the_engine_and_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def engine() -> bytes:
        asked = asyncio.Event()

        async def never(_request: Mapping[str, Any]) -> bytes:
            asked.set()
            await asyncio.Event().wait()
            return b""

        server = await ControlServer.start(tmp_path / "socket", never)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "socket"))
        writer.write(b"{}\n")
        await asked.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        answered = await reader.read()
        writer.close()
        await writer.wait_closed()
        await server.close()
        return answered

    assert asyncio.run(engine()) == b""
    assert not [record.getMessage() for record in caplog.records]
