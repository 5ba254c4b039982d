"""The checks of a running engine: at its start, and then again and again in a thread that nothing waits for.

They write nothing and open no destination. What a sink says of itself by trying (`Probe`) is left to
`cdcflow check`: the flow's own worker is there to find out.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from cdcflow.config import Config, Flow, make_chain
from cdcflow.config.models import SourceSettings
from cdcflow.engine.lookups import tables_of
from cdcflow.errors import CdcflowError, EnvironmentFault
from cdcflow.journal.layout import segments
from cdcflow.model.patterns import TablePatterns
from cdcflow.sink import Claims, ExpectedTable, Finding, FlowContext, Judges, Sink
from cdcflow.source.judgement import Wishes
from cdcflow.source.preflight import Examined, examine
from cdcflow.transform import Misfit, Mistake, by_place

log = logging.getLogger(__name__)

#: Seconds between two looks: what they find builds up over minutes.
INTERVAL = 60.0

#: A look that takes long, since the catalog is large, is followed by a pause so many times as long: the
#: checks then take a twentieth of one of the server's cores at most.
PAUSE = 20


def check_start(config: Config) -> Sequence[Finding]:
    """What decides whether the engine may start: the source, the journal, and flows that would destroy each
    other's rows. A flow that cannot work is no reason to hold up the others."""
    examined = check_source(config)
    return [*examined.findings, *check_journal(config), *judge_claims(config, examined.tables)]


def check_all(config: Config) -> Sequence[Finding]:
    """The source, the journal, and what each flow's sink says of the flow's tables."""
    examined = check_source(config)
    flows = [*judge_claims(config, examined.tables), *judge_flows(config, examined.tables)]
    return [*examined.findings, *check_journal(config), *flows]


def check_source(config: Config) -> Examined:
    source = config.source
    wanted = wishes(source)
    return examine(source.dsn.get_secret_value(), source.tables, source.publication, source.slot, wanted)


def wishes(source: SourceSettings) -> Wishes:
    """What the configuration wants of the source besides tables."""
    return Wishes(
        local_only=source.origin == "none",
        ddl=source.ddl,
        failover=source.failover,
        first_load=source.backfill == "initial",
    )


def check_journal(config: Config) -> list[Finding]:
    """Whether the journal's disk can be written and has room for what the journal may keep."""
    path, keep = config.journal.path, config.journal.keep.size
    place = next(folder for folder in (path, *path.parents) if folder.exists())
    if not place.is_dir():
        return [Finding("error", "journal", f"{place} is not a directory", "name another journal.path")]
    if not os.access(place, os.W_OK | os.X_OK):
        return [
            Finding(
                "error",
                "journal",
                f"{place} is not writable",
                "grant write access to it, or name another journal.path",
            )
        ]
    try:
        free = shutil.disk_usage(place).free
        held = _held(path)
    except OSError as error:
        why = error.strerror or type(error).__name__
        return [Finding("error", "journal", f"{place} cannot be looked at: {why}", "see to the disk")]
    if keep is None:
        return [Finding("ok", "journal", f"may grow without limit; the disk has {_size(free)} free")]
    # Retention removes whole segments, the one that is written is beyond the limit.
    room = max(keep + config.journal.segment_size - held, config.journal.segment_size)
    if free < room:
        return [
            Finding(
                "warning",
                "journal",
                f"the disk of {path} has {_size(free)} free, and the journal may grow by {_size(room)}: when"
                " the disk is full, capture waits and the server keeps the WAL",
                "lower journal.keep.size, or put journal.path on a larger disk",
            )
        ]
    return [Finding("ok", "journal", f"may grow by {_size(room)}; the disk has {_size(free)} free")]


def _held(path: Path) -> int:
    """Bytes of the journal now. Retention may remove a segment while we look."""
    size = 0
    for segment in segments(path) if path.is_dir() else ():
        try:
            size += segment.path.stat().st_size
        except FileNotFoundError:
            continue
    return size


def judge_flows(config: Config, tables: Sequence[ExpectedTable]) -> list[Finding]:
    """What each flow's sink says of the tables that the flow takes."""
    return [finding for flow in config.flows.values() for finding in _judge_flow(config, flow, tables)]


