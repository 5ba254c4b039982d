"""What a flow says of itself: one record, in the words that the CLI and the console use too. Lag that
is not known is None, never 0."""

from dataclasses import dataclass
from typing import Literal

State = Literal["up to date", "catching up", "needs attention", "paused", "starting", "unknown"]

#: A flow whose oldest waiting change is younger than this is up to date: under steady load there is
#: always some change under way, and a state that flickers tells nothing.
FRESH_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowReport:
    """A flow at one moment.

    `checkpoint` is the offset up to which the sink durably holds everything, None before it is known.
    `lag_changes` counts the changes of the journal behind the flow, of all its tables; `lag_seconds` is
    the age of the oldest change that waits. `delivered` (changes), `batches` and `retries` count since
    the process started. `last_delivery` is in seconds since 1970. `dead` and `parked` count the flow's
    letters."""

    name: str
    state: State = "starting"
    reason: str = ""
    checkpoint: int | None = None
    lag_changes: int | None = None
    lag_seconds: float | None = None
    delivered: int = 0
    batches: int = 0
    retries: int = 0
    last_delivery: float | None = None
    dead: int | None = None
    parked: int | None = None


def state_of(*, reading: bool, stuck: bool, failing: bool, lag_seconds: float | None) -> State:
    """The word for a flow. It is `stuck` when a person has to act, and `failing` while it tries again what
    is expected to heal."""
    if stuck:
        return "needs attention"
    if not reading:
        return "starting"
    behind = failing or (lag_seconds is not None and lag_seconds > FRESH_SECONDS)
    return "catching up" if behind else "up to date"
