"""What standbys mean for capture: whether a promoted one could be followed, and one be the source itself.

Pure. A standby has the slot only where it is a failover slot (17 and later), and everything that was
streamed only where the stream waits for it (`synchronized_standby_slots`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cdcflow.model.finding import Finding
from cdcflow.source.catalog import Identity, Slot, Standbys
from cdcflow.source.connection import quote_identifier
from cdcflow.source.statements import set_for_server

#: The first major version that copies logical slots to standbys.
FAILOVER = 17
#: The first major version that decodes on a standby.
DECODING_STANDBY = 16


@dataclass(frozen=True, slots=True)
class Slots:
    """Our slot, by its name, as it is (None: not yet made), and whether it is to be a failover slot."""

    name: str
    slot: Slot | None
    wanted: bool

    @property
    def failover(self) -> bool:
        """Whether it is a failover slot, or will be made as one."""
        return self.wanted if self.slot is None else self.slot.failover


def judge_standbys(identity: Identity, standbys: Standbys, ours: Slots) -> Iterator[Finding]:
    """All that standbys have to do with, on a primary and on a standby."""
    if identity.in_recovery:
        yield from _on_standby(identity, standbys, ours)
    else:
        yield from _on_primary(identity, standbys, ours)


def too_old_for_failover(identity: Identity) -> str:
    return (
        f"source.failover is true, and failover slots exist from PostgreSQL {FAILOVER} on; this is"
        f" {identity.major}"
    )


def _on_primary(identity: Identity, standbys: Standbys, ours: Slots) -> Iterator[Finding]:
    if identity.major < FAILOVER:
        if ours.wanted:
            remedy = "leave source.failover out: after a failover, everything is read anew; or upgrade"
            yield Finding("error", "failover", too_old_for_failover(identity), remedy)
        return
    known = ", ".join(standbys.physical_slots)
    if ours.slot is not None and not ours.slot.failover and (ours.wanted or standbys.physical_slots):
        why = "source.failover is true" if ours.wanted else f"there are standbys (by the slots {known})"
        yield Finding(
            "warning",
            "failover",
            f"{why}, and the replication slot {ours.name} is no failover slot: a standby does not have it, so"
            " that capture cannot follow it when it is promoted",
            ("" if ours.wanted else "set source.failover: true, then ")
            + "stop cdcflow and run `cdcflow setup`, which makes it one in its place",
        )
    if not ours.failover:
        return
    waited_for = _listed(standbys.synchronized or "")
    missing = [name for name in waited_for if name not in standbys.physical_slots]
    if missing:
        yield Finding(
            "warning",
            "failover",
            f"synchronized_standby_slots names {', '.join(missing)}, which no standby uses: the stream waits"
            " for it, and nothing is captured meanwhile",
            "let the standby connect, or take the name out",
            set_for_server(
                "synchronized_standby_slots", _list(n for n in waited_for if n not in missing), restart=False
            ),
        )
    elif standbys.physical_slots and not waited_for:
        yield Finding(
            "warning",
            "failover",
            "synchronized_standby_slots is not set: the stream may be ahead of the standby, and if that is"
            " promoted then, capture stops, since it holds what the new primary never had",
            f"name the slots of the standbys that may be promoted, of {known}; while such a standby is down,"
            " the stream waits for it",
            set_for_server("synchronized_standby_slots", _list(standbys.physical_slots), restart=False),
        )


def _on_standby(identity: Identity, standbys: Standbys, ours: Slots) -> Iterator[Finding]:
    elsewhere = "point source.dsn at the primary; with several hosts add target_session_attrs=read-write"
    if identity.major < DECODING_STANDBY:
        yield Finding(
            "error",
            "server",
            f"the server is a standby, which can be captured from PostgreSQL {DECODING_STANDBY} on; this is"
            f" {identity.major}",
            elsewhere,
        )
        return
    yield Finding(
        "ok",
        "server",
        "the server is a standby, from which its primary's wal_level, transactions and clock are not seen",
        "SQL of other findings about roles, tables and publications is for the primary",
    )
    if ours.slot is not None and ours.slot.synced:
        yield Finding(
            "error",
            "slot",
            f"the replication slot {ours.name} is the primary's, of which this standby has a copy: nobody can"
            " stream from it before this server is promoted",
            f"{elsewhere}; or give source.slot another name",
        )
    elif ours.wanted:
        yield Finding(
            "error",
            "failover",
            "source.failover is true, and a slot of a standby cannot be a failover slot",
            f"leave source.failover out, or {elsewhere}",
        )
    if not standbys.hot_standby_feedback or not standbys.primary_slot:
        lacks = (
            "hot_standby_feedback is off"
            if not standbys.hot_standby_feedback
            else "primary_slot_name is not set"
        )
        yield Finding(
            "warning",
            "standby",
            f"{lacks}: the primary may remove rows of its catalog that the slot here still needs, whereupon"
            " the slot is lost",
            "set both on this standby: hot_standby_feedback = on, and primary_slot_name to a slot of the"
            " primary's",
            set_for_server("hot_standby_feedback", "on", restart=False)
            if not standbys.hot_standby_feedback
            else "",
            "settings",
        )


def _listed(setting: str) -> list[str]:
    return [name for part in setting.split(",") if (name := part.strip().strip('"'))]


def _list(slots: Iterable[str]) -> str:
    return ", ".join(quote_identifier(name) if not name.isidentifier() else name for name in slots)
