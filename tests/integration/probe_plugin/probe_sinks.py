"""A third party's sink for the tests of delivery: appends a line per change to a file, and behaves as a
second file says, so that a test can change its mind while the sink runs in another process.

Modes: `ok` (also where there is no such file), `transient`, `permanent`, `rejected`, `hang` (until the
mode changes), `crash` (kills its process), `print` (writes to stdout, as careless code does).
"""

import asyncio
import os
import signal

import pyarrow as pa

from cdcflow.model import Batch
from cdcflow.sink import (
    Batching,
    ConfigPath,
    FlowContext,
    Permanent,
    Rejected,
    SinkOptions,
    SinkPlugin,
    SinkSettings,
    Transient,
)


class ProbeSettings(SinkSettings):
    path: ConfigPath
    #: Flows with the same text share a process.
    shared: str = ""
    delay: float = 0.0


class ProbeSink:
    def __init__(self, settings: ProbeSettings, flow: str) -> None:
        self._path = settings.path.with_name(f"{settings.path.name}.{flow}")
        self._mode = settings.path.with_name(f"{settings.path.name}.mode")
        self._delay = settings.delay

    async def open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def write(self, batch: Batch) -> None:
        self._note(f"begin {batch.base}\n")
        while self._is("hang"):  # noqa: ASYNC110 - another process sets the mode
            await asyncio.sleep(0.01)
        await asyncio.sleep(self._delay)
        if self._is("transient"):
            raise Transient("the probe is busy")
        if self._is("permanent"):
            raise Permanent("the probe refuses everything", hint="change its mind")
        if self._is("rejected"):
            raise Rejected({0: "the probe does not like it"})
        if self._is("crash"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._is("print"):
            print("a sink that prints to stdout")
        self._note("".join(f"{change.offset}\n" for change in batch.changes()))

    async def close(self) -> None:
        if hasattr(self, "_fd"):
            self._note("close\n")
            os.close(self._fd)

    async def query(self, sql: str) -> pa.Table:
        if sql != "SELECT pid":
            raise Permanent("the probe knows one query only")
        return pa.table({"pid": [os.getpid()]})

    def _note(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def _is(self, mode: str) -> bool:
        return self._mode.exists() and self._mode.read_text() == mode


def _create(settings: ProbeSettings, _options: SinkOptions, context: FlowContext) -> ProbeSink:
    return ProbeSink(settings, context.flow)


def _exclusive(settings: ProbeSettings) -> str | None:
    return settings.shared or None


plugin = SinkPlugin("probe", ProbeSettings, _create, batching=Batching(max_changes=100), exclusive=_exclusive)
