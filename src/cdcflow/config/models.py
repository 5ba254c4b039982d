"""What a configuration is once read: checked values that never change, secrets that never show."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from cdcflow.config.examples import Example, Schema
from cdcflow.errors import ConfigurationError
from cdcflow.model.ddl import DDL_PREFIX
from cdcflow.model.message import PrefixPattern
from cdcflow.model.patterns import TablePattern
from cdcflow.sink import ConfigPath, Secret, Settings, SinkOptions, SinkPlugin, SinkSettings
from cdcflow.sink.quantities import Duration, Size
from cdcflow.transform import Site, StepPlugin

#: A flow's name is a file name, a socket's name and a word in URLs of the console.
FLOW_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

#: NAMEDATALEN - 1 (manual, 4.1.1): Postgres would cut a longer identifier off.
IDENTIFIER_BYTES = 63


def _table_pattern(text: str) -> str:
    try:
        TablePattern.parse(text)
    except ConfigurationError as error:
        raise ValueError(f"{error}" + (f"; {error.hint}" if error.hint else "")) from error
    return text


def _prefix_pattern(text: str) -> str:
    try:
        PrefixPattern.parse(text)
    except ConfigurationError as error:
        raise ValueError(f"{error}; {error.hint}") from error
    return text


def _slot(name: str) -> str:
    # Manual, 26.2.6.1: lower-case letters, numbers and the underscore.
    if not re.fullmatch(r"[a-z0-9_]{1,63}", name):
        raise ValueError(
            f"a slot's name is made of lower-case letters, digits and underscores, at most 63; found {name!r}"
        )
    return name


def _identifier(name: str) -> str:
    size = len(name.encode())
    if not name or "\0" in name or size > IDENTIFIER_BYTES:
        raise ValueError(f"a name in Postgres has 1 to {IDENTIFIER_BYTES} bytes, found {size}")
    return name


def _dsn(dsn: SecretStr) -> SecretStr:
    if not dsn.get_secret_value().strip():
        raise ValueError("is empty: write how to reach the database, such as postgresql://user@host/database")
    return dsn


TablePatternText = Annotated[str, AfterValidator(_table_pattern)]
PrefixPatternText = Annotated[str, AfterValidator(_prefix_pattern)]


def _qualified(name: str) -> str:
    if not re.fullmatch(r"[^.*?\[\]\s\"]+\.[^.*?\[\]\s\"]+", name):
        raise ValueError(f"expected schema.table, found {name!r}")
    return name


def _source_prefix(text: str) -> str:
    if text.removeprefix("!") == DDL_PREFIX:
        raise ValueError("the text of DDL is captured with `ddl: true`")
    return _prefix_pattern(text)


class HeartbeatSettings(Settings):
    """`source.heartbeat:`, a sign of life written to the source, for idle databases on busy servers."""

    every: Annotated[Duration, Field(ge=1.0)] = 30.0
    kind: Literal["message", "none"] = "message"
    #: Written instead of a message: a table with `id int PRIMARY KEY, at timestamptz NOT NULL`.
    table: Annotated[str, AfterValidator(_qualified)] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.kind == "none" and self.table is not None:
            raise ValueError("kind is none, and a table is given: leave one of them out")
        return self


class RetainedWalSettings(Settings):
    """`source.retained_wal:`, how much WAL the primary may keep for the slot while cdcflow runs."""

    #: Said in the log and in the status. None: only when max_slot_wal_keep_size is near.
    warn: Size | None = 10 * 10**9
    #: The slot is dropped and capture stops: a backfill is needed then, but the primary lives. None: never.
    drop_slot: Size | None = None


class SourceSettings(Settings):
    """`source:`, the database that is captured."""

    dsn: Annotated[Secret, AfterValidator(_dsn)]
    tables: Annotated[tuple[TablePatternText, ...], Field(min_length=1)]
    #: Prefixes of the logical messages that are captured; none: the server is not even asked for any.
    messages: tuple[Annotated[str, AfterValidator(_source_prefix)], ...] = ()
    #: Whether an event trigger, which `cdcflow setup` then makes, puts the text of DDL into the stream.
    ddl: bool = False
    #: Whether standbys get a copy of the slot, so that a promoted one can be followed; 17 and later.
    failover: bool = False
    #: Whether transactions that were replicated to here are captured too; `none` keeps loops out.
    origin: Literal["any", "none"] = "any"
    publication: Annotated[str, AfterValidator(_identifier)] = "cdcflow"
    slot: Annotated[str, AfterValidator(_slot)] = "cdcflow"
    #: Whether the rows that are there at the first start are read, while the stream goes on.
    backfill: Literal["initial", "none"] = "initial"
    #: What happens with the rows of a table that comes into the publication later.
    new_tables: Literal["backfill", "none"] = "none"
    #: Processes that read tables for a backfill side by side: each keeps about a core busy, and another one
    #: of the server.
    backfill_readers: Annotated[int, Field(ge=1, le=16)] = 2
    #: Behind what the slot is confirmed: the journal's fsync, or every flow's checkpoint.
    confirm: Literal["journaled", "delivered"] = "journaled"
    heartbeat: HeartbeatSettings = HeartbeatSettings()
    retained_wal: RetainedWalSettings = RetainedWalSettings()

    @property
    def captured_messages(self) -> tuple[str, ...]:
        """`messages`, and what `ddl` asks for."""
        return (*self.messages, *((DDL_PREFIX,) if self.ddl else ()))


class Keep(Settings):
    """How much history the journal keeps once every flow has read it. None: no such limit.

    The defaults let a flow be rewound by a week, and fit a small machine's disk.
    """

    size: Size | None = 20 * 10**9
    age: Duration | None = 7 * 86_400.0


class JournalSettings(Settings):
    """`journal:`, the log of changes on local disk."""

    path: ConfigPath
    keep: Keep = Keep()
    #: A segment is what retention removes at once. Below 1 MiB there would be a file per few batches.
    segment_size: Annotated[Size, Field(ge=1 << 20)] = 128 << 20


class EngineSettings(Settings):
    """`engine:`, where it keeps its state and how many processes it may start for delivery."""

    state: ConfigPath
    #: Upper bound of worker processes; None: one per flow.
    processes: Annotated[int, Field(ge=1)] | None = None


class LetterLimits(Settings):
    """`dead_letters:` of a flow. Beyond these, refused changes become no dead letters: the flow stops."""

    #: Most letters that the flow keeps, parked ones among them.
    limit: Annotated[int, Field(ge=1)] = 1_000
    #: Largest part of its latest changes, from 0 to 1.
    share: Annotated[float, Field(gt=0, le=1)] = 0.2


class MaskSettings(Settings):
    """`mask:`, what all flows mask values with."""

    key: Secret


class FlowSettings(Settings):
    """A flow as it is written, before its sink is known."""

    #: A flow may do without, if it has `messages`.
    from_: Annotated[tuple[TablePatternText, ...], Field(alias="from", min_length=1)] = ()
    messages: Annotated[tuple[PrefixPatternText, ...], Field(min_length=1)] = ()
    #: Read by `cdcflow.config.transforms`.
    transforms: object = None
    #: Read by `cdcflow.config.examples`.
    examples: object = None
    schema_: Annotated[object, Field(alias="schema")] = None
    to: str
    options: Annotated[dict[str, object], Field(alias="with", default_factory=dict)]
    start: Literal["earliest", "latest"] = "earliest"
    #: What becomes of later changes of a key of which one was refused. None: as the sink writes states or
    #: events.
    on_reject: Literal["park", "supersede", "stop"] | None = None
    dead_letters: LetterLimits = LetterLimits()


@dataclass(frozen=True)
class SinkEntry:
    """One entry of `sinks:`, with the plugin that its `type` names."""

    name: str
    plugin: SinkPlugin
    settings: SinkSettings

    @property
    def connection(self) -> str:
        """Names the account at the destination that the sink uses, without telling it."""
        account = self.plugin.account(self.settings)
        if account is None:
            return self.name
        return hashlib.blake2b(f"{self.plugin.name} {account}".encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class StepEntry:
    """One step of a flow's `transforms`. `tables` are patterns of those that it is for; none: all."""

    name: str
    plugin: StepPlugin
    options: Any
    tables: tuple[str, ...] = ()
    #: A step that has moved in its file is the same step.
    site: Site = field(compare=False, kw_only=True)


