"""The lock of the journal's one writer."""

from pathlib import Path

from cdcflow.errors import JournalError
from cdcflow.journal.layout import LOCK
from cdcflow.lock import FileLock, Held
from cdcflow.lock import held as _held

#: A lock is waited for at least this long, in seconds, because `held` takes it for an instant.
GRACE = 0.1


def lock_journal(path: Path, timeout: float) -> FileLock:
    """Raises JournalError, naming the holder's pid, when somebody else holds the journal's lock for longer
    than `timeout` seconds."""
    try:
        return FileLock(path / LOCK, max(timeout, GRACE))
    except Held as error:
        raise JournalError(
            f"the journal at {path} is being written by process {error.holder}",
            hint="stop that process, or give this one a journal of its own",
        ) from error


def held(path: Path) -> bool:
    """Whether a writer has the journal open now."""
    return _held(path / LOCK)
