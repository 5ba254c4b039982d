"""What people do to flows while an engine runs: files that change, pauses, moves. The engine's processes and
the command line are real; a probe appends to the journal in capture's place, as in test_delivery.py."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cdcflow.cli.main import app
from cdcflow.config import load
from cdcflow.delivery import CheckpointStore
from cdcflow.engine import lifecycle
from cdcflow.testing.waiting import eventually
from integration.test_delivery import PLUGIN, Engine

MAIN = """\
source: {dsn: "postgresql://nobody@127.0.0.1/none", tables: [public.*]}
journal: {path: journal}
engine: {state: state}
sinks:
  one: {type: probe, path: sink}
  two: {type: probe, path: sink}
  shared: {type: probe, path: sink, shared: a file}
"""


class Project(Engine):
    """An engine whose flows stand in files of their own."""

    def __init__(self, folder: Path) -> None:
        (folder / "flows").mkdir()
        super().__init__(folder, ())

    def configure(self, **parts: Any) -> None:
        self.config.write_text(MAIN, encoding="utf-8")

    def file(self, flow: str) -> Path:
        return self.folder / "flows" / f"{flow}.yaml"

    def write(self, flow: str, text: str = "from: [public.*]\nto: one\n") -> None:
        """As editors do: a new file takes the old one's name."""
        fresh = self.folder / f".{flow}.new"
        fresh.write_text(text, encoding="utf-8")
        fresh.rename(self.file(flow))

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(app, ["--config", str(self.config), *words])

    def state_of(self, flow: str, state: str) -> Callable[[], bool]:
        return lambda: self.flow(flow).get("state") == state

    def finding(self, subject: str) -> str:
        found = [f["message"] for f in self.status().get("findings", []) if f["subject"] == subject]
        return found[0] if found else ""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.syspath_prepend(str(PLUGIN))
    made = Project(tmp_path)
    yield made
    made.kill_everything()


def test_a_new_a_changed_and_a_removed_flow_take_effect_and_nobody_else_notices(project: Project) -> None:
    project.write("quiet")
    project.start(changes=20)
    eventually(project.is_up_to_date("quiet", 20))
    pids = project.flow("quiet")["pid"], project.status()["capture"]["pid"]

    project.write("fresh", "from: [public.*]\nto: two\n")
    eventually(project.is_up_to_date("fresh", 20))
    assert project.offsets("fresh") == list(range(20))

    first = project.flow("fresh")["revision"]
    project.write("fresh", "# another word\nfrom: [orders]\nto: two\n")
    eventually(lambda: project.flow("fresh").get("revision") not in (None, first))
    eventually(lambda: project.lines("fresh").count("close") == 1, what="the old worker's end")
    eventually(project.is_up_to_date("fresh", 20))
    assert project.flow("fresh")["from"] == ["orders"]

    project.file("fresh").unlink()
    eventually(lambda: not project.flow("fresh"))
    with CheckpointStore(project.state / "cdcflow.db") as store:
        kept = store.get("fresh")
    assert kept is not None
    assert kept.offset == 20

    assert (project.flow("quiet")["pid"], project.status()["capture"]["pid"]) == pids
    assert project.lines("quiet").count("close") == 0
    # It comes back, and goes on where it was.
    project.write("fresh", "from: [public.*]\nto: two\n")
    eventually(project.is_up_to_date("fresh", 20))
    assert project.stop() == 0
    assert project.offsets("fresh") == list(range(20))