@dataclass(frozen=True)
class Flow:
    """Some tables, or logical messages, → one sink. `file` and `line` are where it is written."""

    name: str
    #: Table patterns.
    from_: tuple[str, ...]
    #: Name of the sink's entry.
    to: str
    #: The `with:` block, in the model of the sink's plugin.
    options: SinkOptions
    #: Where in the journal a flow without a checkpoint begins.
    start: Literal["earliest", "latest"]
    file: Path
    line: int = field(compare=False)
    #: Prefix patterns of logical messages.
    messages: tuple[str, ...] = ()
    on_reject: Literal["park", "supersede", "stop"] = "park"
    dead_letters: LetterLimits = field(default_factory=LetterLimits)
    transforms: tuple[StepEntry, ...] = ()
    examples: tuple[Example, ...] = ()
    #: The columns of tables, as far as the flow's file says them: for its examples.
    schema: Schema = field(default_factory=dict)
    #: What its file says of it, word for word.
    text: str = ""
    #: Other files that it is made of, a step's Python for instance, and what they hold.
    code: Mapping[Path, bytes] = field(default_factory=dict, repr=False)

    @property
    def revision(self) -> str:
        """Names what is written of the flow: the same texts are the same revision, on any machine."""
        whole = "\0".join([self.text, *(hashlib.sha256(text).hexdigest() for text in self.code.values())])
        return hashlib.sha256(whole.encode()).hexdigest()[:12]

    @property
    def sources(self) -> tuple[str, ...]:
        """All that it reads, for people: `public.orders`, `messages orders.*`."""
        return (*self.from_, *(f"messages {pattern}" for pattern in self.messages))


@dataclass(frozen=True)
class Config:
    """Everything that was read. `base` is the directory that relative paths count from."""

    path: Path
    base: Path
    source: SourceSettings
    journal: JournalSettings
    engine: EngineSettings
    sinks: Mapping[str, SinkEntry]
    flows: Mapping[str, Flow]
    #: What steps mask values with, where they name no key of their own.
    mask_key: SecretStr | None = None
    #: Flows whose files are wrong, and which are not among `flows`: what is wrong with each.
    refused: Mapping[str, str] = field(default_factory=dict, compare=False)
