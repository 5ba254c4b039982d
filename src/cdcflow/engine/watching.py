"""Notices that files have changed: by looking, which works on every file system and for every way in which
editors, git and configuration maps replace files. A file that is being written is left until it rests."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

#: Two looks apart: a change takes effect behind the second one that finds the files the same.
LOOK_SECONDS = 0.5

#: Per path, what changes when the file does; None where it is gone.
State = dict[Path, tuple[int, int, int] | None]


def state_of(files: Iterable[Path]) -> State:
    found: State = {}
    for file in files:
        try:
            stat = file.stat()
            found[file] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except OSError:
            found[file] = None
    return found


class Watcher:
    """Calls `changed` once after each change of `files`, which is asked for the paths at each look; `run`
    goes on until it is cancelled."""

    def __init__(self, files: Callable[[], Iterable[Path]], changed: Callable[[], Awaitable[None]]) -> None:
        self._files = files
        self._changed = changed
        self._known = state_of(files())
        self._told = asyncio.Event()

    def tell(self) -> None:
        """Looks no further: calls `changed` at once."""
        self._told.set()

    async def run(self) -> None:
        last = self._known
        while True:
            told = False
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._told.wait()
                    told = True
            except TimeoutError:
                pass
            self._told.clear()
            now = await asyncio.to_thread(lambda: state_of(self._files()))
            rests, last = now == last, now
            if told or (rests and now != self._known):
                self._known = now
                await self._changed()
