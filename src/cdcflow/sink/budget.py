"""What a destination allows within a time, shared by everybody who uses the account: by all calls of all
flows on one connection, in any number of processes, and over restarts.

    PER_10_SECONDS = Limit("calls", 190, 10.0)

    async with context.budget.call(PER_10_SECONDS):
        answer = await client.post(...)

A call counts from its beginning until a limit's `seconds` after its *end*: whenever in between the
destination has counted it, no window of that length holds more than `count` calls. The price is the time of
a call per window. What was counted is in a small file under a lock, which ends with its holder however that
dies.
"""

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from cdcflow.errors import Transient

#: A window is counted in so many parts, so that what is remembered of a day's calls is as small as of a
#: second's. A part counts until its end has left the window: at worst, a hundredth of the time is lost.
PARTS = 100

#: How often a call that waits looks whether its flow is to stop.
LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `count` within any `seconds`. Limits of the same `name` are the same limit: its figures may
    change while it is used, as when the destination tells them with its answers."""

    name: str
    count: int
    seconds: float

    @property
    def part(self) -> float:
        return self.seconds / PARTS


class Budget:
    """The budget of one connection. Without a `path`, it is known in this object alone.

    `stopping` says that the flow is about to end: what waits then raises Transient, like a destination
    that is busy.
    """

    def __init__(self, path: Path | None = None, *, stopping: Callable[[], bool] = lambda: False) -> None:
        self._path = path
        self._stopping = stopping
        self._own: dict[str, Any] = {}

    @asynccontextmanager
    async def call(self, *limits: Limit, count: int = 1) -> AsyncIterator[None]:
        """Waits until `count` more fit into all of the limits, and counts them.

        Raises Transient when the flow stops meanwhile.
        """
        for limit in limits:
            if count > limit.count:
                raise ValueError(f"{count} at once never fit into a limit of {limit.count}")
        while (wait := self._begin(limits, count)) > 0:
            if self._stopping():
                raise Transient("the flow stops while it waits for its turn", everywhere=False)
            await asyncio.sleep(min(wait, LOOK_SECONDS))
        begun = time.time()
        try:
            yield
        finally:
            self._end(limits, count, begun)

    def hold(self, seconds: float) -> None:
        """Nobody calls for so long: the destination has said so."""
        with self._state() as state:
            state["until"] = max(state.get("until", 0.0), time.time() + seconds)

    def spend(self, limit: Limit, count: int) -> None:
        """Counts what others have used, as the destination tells: `count` in this window, ours among them."""
        now = time.time()
        with self._state() as state:
            parts = _present(state, limit, now)
            missing = count - sum(parts.values())
            if missing > 0:
                parts[int(now / limit.part)] = parts.get(int(now / limit.part), 0) + missing

    def used(self, limit: Limit) -> int:
        """What counts against the limit now."""
        with self._state() as state:
            return sum(_present(state, limit, time.time()).values())

    def _begin(self, limits: tuple[Limit, ...], count: int) -> float:
        """Counts a call that fits now, and returns 0; else returns when to try again, in seconds."""
        now = time.time()
        with self._state() as state:
            # A clock that was put back must not hold everybody up until it is where it was.
            until = min(float(state.get("until", 0.0)), now + 86_400)
            waits: list[float] = [
                until - now,
                *(_wait(_present(state, limit, now), limit, count, now) for limit in limits),
            ]
            wait = max(waits)
            if wait <= 0:
                for limit in limits:
                    parts = _present(state, limit, now)
                    parts[int(now / limit.part)] = parts.get(int(now / limit.part), 0) + count
        return max(wait, 0.0)

    def _end(self, limits: tuple[Limit, ...], count: int, begun: float) -> None:
        now = time.time()
        with self._state() as state:
            for limit in limits:
                parts = _present(state, limit, now)
                first, last = int(begun / limit.part), int(now / limit.part)
                parts[first] = max(parts.get(first, 0) - count, 0)
                parts[last] = parts.get(last, 0) + count

    @contextmanager
    def _state(self) -> Iterator[dict[str, Any]]:
        if self._path is None:
            yield self._own
            return
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Held for microseconds, and nobody waits for anything while holding it.
            fcntl.flock(fd, fcntl.LOCK_EX)
            state = _unpacked(os.pread(fd, 1 << 20, 0))
            yield state
            packed = msgpack.packb(state)
            os.pwrite(fd, packed, 0)
            os.ftruncate(fd, len(packed))
        finally:
            os.close(fd)


def _unpacked(data: bytes) -> dict[str, Any]:
    try:
        state = msgpack.unpackb(data, strict_map_key=False) if data else {}
    except (ValueError, msgpack.UnpackException):
        # Cut short by a crash. What it counted is lost, and the destination will say so.
        return {}
    return state if isinstance(state, dict) else {}


def _present(state: dict[str, Any], limit: Limit, now: float) -> dict[int, int]:
    """What counts against the limit, by part of time."""
    key = f"{limit.name} {limit.seconds:g}"
    found = state.get(key, {})
    last = int(now / limit.part)
    # Nothing was counted in the future, unless the clock was put back.
    kept = {part: n for part, n in found.items() if n and last - PARTS <= part <= last}
    state[key] = kept
    return kept


def _wait(parts: dict[int, int], limit: Limit, count: int, now: float) -> float:
    """Seconds until `count` more fit."""
    over = sum(parts.values()) + count - limit.count
    if over <= 0:
        return 0.0
    for part in sorted(parts):
        over -= parts[part]
        if over <= 0:
            return max((part + 1) * limit.part + limit.seconds - now, 0.001)
    return limit.seconds
