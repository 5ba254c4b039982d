"""Whether a server that was promoted carries on the history that the journal holds. Pure.

A promotion starts a new timeline, and its history file says where each older one was left (manual:
25.3.6, "Timelines"). What the journal holds of the old timeline beyond that place never happened there.
"""

from cdcflow.errors import SourceError
from cdcflow.model import format_lsn, parse_lsn


def left_at(history: str, timeline: int) -> int | None:
    """Where `timeline` was left, on the way to the one whose history file this is; None where it was not
    on the way. A line is: timeline, LSN, reason."""
    for line in history.splitlines():
        fields = line.split()
        if len(fields) >= 2 and fields[0] == str(timeline):
            return parse_lsn(fields[1])
    return None


def require_continuation(history: str, *, old: int, new: int, reached: int) -> None:
    """Raises SourceError unless the new timeline contains everything up to the LSN `reached` of the old."""
    if new < old:
        raise SourceError(
            f"the server is on timeline {new}, the journal on the later timeline {old}: it is an old primary,"
            " or was restored",
            hint="point source.dsn at the server that was promoted (with several hosts:"
            " target_session_attrs=read-write), or move the journal away and start a new one with a backfill",
        )
    left = left_at(history, old)
    if left is None or reached > left:
        place = "never passed through it" if left is None else f"left it at {format_lsn(left)}"
        raise SourceError(
            f"the server's timeline {new} is not a continuation of what the journal holds: that reaches"
            f" {format_lsn(reached)} on timeline {old}, and the server {place}",
            hint="the server was promoted before it had received everything, or restored to an earlier time;"
            " start anew: `cdcflow teardown --yes`, move the journal away, `cdcflow setup`, `cdcflow run`;"
            " synchronized_standby_slots (17) keeps a stream from being ahead of the standby",
        )
