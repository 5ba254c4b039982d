"""Every exception that cdcflow raises on purpose, and the exit code that each one ends a command with.

    CdcflowError                 1  failed while running
    ├── ConfigurationError       2  the configuration is wrong
    │   └── ExpressionError         an SQL expression, with the place in its text
    ├── EvaluationError          1  an expression fails for some rows
    ├── EnvironmentFault         3  something outside is wrong: server, disk, privileges
    │   ├── SourceError             the database does not let us capture (remedy in the message)
    │   │   └── SourceUnavailable      not now: worth trying again by itself
    │   └── JournalError            the journal cannot be used as it is
    │       ├── JournalDamaged      a frame fails its checksum, away from the torn tail
    │       └── JournalFull         no space is left: nothing was stored, the same append can be repeated
    ├── DecodeError              1  bytes that are not pgoutput
    └── DeliveryError            1  what a sink raises
        ├── Transient               try the same batch again later
        │   └── TooLarge                with fewer changes at once it may go through
        ├── Permanent               trying again cannot help: the flow needs attention
        │   ├── Unauthorized            the credentials are refused: again when they are others
        │   └── Disabled                the destination wants no more: again when a person says so
        └── Rejected                these rows, and only these, are refused for good

A message is one sentence in lower case: what, where, what was found, what to do. It never holds a
row's values or a secret. `hint` is the remedy, printed on a line of its own.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

_NOTHING: Mapping[int, str] = MappingProxyType({})


class CdcflowError(Exception):
    """Base of the tree. `hint` says what to do next, or is empty."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def told(self) -> str:
        """Message and hint in one."""
        return f"{self} ({self.hint})" if self.hint else str(self)


class ConfigurationError(CdcflowError):
    """What the user wrote is wrong. Names file, line and key where they are known."""

    exit_code = 2


class ExpressionError(ConfigurationError):
    """An SQL expression that is refused. `line` and `column` count from 1, in characters of its text.

    `str()` is the sentence alone; `excerpt` shows the line with a caret below the place.
    """

    def __init__(self, message: str, *, text: str = "", at: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.text = text
        self.at = at

    @property
    def line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1

    @property
    def column(self) -> int:
        return self.at - (self.text.rfind("\n", 0, self.at) + 1) + 1

    @property
    def excerpt(self) -> str:
        """The line of the place, and a caret below it."""
        lines = self.text.split("\n")
        return f"{lines[self.line - 1]}\n{' ' * (self.column - 1)}^"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_expression_error, (str(self), self.text, self.at, self.hint))


def _expression_error(message: str, text: str, at: int, hint: str) -> ExpressionError:
    return ExpressionError(message, text=text, at=at, hint=hint)


class EvaluationError(CdcflowError):
    """Postgres would raise an error for these rows (division by zero, a cast of what is no number …).

    `rows` maps a row of the group (not its index in the batch) to the reason, which holds no values.
    """

    def __init__(self, rows: Mapping[int, str]) -> None:
        reasons = ", ".join(sorted(set(rows.values()))[:3])
        super().__init__(f"{len(rows)} row(s) cannot be evaluated: {reasons}")
        self.rows = dict(rows)

    def __reduce__(self) -> tuple[type["EvaluationError"], tuple[dict[int, str]]]:
        return (EvaluationError, (self.rows,))


class EnvironmentFault(CdcflowError):
    """The world around cdcflow is not as it must be: a server, a disk, a privilege."""

    exit_code = 3


class SourceError(EnvironmentFault):
    """The database cannot be captured as it is; the hint is the remedy."""


class SourceUnavailable(SourceError):
    """The database cannot be reached or is busy now; the same attempt may succeed later."""


class JournalError(EnvironmentFault):
    """The journal cannot be opened, read or written."""


class JournalDamaged(JournalError):
    """A frame that is not the torn tail fails its checks. Names the segment and the place in it."""


