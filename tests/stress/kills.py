"""SIGKILL, every few seconds, to whatever takes part."""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

from cdcflow.testing.waiting import eventually
from faults.project import Project, kill

#: Seconds between two kills: short against a restart's back-off, long enough that load builds up.
BETWEEN = (0.3, 5.0)
#: How often a kill comes whatever the engine is at, and not while it streams.
ANY_TIME = 0.25
#: Seconds to wait for a victim.
REAPPEAR = 10.0
TARGETS = ("capture", "worker", "supervisor", "postgres")


def kills(
    project: Project,
    draw: random.Random,
    seconds: float,
    *,
    targets: Sequence[str] = TARGETS,
    unless: Callable[[], bool] = lambda: False,
) -> Counter[str]:
    """Kills one after the other for so long, or until `unless`; says how many of each there were."""
    done: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end and not unless():
        if draw.random() > ANY_TIME:
            project.wait_until_streaming()
        due = time.monotonic() + draw.uniform(*BETWEEN)
        eventually(lambda: time.monotonic() > due, interval=0.05)  # noqa: B023
        project.ensure_running()
        target = draw.choice(targets)
        # What has just been killed may not be there yet.
        with suppress(TimeoutError):
            eventually(lambda: kill(project, target, draw), timeout=REAPPEAR, interval=0.1)  # noqa: B023
            done[target] += 1
    return done
