"""The `jsonl` sink: its files hold each change once, and say themselves how far the flow has come."""

import asyncio
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

import orjson

from cdcflow.errors import Permanent
from cdcflow.model import Batch, Position
from cdcflow.sink import ExpectedTable, Finding, FlowContext, Rendered, judge_events
from cdcflow.sink.event import Event, encode, events
from cdcflow_sinks.jsonl.files import FlowFiles
from cdcflow_sinks.jsonl.settings import JsonlSettings

T = TypeVar("T")
Given = TypeVarTuple("Given")


class JsonlSink:
    """A `PositionedSink` and `RewindableSink` that `Redelivers`, over `FlowFiles`. A line is the event (see
    `cdcflow.sink.event`) with the journal's `offset` before its other fields, and `redelivered` behind it for
    a dead letter.

    Encoding and writing happen in a thread of the sink's own, so that the worker's loop stays free. A
    write that is cancelled is finished by that thread before `close` returns.
    """

    def __init__(self, settings: JsonlSettings, context: FlowContext) -> None:
        self._settings = settings
        self._flow = context.flow
        self._files = FlowFiles(settings.path, context.flow, settings.rotate)
        self._thread: ThreadPoolExecutor | None = None
        #: The ids of the dead letters that are there, once somebody has asked.
        self._redelivered: set[str] | None = None

    async def open(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"jsonl-{self._flow}")
        await self._call(self._files.open)

    async def checkpoint(self) -> int | None:
        return self._files.checkpoint

    async def position(self) -> Position | None:
        return Position.parse(self._files.position) if self._files.position else None

    async def move(self, offset: int, position: Position, *, whole: bool) -> None:
        """Lines of changes that will come again are cut off: each is there once, whatever comes."""
        await self._call(self._files.move, offset, str(position))
        self._redelivered = None

    async def write(self, batch: Batch) -> None:
        await self._call(self._write, batch)

    async def redeliver(self, batch: Batch, offsets: Sequence[int]) -> None:
        await self._call(self._redeliver, batch, offsets)

    async def close(self) -> None:
        if self._thread is None:
            return
        try:
            await self._call(self._files.close)
        finally:
            self._thread.shutdown(wait=False)
            self._thread = None

    async def probe(self) -> Sequence[Finding]:
        return await asyncio.to_thread(self._look)

    def judge(self, tables: Sequence[ExpectedTable]) -> Sequence[Finding]:
        return judge_events(f"flow {self._flow}", tables)

    def preview(self, batch: Batch) -> Sequence[Rendered]:
        target = f"{self._settings.path}/{self._flow}.*.jsonl"
        return [
            Rendered((index,), target, _line(batch.base + index, event).decode().rstrip())
            for index, event in events(batch, self._settings.numbers)
        ]

    async def _call(self, function: Callable[[*Given], T], *given: *Given) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *given)

    def _write(self, batch: Batch) -> None:
        have = self._files.checkpoint
        if have is not None:
            if batch.base > have:
                raise Permanent(
                    f"the files of flow {self._flow} in {self._settings.path} end at offset {have}, and the "
                    f"next batch begins at {batch.base}",
                    hint="rewind the flow, or give it a path of its own to start anew",
                )
            if batch.end <= have:
                return
            batch = batch.slice(have - batch.base, batch.count)
        for index, event in events(batch, self._settings.numbers):
            offset = batch.base + index
            self._files.append(offset, _line(offset, event))
        self._files.commit(batch.end, str(batch.last))

    def _redeliver(self, batch: Batch, offsets: Sequence[int]) -> None:
        if self._redelivered is None:
            self._redelivered = {orjson.loads(line)["id"] for line in self._files.redelivered()}
        new = [
            (offsets[index], event)
            for index, event in events(batch, self._settings.numbers)
            if event["id"] not in self._redelivered
        ]
        for offset, event in new:
            self._files.append_redelivered(offset, _line(offset, event, redelivered=True))
        self._files.commit_redelivered()
        self._redelivered.update(event["id"] for _, event in new)

    def _look(self) -> list[Finding]:
        path = self._settings.path
        subject = f"files of events in {path}"
        place = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        if not place.is_dir():
            return [Finding("error", subject, f"{place} is not a directory", "give another path")]
        if not os.access(place, os.W_OK | os.X_OK):
            remedy = "let the user of cdcflow write there, or give another path"
            return [Finding("error", subject, f"{place} cannot be written by this user", remedy)]
        free = shutil.disk_usage(place).free
        if free < self._settings.rotate.size:
            remedy = "free some space; the flow waits while there is none"
            return [Finding("warning", subject, f"only {free // 10**6} MB are free", remedy)]
        return [Finding("ok", subject, f"writable, {free // 10**9} GB free")]


def _line(offset: int, event: Event, *, redelivered: bool = False) -> bytes:
    mark = b'"redelivered":true,' if redelivered else b""
    return b'{"offset":%d,%s%s\n' % (offset, mark, encode(event)[1:])
