"""The sinks of the fault matrix: where each one's destination is, what can go wrong with it, and what it has
got.

A subject for another sink is a class like those here, added to `SUBJECTS`. The harness gives every subject
the same changes: of `public.contacts` with the columns `id` (the key), `email` (as unique, made of the id),
`version` (counts over all changes, so that it tells them apart) and `note`. Where the note is `POISON`, a
destination with the fault `reject` refuses the change for good.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import duckdb

from cdcflow.testing.receiver import FAULTS, OK, Answer, Received, Receiver

POISON = "poison"

#: Fault → which part of the requests it hits.
SHARES: Mapping[str, float] = {
    "fail after write": 0.3,
    "hang": 0.1,
    "hang after write": 0.1,
    "slow": 0.3,
    "reset": 0.3,
    "garbage": 0.3,
    "garbage after write": 0.3,
    "down": 1.0,
    "busy": 0.2,
    "unauthorized": 1.0,
}


@dataclass(frozen=True, slots=True)
class Got:
    """A change that the destination has acted on: the row's id, the version it has now (None: it is gone),
    and what names the change there; `content` is what must be the same whenever the same name comes."""

    key: str
    version: int | None
    name: str
    content: bytes


class Subject(Protocol):
    """One sink with its destination. One object per cell."""

    name: ClassVar[str]
    #: What can be switched on beside killing the worker.
    faults: ClassVar[Sequence[str]]
    #: `events`: every change arrives. `states`: the last one of each key does.
    writes: ClassVar[str]

    def __init__(self, place: Path, draw: random.Random) -> None: ...

    def start(self) -> Mapping[str, Any]:
        """Starts the destination; returns the sink's entry and the flow's options: `{"sink": …, "with":
        …}`."""
        ...

    def fault(self, name: str | None) -> None:
        """Switches a fault on, or all off."""
        ...

    def mend(self) -> None:
        """From now on nothing is refused for good."""
        ...

    def got(self) -> Sequence[Got]:
        """Everything it acted on, in order. Empty for a destination that keeps states only."""
        ...

    def state(self) -> Mapping[str, int]:
        """The version of every row that is there."""
        ...

    def stop(self) -> None: ...


@dataclass
class _Hook:
    """A webhook's receiver that counts what it has acted on."""

    place: Path
    draw: random.Random
    settings: dict[str, Any] = field(default_factory=dict)

    faults: ClassVar[Sequence[str]] = ("reject", *SHARES)
    writes: ClassVar[str] = "events"

    def __post_init__(self) -> None:
        self._fault: str | None = None
        self._refuses = True
        self._receiver = Receiver(secrets=[SECRET], respond=self._respond)

    def start(self) -> Mapping[str, Any]:
        self._receiver.start()
        (self.place / "hook.secret").write_text(SECRET)
        sink = {
            "type": "webhook",
            "url": self._receiver.url,
            "secret": "file:hook.secret",
            "allow": ["127.0.0.1"],
            "timeout": "1s",
            **self.settings,
        }
        return {"sink": sink}

    def _respond(self, request: Received) -> Answer:
        if self._refuses and self._fault == "reject" and any(_poisoned(e) for e in request.events):
            return FAULTS["reject"]
        share = SHARES.get(self._fault or "", 0.0)
        return FAULTS[self._fault or ""] if self.draw.random() < share else OK

    def fault(self, name: str | None) -> None:
        self._fault = name

    def mend(self) -> None:
        self._refuses = False

    def got(self) -> Sequence[Got]:
        found = []
        for request in list(self._receiver.requests):
            if not request.answer.acts:
                continue
            assert request.verified, "a signature does not hold"
            for event in request.events:
                new = event["new"]
                version = None if new is None else int(new["version"])
                content = json.dumps(event, sort_keys=True).encode()
                found.append(Got(event["key"]["id"], version, event["id"], content))
        return found

    def requests(self) -> Sequence[tuple[str, bytes]]:
        return [(request.id, request.body) for request in self._receiver.requests]

    def state(self) -> Mapping[str, int]:
        return state_of(self.got())

    def stop(self) -> None:
        self._receiver.stop()


class Webhook(_Hook):
    name: ClassVar[str] = "webhook"


class WebhookBatches(_Hook):
    name: ClassVar[str] = "webhook, batches"

    def __post_init__(self) -> None:
        self.settings = {"batch": True, "max_batch": 20}
        super().__post_init__()


#: A file takes every row, so a transform refuses them, as long as there is another file.
REFUSING = """
from pathlib import Path

def transform(change):
    if change.new and change.new["note"] == "poison" and (Path(__file__).parent / "refusing").exists():
        raise ValueError
    return change
"""


@dataclass
class _File:
    """A sink that writes files here."""

    place: Path
    draw: random.Random

    faults: ClassVar[Sequence[str]] = ("reject",)

    def start(self) -> Mapping[str, Any]:
        (self.place / "refusing.py").write_text(REFUSING)
        return {"sink": self.settings(), "transforms": [{"python": {"file": "refusing.py"}}]}

    def settings(self) -> Mapping[str, Any]:
        raise NotImplementedError

    def fault(self, name: str | None) -> None:
        if name == "reject":
            (self.place / "refusing").touch()
        else:
            self.mend()

    def mend(self) -> None:
        (self.place / "refusing").unlink(missing_ok=True)

    def stop(self) -> None: ...


class Jsonl(_File):
    name: ClassVar[str] = "jsonl"
    writes: ClassVar[str] = "events"

    def settings(self) -> Mapping[str, Any]:
        return {"type": "jsonl", "path": "events"}

    def got(self) -> Sequence[Got]:
        found = []
        for file in sorted((self.place / "events").rglob("*.jsonl")):
            for line in file.read_bytes().splitlines():
                event = json.loads(line)
                new = event["new"]
                found.append(
                    Got(event["key"]["id"], None if new is None else int(new["version"]), event["id"], line)
                )
        return found

    def state(self) -> Mapping[str, int]:
        return state_of(self.got())


class DuckDB(_File):
    name: ClassVar[str] = "duckdb"
    writes: ClassVar[str] = "states"

    def settings(self) -> Mapping[str, Any]:
        return {"type": "duckdb", "path": "warehouse.duckdb"}

    def got(self) -> Sequence[Got]:
        return ()

    def state(self) -> Mapping[str, int]:
        with duckdb.connect(str(self.place / "warehouse.duckdb"), read_only=True) as connection:
            rows = connection.execute("SELECT id, version FROM public.contacts").fetchall()
        return {str(key): int(version) for key, version in rows}


SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

#: Those of `faults.crm` come behind them.
SUBJECTS: Sequence[Callable[[Path, random.Random], Subject]] = (Webhook, WebhookBatches, Jsonl, DuckDB)


def state_of(got: Sequence[Got]) -> dict[str, int]:
    """What the changes that arrived leave, each counted where it came first."""
    found: dict[str, int] = {}
    seen: set[str] = set()
    for one in got:
        if one.name in seen:
            continue
        seen.add(one.name)
        if one.version is None:
            found.pop(one.key, None)
        else:
            found[one.key] = one.version
    return found


def _poisoned(event: Mapping[str, Any]) -> bool:
    return (event["new"] or {}).get("note") == POISON
