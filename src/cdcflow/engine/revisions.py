"""Every text that a flow was run with: when it was first seen and, as far as that is known, whose it is. The
texts hold references to secrets as they are written, never what those lead to."""

import difflib
import pwd
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cdcflow import sql
from cdcflow.config import Flow
from cdcflow.delivery import CheckpointStore

#: A repository on a slow disk must not hold up a change for long.
GIT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Revision:
    """`number` counts from 1 for each flow. `source` says where `author` comes from: `git`, the `owner` of
    the file, or `console`. `first_seen` is in seconds since 1970."""

    number: int
    hash: str
    text: str
    first_seen: float
    author: str
    source: str


class Revisions:
    """The revisions in the state database. Raises EnvironmentFault when that cannot be used."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        store.write(sql.load("revision_table"))

    def record(self, flows: Iterable[Flow], author: str = "") -> None:
        """Notes what these flows are now; what is known already changes nothing. `author` is who wrote it
        through the console."""
        for flow in flows:
            newest = self._store.one(
                "SELECT hash FROM revision WHERE flow = ? ORDER BY number DESC LIMIT 1", flow.name
            )
            if newest == (flow.revision,):
                continue
            who, source = (author, "console") if author else author_of(flow.file)
            given = (flow.name, flow.revision, flow.text, time.time(), who, source)
            self._store.write(sql.load("revision_add"), *given)

    def of(self, flow: str) -> list[Revision]:
        """All of a flow's, the newest last."""
        return [Revision(*row) for row in self._store.all(sql.load("revisions"), flow)]


def difference(before: Revision | None, after: Revision) -> str:
    """What one revision changed, as a unified diff."""
    was, name = ("", "none") if before is None else (before.text, f"revision {before.number}")
    lines = difflib.unified_diff(
        was.splitlines(), after.text.splitlines(), name, f"revision {after.number}", lineterm=""
    )
    return "\n".join(lines)


def author_of(file: Path) -> tuple[str, str]:
    """Who wrote a file last, and how that is known: of what is committed the commit's author, of anything
    else the file's owner."""
    committed = not _git(file, "status", "--porcelain", "--ignored")
    author = _git(file, "log", "-1", "--format=%an <%ae>") if committed else None
    if author:
        return author, "git"
    try:
        owner = file.stat().st_uid
    except OSError:
        return "", "owner"
    try:
        return pwd.getpwuid(owner).pw_name, "owner"
    except KeyError:
        return str(owner), "owner"


def _git(file: Path, *command: str) -> str | None:
    """What git says of a file; None where it says nothing, or there is no git or no repository."""
    words = ["git", "-C", str(file.parent), *command, "--", file.name]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=GIT_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
