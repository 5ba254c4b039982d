"""Waiting for a condition, always with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Long enough for several servers under load on a small and slow machine: nobody waits so long but for what
#: never comes.
TIMEOUT = 60.0
#: Short against everything that is waited for, long enough not to take a core.
INTERVAL = 0.01


def eventually(
    predicate: Callable[[], T], *, timeout: float = TIMEOUT, interval: float = INTERVAL, what: str = ""
) -> T:
    """Calls `predicate` until it gives something true, and returns that.

    Raises TimeoutError after `timeout` seconds, with `what` was waited for and the last answer. What
    the predicate raises goes through.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            waited_for = what or getattr(predicate, "__qualname__", "the condition")
            raise TimeoutError(f"{waited_for} did not come true within {timeout:g} s: last answer {answer!r}")
        time.sleep(interval)