def judge_claims(config: Config, tables: Sequence[ExpectedTable]) -> list[Finding]:
    """Tables that two flows would bring to one place. Where a step sends rows elsewhere, the rows decide."""
    found = []
    taken: dict[tuple[str, str], Flow] = {}
    for flow in config.flows.values():
        entry, patterns = config.sinks[flow.to], TablePatterns(flow.from_)
        try:
            sink = _made(config, flow)
        except Exception:  # noqa: BLE001, S112 - said by judge_flows
            continue
        moved = any(step.plugin.moves for step in flow.transforms)
        if moved or not flow.from_ or not isinstance(sink, Claims):
            continue
        for relation in (table.relation for table in tables):
            if not patterns.matches(relation.schema, relation.name):
                continue
            claim = sink.claim(relation)
            other = taken.setdefault((entry.plugin.name, claim), flow)
            if other is not flow:
                found.append(
                    Finding(
                        "error",
                        f"flow {flow.name}",
                        f"brings {relation.qualified} into {claim}, and so does the flow {other.name}: they"
                        " would overwrite each other",
                        "take the table out of one of the two, with an exclusion such as"
                        f' "!{relation.qualified}" in its `from`, or give one a destination of its own',
                    )
                )
    return found


def _made(config: Config, flow: Flow) -> Sink:
    entry = config.sinks[flow.to]
    return entry.plugin.create(entry.settings, flow.options, FlowContext(flow.name, config.engine.state))


def _judge_flow(config: Config, flow: Flow, tables: Sequence[ExpectedTable]) -> Sequence[Finding]:
    entry, patterns = config.sinks[flow.to], TablePatterns(flow.from_)
    meant = [table for table in tables if patterns.matches(table.relation.schema, table.relation.name)]
    subject = f"flow {flow.name}"
    found: list[Finding] = []
    if flow.transforms:
        meant, found = _transformed(config, flow, meant)
    try:
        sink = _made(config, flow)
        if isinstance(sink, Judges) and (meant or not found):
            found += sink.judge(meant)
        return found
    except CdcflowError as error:
        return [*found, Finding("error", subject, str(error), error.hint)]
    except Exception as error:  # noqa: BLE001 - anybody's plugin, and its message may hold anything
        said = f"the sink {entry.plugin.name} cannot judge the tables: {type(error).__name__}"
        return [*found, Finding("warning", subject, said, "report it to whoever made the sink")]


def _transformed(
    config: Config, flow: Flow, tables: Sequence[ExpectedTable]
) -> tuple[list[ExpectedTable], list[Finding]]:
    """The tables as the flow's transforms give them to its sink, as far as the steps fit them, and all that
    the steps say against them."""
    subject = f"flow {flow.name}"
    made: list[ExpectedTable] = []
    mistakes: list[Mistake] = []
    others: dict[Finding, None] = {}
    try:
        chain = make_chain(flow, base=config.base, mask_key=config.mask_key, tables=tables_of(config))
    except CdcflowError as error:
        return [], [Finding("error", subject, str(error), error.hint)]
    try:
        for table in tables:
            try:
                made += [
                    replace(table, relation=one, toasted=tuple(n for n in table.toasted if n in one.names))
                    for one in chain.output(table.relation)
                ]
            except Misfit as error:
                mistakes += error.mistakes
            except EnvironmentFault as error:
                # What a step asks cannot be asked now; a warehouse before its first change, for instance.
                said = f"its steps cannot be judged: {error}"
                others[Finding("warning", subject, said, error.hint)] = None
            except CdcflowError as error:
                others[Finding("error", subject, str(error), error.hint)] = None
    finally:
        chain.close()
    wrong = [Finding("error", subject, one.sentence, one.hint) for one in by_place(mistakes)]
    return made, [*wrong, *others]


class Examiner:
    """Keeps `latest`: what the last look found. Says in the log what is new and not in order.

    Its thread ends with the process: a look that hangs on the server holds up no stop.
    """

    def __init__(self, look: Callable[[], Sequence[Finding]], *, known: Iterable[Finding] = ()) -> None:
        """`known` was found, and said, before."""
        self.latest: tuple[Finding, ...] = tuple(known)
        self._look = look
        self._stop = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="examination", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                found = tuple(self._look())
            except CdcflowError as error:
                found = (Finding("error", "check", str(error), error.hint),)
            if self._stop.is_set():
                return
            self._tell(found)
            self.latest = found
            self._stop.wait(max(INTERVAL, PAUSE * (time.monotonic() - began)))

    def _tell(self, found: Iterable[Finding]) -> None:
        """A finding's words hold numbers that change: its subject and severity say whether it is new."""
        before = {(finding.severity, finding.subject) for finding in self.latest}
        for finding in found:
            if finding.severity != "ok" and (finding.severity, finding.subject) not in before:
                log.warning("%s: %s: %s", finding.severity, finding.subject, finding.message)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:.0f} MB"
