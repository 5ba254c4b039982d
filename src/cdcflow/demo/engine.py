"""The demo's engine: `cdcflow run` as anybody starts it, in its own process, asked through its socket."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg

from cdcflow.demo.project import Project
from cdcflow.engine import control
from cdcflow.errors import CdcflowError
from cdcflow.journal import Reader
from cdcflow.model import parse_lsn
from cdcflow.model.position import format_lsn

#: From the start to the end of the backfill, on a machine that is busy with other things.
START_SECONDS = 60.0
#: What is in flight when the engine is told to stop is one batch per flow.
STOP_SECONDS = 30.0
#: How often the engine is asked while something is waited for.
LOOK = 0.1
#: Lines of the engine's log that say why it ended.
LAST_LINES = 8

Status = dict[str, Any]


class Engine:
    """One run of the engine on a project. `stop` must be called in any case."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, without waiting for anything."""
        program = "from cdcflow.cli.main import main; main()"
        command = [sys.executable, "-c", program, "--config", str(self._project.configuration), "run"]
        with self._project.log.open("ab") as log:
            # A session of its own: Ctrl-C is for us, who stop things in order.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def require(self) -> None:
        """Raises CdcflowError when the engine has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise CdcflowError(
                f"the engine ended with code {self._process.returncode}: {last_lines(self._project.log)}",
                hint=f"all that it said is in {self._project.log}",
            )

    def status(self) -> Status | None:
        """The status document, or None while it does not answer yet."""
        self.require()
        return control.status(self._project.state)

    def wait_until_streaming(self) -> None:
        """Returns when the rows that were there are copied and the slot streams.

        Raises CdcflowError when that takes longer than `START_SECONDS`.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            status = self.status()
            if status is not None and status["capture"]["state"] == "streaming":
                return
            if time.monotonic() > deadline:
                raise CdcflowError(
                    f"the engine did not stream within {START_SECONDS:g} s: {describe(status)}",
                    hint=f"see {self._project.log}",
                )
            time.sleep(LOOK)

    def wait_until_delivered(self, connection: psycopg.Connection[Any], timeout: float) -> float:
        """Returns when every flow holds everything that was committed before the call, and how many seconds
        that took.

        Raises CdcflowError when `timeout` seconds pass in which neither capture nor any flow gets on.
        """
        started = moved = time.monotonic()
        reached: object = None
        # What has been committed was flushed: nothing of it lies behind this place.
        row = connection.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
        assert row is not None
        until = parse_lsn(row[0])
        offset: int | None = None
        with Reader(self._project.journal) as journal:
            while True:
                status = self.status()
                head = journal.head()
                if offset is None and head.committed >= until:
                    offset = head.offset
                if offset is not None and status is not None and holds(status, offset):
                    return time.monotonic() - started
                now = time.monotonic()
                if (where := (head.committed, checkpoints(status))) != reached:
                    reached, moved = where, now
                if now - moved > timeout:
                    captured = (
                        "capture has everything"
                        if offset is not None
                        else f"the journal is at {format_lsn(head.committed)} of {format_lsn(until)}"
                    )
                    raise CdcflowError(
                        f"not everything was delivered, and nothing has moved for {timeout:g} s: "
                        f"{captured}; {describe(status)}",
                        hint=f"see {self._project.log}",
                    )
                time.sleep(LOOK)

    def stop(self) -> int:
        """Tells the engine to stop, waits for it and returns its exit code; kills it when it takes too long.

        An interruption while waiting hurries it.
        """
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS / 2)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                # The whole group; its children end by themselves when it is gone.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return process.returncode


def holds(status: Status, offset: int) -> bool:
    """Whether every flow has everything below the journal's offset."""
    return all(checkpoint is not None and checkpoint >= offset for checkpoint in checkpoints(status))


def checkpoints(status: Status | None) -> list[int | None]:
    """Of every flow, in the status' order."""
    return [] if status is None else [flow["checkpoint"] for flow in status["flows"]]


def describe(status: Status | None) -> str:
    """The engine's state in words."""
    if status is None:
        return "the engine does not answer yet"
    capture = status["capture"]
    words = [f"capture is {capture['state']}" + (f" ({capture['error']})" if capture["error"] else "")]
    for flow in status["flows"]:
        behind = "an unknown number of" if flow["lag_changes"] is None else str(flow["lag_changes"])
        why = f" ({flow['reason']})" if flow["reason"] else ""
        words.append(f"flow {flow['name']} is {flow['state']}{why}, {behind} changes behind")
    return "; ".join(words)


def last_lines(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return "it wrote nothing"
    return " / ".join(line.strip() for line in lines[-LAST_LINES:] if line.strip()) or "it wrote nothing"
