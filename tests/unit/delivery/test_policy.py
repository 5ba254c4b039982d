import asyncio
import math

import pytest
from tenacity import AsyncRetrying, RetryCallState

from cdcflow.delivery import policy
from cdcflow.errors import (
    EnvironmentFault,
    JournalDamaged,
    JournalError,
    Permanent,
    Rejected,
    Transient,
)


def after(error: Exception, attempt: int = 1) -> RetryCallState:
    """What tenacity says once that many attempts have failed."""
    state = RetryCallState(AsyncRetrying(), None, (), {})
    state.attempt_number = attempt
    state.set_exception((type(error), error, None))
    return state


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (Transient("busy"), "wait"),
        (EnvironmentFault("disk full"), "wait"),
        (Permanent("no such column"), "attention"),
        (JournalError("gone"), "attention"),
        (JournalDamaged("checksum"), "attention"),
        (ZeroDivisionError("a defect"), "attention"),
        (Rejected({3: "too long"}), "reject"),
    ],
)
def test_every_failure_has_one_action(error: Exception, action: policy.Action) -> None:
    assert policy.rule(error).action == action


def test_a_cancellation_is_not_a_failure() -> None:
    with pytest.raises(TypeError):
        policy.rule(asyncio.CancelledError())


def test_pauses_grow_with_jitter_up_to_a_limit() -> None:
    first = {policy.pause(after(Transient("busy"), 1)) for _ in range(50)}
    late = {policy.pause(after(Transient("busy"), 40)) for _ in range(50)}
    assert policy.FIRST_PAUSE <= min(first) <= max(first) <= 2 * policy.FIRST_PAUSE
    assert max(late) <= policy.LONGEST_PAUSE
    assert max(late) > max(first)
    assert len(late) > 1


def test_the_wish_of_the_destination_is_a_lower_bound_up_to_an_hour() -> None:
    assert policy.pause(after(Transient("busy", retry_after=120.0))) == 120.0
    assert policy.pause(after(Transient("busy", retry_after=0.0))) >= policy.FIRST_PAUSE
    assert policy.pause(after(Transient("busy", retry_after=1e9))) == policy.LONGEST_WISH


def test_refused_rows_are_only_tried_again_when_told() -> None:
    assert policy.pause(after(Rejected({0: "no"}))) == math.inf
    assert policy.pause(after(Permanent("no"))) == policy.ATTENTION_RETRY