def test_a_flow_file_edited_into_nonsense_is_refused_with_its_place_and_runs_on(project: Project) -> None:
    project.write("one")
    project.start(changes=400)
    eventually(lambda: len(project.offsets("one")) > 5)
    pid = project.flow("one")["pid"]
    revision = project.flow("one")["revision"]
    for text, said in (
        ("from: [public.*]\nto: oen\n", "one.yaml:2: to: there is no sink 'oen' (did you mean 'one'?)"),
        ("from: [public.*\nto: [", "one.yaml:"),
        ("", "one.yaml:1: must be a mapping"),
        ("from: [public.*]\nto: one\nfilter: x\n", "one.yaml:3: filter: unknown key"),
    ):
        project.write("one", text)
        eventually(lambda: said in str(project.flow("one").get("refused")), what=said)  # noqa: B023
    assert "the version before it runs on" in project.finding("flow one")
    shown = project.run("status")
    assert "filter: unknown key" in shown.output
    assert shown.exit_code == 0
    eventually(project.is_up_to_date("one", 400))
    assert (project.flow("one")["pid"], project.flow("one")["revision"]) == (pid, revision)
    # Its process dies, and comes back with what was taken over.
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: project.flow("one").get("restarts") == 1)
    eventually(project.is_up_to_date("one", 400))
    # So does the engine as a whole.
    assert project.stop() == 0
    project.start(changes=410)
    eventually(project.is_up_to_date("one", 410))
    eventually(lambda: "filter: unknown key" in project.log, what="the refusal in the log")
    project.write("one")
    eventually(lambda: project.flow("one").get("refused") is None)
    assert project.stop() == 0


def test_a_new_file_that_makes_no_sense_is_listed_and_a_first_start_refuses_it(project: Project) -> None:
    project.write("one")
    project.write("bad", "from: [public.*]\nto: nowhere\n")
    project.start(changes=5)
    assert project.wait() == 1  # the exception of `run`, which the command line prints
    assert "there is no sink 'nowhere'" in project.log
    project.file("bad").unlink()
    project.start(changes=5)
    eventually(project.is_up_to_date("one", 5))
    project.write("bad", "from: [public.*]\nto: nowhere\n")
    eventually(project.state_of("bad", "needs attention"))
    assert "bad.yaml:2: to: there is no sink 'nowhere'" in project.flow("bad")["reason"]
    assert project.stop() == 0


def test_what_an_editor_leaves_beside_a_file_is_no_flow(project: Project) -> None:
    project.write("one")
    project.start(changes=5)
    eventually(project.is_up_to_date("one", 5))
    for name in (".one.yaml.swp", "one.yaml~", "#one.yaml#", "4913", ".#one.yaml"):
        (project.folder / "flows" / name).write_text("b0VIM", encoding="utf-8")
    project.write("two", "from: [public.*]\nto: two\n")
    eventually(project.is_up_to_date("two", 5))
    assert [flow["name"] for flow in project.status()["flows"]] == ["one", "two"]
    assert not project.finding("cdcflow.yaml")
    assert project.stop() == 0


def test_a_change_that_needs_a_restart_is_said_and_not_half_done(project: Project) -> None:
    project.write("one")
    project.start(changes=5)
    eventually(project.is_up_to_date("one", 5))
    capture = project.status()["capture"]["pid"]
    changed = (
        MAIN.replace("tables: [public.*]", "tables: [public.*, shop.*]") + "  new: {type: probe, path: x}\n"
    )
    project.config.write_text(changed, encoding="utf-8")
    eventually(lambda: "source changed" in project.finding("cdcflow.yaml"))
    # The flow files are still read, under the file as it runs.
    project.write("two", "from: [public.*]\nto: new\n")
    eventually(project.state_of("two", "needs attention"))
    assert "there is no sink 'new'" in project.flow("two")["reason"]
    project.config.write_text("source: [", encoding="utf-8")
    eventually(lambda: "the file is refused" in project.finding("cdcflow.yaml"))
    assert [flow["name"] for flow in project.status()["flows"]] == ["one", "two"]
    # Sinks are taken over without.
    project.config.write_text(MAIN + "  new: {type: probe, path: sink}\n", encoding="utf-8")
    eventually(project.is_up_to_date("two", 5))
    assert not project.finding("cdcflow.yaml")
    assert project.status()["capture"]["pid"] == capture
    assert project.lines("one").count("close") == 0
    project.config.write_text(MAIN, encoding="utf-8")
    eventually(lambda: "flow two cannot run with it" in project.finding("cdcflow.yaml"))
    assert project.stop() == 0


