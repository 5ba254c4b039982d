"""The rules of preflight that a test server does not easily show."""

from dataclasses import replace

import pytest

from cdcflow.errors import SourceError
from cdcflow.model.finding import Finding
from cdcflow.model.patterns import TablePatterns
from cdcflow.source.catalog import (
    Identity,
    Member,
    Publication,
    Selection,
    Server,
    Slot,
    Standbys,
    Table,
    select,
)
from cdcflow.source.judgement import Situation, Wishes, judge, names
from cdcflow.source.setup import steps


def table(oid: int, name: str, *, ancestors: tuple[int, ...] = (), partitioned: bool = False) -> Table:
    return Table(
        oid=oid,
        schema="public",
        name=name,
        partitioned=partitioned,
        ancestors=ancestors,
        replica_identity="d",
        identified=True,
        unidentified_partitions=(),
        primary_key=("id",),
        estimated_rows=10,
        estimated_bytes=8192,
        filtered_by_policies=False,
        schema_usable=True,
        unreadable_columns=(),
        owned=True,
    )


SLOT = Slot(
    name="cdcflow",
    plugin="pgoutput",
    slot_type="logical",
    database="shop",
    temporary=False,
    active_pid=None,
    restart_lsn=1,
    confirmed_flush_lsn=1,
    wal_status="reserved",
    safe_wal_size=None,
    two_phase=False,
    conflicting=False,
    invalidation_reason=None,
)
GOOD = Situation(
    patterns=("public.*",),
    publication_name="cdcflow",
    slot_name="cdcflow",
    identity=Identity("7", 1, "shop", 180_002, in_recovery=False),
    server=Server(
        wal_level="logical",
        wal_sender_timeout_ms=60_000,
        max_slots=10,
        used_slots=1,
        max_senders=10,
        used_senders=0,
        role="cdc",
        may_replicate=True,
        bypasses_rls=False,
        may_create_publication=False,
    ),
    selection=Selection((table(1, "orders"),), ()),
    publication=Publication(
        name="cdcflow",
        all_tables=False,
        insert=True,
        update=True,
        delete=True,
        truncate=True,
        via_root=True,
        members=(Member("public", "orders", ("id",), None),),
        listed=frozenset({1}),
    ),
    slot=SLOT,
    slot_user=None,
)


def complaints(situation: Situation) -> list[Finding]:
    return [finding for finding in judge(situation) if finding.severity != "ok"]


def test_a_good_situation_has_no_complaint_and_nothing_is_to_be_done() -> None:
    assert complaints(GOOD) == []
    assert steps(GOOD) == []


def test_a_standby_is_an_error_before_16_and_so_is_the_copy_of_a_slot_on_it() -> None:
    alone = replace(
        GOOD,
        identity=replace(GOOD.identity, version=150_004, in_recovery=True),
        standbys=Standbys((), None, hot_standby_feedback=True, primary_slot="standby"),
    )
    (finding,) = complaints(alone)
    assert (finding.severity, finding.subject) == ("error", "server")
    assert "primary" in finding.remedy
    with pytest.raises(SourceError, match="from PostgreSQL 16 on"):
        steps(alone)
    newer = replace(alone, identity=replace(alone.identity, version=180_002))
    assert complaints(newer) == []
    (finding,) = complaints(replace(newer, slot=replace(SLOT, failover=True, synced=True)))
    assert (finding.severity, finding.subject) == ("error", "slot")


@pytest.mark.parametrize(
    ("change", "severity", "words"),
    [
        ({"wal_status": "lost"}, "error", "is lost (wal_removed)"),
        ({"invalidation_reason": "idle_timeout"}, "error", "is lost (idle_timeout)"),
        ({"conflicting": True}, "error", "is lost (conflict with recovery)"),
        ({"wal_status": "unreserved"}, "warning", "about to be lost"),
        ({"wal_status": "extended"}, None, ""),
        ({"plugin": "wal2json"}, "error", "of the plugin wal2json"),
        ({"temporary": True}, "error", "is temporary"),
        ({"two_phase": True}, "error", "two-phase"),
        ({"active_pid": 7}, "warning", "somebody streams"),
    ],
)
def test_each_state_of_the_slot_has_its_finding(
    change: dict[str, object], severity: str | None, words: str
) -> None:
    changed = replace(SLOT, **change)  # type: ignore[arg-type]
    found = complaints(replace(GOOD, slot=changed))
    assert [finding.severity for finding in found] == ([severity] if severity else [])
    assert all(words in finding.message and finding.remedy for finding in found)


@pytest.mark.parametrize(("used", "severity"), [(9, []), (10, ["warning"])])
def test_the_backfill_needs_a_free_slot_beside_ours(used: int, severity: list[str]) -> None:
    found = complaints(replace(GOOD, server=replace(GOOD.server, used_slots=used)))
    assert [finding.severity for finding in found] == severity


def test_what_a_first_load_without_keys_costs_is_told_before_it_begins() -> None:
    full = replace(table(2, "notes"), replica_identity="f", estimated_bytes=3_000_000_000)
    keyless = replace(table(3, "logs"), identified=False, primary_key=())
    before = replace(GOOD, slot=None, wishes=Wishes(first_load=True))
    [finding] = [
        finding
        for finding in judge(replace(before, selection=Selection((table(1, "orders"), full, keyless), ())))
        if finding.subject == "first load"
    ]
    assert "public.notes, public.logs" in finding.message
    assert "3,000 MB" in finding.message
    for fine in (
        before,
        replace(before, slot=SLOT, selection=Selection((full,), ())),
        replace(before, wishes=Wishes(), selection=Selection((full,), ())),
    ):
        assert not [finding for finding in judge(fine) if finding.subject == "first load"]


def test_no_free_wal_sender_is_an_error_unless_we_hold_one_ourselves() -> None:
    full = replace(GOOD, server=replace(GOOD.server, used_senders=10))
    (finding,) = complaints(full)
    assert finding.subject == "wal senders"
    ours = replace(full, slot=replace(SLOT, active_pid=7), slot_user="cdcflow capture")
    assert complaints(ours) == []


def test_excluding_everything_is_an_error_that_repeats_the_patterns() -> None:
    nothing = replace(GOOD, patterns=("public.*", "!public.*"), selection=Selection((), ()))
    messages = [finding.message for finding in complaints(nothing) if finding.subject == "tables"]
    assert messages == ["no table is left of public.*, !public.*"]


def test_partitions_are_covered_by_their_root_unless_the_root_is_not_meant() -> None:
    root, leaf = table(1, "p", partitioned=True), table(3, "p_1_a", ancestors=(1, 2))
    middle = table(2, "p_1", ancestors=(1,), partitioned=True)
    known = [root, middle, leaf]

    def meant(*patterns: str) -> list[str]:
        return [found.name for found in select(known, TablePatterns(patterns)).tables]

    assert meant("public.*") == ["p"]
    assert meant("public.*", "!public.p") == ["p_1"]
    assert meant("public.p_1_a") == ["p_1_a"]


def test_a_long_list_of_names_is_cut_and_counted() -> None:
    assert names("abc") == "a, b, c"
    assert names("abcdefgh") == "a, b, c, d, e and 3 more"
