"""Runs `cdcflow` as people do, on a configuration of its own."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from cdcflow.cli.main import app
from cdcflow.engine.control import ControlServer
from cdcflow.engine.places import Places

EngineSaying = Callable[[Path, Mapping[str, Any]], AbstractContextManager[None]]
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


@pytest.fixture
def engine_saying() -> EngineSaying:
    """A control socket in a project that answers with a status document, as the engine does."""

    @contextmanager
    def answering(project: Path, document: Mapping[str, Any]) -> Iterator[None]:
        places = Places(project / "state")
        places.make()
        loop = asyncio.new_event_loop()
        listening = threading.Event()
        ended = asyncio.Event()

        async def answer(_: Mapping[str, Any]) -> bytes:
            return orjson.dumps(document)

        async def serve() -> None:
            server = await ControlServer.start(places.engine_socket, answer)
            listening.set()
            await ended.wait()
            await server.close()

        thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
        thread.start()
        try:
            assert listening.wait(10)
            yield
        finally:
            loop.call_soon_threadsafe(ended.set)
            thread.join(10)
            loop.close()

    return answering
