"""What follows from a failure: the one table that says so, and how long to wait.

| action    | meaning                                                                              |
|-----------|--------------------------------------------------------------------------------------|
| wait      | the same batch again after a growing pause, for ever: the world will heal            |
| attention | a person must change something; tried again now and then, and whenever told to       |
| reopen    | as attention, with a new session: the sink reads its credentials anew. Tried again   |
|           | also when a secret's file has changed                                                |
| reject    | single rows are refused for good, and may not become dead letters: the flow stops    |

What else follows from what a sink raises happens on the way, in `cdcflow.delivery.handover`: refused rows
become dead letters, rows that are written do not go out again, and what is too large goes out in parts.
"""

import math
from dataclasses import dataclass
from typing import Literal

from tenacity import RetryCallState, wait_random_exponential

from cdcflow.errors import (
    Disabled,
    EnvironmentFault,
    JournalError,
    Permanent,
    Rejected,
    Transient,
    Unauthorized,
)

Action = Literal["wait", "attention", "reopen", "reject"]


@dataclass(frozen=True, slots=True)
class Rule:
    """`retry_every` is the pause in seconds of what does not grow its own."""

    action: Action
    retry_every: float = 0.0


#: Long enough that a wrong credential, tried this often, neither locks an account nor floods a log;
#: short enough that a flow whose cause was mended is not forgotten until somebody looks.
ATTENTION_RETRY = 300.0

#: The first pause is below what a person notices, so that a lost connection costs nothing.
FIRST_PAUSE = 0.1

#: A destination that returns is found within half a minute, and one that is down gets two calls a minute.
LONGEST_PAUSE = 30.0

#: A `Retry-After` beyond an hour is more often a mistake than a wish.
LONGEST_WISH = 3_600.0

#: The pause that only a person ends.
UNTIL_TOLD = math.inf

#: After this long without a success, "it will heal" is no longer what people should be told.
PATIENCE = 60.0

#: The first class that fits decides.
POLICY: tuple[tuple[type[BaseException], Rule], ...] = (
    (Transient, Rule("wait")),
    # The flow says `on_reject: stop`: only a person may have it tried again.
    (Rejected, Rule("reject", UNTIL_TOLD)),
    # Whoever says so must not be asked every few minutes whether that is still so.
    (Disabled, Rule("attention", UNTIL_TOLD)),
    (Unauthorized, Rule("reopen", ATTENTION_RETRY)),
    (Permanent, Rule("attention", ATTENTION_RETRY)),
    # Damage, a checkpoint outside the journal: no pause mends it.
    (JournalError, Rule("attention", ATTENTION_RETRY)),
    # A full disk, a locked file: as a destination that is down.
    (EnvironmentFault, Rule("wait")),
    # Anything else is a defect in the sink or in ours.
    (Exception, Rule("attention", ATTENTION_RETRY)),
)

_BACK_OFF = wait_random_exponential(multiplier=2 * FIRST_PAUSE, max=LONGEST_PAUSE, min=FIRST_PAUSE)


def rule(error: BaseException) -> Rule:
    """The rule for a failure. Raises TypeError for what no sink may be blamed for (a cancellation)."""
    for kind, found in POLICY:
        if isinstance(error, kind):
            return found
    raise TypeError(f"{type(error).__name__} is not a failure")


def pause(state: RetryCallState) -> float:
    """Seconds until the next try after the failure that tenacity's state holds, or `UNTIL_TOLD`.

    Waits grow exponentially with full jitter, so that many flows to one destination spread out (AWS
    Architecture Blog, "Exponential Backoff And Jitter"). The destination's own wish is a lower bound.
    """
    assert state.outcome is not None
    error = state.outcome.exception()
    assert error is not None
    found = rule(error)
    if found.action != "wait":
        return found.retry_every
    wish = error.retry_after if isinstance(error, Transient) and error.retry_after is not None else 0.0
    return max(_BACK_OFF(state), min(wish, LONGEST_WISH))