def test_sighup_and_the_command_read_the_files_at_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("one")
    project.start(changes=5)
    eventually(project.is_up_to_date("one", 5))
    project.write("two", "from: [public.*]\nto: two\n")
    project.process.send_signal(signal.SIGHUP)
    eventually(project.is_up_to_date("two", 5))
    project.write("three", "from: [public.*]\nto: two\n")
    assert project.run("flow", "reload").exit_code == 0
    eventually(project.is_up_to_date("three", 5))
    assert project.stop() == 0
    assert project.run("flow", "reload").exit_code == 3


def test_flows_that_share_a_process_change_without_disturbing_each_other(project: Project) -> None:
    project.write("one", "from: [public.*]\nto: shared\n")
    project.write("two", "from: [public.*]\nto: shared\n")
    project.start(changes=10)
    eventually(project.is_up_to_date("one", 10))
    eventually(project.is_up_to_date("two", 10))
    pid = project.flow("one")["pid"]
    project.write("three", "from: [public.*]\nto: shared\n")
    project.write("two", "from: [orders]\nto: shared\n")
    eventually(project.is_up_to_date("three", 10))
    eventually(lambda: project.flow("two").get("from") == ["orders"])
    eventually(project.is_up_to_date("two", 10))
    assert project.run("flow", "pause", "three").exit_code == 0
    project.file("two").unlink()
    eventually(lambda: not project.flow("two"))
    assert project.flow("three")["state"] == "paused"
    assert {flow["pid"] for flow in project.status()["flows"]} == {pid}
    assert project.lines("one").count("close") == 0
    assert project.stop() == 0


def test_a_pause_outlives_the_engine_and_says_who_and_why(project: Project) -> None:
    project.write("one")
    project.write("two", "from: [public.*]\nto: two\n")
    project.start(changes=20)
    eventually(project.is_up_to_date("one", 20))
    eventually(project.is_up_to_date("two", 20))
    done = project.run("flow", "pause", "one", "--why", "the shop is being moved")
    assert done.exit_code == 0, done.output
    flow = project.flow("one")
    assert (flow["state"], flow["checkpoint"]) == ("paused", 20)
    eventually(lambda: project.flow("one")["pid"] is None)
    assert "the shop is being moved" in flow["reason"]
    assert flow["paused"]["who"] in flow["reason"]
    assert project.lines("one")[-1] == "close"
    assert project.stop() == 0

    project.start(changes=40)
    eventually(project.is_up_to_date("two", 40))
    flow = project.flow("one")
    assert (flow["state"], flow["checkpoint"], flow["lag_changes"]) == ("paused", 20, 20)
    # Nothing is removed that the paused flow has not read.
    eventually(lambda: project.status()["capture"].get("delivered") == 20)
    assert project.run("flow", "resume", "one").exit_code == 0
    eventually(project.is_up_to_date("one", 40))
    assert project.stop() == 0
    assert project.offsets("one") == list(range(40))


def test_a_pause_waits_for_the_write_in_flight(project: Project) -> None:
    project.write("one")
    project.set_mode("hang")
    project.start(changes=5)
    eventually(lambda: project.lines("one"))
    lifecycle.pause(load(project.config), "one", who="ana")
    assert project.flow("one")["state"] != "paused"
    project.set_mode("ok")
    eventually(project.state_of("one", "paused"))
    lines = project.lines("one")
    assert lines[-1] == "close"
    assert len(project.offsets("one")) > 0
    assert project.flow("one")["checkpoint"] == len(project.offsets("one"))
    assert project.stop() == 0


