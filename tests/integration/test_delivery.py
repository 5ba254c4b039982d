"""The engine's processes, as they are run: a real supervisor, real workers, a real journal, and real signals.
Only the database is left out: a probe appends to the journal in capture's place."""

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import psutil  # type: ignore[import-untyped]
import pytest

from cdcflow.delivery import CheckpointStore
from cdcflow.engine import control
from cdcflow.errors import CdcflowError, EnvironmentFault
from cdcflow.testing.waiting import TIMEOUT, eventually

PLUGIN = Path(__file__).parent / "probe_plugin"


class Engine:
    """`probe_engine.py` on a configuration of its own, with one flow per probe sink."""

    def __init__(self, folder: Path, flows: Sequence[str], **sink: Any) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.config = folder / "cdcflow.yaml"
        self.flows = tuple(flows)
        self._process: subprocess.Popen[str] | None = None
        self._lines: list[str] = []
        self._reading: threading.Thread | None = None
        self.configure(
            sinks={name: {"type": "probe", "path": "sink", **sink} for name in flows},
            flows=[{"name": name, "from": ["public.*"], "to": name} for name in flows],
        )

    def configure(self, **parts: Any) -> None:
        whole = {
            "source": {"dsn": "postgresql://nobody@127.0.0.1/none", "tables": ["public.*"]},
            "journal": {"path": "journal"},
            "engine": {"state": "state"},
            **parts,
        }
        self.config.write_bytes(orjson.dumps(whole))

    def start(self, *, changes: int = 100, **environment: str) -> None:
        self.bring(changes)
        extra = {"PYTHONPATH": str(PLUGIN), **environment}
        self._process = subprocess.Popen(
            [sys.executable, str(PLUGIN / "probe_engine.py"), str(self.config)],
            env={**os.environ, **extra},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines = []
        self._reading = threading.Thread(target=self._read, args=[self._process], daemon=True)
        self._reading.start()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                self._lines.append(line)

    @property
    def process(self) -> "subprocess.Popen[str]":
        assert self._process is not None
        return self._process

    @property
    def log(self) -> str:
        return "".join(self._lines)

    def wait(self) -> int:
        code = self.process.wait(TIMEOUT)
        eventually(lambda: not self.children(), what="the children's end")
        # All of its log is here when everybody who could write to it has ended.
        assert self._reading is not None
        self._reading.join(TIMEOUT)
        return code

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def children(self) -> list[psutil.Process]:
        """Every process of the engine but the supervisor, also orphans."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if str(self.config) in words and process.pid != self.process.pid:
                found.append(process)
        return found

    def kill_everything(self) -> None:
        if self._process is None:
            return
        for process in [*self.children(), *([self._process] if self._process.poll() is None else [])]:
            process.kill()
        self._process.wait(TIMEOUT)

    def status(self) -> dict[str, Any]:
        """Empty where no engine runs, or it is too busy to answer."""
        try:
            return control.status(self.state) or {}
        except EnvironmentFault:
            return {}

    def flow(self, name: str) -> dict[str, Any]:
        found = [flow for flow in self.status().get("flows", []) if flow["name"] == name]
        return found[0] if found else {}

    def in_state(self, name: str, state: str) -> dict[str, Any]:
        """Waits until the flow is in that state, and gives what the status says of it then."""

        def look() -> dict[str, Any] | None:
            flow = self.flow(name)
            return flow if flow.get("state") == state else None

        return eventually(look, what=f"{name}: {state}") or {}

    def is_up_to_date(self, name: str, changes: int) -> Callable[[], bool]:
        def look() -> bool:
            flow = self.flow(name)
            return flow.get("state") == "up to date" and flow.get("checkpoint") == changes

        return look

    def lines(self, flow: str) -> list[str]:
        path = self.folder / f"sink.{flow}"
        return path.read_text().split("\n")[:-1] if path.exists() else []

    def offsets(self, flow: str) -> list[int]:
        """What the flow's sink has been given, in the order of its writes."""
        return [int(line) for line in self.lines(flow) if line.isdigit()]

    def set_mode(self, mode: str) -> None:
        self._replace("sink.mode", mode)

    def bring(self, changes: int) -> None:
        """Has the journal grow to so many changes."""
        self._replace("changes", str(changes))

    def _replace(self, name: str, text: str) -> None:
        fresh = self.folder / f"{name}.new"
        fresh.write_text(text)
        fresh.rename(self.folder / name)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def engine(*flows: str, **sink: Any) -> Engine:
        made.append(Engine(tmp_path, flows, **sink))
        return made[-1]

    yield engine
    for one in made:
        one.kill_everything()


def test_every_flow_gets_everything_and_a_stop_is_clean(make: Callable[..., Engine]) -> None:
    engine = make("one", "two")
    engine.start(changes=100)
    for flow in ("one", "two"):
        eventually(engine.is_up_to_date(flow, 100))
    status = engine.status()
    assert status["engine"]["state"] == "running"
    assert status["engine"]["pid"] == engine.process.pid
    assert status["capture"]["state"] == "streaming"
    assert status["capture"]["journal"]["offset"] == 100
    pids = {flow["pid"] for flow in status["flows"]}
    assert len(pids) == 2
    assert control.query(engine.state, "one", "SELECT pid").to_pylist() == [
        {"pid": engine.flow("one")["pid"]}
    ]
    with pytest.raises(CdcflowError, match="one query only"):
        control.query(engine.state, "one", "DROP TABLE pid")
    assert engine.stop() == 0
    for flow in ("one", "two"):
        assert engine.offsets(flow) == list(range(100))
        assert engine.lines(flow)[-1] == "close"
    assert control.status(engine.state) is None
    with pytest.raises(EnvironmentFault, match="does not run"):
        control.query(engine.state, "one", "SELECT pid")


def test_a_killed_worker_comes_back_and_repeats_at_most_what_was_in_flight(
    make: Callable[..., Engine],
) -> None:
    engine = make("one", "two", delay=0.002)
    engine.start(changes=100)
    checkpoints = [0]
    for kill in range(3):
        # There are a hundred more for each process, so that each has written some of its own.
        eventually(lambda: len(set(engine.offsets("one"))) > 100 * kill + 20)  # noqa: B023
        flow = engine.flow("one")
        checkpoints.append(flow["checkpoint"] or 0)
        os.kill(flow["pid"], signal.SIGKILL)
        eventually(lambda: engine.flow("one").get("restarts") == kill + 1)  # noqa: B023
        engine.bring(100 * (kill + 2))
    eventually(engine.is_up_to_date("one", 400))
    eventually(engine.is_up_to_date("two", 400))
    assert engine.flow("two")["restarts"] == 0
    assert engine.stop() == 0
    assert checkpoints == sorted(checkpoints)
    assert engine.offsets("two") == list(range(400))
    seen = engine.offsets("one")
    assert sorted(set(seen)) == list(range(400))
    # What comes again follows on a kill, begins at or behind the checkpoint, and is in order.
    steps = [(a, b) for a, b in itertools.pairwise(seen) if b != a + 1]
    assert len(steps) <= 3
    assert all(b <= a for a, b in steps)


def test_a_flow_that_always_fails_leaves_the_others_alone(make: Callable[..., Engine]) -> None:
    engine = make("good", "bad")
    engine.configure(
        sinks={
            "good": {"type": "probe", "path": "good"},
            "bad": {"type": "probe", "path": "sink"},
        },
        flows=[{"name": name, "from": ["public.*"], "to": name} for name in ("good", "bad")],
    )
    engine.set_mode("permanent")
    engine.start(changes=50)
    eventually(engine.is_up_to_date("good", 50))
    bad = engine.in_state("bad", "needs attention")
    assert bad["reason"] == "the probe refuses everything (change its mind)"
    assert (bad["checkpoint"], bad["restarts"]) == (0, 0)
    engine.set_mode("ok")
    control.retry(engine.state, "bad")
    eventually(engine.is_up_to_date("bad", 50))
    assert engine.stop() == 0
    assert engine.offsets("bad") == list(range(50))


def test_a_worker_that_crashes_again_and_again_is_restarted_with_growing_pauses(
    make: Callable[..., Engine],
) -> None:
    engine = make("one")
    engine.set_mode("crash")
    engine.start(changes=10)
    eventually(lambda: engine.flow("one").get("restarts", 0) >= 3)
    flow = engine.in_state("one", "needs attention")
    assert "SIGKILL" in flow["reason"]
    assert flow["lag_changes"] is None
    said = [f"starts again in {pause} s" for pause in (0.2, 0.4, 0.8)]
    eventually(lambda: all(one in engine.log for one in said), what="the pauses in the log")
    engine.set_mode("ok")
    eventually(engine.is_up_to_date("one", 10))
    assert engine.stop() == 0


def test_stopping_finishes_the_write_in_flight(make: Callable[..., Engine]) -> None:
    engine = make("one", delay=0.3)
    engine.start(changes=10_000)
    eventually(lambda: len(engine.offsets("one")) > 2)
    engine.process.send_signal(signal.SIGTERM)
    assert engine.wait() == 0
    lines = engine.lines("one")
    begun = [int(line.split()[1]) for line in lines if line.startswith("begin")]
    assert lines[-1] == "close"
    assert begun[-1] in engine.offsets("one")  # what had begun was written
    with CheckpointStore(engine.state / "cdcflow.db") as store:
        checkpoint = store.get("one")
    assert checkpoint is not None
    assert checkpoint.offset == engine.offsets("one")[-1] + 1  # and checkpointed


def test_a_second_signal_hurries(make: Callable[..., Engine]) -> None:
    engine = make("one")
    engine.set_mode("hang")
    engine.start(changes=5)
    eventually(lambda: engine.lines("one"))
    engine.process.send_signal(signal.SIGTERM)
    eventually(lambda: engine.status().get("engine", {}).get("state") == "stopping")
    assert engine.process.poll() is None
    engine.process.send_signal(signal.SIGTERM)
    assert engine.wait() == 0
    assert engine.offsets("one") == []
    engine.set_mode("ok")
    engine.start(changes=5)
    eventually(engine.is_up_to_date("one", 5))
    assert engine.stop() == 0
    assert engine.offsets("one") == list(range(5))


def test_a_killed_supervisor_takes_its_processes_along_and_a_new_one_starts_at_once(
    make: Callable[..., Engine],
) -> None:
    engine = make("one", "two", delay=0.01)
    engine.start(changes=300)
    eventually(lambda: all(len(engine.offsets(flow)) > 20 for flow in ("one", "two")))
    orphans = engine.children()
    assert len(orphans) == 3
    engine.process.kill()
    engine.process.wait(TIMEOUT)
    engine.start(changes=300)
    _, alive = psutil.wait_procs(orphans, timeout=TIMEOUT)
    assert not alive
    eventually(engine.is_up_to_date("one", 300))
    eventually(engine.is_up_to_date("two", 300))
    assert {flow["restarts"] for flow in engine.status()["flows"]} == {0}
    assert engine.stop() == 0
    # Both had time to finish what was in flight, so nothing came twice.
    assert engine.offsets("one") == list(range(300))


def test_a_hung_worker_does_not_outlive_its_supervisor(make: Callable[..., Engine]) -> None:
    engine = make("one")
    engine.set_mode("hang")
    engine.start(changes=5)
    eventually(lambda: engine.lines("one"))
    orphans = engine.children()
    engine.process.kill()
    _, alive = psutil.wait_procs(orphans, timeout=TIMEOUT)
    assert not alive


def test_a_second_engine_on_the_same_state_names_the_first(make: Callable[..., Engine]) -> None:
    engine = make("one")
    engine.start(changes=1)
    eventually(engine.is_up_to_date("one", 1))
    second = subprocess.run(
        [sys.executable, str(PLUGIN / "probe_engine.py"), str(engine.config)],
        env={**os.environ, "PYTHONPATH": str(PLUGIN)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert second.returncode == 1  # the exception of `run`, which the command line prints
    assert f"process {engine.process.pid} holds" in second.stderr
    assert engine.flow("one")["state"] == "up to date"


def test_a_fatal_finding_of_capture_stops_the_engine_with_its_code_and_message(
    make: Callable[..., Engine],
) -> None:
    engine = make("one")
    engine.start(PROBE_FAIL="the replication slot 'cdcflow' is lost")
    assert engine.wait() == 3
    assert "error: the replication slot 'cdcflow' is lost\nhint: mend it\n" in engine.log


def test_capture_that_is_killed_comes_back_and_the_flows_go_on(make: Callable[..., Engine]) -> None:
    engine = make("one")
    engine.start(changes=400)
    eventually(lambda: len(engine.offsets("one")) > 20)
    os.kill(engine.status()["capture"]["pid"], signal.SIGKILL)
    # All 400 may have been there before: up to date it was then, too.
    eventually(lambda: engine.status().get("capture", {}).get("restarts") == 1, what="capture's restart")
    eventually(engine.is_up_to_date("one", 400))
    assert engine.flow("one")["restarts"] == 0
    assert engine.stop() == 0
    assert engine.offsets("one") == list(range(400))


def test_lag_is_unknown_while_capture_is_not_connected(make: Callable[..., Engine]) -> None:
    engine = make("one")
    engine.start(changes=5, PROBE_STATE="connecting")
    eventually(lambda: engine.flow("one").get("checkpoint") == 5)
    flow = engine.in_state("one", "starting")
    assert (flow["checkpoint"], flow["lag_changes"], flow["lag_seconds"]) == (5, None, None)
    assert engine.status()["engine"]["state"] == "starting"
    assert engine.stop() == 0


def test_capture_learns_what_every_flow_holds(make: Callable[..., Engine]) -> None:
    engine = make("one", "two")
    engine.start(changes=30)
    eventually(lambda: engine.status().get("capture", {}).get("delivered") == 30)
    assert engine.stop() == 0


def test_flows_of_an_exclusive_destination_share_a_process(make: Callable[..., Engine]) -> None:
    engine = make("one", "two", shared="the same file")
    engine.start(changes=20)
    eventually(engine.is_up_to_date("one", 20))
    eventually(engine.is_up_to_date("two", 20))
    assert engine.flow("one")["pid"] == engine.flow("two")["pid"]
    for flow in ("one", "two"):
        (row,) = control.query(engine.state, flow, "SELECT pid").to_pylist()
        assert row["pid"] == engine.flow(flow)["pid"]
    assert engine.stop() == 0


def test_what_a_sink_prints_does_not_disturb_the_reports(make: Callable[..., Engine]) -> None:
    engine = make("one")
    engine.set_mode("print")
    engine.start(changes=5)
    eventually(engine.is_up_to_date("one", 5))
    assert engine.stop() == 0
    assert "a sink that prints to stdout" in engine.log
    assert "not a report" not in engine.log


def test_ctrl_c_reaches_the_supervisor_alone(make: Callable[..., Engine]) -> None:
    engine = make("one", "two")
    engine.start(changes=5)
    eventually(engine.is_up_to_date("one", 5))
    eventually(engine.is_up_to_date("two", 5))
    groups = {os.getpgid(child.pid) for child in engine.children()}
    assert len(groups) == 3
    assert os.getpgid(engine.process.pid) not in groups
    engine.process.send_signal(signal.SIGINT)
    assert engine.wait() == 0
