"""Which timelines carry on what a journal holds."""

import pytest

from cdcflow.errors import SourceError
from cdcflow.source.timeline import left_at, require_continuation

HISTORY = "1\t0/5000000\tno recovery target specified\n\n2\t1/A0\tbefore 2026-01-01\n"


def test_a_history_tells_where_each_timeline_was_left() -> None:
    assert left_at(HISTORY, 1) == 0x5000000
    assert left_at(HISTORY, 2) == 0x1_0000_00A0
    assert left_at(HISTORY, 4) is None
    assert left_at("", 1) is None


@pytest.mark.parametrize(
    ("old", "new", "reached", "words"),
    [
        (1, 3, 0x5000001, "left it at 0/5000000"),
        (4, 5, 1, "never passed through it"),
        (3, 2, 1, "it is an old primary"),
    ],
)
def test_what_did_not_happen_there_is_not_followed(old: int, new: int, reached: int, words: str) -> None:
    with pytest.raises(SourceError, match=words) as caught:
        require_continuation(HISTORY, old=old, new=new, reached=reached)
    assert "start anew" in caught.value.hint


def test_what_happened_before_the_switch_is_followed() -> None:
    require_continuation(HISTORY, old=1, new=3, reached=0x5000000)
    require_continuation(HISTORY, old=2, new=3, reached=0x5000001)