def test_a_rewound_flow_sends_again_and_a_skipped_one_leaves_out(project: Project) -> None:
    project.write("one")
    project.start(changes=30)
    eventually(project.is_up_to_date("one", 30))
    dry = project.run("flow", "rewind", "one", "--to", "10", "--dry-run")
    assert "20 change(s) of its tables are sent again" in dry.output
    assert "public.orders\t20" in dry.output
    assert project.offsets("one") == list(range(30))

    done = project.run("flow", "rewind", "one", "--to", "10", "--yes")
    assert done.exit_code == 0, done.output
    eventually(project.is_up_to_date("one", 30))
    assert project.offsets("one") == [*range(30), *range(10, 30)]

    assert project.run("flow", "pause", "one").exit_code == 0
    waits = project.run("flow", "rewind", "one", "--to", "start", "--yes")
    assert "when it is resumed" in waits.output
    assert project.flow("one")["move"]["offset"] == 0
    assert project.run("flow", "rewind", "one", "--cancel").exit_code == 0
    assert project.flow("one")["move"] is None
    assert project.stop() == 0

    project.start(changes=50)
    eventually(lambda: (project.flow("one").get("lag_changes") or 0) == 20)
    wrong = project.run("flow", "rewind", "one", "--to", "now", "--yes")
    assert wrong.exit_code == 2
    assert "flow skip one --to now" in wrong.output
    done = project.run("flow", "skip", "one", "--to", "now", "--yes")
    assert "20 change(s) of its tables are left out for good" in done.output
    assert project.run("flow", "resume", "one").exit_code == 0
    eventually(project.is_up_to_date("one", 50))
    assert project.stop() == 0
    assert project.offsets("one") == [*range(30), *range(10, 30)]


def test_a_move_that_is_asked_for_without_an_engine_is_done_at_the_next_start(project: Project) -> None:
    project.write("one")
    project.start(changes=10)
    eventually(project.is_up_to_date("one", 10))
    assert project.stop() == 0
    done = project.run("flow", "rewind", "one", "--to", "1h", "--yes")
    assert "at the next `cdcflow run`" in done.output, done.output
    for place in ("11", "yesterday", "-1"):
        assert project.run("flow", "rewind", "one", f"--to={place}", "--yes").exit_code == 2
    project.start(changes=10)
    eventually(lambda: len(project.offsets("one")) == 20)
    assert project.stop() == 0
    assert project.offsets("one") == [*range(10), *range(10)]


def test_every_revision_is_kept_with_who_wrote_it(project: Project) -> None:
    project.write("one")
    project.start(changes=1)
    eventually(project.is_up_to_date("one", 1))
    first = project.flow("one")["revision"]
    project.write("one", "from: [orders]\nto: one\n")
    eventually(lambda: project.flow("one").get("revision") not in (None, first))
    project.write("one")
    eventually(lambda: project.flow("one").get("revision") == first)
    listed = project.run("flow", "history", "one").stdout.splitlines()
    assert [line.split("\t")[0] for line in listed] == ["revision", "1", "2", "3"]
    assert listed[1].split("\t")[1] == listed[3].split("\t")[1] == first
    assert "(owner)" in listed[1]
    assert "+from: [orders]" in project.run("flow", "history", "one", "--diff").stdout
    assert project.stop() == 0


