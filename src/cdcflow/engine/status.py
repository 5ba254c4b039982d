"""The status document: what a running engine says of itself, to `cdcflow status` and to whoever watches.
What is not known is null, never 0, and a flow is never called up to date while nobody knows."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cdcflow.config import Config, Flow
from cdcflow.delivery import FlowReport
from cdcflow.engine.accepted import Refusal
from cdcflow.engine.process import Child, ending
from cdcflow.errors import JournalError
from cdcflow.journal import Reader
from cdcflow.journal.layout import segments
from cdcflow.sink import Finding

#: A process that reports twice a second and has said nothing for this long hangs.
STALE_SECONDS = 10.0

#: What a paused flow may hold back, in bytes, where the journal has no limit of its own.
LARGE = 10 * 10**9

#: What only the connected server says.
UNKNOWN = (
    *("lag_bytes", "server_lsn", "retained_bytes", "wal_status", "safe_wal_size"),
    *("catalog_age", "oldest_transaction"),
)

#: So many crashes in a row are no accident: a person should look.
CRASHES = 3


@dataclass(frozen=True, slots=True)
class Source:
    """What flows depend on. `seen` says whether the source was streamed since the engine started, and
    `streaming` for how many seconds it has been now, None for longer than anybody asks."""

    state: str
    seen: bool
    error: str = ""
    streaming: float | None = None


@dataclass(frozen=True, slots=True)
class Life:
    """A flow's process. `silent` is the number of seconds since its last report, None before the first."""

    running: bool
    silent: float | None
    crashes: int = 0
    #: How and why the last one ended, in words.
    end: str = ""


def judge(report: FlowReport, life: Life, source: Source) -> FlowReport:
    """The flow's own report, corrected by what it cannot know: whether its process lives, and whether the
    journal it compares itself with is still being written."""
    unknown = replace(report, lag_changes=None, lag_seconds=None)
    if not life.running and life.crashes >= CRASHES:
        return replace(
            unknown, state="needs attention", reason=f"its process {life.end}, again and again: see the log"
        )
    if not life.running or life.silent is None:
        reason = f"its process {life.end}" if life.end else ""
        return replace(unknown, state="starting", reason=reason)
    if life.silent > STALE_SECONDS:
        said = f"its process has said nothing for {life.silent:.0f} s"
        return replace(unknown, state="unknown", reason=said)
    up = report.state == "up to date"
    if source.state == "streaming":
        before = source.streaming is not None and life.silent >= source.streaming
        if before and up:
            # That was said of the journal before the backfill or the reconnection brought it further.
            return replace(unknown, state="starting", reason="")
        return report
    if source.state == "backfilling" and not up:
        return report
    if not up:
        return unknown
    if source.state == "backfilling" or not source.seen:
        return replace(unknown, state="starting", reason=f"capture is {source.state}")
    why = f": {source.error}" if source.error else ""
    return replace(unknown, state="unknown", reason=f"capture is {source.state}{why}")


def flow_document(flow: Flow, config: Config, report: FlowReport, child: Child | None) -> dict[str, Any]:
    """`child` is the flow's process, None where it has none."""
    return {
        "name": flow.name,
        "from": list(flow.sources),
        "to": flow.to,
        "sink": config.sinks[flow.to].plugin.name,
        "state": report.state,
        "reason": report.reason,
        "checkpoint": report.checkpoint,
        "lag_changes": report.lag_changes,
        "lag_seconds": report.lag_seconds,
        "delivered": report.delivered,
        "batches": report.batches,
        "retries": report.retries,
        "restarts": 0 if child is None else child.restarts,
        "last_delivery": report.last_delivery,
        "dead": report.dead,
        "parked": report.parked,
        "pid": None if child is None else child.pid,
        "revision": flow.revision,
        "file": str(flow.file),
    }


def refusal_document(refusal: Refusal | None) -> dict[str, Any] | None:
    """What is wrong with a file that is not run as it is written, and since when."""
    return None if refusal is None else {"message": refusal.message, "since": refusal.since}


