"""What the server's limits, the slot's condition and the clocks mean for capture. Pure.

All of it is about time: what stands in order now and will not, when cdcflow is down for a while or
somebody's transaction stays open.
"""

from collections.abc import Iterator

from cdcflow.model.finding import Finding
from cdcflow.source.catalog import Slot, Transaction, Vitals
from cdcflow.source.connection import quote_literal
from cdcflow.source.statements import set_for_server

#: Bytes. A restart of cdcflow's machine under load should fit; a busy server writes this in a minute.
SMALL_LIMIT = 1 << 30
#: What takes its place: hours of an ordinary server, and little against its disk.
GOOD_LIMIT = "10GB"
#: Seconds. Less than a day does not outlast a night.
SHORT_IDLE = 86_400
#: Bytes held back by the slot where no limit says what is too much: beyond it, somebody should know.
MUCH_WAL = 10 << 30
#: The part of the limit from which the loss of the slot is near.
NEAR_LIMIT = 0.75
#: The part of autovacuum_freeze_max_age from which the catalog's dead rows pile up noticeably.
OLD_CATALOG = 0.5
#: Seconds. No transaction that writes is meant to be open for so long.
LONG_TRANSACTION = 600
#: Seconds. Beyond it the lag in seconds that status shows is wrong enough to mislead.
CLOCK_SKEW = 1.0


def judge_vitals(vitals: Vitals, slot: Slot | None) -> Iterator[Finding]:
    yield from _limits(vitals)
    if slot is not None and not slot.lost:
        yield from _retained(vitals, slot)
        yield from _catalog(vitals, slot)
    if vitals.oldest is not None:
        yield from _transaction(vitals.oldest)
    yield from _clock(vitals)


def _limits(vitals: Vitals) -> Iterator[Finding]:
    limit, idle = vitals.slot_wal_limit, vitals.slot_idle_limit
    if limit is None:
        yield Finding(
            "ok",
            "max_slot_wal_keep_size",
            "max_slot_wal_keep_size is -1: while cdcflow is down, the server keeps all WAL, until its disk is"
            " full",
            "watch the slot, or set a limit that the server's disk can bear: a slot beyond it is lost",
        )
    elif limit < SMALL_LIMIT:
        yield Finding(
            "warning",
            "max_slot_wal_keep_size",
            f"max_slot_wal_keep_size is {_size(limit)}: when the server writes more while cdcflow is down,"
            " the slot is lost",
            f"raise it to {GOOD_LIMIT}, or to what the server's disk can bear; no restart is needed",
            set_for_server("max_slot_wal_keep_size", GOOD_LIMIT, restart=False),
            "settings",
        )
    if idle is not None and idle < SHORT_IDLE:
        yield Finding(
            "warning",
            "idle_replication_slot_timeout",
            f"idle_replication_slot_timeout is {idle} s: when cdcflow is down for longer, the slot is lost",
            "turn it off, and limit max_slot_wal_keep_size instead; no restart is needed",
            set_for_server("idle_replication_slot_timeout", "0", restart=False),
            "settings",
        )


def _retained(vitals: Vitals, slot: Slot) -> Iterator[Finding]:
    retained, limit = vitals.retained_bytes, vitals.slot_wal_limit
    if retained is None:
        return
    left = "" if slot.safe_wal_size is None else f", and may write {_size(max(slot.safe_wal_size, 0))} more"
    if limit is not None and retained > limit * NEAR_LIMIT:
        yield Finding(
            "warning",
            "retained WAL",
            f"the server keeps {_size(retained)} for the slot {slot.name}, of max_slot_wal_keep_size ="
            f" {_size(limit)}{left}, before the slot is lost",
            "let cdcflow catch up, end the transaction that holds it back, or raise the limit",
        )
    elif limit is None and retained > MUCH_WAL:
        yield Finding(
            "warning",
            "retained WAL",
            f"the server keeps {_size(retained)} for the slot {slot.name}, with no limit but its disk",
            "let cdcflow catch up, or end the transaction that holds it back; if the slot is not needed any"
            " more, drop it with `cdcflow teardown`",
        )
    else:
        age = (
            "" if vitals.catalog_age is None else f", and catalog rows of {vitals.catalog_age:,} transactions"
        )
        yield Finding("ok", "slot", f"the server keeps {_size(retained)} of WAL for {slot.name}{age}")


def _catalog(vitals: Vitals, slot: Slot) -> Iterator[Finding]:
    if vitals.catalog_age is None or vitals.catalog_age < vitals.freeze_age * OLD_CATALOG:
        return
    yield Finding(
        "warning",
        "catalog_xmin",
        f"the slot {slot.name} has kept VACUUM from the system catalogs for {vitals.catalog_age:,}"
        " transactions",
        "let cdcflow catch up, or end the transaction that holds the slot back",
    )


def _transaction(oldest: Transaction) -> Iterator[Finding]:
    if oldest.seconds is None or oldest.seconds < LONG_TRANSACTION:
        return
    if oldest.prepared is not None:
        what, end = f"the prepared transaction {oldest.prepared!r}", "commit it or roll it back"
        sql = f"ROLLBACK PREPARED {quote_literal(oldest.prepared)};"
    else:
        what, end = f"the transaction of the server process {oldest.pid}", "let it end, or end its session"
        sql = f"SELECT pg_terminate_backend({oldest.pid});"
    yield Finding(
        "warning",
        "open transaction",
        f"{what} ({oldest.who}) has been open for {oldest.seconds / 60:.0f} min: the server keeps all WAL"
        " since it began, for every slot, and a new slot waits for its end",
        end,
        sql,
    )


def _clock(vitals: Vitals) -> Iterator[Finding]:
    skew = vitals.clock_skew
    if abs(skew) - vitals.clock_error <= CLOCK_SKEW:
        return
    yield Finding(
        "warning",
        "clock",
        f"the server's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} ours: lag in seconds"
        " is wrong by as much, nothing else is",
        "let both machines follow the same time service",
    )


def _size(count: int) -> str:
    """In the server's own units, in which the limits are set: a GB of 1024 MB."""
    return f"{count / (1 << 30):.1f} GB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MB"
