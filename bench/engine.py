"""The real engine, started as a user's would be: from a `cdcflow.yaml`, in processes of its own."""

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import orjson

from cdcflow.delivery import FlowReport
from cdcflow.engine import control
from cdcflow.engine.reports import CaptureReport, Failed, decode
from cdcflow.errors import CdcflowError
from cdcflow.testing.waiting import eventually

T = TypeVar("T")

#: A process that says nothing for so long while it is waited for hangs, however slow the machine.
TIMEOUT = 600.0
#: Short against what is measured; the moments themselves come from the processes' own clocks.
INTERVAL = 0.02


def configure(
    directory: Path,
    dsn: str,
    slot: str,
    publication: str,
    sinks: Mapping[str, Any],
    transforms: Mapping[str, Any] = {},
) -> Path:
    """Writes `cdcflow.yaml` (JSON is YAML) with one flow of every table into each sink, named as it, with the
    transforms of that name."""
    config = {
        "source": {
            "dsn": dsn,
            "tables": [f"public.{publication}"],
            "publication": publication,
            "slot": slot,
            "backfill": "none",
        },
        "journal": {"path": "journal"},
        "engine": {"state": "state"},
        "sinks": dict(sinks),
        "mask": {"key": "the key of the bench, long enough"},
        "flows": [
            {"name": name, "from": ["public.*"], "to": name, "transforms": transforms.get(name)}
            for name in sinks
        ],
    }
    path = directory / "cdcflow.yaml"
    path.write_bytes(orjson.dumps(config, option=orjson.OPT_INDENT_2))
    return path


class _Process:
    """A program whose stderr is kept, and shown when it ends before its time."""

    def __init__(self, name: str, command: list[str], directory: Path, stdout: int) -> None:
        self.name = name
        self._log = directory / f"{name}.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stdout, stderr=log)

    @property
    def pid(self) -> int:
        return self.process.pid

    def eventually(self, condition: Callable[[], T | None], what: str, interval: float = INTERVAL) -> T:
        """Waits for something that is true, as long as the process lives. Raises CdcflowError."""

        def alive() -> T | None:
            if self.process.poll() is not None:
                raise self.failure(f"ended with code {self.process.returncode} before {what}")
            return condition()

        answer = eventually(alive, timeout=TIMEOUT, interval=interval, what=what)
        assert answer is not None
        return answer

    def failure(self, what: str) -> CdcflowError:
        log = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
        return CdcflowError(f"{self.name} {what}; its log ends with:\n{log}")

    def stop(self) -> None:
        """A clean stop. Raises CdcflowError for one that is not."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(TIMEOUT)
        code = self.process.poll()
        self.kill()
        if code != 0:
            raise self.failure(f"ended with code {code}")

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
        else:
            self.kill()


class Child(_Process):
    """One process of the engine without the supervisor, so that the bench says when it starts: `capture`, or
    `deliver` with the name of a flow."""

    def __init__(self, kind: str, config: Path, *flows: str) -> None:
        command = [sys.executable, "-m", "cdcflow.engine.child", kind, *flows, "--config", str(config)]
        self._flow: FlowReport | None = None
        self.reported = False
        self._failed: Failed | None = None
        super().__init__(kind, command, config.parent, subprocess.PIPE)
        self._thread = threading.Thread(target=self._listen, name=kind, daemon=True)
        self._thread.start()

    @property
    def flow(self) -> FlowReport:
        """The flow's last report."""
        return self._flow or FlowReport(name="")

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                message = decode(line)
                if isinstance(message, FlowReport):
                    self._flow = message
                elif isinstance(message, Failed):
                    self._failed = message
                self.reported = self.reported or isinstance(message, FlowReport | CaptureReport)

    def failure(self, what: str) -> CdcflowError:
        if self._failed is not None:
            return CdcflowError(f"{self.name} {what}: {self._failed.message}", hint=self._failed.hint)
        return super().failure(what)


class Engine(_Process):
    """`cdcflow run`: supervisor, capture and workers."""

    def __init__(self, config: Path) -> None:
        program = [sys.executable, "-c", "from cdcflow.cli.main import main; main()"]
        super().__init__("run", [*program, "--config", str(config), "run"], config.parent, subprocess.DEVNULL)
        self._state = config.parent / "state"

    def status(self) -> dict[str, Any]:
        """The status document; empty while there is none yet."""
        return control.status(self._state) or {}

    def pids(self) -> dict[str, int]:
        """Every process of the engine by its part."""
        document = self.status()
        found = {"supervisor": self.pid, "capture": document["capture"]["pid"]}
        return found | {f"worker {flow['name']}": flow["pid"] for flow in document["flows"]}

    def wait_until_streaming(self) -> None:
        """Returns when the slot streams and every flow has opened its sink."""

        def ready() -> bool:
            document = self.status()
            flows = document.get("flows", [])
            return (
                document.get("capture", {}).get("state") == "streaming"
                and all(flow["checkpoint"] is not None for flow in flows)
                and bool(flows)
            )

        self.eventually(ready, "the slot streamed")
