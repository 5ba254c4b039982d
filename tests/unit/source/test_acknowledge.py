"""What may be confirmed to the server, and when it is told."""

from cdcflow.source.acknowledge import STEPS, DeliveredBehind


def test_a_slot_is_confirmed_behind_the_slowest_flow() -> None:
    behind = DeliveredBehind()
    behind.journaled(10, 1_000)
    behind.journaled(20, 2_000)
    assert behind.safe(9) == 0
    assert behind.safe(10) == 1_000
    behind.journaled(20, 2_500)  # progress without a change
    assert behind.safe(19) == 1_000
    assert behind.safe(20) == 2_500


def test_a_flow_that_is_down_for_weeks_does_not_fill_the_memory() -> None:
    behind = DeliveredBehind()
    last = 10 * STEPS
    for offset in range(1, last + 1):
        behind.journaled(offset, offset * 8)
    assert len(behind._steps) <= STEPS
    for delivered in (0, 1, 1_000, last // 2, last - 1):
        assert behind.safe(delivered) <= delivered * 8
    assert behind.safe(last) == last * 8