class JournalFull(JournalError):
    """The disk or a quota is full. What could not be stored whole was cut off again, so the same call may
    be repeated when there is room."""


class DecodeError(CdcflowError):
    """The bytes of a message are not pgoutput.

    `offset` is the byte offset in the message at which reading stopped.
    """

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(f"{message} (at byte {offset})")
        self.reason = message
        self.offset = offset

    def __reduce__(self) -> tuple[type["DecodeError"], tuple[str, int]]:
        return (DecodeError, (self.reason, self.offset))


class DeliveryError(CdcflowError):
    """Base of what `Sink.write` may raise.

    Whatever went wrong, rows of the batch may have had their end before it. A sink that knows says so, and
    the engine gives it the batch again without them. Rows are named by `Change.index`:

    * `written`: durable at the destination. They are not sent again.
    * `refused`: refused for good, with the reason. They become dead letters. A reason is a sentence for
      people that holds none of the row's values; what the destination said of it, which may hold them, goes
      into `answers`, without secrets and cut short. That is kept with the dead letter and never logged.

    A `TransactionalSink` has no `written`: its batch is stored as a whole or not at all.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        written: Iterable[int] = (),
        refused: Mapping[int, str] = _NOTHING,
        answers: Mapping[int, str] = _NOTHING,
    ) -> None:
        super().__init__(message, hint=hint)
        self.written = frozenset(written)
        self.refused = dict(refused)
        self.answers = dict(answers)


class Transient(DeliveryError):
    """The destination could not take the batch now; the same batch may go through later.

    `retry_after` is the destination's own wish in seconds, or None where it has none. `everywhere` says that
    the destination as a whole is down or busy, so that other flows on the same connection need not try;
    False: it is about these rows (a lock on one of them).
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        everywhere: bool = True,
        hint: str = "",
        written: Iterable[int] = (),
        refused: Mapping[int, str] = _NOTHING,
        answers: Mapping[int, str] = _NOTHING,
    ) -> None:
        super().__init__(message, hint=hint, written=written, refused=refused, answers=answers)
        self.retry_after = retry_after
        self.everywhere = everywhere


class TooLarge(Transient):
    """The destination takes fewer changes at once than it was given, or needs too long for so many. The
    engine gives smaller batches, and larger ones again when these go through; a change that is too large
    all by itself is refused for good."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        written: Iterable[int] = (),
        refused: Mapping[int, str] = _NOTHING,
        answers: Mapping[int, str] = _NOTHING,
    ) -> None:
        super().__init__(
            message, everywhere=False, hint=hint, written=written, refused=refused, answers=answers
        )


class Permanent(DeliveryError):
    """No retry of this batch can succeed until a person changes something."""


class Unauthorized(Permanent):
    """The destination does not accept the credentials. Nothing becomes a dead letter: the flow waits, and
    opens the sink anew when a secret's file was replaced, when a person says so, and now and then."""


class Disabled(Permanent):
    """The destination wants no more changes. Only a person may have it tried again."""


class Rejected(DeliveryError):
    """Single rows are refused for good; every other row of the batch is durable at the destination.

    `rows` maps the row's index in the batch (`Change.index`) to the reason, as `refused` does elsewhere.
    `withheld` are rows that were not sent because they come behind a refused one of the same key: the flow
    says whether they are parked behind it or sent nevertheless. A sink that sends whole states need not know
    of this: it sends the last state of each key, and says what became of it.

    A `TransactionalSink` that refuses rows stores nothing of the batch, and gets it again without them: what
    is refused must be kept durably before the sink's own checkpoint moves past it.
    """

    def __init__(
        self,
        rows: Mapping[int, str],
        *,
        answers: Mapping[int, str] = _NOTHING,
        withheld: Iterable[int] = (),
    ) -> None:
        super().__init__(f"{len(rows)} change(s) refused", refused=rows, answers=answers)
        self.withheld = frozenset(withheld)

    @property
    def rows(self) -> dict[int, str]:
        return self.refused
