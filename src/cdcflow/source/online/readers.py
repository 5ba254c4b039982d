"""The readers: a process each, and a thread that gives it work and takes what it has read."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import IO, Any

import pyarrow as pa

from cdcflow.journal import Packed
from cdcflow.model import Relation
from cdcflow.source.online.board import RETRY, TICK, Board, Read
from cdcflow.source.online.tables import part
from cdcflow.source.online.task import Task, key_names
from cdcflow.source.plan import Claim
from cdcflow.source.reading import receive, send
from cdcflow.source.visible import Snapshot, key_of

#: Keys that are read again at once.
KEYS_AT_ONCE = 500
#: A chunk of a backfill with a limit holds at most what may come in this many seconds.
RATE_SECONDS = 0.25

#: Seconds without work after which a reader ends: idle, it would keep some 80 MB.
IDLE_SECONDS = 30.0

#: Ends of readers, without a chunk in between, after which a table's backfill has failed.
DEATHS = 20

#: Of the pipe through which a reader hands over its chunks: what Linux gives to anybody.
PIPE_BYTES = 1 << 20

_KEYS = pa.schema([pa.field("key", pa.string())])

#: A reader needs the memory of one chunk again for the next: glibc would give it back to the system and have
#: all of it cleared and mapped anew for every chunk, which takes more time than decoding does.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}

#: What a reader does: a span of a table, or rows by their keys.
_Job = tuple[Task, Claim | None, tuple[str, ...]]


class Process:
    """A reader's process."""

    def __init__(self, dsn: str, publication: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cdcflow.source.reading"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_KEEP_MEMORY},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._jobs: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        _widen(self._answers)
        # Not an argument: everybody on the machine can read those.
        self.send({"dsn": dsn, "publication": publication})

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, job: Mapping[str, Any]) -> None:
        send(self._jobs, job)

    def receive(self) -> tuple[dict[str, Any], bytes, bytes]:
        answer = receive(self._answers)
        sizes = answer.get("sizes")
        if sizes is None:
            return answer, b"", b""
        keys, message = (self._answers.read(size) for size in sizes)
        if [len(keys), len(message)] != sizes:
            raise EOFError
        return answer, keys, message

    def end(self) -> int:
        """Says by which code it ended, as `subprocess` has it."""
        self._process.kill()
        code = self._process.wait()
        for pipe in (self._jobs, self._answers):
            with contextlib.suppress(OSError):
                pipe.close()
        return code


def _widen(pipe: IO[bytes]) -> None:
    """A chunk passes a pipe of the usual 64 KiB in dozens of steps, each of which wakes both sides."""
    if sys.platform == "linux":
        # The system may have none left to give: then it stays as it is.
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


