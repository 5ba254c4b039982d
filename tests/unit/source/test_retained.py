"""When retained WAL is worth a word, and when the slot must go."""

import pytest

from cdcflow.source.retained import Limits, finding, overrun


@pytest.mark.parametrize(
    ("limits", "retained", "safe", "said"),
    [
        (Limits(), None, None, None),
        (Limits(), 9 * 10**9, None, None),
        (Limits(), 10 * 10**9, None, "keeps 10.0 GB of WAL"),
        (Limits(warn=None), 10**15, None, None),
        # max_slot_wal_keep_size, of which a fifth is left
        (Limits(), 799_000, 201_000, None),
        (Limits(warn=None), 800_000, 200_000, "after 200 kB more"),
        (Limits(), 2_000_000, -5, "after 0 kB more"),
    ],
)
def test_it_is_said_when_wal_piles_up(
    limits: Limits, retained: int | None, safe: int | None, said: str | None
) -> None:
    found = finding(limits, slot="s", retained=retained, safe=safe)
    if said is None:
        assert found is None
    else:
        assert found is not None
        assert said in found.message
        assert found.remedy


def test_a_slot_goes_only_where_that_was_asked_for_and_is_known_to_be_due() -> None:
    assert not overrun(Limits(), 10**15)
    assert not overrun(Limits(drop_slot=100), None)
    assert not overrun(Limits(drop_slot=100), 99)
    assert overrun(Limits(drop_slot=100), 100)
