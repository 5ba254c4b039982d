"""One cell of the fault matrix: a sink, a fault, and the flow's worker killed at random moments.

The worker is the engine's own delivery process, started again whenever it is killed, as the supervisor does.
The journal is written here, so that no server is needed and what is expected is known exactly. At the end,
with the fault gone, what was refused is delivered again (`cdcflow deadletters retry`), and then everything
must hold:

* `state`: the destination has the last state of every row;
* `links`: every record belongs to what its row names, and to nothing else;
* `order`: no change of a row ever came behind a later one that had not come before;
* `ids`: the same name was the same content, whenever it came;
* `whole`: before the retry, every change is at the destination or a letter, and none of both was lost.
"""

import contextlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from cdcflow.config import load
from cdcflow.delivery import FlowReport, LetterStore, Selection
from cdcflow.engine import letters
from cdcflow.engine.places import Places
from cdcflow.engine.reports import decode
from cdcflow.errors import CdcflowError
from cdcflow.journal import Writer
from cdcflow.model import Column, Op
from cdcflow.testing.batches import make_batch, make_relation
from cdcflow.testing.scripted import IDENTITY
from cdcflow.testing.waiting import eventually
from faults.subjects import POISON, Got, Subject

CONTACTS = make_relation(
    "contacts",
    [Column("id", 25, key=True), Column("email", 25), Column("version", 23), Column("note", 25)],
    oid=9,
)

#: Between two kills: a worker needs a second to begin, and is to be killed before, while and after it writes.
BETWEEN_KILLS = (0.5, 2.5)

#: What a cell may take to come to rest, on a machine that does much else.
REST_SECONDS = 120.0


@dataclass
class Cell:
    """The verdict on a sink with a fault: what does not hold, and some figures."""

    sink: str
    fault: str
    wrong: dict[str, str] = field(default_factory=dict)
    changes: int = 0
    arrivals: int = 0
    kills: int = 0
    letters: int = 0
    seconds: float = 0.0


class Workload:
    """Writes a journal: transactions of inserts, updates and deletes of few rows, some of them poison."""

    def __init__(self, journal: Path, draw: random.Random, *, keys: int = 40) -> None:
        self._writer = Writer.open(journal, IDENTITY)
        self._draw = draw
        self._keys = [f"k{number}" for number in range(keys)]
        self._lsn = 1_000
        self.version = 0
        #: What the rows are now.
        self.rows: dict[str, int] = {}
        #: Per key, the names of its changes in order, and the version after each.
        self.history: dict[str, list[tuple[str, int | None]]] = {}

    @property
    def offset(self) -> int:
        return self._writer.tail.offset

    def commit(self) -> None:
        self._lsn += 8
        changes: list[tuple[Op, dict[str, str] | None, dict[str, str] | None]] = []
        for ordinal in range(1, self._draw.choice((2, 3, 6, 12, 40))):
            key = self._draw.choice(self._keys)
            self.version += 1
            gone = key in self.rows and self._draw.random() < 0.15
            name = f"0/{self._lsn:X}:{ordinal}"
            self.history.setdefault(key, []).append((name, None if gone else self.version))
            if gone:
                del self.rows[key]
                changes.append((Op.DELETE, None, {"id": key}))
                continue
            op = Op.UPDATE if key in self.rows else Op.INSERT
            self.rows[key] = self.version
            note = POISON if self._draw.random() < 0.02 else f"note {self.version}"
            row = {"id": key, "email": f"{key}@example.com", "version": str(self.version), "note": note}
            changes.append((op, row, None))
        now = time.time_ns() // 1000
        self._writer.append(make_batch(CONTACTS, changes, commit_lsn=self._lsn, commit_time=now))
        self._writer.sync()

    def close(self) -> None:
        self._writer.close()


