"""`cdcflow demo` as a user runs it: a program in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb
import pytest

from cdcflow.config import load
from cdcflow.demo.compare import Ask
from cdcflow.demo.main import ask_file, choose, run
from cdcflow.demo.project import Project
from cdcflow.demo.shop import TABLES
from cdcflow.engine import control
from cdcflow.errors import EnvironmentFault
from cdcflow.journal import verify
from cdcflow.testing.binaries import Binaries, find_binaries
from cdcflow.testing.waiting import eventually

#: initdb, a backfill and the last deliveries, on a machine that runs other tests too.
LONG = 120.0

Demo = subprocess.Popen[str]

needs_postgres = pytest.mark.skipif(not find_binaries(), reason="no installation of PostgreSQL was found")


def command(*arguments: str) -> list[str]:
    """The program with these arguments, on the newest PostgreSQL that there is."""
    program = "from cdcflow.cli.main import main; main()"
    return [sys.executable, "-c", program, *arguments]


def demo_command(folder: Path) -> list[str]:
    version = find_binaries()[0].version
    return command("demo", "--dir", str(folder), "--pg", str(version), "--rate", "60")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Gone afterwards with all that a demo keeps. pytest's own are closed to the user that a server runs as,
    whose data would then lie elsewhere."""
    with tempfile.TemporaryDirectory(prefix="cdcflow-test-") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


@pytest.fixture
def demo(folder: Path) -> Iterator[Demo]:
    """A demo without an end, without a terminal, in `folder`."""
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            demo_command(folder), stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True
        )
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=LONG)


def servers_pid(project: Project) -> int:
    return int((project.server / "data" / "postmaster.pid").read_text().splitlines()[0])


def is_gone(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        # Who has ended and whom its new parent has not asked about yet.
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"
    return True


@needs_postgres
def test_the_demo_ends_with_a_line_for_every_table_and_all_identical(folder: Path) -> None:
    done = subprocess.run(
        [*demo_command(folder), "--seconds", "4"], capture_output=True, text=True, timeout=LONG, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, hook = done.stdout.splitlines()
    found = [re.fullmatch(r"(\w+) +source (\d+) +warehouse (\d+) +identical", line) for line in lines]
    assert [match and match[1] for match in found] == list(TABLES)
    assert all(match and match[2] == match[3] != "0" for match in found)
    counts = re.fullmatch(r"webhook +changes (\d+)  received (\d+)  in order per key, identical.*", hook)
    assert counts
    assert counts[1] == counts[2] != "0"

    project = Project(folder / "run-1")
    assert control.status(project.state) is None
    assert not (project.server / "data" / "postmaster.pid").exists()
    assert list(verify(project.journal)) == []
    # What it advises to look at next works.
    question = ["-c", str(project.configuration), "query", "SELECT count(*) AS n FROM public.orders"]
    answer = subprocess.run(command(*question), capture_output=True, text=True, timeout=LONG, check=True)
    orders = found[TABLES.index("orders")]
    assert orders
    assert answer.stdout.split() == ["n", orders[2]]


@needs_postgres
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_stops_everything_and_removes_nothing(
    demo: Demo, folder: Path, number: signal.Signals
) -> None:
    said = folder / "said"
    eventually(lambda: "deliveries" in said.read_text(), timeout=LONG, what="the first line about what flows")
    project = Project(folder / "run-1")
    kept = (project.configuration, project.warehouse, project.received)
    # The first line may be told before the first delivery of either flow.
    eventually(lambda: all(path.exists() for path in kept), timeout=LONG, what="the first deliveries")
    status = control.status(project.state)
    assert status is not None
    pids = [status["engine"]["pid"], servers_pid(project)]
    demo.send_signal(number)
    demo.communicate(timeout=LONG)
    assert demo.returncode == 0, said.read_text()
    eventually(lambda: all(map(is_gone, pids)), what="the end of the engine and the server")
    assert all(path.exists() for path in kept)
    assert list(verify(project.journal)) == []
    assert "What to look at next" in said.read_text()


def test_every_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    first, second = (Project.create(tmp_path / "demo") for _ in range(2))
    assert (first.folder.name, second.folder.name) == ("run-1", "run-2")
    (tmp_path / "demo" / "run-1").rmdir()
    assert Project.create(tmp_path / "demo").folder.name == "run-1"


def test_a_folder_that_cannot_be_made_is_the_environments_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFault, match="cannot be made"):
        Project.create(tmp_path / "file" / "demo")


def test_the_demos_configuration_is_a_valid_one_whose_secret_is_not_in_it(tmp_path: Path) -> None:
    project = Project.create(tmp_path)
    secret = project.make_secret()
    project.write_configuration(dsn="postgresql://postgres@127.0.0.1:1/shop", url="http://127.0.0.1:2/")
    config = load(project.configuration)
    assert config.journal.path == project.journal
    assert set(config.flows) == {"warehouse", "shop-events"}
    assert secret not in project.configuration.read_text()
    assert project.secret.stat().st_mode & 0o077 == 0


def test_the_embedded_postgres_is_taken_unless_another_is_asked_for() -> None:
    system, embedded, old = (
        Binaries(18, Path("/s"), "system"),
        Binaries(18, Path("/e"), "embedded"),
        Binaries(16, Path("/o"), "embedded"),
    )
    found = [system, embedded, old]
    assert choose(found, version=None, system=False) is embedded
    assert choose(found, version=16, system=False) is old
    assert choose(found, version=None, system=True) is system
    assert choose([system, old], version=18, system=False) is system
    with pytest.raises(EnvironmentFault, match="no installed PostgreSQL 16"):
        choose(found, version=16, system=True)
    with pytest.raises(EnvironmentFault) as raised:
        choose([system], version=None, system=False)
    assert "--system-postgres" in raised.value.hint


@needs_postgres
def test_one_character_that_is_different_in_the_warehouse_ends_the_demo_with_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def spoiled(path: Path) -> Iterator[Ask]:
        with duckdb.connect(str(path)) as connection:
            connection.execute("UPDATE public.customers SET email = email || '.' WHERE id = 7")
        with ask_file(path) as ask:
            yield ask

    monkeypatch.setattr("cdcflow.demo.main.ask_file", spoiled)
    assert run(seconds=1, directory=folder, version=find_binaries()[0].version) == 1
    lines = capsys.readouterr().out.splitlines()
    wrong = [line for line in lines if "identical" not in line]
    assert len(wrong) == 1
    assert re.fullmatch(r"customers .* DIFFERENT: 1 different in email \(1\)", wrong[0])
