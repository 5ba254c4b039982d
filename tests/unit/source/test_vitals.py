"""The rules about limits, the slot's condition and clocks, which a test server shows after hours only."""

from dataclasses import replace

import pytest

from cdcflow.model.finding import Finding
from cdcflow.source.catalog import Slot, Transaction, Vitals
from cdcflow.source.vitals import judge_vitals

GB = 1 << 30

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
WELL = Vitals(
    slot_wal_limit=100 * GB,
    slot_idle_limit=None,
    freeze_age=200_000_000,
    retained_bytes=GB,
    catalog_age=1_000,
    oldest=Transaction(7, None, "app, ada, shop, active", 2.0),
    clock_skew=0.2,
    clock_error=0.01,
)


def complaints(vitals: Vitals, slot: Slot | None = SLOT) -> list[Finding]:
    return [finding for finding in judge_vitals(vitals, slot) if finding.severity != "ok"]


def test_a_server_that_is_well_has_no_complaint() -> None:
    (held,) = judge_vitals(WELL, SLOT)
    assert (held.severity, held.subject) == ("ok", "slot")
    assert "keeps 1.0 GB of WAL for cdcflow, and catalog rows of 1,000 transactions" in held.message


def test_a_server_without_a_limit_is_noted_and_not_complained_of() -> None:
    finding, _ = judge_vitals(replace(WELL, slot_wal_limit=None), SLOT)
    assert (finding.severity, finding.subject) == ("ok", "max_slot_wal_keep_size")


@pytest.mark.parametrize(
    ("change", "subject", "words"),
    [
        ({"slot_wal_limit": GB - 1, "retained_bytes": 0}, "max_slot_wal_keep_size", "is 1024 MB"),
        ({"slot_idle_limit": 3600}, "idle_replication_slot_timeout", "3600 s"),
        ({"retained_bytes": 76 * GB}, "retained WAL", "keeps 76.0 GB"),
        ({"slot_wal_limit": None, "retained_bytes": 11 * GB}, "retained WAL", "no limit but its disk"),
        ({"catalog_age": 100_000_000}, "catalog_xmin", "100,000,000 transactions"),
        (
            {"oldest": Transaction(4711, None, "app, shop, idle in transaction", 1_800.0)},
            "open transaction",
            "server process 4711 (app, shop, idle in transaction) has been open for 30 min",
        ),
        ({"oldest": Transaction(None, "it's", "ada, shop", 601.0)}, "open transaction", "prepared"),
        ({"clock_skew": -12.0}, "clock", "12.0 s behind ours"),
    ],
)
def test_what_will_hurt_later_is_a_warning_with_a_remedy(
    change: dict[str, object], subject: str, words: str
) -> None:
    (finding,) = complaints(replace(WELL, **change))  # type: ignore[arg-type]
    assert (finding.severity, finding.subject) == ("warning", subject)
    assert words in finding.message
    assert finding.remedy


@pytest.mark.parametrize(
    "change",
    [
        {"slot_idle_limit": 86_400},
        {"retained_bytes": 75 * GB},
        {"retained_bytes": None, "catalog_age": None},
        {"oldest": Transaction(7, None, "", None)},
        {"oldest": None},
        # The answer took so long that the clock may be right.
        {"clock_skew": 3.0, "clock_error": 2.5},
    ],
)
def test_what_is_within_bounds_or_unknown_is_no_complaint(change: dict[str, object]) -> None:
    assert complaints(replace(WELL, **change)) == []  # type: ignore[arg-type]


def test_how_much_may_still_be_written_is_said_where_the_server_says_it() -> None:
    (finding,) = complaints(replace(WELL, retained_bytes=99 * GB), replace(SLOT, safe_wal_size=GB))
    assert "may write 1.0 GB more" in finding.message


def test_a_slot_that_is_lost_or_missing_holds_nothing_back() -> None:
    held = replace(WELL, retained_bytes=99 * GB, catalog_age=200_000_000)
    assert complaints(held, None) == []
    assert complaints(held, replace(SLOT, wal_status="lost")) == []


def test_ending_somebody_s_transaction_is_a_choice_and_quotes_its_name() -> None:
    (finding,) = complaints(replace(WELL, oldest=Transaction(None, "it's", "ada, shop", 601.0)))
    assert (finding.sql, finding.stage) == ("ROLLBACK PREPARED 'it''s';", "choice")