class Worker:
    """The engine's delivery process for one flow, and what it last said of itself."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self.report: FlowReport | None = None
        self.log = config.parent / "worker.log"

    def start(self) -> None:
        self.report = None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "cdcflow.engine.child",
                    "deliver",
                    "--config",
                    str(self._config),
                    "flow",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        threading.Thread(target=self._follow, args=(self._process,), daemon=True).start()

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                with contextlib.suppress(ValueError):
                    message = decode(line)
                    if isinstance(message, FlowReport) and process is self._process:
                        self.report = message

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._reap()

    def stop(self) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._reap()

    def _reap(self) -> None:
        assert self._process is not None
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


def run_cell(
    make: Callable[[Path, random.Random], Subject],
    fault: str | None,
    place: Path,
    *,
    seed: int,
    kills: int = 4,
) -> Cell:
    """Plays one cell in an empty folder. Raises TimeoutError where it does not come to rest."""
    draw = random.Random(seed)
    subject = make(place, random.Random(seed + 1))
    cell = Cell(subject.name, fault or "kills only")
    begun = time.monotonic()
    config = _configure(place, subject.start())
    Places(place / "state").make()
    workload = Workload(place / "state" / "journal", draw)
    worker = Worker(config)
    try:
        _play(subject, fault, workload, worker, cell, draw, kills)
        _judge(subject, workload, worker, cell, place)
    except TimeoutError as error:
        words = worker.log.read_text(errors="replace")[-1_000:]
        cell.wrong["rest"] = f"{error}; {worker.report}; {words}"
    finally:
        worker.stop()
        workload.close()
        subject.stop()
    cell.seconds = time.monotonic() - begun
    return cell


def _configure(place: Path, given: Mapping[str, Any]) -> Path:
    flow: dict[str, Any] = {"name": "flow", "from": ["public.*"], "to": "sink"}
    flow |= {name: given[name] for name in ("with", "on_reject", "transforms") if name in given}
    # The harness refuses by chance, in bursts that would stop a flow that somebody watches.
    flow["dead_letters"] = {"limit": 100_000, "share": 1.0}
    document = {
        "source": {"dsn": "postgresql://nobody@127.0.0.1:1/nothing", "tables": ["public.*"]},
        "sinks": {"sink": dict(given["sink"])},
        "flows": [flow],
    }
    path = place / "cdcflow.yaml"
    YAML(typ="safe").dump(document, path)
    return path


def _play(
    subject: Subject,
    fault: str | None,
    workload: Workload,
    worker: Worker,
    cell: Cell,
    draw: random.Random,
    kills: int,
) -> None:
    """Changes come all the time; the fault comes and goes; the worker is killed."""
    workload.commit()
    worker.start()
    for number in range(kills):
        subject.fault(fault if number % 3 < 2 else None)
        until = time.monotonic() + draw.uniform(*BETWEEN_KILLS)
        while time.monotonic() < until:
            workload.commit()
            time.sleep(0.02)
        worker.kill()
        cell.kills += 1
        worker.start()
    for _ in range(10):
        workload.commit()
    # What refuses rows goes on doing so, everything else ends.
    subject.fault(fault if fault == "reject" else None)
    _at_rest(worker, workload)


def _at_rest(worker: Worker, workload: Workload) -> None:
    def reached() -> bool:
        report = worker.report
        if report is not None and report.state == "needs attention":
            _tell(worker)
        return report is not None and report.checkpoint == workload.offset

    eventually(reached, timeout=REST_SECONDS, interval=0.1, what="the flow's rest")


def _tell(worker: Worker) -> None:
    """What a person does who has mended the cause."""
    from cdcflow.engine import control

    with contextlib.suppress(CdcflowError):
        control.retry(worker.log.parent / "state", "flow")


def _judge(subject: Subject, workload: Workload, worker: Worker, cell: Cell, place: Path) -> None:
    config = load(place / "cdcflow.yaml")
    cell.changes = workload.version
    with LetterStore(Places(place / "state").checkpoints) as store:
        kept = {str(letter.position) for letter in store.select(Selection())}
    cell.letters = len(kept)
    if subject.writes == "events":
        arrived = {got.name for got in subject.got()}
        missing = [n for names in workload.history.values() for n, _ in names if n not in arrived | kept]
        if missing:
            cell.wrong["whole"] = f"{len(missing)} change(s) are nowhere, the first is {missing[0]}"
    if cell.fault == "reject" and not kept and subject.faults:
        cell.wrong["fault"] = "nothing was refused: the fault was none"
    subject.mend()
    if kept:
        _retry(config, cell)
        _at_rest(worker, workload)
    worker.stop()
    got = subject.got()
    cell.arrivals = len(got)
    if (state := dict(subject.state())) != workload.rows:
        wrong = {
            key for key in state.keys() | workload.rows.keys() if state.get(key) != workload.rows.get(key)
        }
        key = min(wrong)
        cell.wrong["state"] = f"{len(wrong)} row(s), {key} is {state.get(key)}, not {workload.rows.get(key)}"
    cell.wrong |= _names(got)
    amiss = getattr(subject, "amiss", None)
    if amiss is not None and (why := amiss()):
        cell.wrong["links"] = why
    requests = getattr(subject, "requests", None)
    if requests is not None:
        cell.wrong |= _bodies(requests())
    if subject.writes == "events":
        cell.wrong |= _order(got, workload.history)


def _retry(config: Any, cell: Cell) -> None:
    deadline = time.monotonic() + REST_SECONDS
    while found := letters.chosen(config, letters.Choice(state="dead")):
        if time.monotonic() > deadline:
            cell.wrong["retry"] = f"{len(found)} dead letter(s) cannot be delivered"
            return
        with contextlib.suppress(CdcflowError):
            outcomes = list(letters.deliver(config, found, force=True))
            # The warehouse has newer state of these rows, and takes nothing older.
            over = {outcome["number"] for outcome in outcomes if outcome["what"] == "superseded"}
            letters.discard(config, [letter for letter in found if letter.number in over], "superseded")
    with contextlib.suppress(TimeoutError):
        eventually(lambda: not letters.chosen(config, letters.Choice()), timeout=30, what="no letters")


def _names(got: Sequence[Got]) -> dict[str, str]:
    contents: dict[str, bytes] = {}
    for one in got:
        if contents.setdefault(one.name, one.content) != one.content:
            return {"ids": f"{one.name} was something else before"}
    return {}


def _bodies(requests: Sequence[tuple[str, bytes]]) -> dict[str, str]:
    """The same request id is the same body."""
    bodies: dict[str, bytes] = {}
    for identity, body in requests:
        if bodies.setdefault(identity, body) != body:
            return {"ids": f"request {identity} had another body before"}
    return {}


def _order(got: Sequence[Got], history: Mapping[str, Sequence[tuple[str, int | None]]]) -> dict[str, str]:
    """By first arrival, the changes of each key come in their order, and all of them."""
    seen: set[str] = set()
    first: dict[str, list[str]] = {}
    for one in got:
        if one.name not in seen:
            seen.add(one.name)
            first.setdefault(one.key, []).append(one.name)
    for key, names in history.items():
        expected = [name for name, _ in names]
        found = first.get(key, [])
        if set(found) != set(expected):
            lost = [name for name in expected if name not in seen]
            return {"whole": f"of row {key}, {len(lost)} change(s) never came, the first is {lost[:1]}"}
        if found != expected:
            at = next(i for i, name in enumerate(found) if name != expected[i])
            return {"order": f"row {key}: {found[at]} came where {expected[at]} was due"}
    return {}


def cells(sinks: Sequence[Any], wanted: Sequence[str]) -> Iterator[tuple[Any, str | None]]:
    for make in sinks:
        for fault in (None, *make.faults):
            if not wanted or (fault or "kills only") in wanted:
                yield make, fault
