"""Looks at a flow without running it: real changes on their way through its steps, what its sink would get of
them, the columns after each step, and what does not fit. Nothing is sent and no checkpoint moves.

For the command line and the console alike; works beside a running engine and without one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from cdcflow import types
from cdcflow.config import Config, Flow, make_chain
from cdcflow.engine import shapes
from cdcflow.engine.lifecycle import plan
from cdcflow.engine.lookups import tables_of
from cdcflow.errors import CdcflowError, ConfigurationError
from cdcflow.journal.recent import backwards
from cdcflow.model import Batch, Group, Relation, join
from cdcflow.model.making import batch_of
from cdcflow.model.patterns import TablePatterns
from cdcflow.sink import Finding, FlowContext, Previews
from cdcflow.sink.event import Event, event
from cdcflow.transform import Chain, Misfit, Mistake, Select, Stage, Tables, by_place

#: How far back a key is looked for: some seconds of reading.
SCANNED_CHANGES = 1_000_000

#: Changes that are shown unless somebody asks for more.
LAST = 10


@dataclass(frozen=True)
class Passage:
    """What became of a change in one step. `place` is where the step is written; `changes` are what it gave,
    several where it makes more of one."""

    step: str
    place: str
    state: str
    reason: str = ""
    changes: tuple[Event, ...] = ()


@dataclass(frozen=True)
class Traced:
    """A change, what each step made of it, and what the sink would get: none where a step let it go."""

    offset: int
    came: Event
    passages: tuple[Passage, ...]
    sent: tuple[tuple[str, str], ...] = ()

    @property
    def out(self) -> tuple[Event, ...]:
        return self.passages[-1].changes if self.passages else (self.came,)


@dataclass(frozen=True)
class Preview:
    """`scanned` changes of the journal were looked at for these; `complete` says whether that was all that
    there is. `error` is what stops the flow, where something does."""

    flow: str
    revision: str
    sink: str
    changes: tuple[Traced, ...] = ()
    scanned: int = 0
    complete: bool = True
    error: str = ""
    hint: str = ""


def preview(
    config: Config,
    flow: str,
    *,
    last: int = LAST,
    key: str | None = None,
    rows: Path | None = None,
    tables: Callable[[str | None], Tables] | None = None,
) -> Preview:
    """The flow's newest changes, or those of a key, or those that a file of lines has, through its steps.

    `key` is the text of a row's key, its columns parted by commas. Raises ConfigurationError for a flow that
    there is not, or a file that makes no sense, JournalError where there is no journal.
    """
    meant = plan(config, flow)
    select = Select(meant.tables, meant.messages)
    made = config.flows[flow]
    found = Preview(flow, made.revision, meant.plugin.name)
    if rows is not None:
        batches = [_from_file(config, made, rows)]
        found = replace(found, scanned=len(batches[0]))
    else:
        batches, scanned, complete = _recent(config, select, last, key)
        found = replace(found, scanned=scanned, complete=complete)
    chain = make_chain(made, base=config.base, mask_key=config.mask_key, tables=tables)
    try:
        sink = meant.plugin.create(
            meant.settings, meant.options, FlowContext(flow, config.engine.state / "flows" / flow)
        )
        shown = sink if isinstance(sink, Previews) else None
        # As one batch, as far as one may be: what gathers is to see all that stands beside a change.
        traced = [
            one for batch in join([select(one) for one in batches]) for one in trace(chain, batch, shown)
        ]
    except CdcflowError as error:
        return replace(found, error=str(error), hint=error.hint)
    finally:
        chain.close()
    return replace(found, changes=tuple(traced))


def trace(chain: Chain, batch: Batch, sink: Previews | None = None) -> list[Traced]:
    """Every change of a batch on its way. Raises as the chain does where a step does not fit."""
    if not len(batch):
        return []
    stages = chain.trace(batch)
    seen = [_by_index(stage.batch) for stage in stages]
    sent = _sent(stages[-1].batch, sink)
    return [
        Traced(
            batch.base + index,
            came[0],
            tuple(_passages(stages, seen, index)),
            tuple(sent.get(index, ())),
        )
        for index, came in sorted(seen[0].items())
    ]


def _by_index(batch: Batch) -> dict[int, list[Event]]:
    found: dict[int, list[Event]] = {}
    for change in batch.changes():
        found.setdefault(change.index, []).append(event(change))
    return found


def _passages(
    stages: Sequence[Stage], seen: Sequence[Mapping[int, list[Event]]], index: int
) -> Iterator[Passage]:
    for number, stage in enumerate(stages[1:], 1):
        assert stage.link is not None
        name, place = stage.link.name, str(stage.link.site)
        changes = tuple(seen[number].get(index, ()))
        if changes:
            yield Passage(name, place, "kept", changes=changes)
            continue
        refused = stage.refused.get(index)
        if refused is not None:
            yield Passage(name, place, "refused", refused)
        else:
            yield Passage(name, place, "dropped", stage.dropped.get(index, "the step passes nothing on"))
        return


def _sent(batch: Batch, sink: Previews | None) -> dict[int, list[tuple[str, str]]]:
    found: dict[int, list[tuple[str, str]]] = {}
    if sink is not None and len(batch):
        for rendered in sink.preview(batch):
            for index in rendered.indexes:
                found.setdefault(index, []).append((rendered.target, rendered.text))
    return found


# Which changes.


def _recent(config: Config, select: Select, last: int, key: str | None) -> tuple[list[Batch], int, bool]:
    taken: list[Batch] = []
    left, scanned = last, 0
    for batch in backwards(config.journal.path):
        scanned += batch.count
        part = select(batch)
        if key is not None:
            part = part.with_groups([group for group in map(_of_key(key), part.groups) if len(group)])
        part = _newest(part, left)
        if len(part):
            taken.append(part)
            left -= len(part)
        if not left:
            break
        if key is not None and scanned >= SCANNED_CHANGES:
            return taken[::-1], scanned, False
    return taken[::-1], scanned, True


def _of_key(key: str) -> Callable[[Group], Group]:
    parts = [part.strip() for part in key.split(",")]

    def chosen(group: Group) -> Group:
        # Under FULL every column is part of the key: the first ones then stand for it.
        columns = group.relation.key[: len(parts)] if group.relation.full else group.relation.key
        if len(columns) != len(parts):
            return group.take(pa.repeat(pa.scalar(False), len(group)))
        masks = []
        for column, part in zip(columns, parts, strict=True):
            old = group.old_values(column)
            mask = pc.equal(group.new(column), part)
            masks.append(mask if old is None else pc.or_kleene(mask, pc.equal(old, part)))
        return group.take(pc.fill_null(reduce(pc.and_kleene, masks), False))

    return chosen


def _newest(batch: Batch, count: int) -> Batch:
    if len(batch) <= count:
        return batch
    indexes = sorted(index for group in batch.groups for index in group.meta("index").to_pylist())
    first = pa.scalar(indexes[-count], pa.uint32())
    groups = [group.take(pc.greater_equal(group.meta("index"), first)) for group in batch.groups]
    return batch.with_groups([group for group in groups if len(group)])


def _from_file(config: Config, flow: Flow, file: Path) -> Batch:
    """Lines as `examples` have them (`{"table": …, "op": …, "new": {…}, "old": {…}}`), or events that
    cdcflow itself has written."""
    from cdcflow.engine.examples import changes_of

    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    changes = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = orjson.loads(line)
            assert isinstance(found, dict)
        except (orjson.JSONDecodeError, AssertionError) as error:
            hint = 'each line is one change: {"table": "public.orders", "new": {"id": 1}}'
            raise ConfigurationError(f"{file}:{number}: not a JSON object", hint=hint) from error
        if "schema" in found and "." not in str(found.get("table", "")):
            found["table"] = f"{found['schema']}.{found['table']}"
        changes.append(found)
    if not changes:
        raise ConfigurationError(f"{file} holds no changes")
    known = shapes.in_journal(config.journal.path)
    try:
        return batch_of(changes_of(flow, changes, known))
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}: {error}", hint=error.hint) from error


# What it is made of.


@dataclass(frozen=True)
class ColumnSeen:
    name: str
    type: str
    key: bool


@dataclass(frozen=True)
class Shape:
    """A table's columns as they come, or behind a step."""

    step: str
    table: str
    columns: tuple[ColumnSeen, ...]