class Readers:
    """As many as the board allows, from `start` on and while there is work for them."""

    def __init__(self, board: Board, dsn: str, publication: str) -> None:
        self._board = board
        self._dsn = dsn
        self._publication = publication
        self._processes: dict[int, Process] = {}
        self._threads: dict[int, threading.Thread] = {}
        #: Per request with a limit, when its next chunk may be read.
        self._next: dict[str, float] = {}

    def start(self) -> None:
        for reader in range(self._board.readers):
            known = self._threads.get(reader)
            if known is None or not known.is_alive():
                thread = threading.Thread(
                    target=self._read, args=(reader,), name="backfill reader", daemon=True
                )
                self._threads[reader] = thread
                thread.start()

    def end(self) -> None:
        """Kills the processes; for a board that is `stopping`."""
        with self._board.lock:
            processes = list(self._processes.values())
        for process in processes:
            process.end()

    def join(self, seconds: float) -> None:
        for thread in self._threads.values():
            thread.join(seconds)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes.values()]

    def _read(self, reader: int) -> None:
        try:
            self._read_on(reader)
        except Exception as error:  # noqa: BLE001 - handed over to capture's thread, which raises it
            self._board.defect = error
            self._board.wake()

    def _read_on(self, reader: int) -> None:
        process: Process | None = None
        try:
            while not self._board.stopping:
                claimed: _Job | None = None
                sent: _Job | None = None
                broken: OSError | None = None
                try:
                    if process is None:
                        # Before there is work: it imports and connects meanwhile.
                        process = self._start_process(reader)
                    claimed = self._claim(reader)
                    if claimed is None:
                        return
                    began = time.monotonic()
                    process.send(self._job(*claimed))
                    sent = claimed
                    while sent is not None:
                        answer, keys, message = process.receive()
                        self._board.rest(time.monotonic() - began)
                        done, sent = self._taken(sent, answer, reader)
                        if sent is not None:
                            try:
                                began = time.monotonic()
                                process.send(self._job(*sent))
                            except OSError as error:
                                broken = error
                        # Also when the process has died since: this was read.
                        self._deliver(reader, done, answer, keys, message)
                        if broken is not None:
                            raise broken
                except (OSError, EOFError):
                    # The process is gone, killed perhaps. What it had is read by the next one.
                    had = sent if sent is not None else claimed
                    if had is not None:
                        self._give_back(had)
                    if process is not None:
                        code, process = process.end(), None
                        if had is not None:
                            self._died(had[0], code)
                    self._board.pause(RETRY)
        finally:
            with self._board.lock:
                self._board.bounds.pop(reader, None)
                self._processes.pop(reader, None)
            if process is not None:
                process.end()

    def _died(self, task: Task, code: int) -> None:
        """Nothing must be read for ever that no reader survives."""
        with self._board.lock:
            if task.chunks > task.chunks_at_death:
                task.deaths, task.chunks_at_death = 0, task.chunks
            task.deaths += 1
            if task.deaths < DEATHS or task.state not in ("reading", "rereading"):
                return
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
            self._board.fail(
                task,
                f"the processes that read {task.table} ended {DEATHS} times without a chunk, the last {how}",
                "what they said is in the engine's log; SIGKILL may be the system's, for want of memory; then"
                " `cdcflow backfill resume`",
            )

    def _start_process(self, reader: int) -> Process:
        process = Process(self._dsn, self._publication)
        with self._board.lock:
            self._processes[reader] = process
            stopping = self._board.stopping
        if stopping:
            raise EOFError
        return process

    def _job(self, task: Task, claim: Claim | None, keys: tuple[str, ...]) -> dict[str, Any]:
        rate = task.request.rate
        limit = None if rate is None else max(int(rate * RATE_SECONDS), 1)
        if claim is None:
            relation = task.relation
            assert relation is not None
            file = None if task.partitioned else next(iter(task.parts.values()))["file"]
            table = part(task, task.oid, relation.schema, relation.name, file)
            wanted = [list(key_of(key)) for key in keys]
            return {"table": table, "key": key_names(relation), "keys": wanted, "rows": limit}
        return {"table": task.parts[claim.part], "low": claim.low, "high": claim.high, "rows": limit}

    def _claim(self, reader: int) -> _Job | None:
        """The next piece of work, once there is some; None at the end, or where none is to be expected."""
        with self._board.lock:
            idle_since = time.monotonic()
            while not self._board.stopping:
                found = self._claim_now(reader)
                if found is not None:
                    return found
                self._board.bounds.pop(reader, None)
                if self._board.soon_read:
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > IDLE_SECONDS:
                    return None
                self._board.lock.wait(min(self._board.wait_to_read(reader) or TICK, TICK))
        return None

    def _claim_now(self, reader: int) -> _Job | None:
        if self._board.wait_to_read(reader):
            return None
        now = time.monotonic()
        for task in self._board.tasks.values():
            if self._next.get(task.request.name, 0.0) > now:
                continue
            claim, keys = None, ()  # type: tuple[Claim | None, tuple[str, ...]]
            if task.state == "reading" and task.plan is not None:
                claim = task.plan.claim()
            elif task.state == "rereading":
                free = [key for key in list(task.changed.again) if key not in task.claimed]
                keys = tuple(free[:KEYS_AT_ONCE])
                task.claimed.update(keys)
            if claim is not None or keys:
                self._board.bounds.setdefault(reader, self._board.latest)
                return task, claim, keys
        return None

    def _taken(self, done: _Job, answer: Mapping[str, Any], reader: int) -> tuple[_Job, _Job | None]:
        """What the reader has done of its work, and more of it, so that it reads while this waits."""
        task, claim, keys = done
        if answer["status"] != "chunk":
            return done, None
        rate = task.request.rate
        with self._board.lock:
            if claim is not None and task.plan is not None:
                claim = task.plan.reached(claim, answer["high"])
            if rate is not None:
                begin = max(self._next.get(task.request.name, 0.0), time.monotonic())
                self._next[task.request.name] = begin + answer["rows"] / rate
            return (task, claim, keys), None if self._board.stopping else self._claim_now(reader)

    def _give_back(self, claimed: _Job) -> None:
        task, claim, keys = claimed
        with self._board.lock:
            task.claimed.difference_update(keys)
            if claim is not None and task.plan is not None:
                task.plan.release(claim)
            self._board.lock.notify_all()

    def _deliver(
        self,
        reader: int,
        done: _Job,
        answer: Mapping[str, Any],
        keys: bytes,
        message: bytes,
    ) -> None:
        task, claim, wanted = done
        status = answer["status"]
        if status != "chunk":
            self._give_back(done)
            self._refused(task, status, answer)
            return
        packed, texts = None, pa.array([], pa.string())
        if message:
            relation = Relation.from_state(answer["relation"])
            plain, weight, moment = answer["plain"], answer["weight"], answer["time"]
            packed = Packed(
                relation, answer["unchanged"], answer["rows"], pa.py_buffer(message), plain, weight, moment
            )
            texts = pa.ipc.read_record_batch(pa.py_buffer(keys), _KEYS).column(0)
        snapshot = Snapshot.parse(answer["snapshot"], exact=not answer["standby"])
        read = Read(
            task,
            reader,
            snapshot,
            answer["lsn"],
            packed,
            texts,
            claim,
            answer["bytes"],
            wanted,
        )
        self._board.wait_for_room()
        self._board.arrive(read)
        if claim is not None and task.plan is not None:
            with self._board.lock:
                task.plan.delivered(claim)
                self._board.lock.notify_all()

    def _refused(self, task: Task, status: str, answer: Mapping[str, Any]) -> None:
        with self._board.lock:
            if task.state not in ("reading", "rereading"):
                return  # cancelled meanwhile, or known already
            if status == "rewritten":
                self._board.set(task, "lookup")
            elif status == "gone":
                self._board.fail(task, answer["error"], answer.get("hint", ""))
            else:
                task.error = answer["error"]
                self._board.pause(RETRY)
