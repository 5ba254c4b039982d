"""What the demo reads out of the engine's status document."""

from pathlib import Path
from typing import Any

from cdcflow.demo.engine import describe, holds, last_lines


def status(*flows: dict[str, Any], error: str | None = None) -> dict[str, Any]:
    full = [{"name": "f", "state": "catching up", "reason": "", "lag_changes": 5, **flow} for flow in flows]
    return {"capture": {"state": "streaming", "error": error}, "flows": full}


def test_everything_is_delivered_when_every_flow_has_passed_the_offset() -> None:
    assert holds(status({"checkpoint": 10}, {"checkpoint": 11}), 10)
    assert not holds(status({"checkpoint": 10}, {"checkpoint": 9}), 10)


def test_a_flow_whose_checkpoint_is_not_known_holds_nothing() -> None:
    assert not holds(status({"checkpoint": None}), 0)


def test_what_lags_is_said_in_words() -> None:
    document = status(
        {"checkpoint": 1}, {"checkpoint": None, "lag_changes": None, "reason": "no answer"}, error="x"
    )
    assert describe(document) == (
        "capture is streaming (x); flow f is catching up, 5 changes behind; "
        "flow f is catching up (no answer), an unknown number of changes behind"
    )
    assert describe(None) == "the engine does not answer yet"


def test_the_end_of_the_log_says_why_the_engine_ended(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    assert last_lines(log) == "it wrote nothing"
    log.write_text("".join(f"line {number}\n" for number in range(20)))
    assert last_lines(log).startswith("line 12 / ")
    assert last_lines(log).endswith("line 19")
