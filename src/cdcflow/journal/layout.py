"""The journal's directory: which files it holds, what its manifest says, and how it is replaced.

    <path>/                          mode 0700, files 0600: a journal holds the source's data
      manifest.json                  format, identity of the source, where the first load begins
      lock                           flock of the one writer, holding its pid
      head                           how far readers may read (see `head`)
      readers/                       FIFOs of waiting readers (see `wakeup`)
      <base offset, 20 digits>.seg   segments

The manifest is replaced atomically: whoever reads it sees the old one or the new one, whole.
"""

import json
import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from cdcflow.errors import JournalDamaged, JournalError

#: Version of the segments' and the manifest's format. A reader refuses every other.
#: 2: frames that hold chunks of a backfill, and the ledger of backfills in each segment.
#: 3: rows are seen as they come, those of the first load too.
FORMAT = 3

MANIFEST = "manifest.json"
LOCK = "lock"
HEAD = "head"
READERS = "readers"

_SEGMENT = re.compile(r"\d{20}\.seg")


@dataclass(frozen=True)
class Identity:
    """The source that a journal belongs to. Another source's changes must never be mixed in."""

    system_identifier: str
    timeline: int
    database: str
    slot: str
    publication: str


#: Which transactions the server sends: all, or only those that began in this database.
Origin = Literal["any", "none"]


@dataclass(frozen=True)
class Asked:
    """What the server is asked to send of a transaction. It and nothing else counts in the ordinals, so a
    transaction that is here in part can only be gone on with in the same way."""

    #: Logical messages.
    messages: bool = False
    origin: Origin = "any"


@dataclass(frozen=True)
class Manifest:
    identity: Identity
    #: Offset from which on the rows come that the source held already; None: they do not.
    initial_rows: int | None = None
    asked: Asked = Asked()


@dataclass(frozen=True)
class Segment:
    """A segment file; `end` is the base of the next one, or None for the last."""

    path: Path
    base: int
    end: int | None


def segment_name(base: int) -> str:
    return f"{base:020d}.seg"


def segments(path: Path) -> list[Segment]:
    """The journal's segments in order."""
    names = sorted(file.name for file in path.iterdir() if _SEGMENT.fullmatch(file.name))
    bases = [int(name[:20]) for name in names]
    ends: list[int | None] = [*bases[1:], None]
    return [Segment(path / name, base, end) for name, base, end in zip(names, bases, ends, strict=False)]


def read_manifest(path: Path) -> Manifest | None:
    """The manifest of the journal at `path`, or None where there is none.

    Raises JournalDamaged when it is not a manifest, JournalError when it is newer than this code.
    """
    file = path / MANIFEST
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return None
    try:
        state = json.loads(text)
        version = int(state["format"])
        if version == FORMAT:
            origin: Origin = "none" if state.get("origin") == "none" else "any"
            asked = Asked(state.get("messages", False) is True, origin)
            return Manifest(_identity(state["identity"]), state["initial_rows"], asked)
    except (ValueError, KeyError, TypeError) as error:
        raise JournalDamaged(
            f"{file} is not a journal's manifest",
            hint="restore it from a copy, or move the journal away and start a new one with a backfill",
        ) from error
    raise JournalError(
        f"the journal at {path} has format {version}, this cdcflow reads {FORMAT}",
        hint="use the cdcflow that wrote it"
        + (
            ", or a newer one"
            if version > FORMAT
            else "; or move it away and start a new one with a backfill"
        ),
    )


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Replaces the manifest; it is durable when this returns. Raises OSError."""
    state = {
        "format": FORMAT,
        "identity": asdict(manifest.identity),
        "initial_rows": manifest.initial_rows,
        "messages": manifest.asked.messages,
        "origin": manifest.asked.origin,
    }
    fresh = path / f".{MANIFEST}"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(json.dumps(state, indent=2).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path / MANIFEST)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    sync_directory(path)


def sync_directory(path: Path) -> None:
    """Makes created, renamed and removed names durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _identity(state: dict[str, Any]) -> Identity:
    return Identity(**{field.name: state[field.name] for field in fields(Identity)})
