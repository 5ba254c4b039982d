"""What people do with dead letters, whether or not an engine runs: for the CLI and the console alike."""

import getpass
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from cdcflow.config import Config
from cdcflow.config.problems import nearest
from cdcflow.delivery import Letter, LetterStore, Selection
from cdcflow.delivery.payload import unpack
from cdcflow.delivery.redelivery import at_once
from cdcflow.engine import control
from cdcflow.engine.places import Places
from cdcflow.errors import CdcflowError, ConfigurationError
from cdcflow.sink.event import event

#: Characters of the name of a cause: enough to tell those of one state folder apart.
_NAME = 6


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters people mean. `cause` is a cause's name (`cause_name`) or its sentence; `key` the values
    of the key, joined by commas, or its JSON. None and empty choose nothing away."""

    numbers: tuple[int, ...] = ()
    flow: str | None = None
    table: str | None = None
    cause: str | None = None
    key: str | None = None
    state: str | None = None
    since: float | None = None
    until: float | None = None

    @property
    def everything(self) -> bool:
        return self == Choice()


def cause_name(cause: str) -> str:
    """A short name for a cause, the same wherever it comes up."""
    return hashlib.blake2b(cause.encode(), digest_size=8).hexdigest()[:_NAME]


def chosen(config: Config, choice: Choice) -> list[Letter]:
    """The letters that are meant, in the order of the journal. Raises CdcflowError for a number that there is
    no letter of, ConfigurationError for a flow that there is not, unless it has left letters behind."""
    with _store(config) as store:
        found = []
        if store is not None:
            found = store.select(Selection(flow=choice.flow, since=choice.since, until=choice.until))
        if choice.flow is not None and choice.flow not in config.flows and not _left(store, choice.flow):
            raise ConfigurationError(
                f"there is no flow {choice.flow!r}, and no dead letter of one",
                hint=nearest(choice.flow, config.flows),
            )
    missing = set(choice.numbers) - {letter.number for letter in found}
    if missing:
        raise CdcflowError(
            f"there is no dead letter {min(missing)}", hint="`cdcflow deadletters list` shows them"
        )
    return [letter for letter in found if _fits(letter, choice)]


def _left(store: LetterStore | None, flow: str) -> bool:
    return store is not None and bool(store.select(Selection(flow=flow)))


def _fits(letter: Letter, choice: Choice) -> bool:
    return (
        (not choice.numbers or letter.number in choice.numbers)
        and (choice.table is None or choice.table in (letter.relation, letter.relation.partition(".")[2]))
        and (choice.cause is None or choice.cause in (cause_name(letter.cause), letter.cause))
        and (choice.key is None or choice.key in (letter.key, key_of(letter)))
        and (choice.state is None or letter.state == choice.state)
    )


def key_of(letter: Letter) -> str:
    """The values of the key for people: `42`, or `1,de` where it has several columns."""
    if not letter.key:
        return ""
    return ",".join("null" if value is None else str(value) for value in orjson.loads(letter.key).values())


def document(config: Config, letter: Letter) -> dict[str, Any]:
    """All that is known of a letter, with its change as an event."""
    with _store(config) as store:
        payload = None if store is None else store.payload(letter.number)
    if payload is None:
        raise CdcflowError(f"there is no dead letter {letter.number} any more")
    [change] = unpack(payload).changes()
    return {**summary(letter), "event": event(change)}


def summary(letter: Letter) -> dict[str, Any]:
    return {
        "number": letter.number,
        "flow": letter.flow,
        "state": letter.state,
        "table": letter.relation,
        "key": orjson.loads(letter.key) if letter.key else None,
        "op": letter.op,
        "position": str(letter.position),
        "offset": letter.offset,
        "cause": cause_name(letter.cause) if letter.cause else None,
        "reason": letter.reason,
        "answer": letter.answer,
        "attempts": letter.attempts,
        "revision": letter.revision,
        "first": letter.first,
        "latest": letter.latest,
        "newer": None if letter.newer is None else str(letter.newer),
    }


def deliver(
    config: Config, letters: Iterable[Letter], *, force: bool = False, rate: float | None = None
) -> Iterator[dict[str, Any]]:
    """Has the running engine deliver letters, of each flow at most `rate` a second; gives what became of
    each, as it is known. Raises EnvironmentFault where a flow does not run, and what stopped it otherwise,
    after the letters of the other flows."""
    failure: CdcflowError | None = None
    size = at_once(rate)
    for flow, numbers in _by_flow(letters).items():
        try:
            for start in range(0, len(numbers), size):
                part = numbers[start : start + size]
                yield from control.deliver_letters(config.engine.state, flow, part, force=force, rate=rate)
        except CdcflowError as error:
            failure = failure or error
    if failure is not None:
        raise failure


def discard(config: Config, letters: Iterable[Letter], why: str) -> int:
    """Discards letters for a reason, and keeps in the audit who did it; returns how many there were."""
    count, who = 0, getpass.getuser()
    for flow, numbers in _by_flow(letters).items():
        done = control.discard_letters(config.engine.state, flow, numbers, why, who)
        if done is None:
            with _store(config) as store:
                done = 0 if store is None else store.discard(numbers, why, who)
        count += done
    return count


def audit(config: Config) -> list[dict[str, Any]]:
    """What was discarded, the latest first."""
    with _store(config) as store:
        return [] if store is None else store.audit()


def _by_flow(letters: Iterable[Letter]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for letter in letters:
        found.setdefault(letter.flow, []).append(letter.number)
    return found


@contextmanager
def _store(config: Config) -> Iterator[LetterStore | None]:
    """The letters of a configuration; None where no engine has ever run."""
    path = Places(config.engine.state).checkpoints
    if not path.exists():
        yield None
        return
    with LetterStore(path) as store:
        yield store


def groups(letters: Sequence[Letter]) -> list[tuple[str, str, str, int]]:
    """Flow, name and sentence of each cause, and how many letters it has, the largest group first."""
    counts: dict[tuple[str, str], int] = {}
    for letter in letters:
        if letter.state == "dead":
            key = letter.flow, letter.cause
            counts[key] = counts.get(key, 0) + 1
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return [(flow, cause_name(cause), cause, count) for (flow, cause), count in ordered]