@dataclass(frozen=True)
class Explained:
    """What becomes of one table's columns, step by step; `error` where a step does not fit it."""

    table: str
    shapes: tuple[Shape, ...] = ()
    error: str = ""
    hint: str = ""
    #: What `error` says, one by one, where it is of steps that do not fit.
    mistakes: tuple[Mistake, ...] = ()


@dataclass(frozen=True)
class Known:
    """The tables that may come, as far as that is known, by name; `reached`: the catalog was asked too."""

    relations: Mapping[str, Relation]
    reached: bool


def known_tables(config: Config, *, catalog: bool = True) -> Known:
    """From the journal, and for tables that it does not know from the source's catalog, where that can be
    reached."""
    journal = shapes.in_journal(config.journal.path)
    there = shapes.in_catalog(config) if catalog else {}
    return Known({**there, **journal}, bool(there))


def explain(
    config: Config,
    flow: str,
    *,
    known: Known | None = None,
    tables: Callable[[str | None], Tables] | None = None,
) -> list[Explained]:
    """The columns and types of each of the flow's tables after every step."""
    plan(config, flow)
    made = config.flows[flow]
    known = known_tables(config) if known is None else known
    patterns = TablePatterns(made.from_)
    meant = [r for r in known.relations.values() if patterns.matches(r.schema, r.name)]
    if not meant:
        meant = [shapes.written(table, columns, full=False) for table, columns in made.schema.items()]
    return [_explained(config, made, relation, tables) for relation in meant]


