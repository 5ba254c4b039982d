from dataclasses import replace
from pathlib import Path

import pytest

from cdcflow.delivery import FlowReport
from cdcflow.engine.status import CRASHES, STALE_SECONDS, Life, Source, journal_document, judge
from cdcflow.testing.scripted import JournalSource

FINE = FlowReport(name="hook", state="up to date", checkpoint=10, lag_changes=0, lag_seconds=0.0)
ALIVE = Life(running=True, silent=0.1)
STREAMING = Source("streaming", seen=True)


def test_a_report_stands_while_everything_it_depends_on_is_well() -> None:
    assert judge(FINE, ALIVE, STREAMING) == FINE


@pytest.mark.parametrize(
    ("source", "state"),
    [
        (Source("connecting", seen=False), "starting"),
        (Source("backfilling", seen=False), "starting"),
        (Source("connecting", seen=True, error="connection refused"), "unknown"),
        (Source("waiting for disk", seen=True), "unknown"),
        (Source("stopped", seen=True), "unknown"),
    ],
)
def test_without_a_streaming_source_nobody_is_up_to_date_and_lag_is_unknown(
    source: Source, state: str
) -> None:
    found = judge(FINE, ALIVE, source)
    assert (found.state, found.lag_changes, found.lag_seconds) == (state, None, None)
    assert source.state in found.reason
    assert source.error in found.reason


def test_what_was_said_before_the_source_streamed_does_not_make_a_flow_up_to_date() -> None:
    just_now = replace(STREAMING, streaming=0.2)
    found = judge(FINE, replace(ALIVE, silent=0.4), just_now)
    assert (found.state, found.lag_changes) == ("starting", None)
    assert judge(FINE, replace(ALIVE, silent=0.1), just_now) == FINE


def test_a_flow_in_trouble_says_so_also_without_a_source() -> None:
    trouble = replace(FINE, state="needs attention", reason="no such column")
    found = judge(trouble, ALIVE, Source("connecting", seen=True))
    assert (found.state, found.reason, found.lag_changes) == ("needs attention", "no such column", None)


def test_a_process_that_says_nothing_is_unknown() -> None:
    found = judge(FINE, replace(ALIVE, silent=STALE_SECONDS + 2), STREAMING)
    assert (found.state, found.lag_changes) == ("unknown", None)
    assert "12 s" in found.reason


def test_a_process_that_starts_is_starting_and_one_that_cannot_live_needs_attention() -> None:
    dead = Life(running=False, silent=1.0, crashes=1, end="was ended by SIGKILL")
    assert judge(FINE, dead, STREAMING).state == "starting"
    assert judge(FINE, Life(running=True, silent=None), STREAMING).state == "starting"
    hopeless = judge(FINE, replace(dead, crashes=CRASHES), STREAMING)
    assert hopeless.state == "needs attention"
    assert "was ended by SIGKILL" in hopeless.reason
    assert hopeless.checkpoint == 10


def test_the_figures_of_a_journal_are_read_from_it_and_null_without_one(tmp_path: Path) -> None:
    assert journal_document(tmp_path / "none") == {"offset": None, "first_offset": None, "bytes": None}
    source = JournalSource(tmp_path / "journal")
    source.commit(range(5))
    figures = journal_document(tmp_path / "journal")
    source.writer.close()
    assert (figures["offset"], figures["first_offset"]) == (5, 0)
    assert figures["bytes"] == sum(p.stat().st_size for p in (tmp_path / "journal").glob("*.seg"))