def test_whatever_is_wrong_with_one_flow_is_named_and_the_others_notice_nothing(project: Project) -> None:
    steps = "from: [public.orders]\nto: one\ntransforms:\n  - "
    python = steps + "python: {file: step.py, timeout: 1s, memory: 200MB, on_error: stop}\n"
    code = project.folder / "step.py"
    code.write_text("def transform(change):\n    return change\n", encoding="utf-8")
    project.write("quiet", "from: [public.*]\nto: two\n")
    project.write("one", steps + "filter: note is not null\n")
    project.start(changes=60)
    eventually(project.is_up_to_date("one", 60))
    eventually(project.is_up_to_date("quiet", 60))
    quiet = project.flow("quiet")["pid"], project.status()["capture"]["pid"]
    first = project.flow("one")["revision"]

    for text, said in (
        (steps + "filter: noet is not null\n", "one.yaml:4: transforms[0].filter"),
        (steps + "filter: note + 1\n", "one.yaml:4: transforms[0].filter"),
        (steps + "set: {x: 'pg_sleep(9)'}\n", "one.yaml:4: transforms[0].set.x"),
        (steps + "filter: (select 1) = 1\n", "one.yaml:4: transforms[0].filter"),
    ):
        project.write("one", text)
        eventually(lambda: said in str(project.flow("one").get("refused")), what=said)  # noqa: B023
        assert (project.flow("one")["revision"], project.flow("one")["state"]) == (first, "up to date")

    project.write("one", python)
    eventually(lambda: project.flow("one").get("revision") not in (None, first))
    eventually(project.is_up_to_date("one", 60))
    good = project.flow("one")["revision"]
    # A file that does not import is refused as a flow file is; what it was runs on.
    code.write_text("import nowhere_to_be_found\n", encoding="utf-8")
    eventually(lambda: "nowhere_to_be_found" in str(project.flow("one").get("refused")))
    assert "step.py" in project.flow("one")["refused"]["message"]
    assert project.flow("one")["revision"] == good
    # What shows only when a change comes needs attention, by name.
    for body, said in (
        ("raise ValueError('secret of a row')", "ValueError"),
        ("return 17", "step.py"),
        ("return [bytearray(2 << 30)]", "more memory"),
        ("while True: pass", "1 s"),
    ):
        code.write_text(f"def transform(change):\n    {body}\n", encoding="utf-8")
        before = project.flow("one")["revision"]
        eventually(lambda: project.flow("one").get("revision") != before, what=body)  # noqa: B023
        done = project.run("flow", "rewind", "one", "--to", "50", "--yes")
        assert done.exit_code == 0, done.output
        # Until then it may still say what was wrong with the function before.
        eventually(lambda: said in project.in_state("one", "needs attention")["reason"], what=body)  # noqa: B023
        reason = project.in_state("one", "needs attention")["reason"]
        assert "step.py" in reason, (body, reason)
        assert "secret of a row" not in reason
    assert (project.flow("quiet")["pid"], project.status()["capture"]["pid"]) == quiet
    assert project.flow("quiet")["state"] == "up to date"
    assert project.lines("quiet").count("close") == 0
    assert project.stop() == 0


def test_an_imported_module_changes_a_flow_when_it_is_taken_over_and_not_when_its_process_restarts(
    project: Project,
) -> None:
    (project.folder / "step.py").write_text(
        "from helper import told\n\ndef transform(change):\n    return told(change)\n", encoding="utf-8"
    )
    helper = project.folder / "helper.py"
    good = "def told(change):\n    change.new['note'] = 'WORD'\n    return change\n"
    helper.write_text(good.replace("WORD", "first"), encoding="utf-8")
    project.write(
        "one",
        "from: [public.orders]\nto: one\ntransforms:\n  - python: {file: step.py, sets: {note: text}}\n",
    )
    project.start(changes=20)
    eventually(project.is_up_to_date("one", 20))
    first = project.flow("one")["revision"]

    helper.write_text("def told(:\n", encoding="utf-8")
    eventually(lambda: "helper.py:1" in str(project.flow("one").get("refused")))
    assert project.flow("one")["revision"] == first
    pid = project.flow("one")["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: project.flow("one").get("pid") not in (None, pid))
    assert project.run("flow", "rewind", "one", "--to", "start", "--yes").exit_code == 0
    eventually(project.is_up_to_date("one", 20))
    assert project.flow("one")["revision"] == first

    helper.write_text(good.replace("WORD", "second"), encoding="utf-8")
    eventually(lambda: project.flow("one").get("revision") not in (None, first))
    eventually(lambda: project.flow("one").get("refused") is None)
    eventually(project.is_up_to_date("one", 20))
    assert project.stop() == 0