def refused_flow(refusal: Refusal) -> dict[str, Any]:
    """As `flow_document`, for a flow of whose file nothing has ever run."""
    unknown = (
        "checkpoint",
        "lag_changes",
        "lag_seconds",
        "last_delivery",
        "pid",
        "revision",
        "paused",
        "move",
    )
    return {
        "name": refusal.flow,
        "from": [],
        "to": None,
        "sink": None,
        "state": "needs attention",
        "reason": refusal.message,
        **dict.fromkeys(("delivered", "batches", "retries", "restarts"), 0),
        **dict.fromkeys(unknown),
        "file": str(refusal.file),
        "refused": refusal_document(refusal),
    }


def held_back(config: Config, stands: Mapping[str, int]) -> list[Finding]:
    """A finding for each paused flow, given where it stands, for whose sake the journal keeps a large part of
    what it may keep at all."""
    limit = LARGE if config.journal.keep.size is None else config.journal.keep.size / 2
    found = []
    for flow, offset in stands.items():
        size = _bytes_from(config.journal.path, offset)
        if size > limit:
            message = f"it is paused, and the journal keeps {size / 1e9:.1f} GB for it"
            remedy = f"`cdcflow flow resume {flow}`, or remove its file: its checkpoint is kept"
            found.append(Finding("warning", f"flow {flow}", message, remedy))
    return found


def _bytes_from(path: Path, offset: int) -> int:
    """Bytes of the journal's segments that hold anything from an offset on."""
    try:
        found = segments(path)
    except OSError:
        return 0
    size = 0
    for segment in found:
        if segment.end is None or segment.end > offset:
            with contextlib.suppress(FileNotFoundError):
                size += segment.path.stat().st_size
    return size


def capture_document(config: Config, figures: dict[str, Any], state: str, child: Child) -> dict[str, Any]:
    """Capture's own figures, with null for what is only known while it is connected."""
    known = {
        "slot": config.source.slot,
        "received_lsn": None,
        "confirmed_lsn": None,
        "server_lsn": None,
        "lag_bytes": None,
        "changes": 0,
        "bytes": 0,
        "error": None,
        "last_commit_time": None,
        "retained_bytes": None,
        "wal_status": None,
        "safe_wal_size": None,
        "catalog_age": None,
        "oldest_transaction": None,
        "findings": [],
        **{key: value for key, value in figures.items() if key != "backfills"},
        "state": state,
        "restarts": child.restarts,
        "pid": child.pid,
    }
    if state in ("stopped", "connecting"):
        known |= dict.fromkeys(UNKNOWN)
    if child.pid is None:
        known["error"] = how_it_ended(child) or known["error"]
    return known


def how_it_ended(child: Child) -> str:
    """Empty where none has ended yet."""
    if child.code is None:
        return ""
    return ending(child.code) + (f": {child.failed.message}" if child.failed else "")


def journal_document(path: Path) -> dict[str, int | None]:
    """Read from the journal itself, so that it holds whether or not capture runs."""
    try:
        with Reader(path) as reader:
            size = sum(segment.path.stat().st_size for segment in segments(path))
            return {"offset": reader.head().offset, "first_offset": reader.first_offset(), "bytes": size}
    except (JournalError, OSError):
        return {"offset": None, "first_offset": None, "bytes": None}


def letter_findings(reports: Iterable[FlowReport]) -> list[Finding]:
    """A warning for every flow that keeps changes which did not get through."""
    found = []
    for report in reports:
        if not report.dead and not report.parked:
            continue
        parked = f", and {report.parked} wait behind them" if report.parked else ""
        found.append(
            Finding(
                "warning",
                f"flow {report.name}",
                f"its sink has refused {report.dead} change(s){parked}",
                f"`cdcflow deadletters list --flow {report.name}` says which and why; mend the cause, then"
                " `cdcflow deadletters retry`",
            )
        )
    return found


def findings_document(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """What the last look of the checks found not in order."""
    return [asdict(finding) for finding in findings if finding.severity != "ok"]
