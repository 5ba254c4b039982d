"""Waiting ends when the condition holds, and never later than its deadline."""

import time
from itertools import count

import pytest

from cdcflow.testing.waiting import eventually


def test_the_first_true_answer_is_returned() -> None:
    answers = count()
    assert eventually(lambda: next(answers) if next(answers) > 5 else 0, timeout=5) > 5


def test_a_condition_that_never_holds_ends_with_what_was_waited_for_and_the_last_answer() -> None:
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match=r"the moon did not come true within 0\.05 s: last answer \[\]"):
        eventually(list, timeout=0.05, what="the moon")
    assert 0.05 <= time.monotonic() - begun < 5


def test_what_the_condition_raises_goes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        eventually(lambda: 1 / 0)
