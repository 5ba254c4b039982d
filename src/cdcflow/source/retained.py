"""The guard of the WAL that the primary keeps for the slot: when to warn, and when to give the slot up
before the primary's disk is full. What decides is pure.

Only a running cdcflow guards. Against one that is down, `max_slot_wal_keep_size` is the server's own.
"""

import time
from dataclasses import dataclass
from typing import Any

import psycopg

from cdcflow.errors import SourceError, SourceUnavailable
from cdcflow.model.finding import Finding
from cdcflow.source.connection import answering, connect, quote_literal
from cdcflow.source.watch import START_ANEW

#: The part of max_slot_wal_keep_size that is left when it is time to say so.
NEAR = 0.2
#: Seconds that the server may take to notice that our stream has ended.
RELEASE = 20.0
RETRY = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of WAL held back by the slot. None: never."""

    warn: int | None = 10 * 10**9
    #: The slot is dropped: the primary's life is worth more than the stream.
    drop_slot: int | None = None


def finding(limits: Limits, *, slot: str, retained: int | None, safe: int | None) -> Finding | None:
    """The warning that is due. `safe`: bytes until the server gives the slot up (`safe_wal_size`)."""
    if retained is None:
        return None
    near = safe is not None and safe <= (retained + safe) * NEAR
    if not near and (limits.warn is None or retained < limits.warn):
        return None
    end = ""
    if safe is not None and near:
        end = (
            "; the server gives the slot up (max_slot_wal_keep_size) after"
            f" {_size(max(safe, 0))} more, and a backfill will be needed"
        )
    return Finding(
        "warning",
        "retained WAL",
        f"the server keeps {_size(retained)} of WAL for the slot {slot}{end}",
        "see what holds it: a full disk at the journal, a flow that is behind (with source.confirm:"
        " delivered), or a transaction that has been open for long at the source (pg_stat_activity);"
        " raise max_slot_wal_keep_size, or source.retained_wal, where there is room",
    )


def overrun(limits: Limits, retained: int | None) -> bool:
    """Whether the slot must go."""
    return limits.drop_slot is not None and retained is not None and retained >= limits.drop_slot


def give_up(dsn: str, slot: str, limits: Limits) -> SourceError:
    """Drops the slot, once the server has noticed that we do not stream from it, and gives the error that
    capture then ends with. Raises SourceUnavailable when it cannot be dropped now."""
    try:
        with connect(dsn, purpose="guard") as connection, answering(connection.fileno()):
            _drop(connection, slot)
    except psycopg.Error as error:
        said = " ".join(str(error).split())
        raise SourceUnavailable(
            f"the replication slot {slot!r} holds more WAL than it may and cannot be dropped: {said}",
            hint=f"drop it by hand: SELECT pg_drop_replication_slot({quote_literal(slot)});",
        ) from error
    return SourceError(
        f"the replication slot {slot!r} was dropped: the server kept more than"
        f" {_size(limits.drop_slot or 0)} of WAL for it, the limit at source.retained_wal.drop_slot",
        hint=START_ANEW,
    )


def _drop(connection: psycopg.Connection[Any], slot: str) -> None:
    deadline = time.monotonic() + RELEASE
    while True:
        try:
            connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
        except psycopg.errors.UndefinedObject:
            return
        except psycopg.errors.ObjectInUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY)
        else:
            return


def _size(count: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1000:.0f} kB"
