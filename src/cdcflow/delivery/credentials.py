"""Notices that somebody has replaced a credential: the file of one of a sink's secrets is another one."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

#: How often the files are looked at while a flow waits for it. A look is a system call.
LOOK_SECONDS = 1.0

Look = dict[Path, tuple[int, int, int] | None]


def look(files: Iterable[Path]) -> Look:
    """What tells a file from the one that was there before."""
    found: Look = {}
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            found[file] = None
        else:
            found[file] = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
    return found


async def replaced(before: Look) -> None:
    """Returns when one of the files is not what it was; never, where there are none."""
    while not before or look(before) == before:  # noqa: ASYNC110 - a file gives no event that holds everywhere
        await asyncio.sleep(LOOK_SECONDS)