def _explained(
    config: Config, flow: Flow, relation: Relation, tables: Callable[[str | None], Tables] | None
) -> Explained:
    chain = make_chain(flow, base=config.base, mask_key=config.mask_key, tables=tables)
    found = [_shape("comes", relation)]
    try:
        for link, relations in zip(chain.links, chain.bind(relation), strict=True):
            found += [_shape(link.name, one) for one in relations]
    except CdcflowError as error:
        mistakes = error.mistakes if isinstance(error, Misfit) else ()
        return Explained(relation.qualified, tuple(found), str(error), error.hint, mistakes)
    finally:
        chain.close()
    return Explained(relation.qualified, tuple(found))


def _shape(step: str, relation: Relation) -> Shape:
    columns = tuple(
        ColumnSeen(c.name, types.of(c).name, c.key and not relation.full) for c in relation.columns
    )
    return Shape(step, relation.qualified, columns)


def validate(
    config: Config,
    flows: Iterable[str],
    *,
    known: Known | None = None,
    tables: Callable[[str | None], Tables] | None = None,
) -> list[Finding]:
    """Whether the flows' steps fit the tables that they will meet."""
    known = known_tables(config) if known is None else known
    found = []
    for name in flows:
        explained = explain(config, name, known=known, tables=tables)
        mistakes = by_place(mistake for one in explained for mistake in one.mistakes)
        others = {(one.error, one.hint): None for one in explained if one.error and not one.mistakes}
        wrong = [*((one.sentence, one.hint) for one in mistakes), *others]
        found += [Finding("error", f"flow {name}", error, hint) for error, hint in wrong]
        if not explained and config.flows[name].from_:
            said = "none of its tables is known here: neither the journal nor the source shows one"
            found.append(
                Finding("warning", f"flow {name}", said, "run it once, or make the source reachable")
            )
        elif not wrong:
            steps, count = len(config.flows[name].transforms), len(explained)
            found.append(Finding("ok", f"flow {name}", f"{steps} step(s) fit {count} table(s)"))
    return found


def misfit(config: Config, flow: Flow) -> str:
    """All in which a flow's steps do not fit the tables that the journal knows; empty where they do, and
    where what they look up cannot be reached now."""
    tables = tables_of(config)
    known = Known(shapes.in_journal(config.journal.path), reached=False)
    patterns = TablePatterns(flow.from_)
    mistakes: list[Mistake] = []
    chain = make_chain(flow, base=config.base, mask_key=config.mask_key, tables=tables)
    try:
        for relation in known.relations.values():
            if not patterns.matches(relation.schema, relation.name):
                continue
            try:
                chain.bind(relation)
            except Misfit as error:
                mistakes += error.mistakes
            except ConfigurationError as error:
                return error.told
            except CdcflowError:
                continue
    finally:
        chain.close()
    if not mistakes:
        return ""
    return Misfit(by_place(mistakes)).told
