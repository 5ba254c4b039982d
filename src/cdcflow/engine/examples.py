"""Runs the examples that stand in a flow's file: without a database, a journal or a sink. What columns a
table has is taken from the file's `schema`, else from the journal where there is one, else from the values.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cdcflow.config import Config, Flow, make_chain
from cdcflow.config.examples import ChangeSettings, Example
from cdcflow.engine import shapes
from cdcflow.engine.lifecycle import plan
from cdcflow.engine.literals import same, text_of
from cdcflow.errors import CdcflowError, ConfigurationError
from cdcflow.model import MESSAGES, UNCHANGED, Batch, Change, Column, Op, Position, Relation, Value
from cdcflow.model.making import Made, batch_of
from cdcflow.model.patterns import TablePattern
from cdcflow.transform import Chain, Stage, TableName, Tables


@dataclass(frozen=True)
class Outcome:
    """What became of one example. `problems` says how what came differs from what was to come; empty: it
    holds."""

    flow: str
    name: str
    place: str
    problems: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.problems


def run_examples(config: Config, flow: str) -> list[Outcome]:
    """Raises ConfigurationError for a flow that there is not."""
    plan(config, flow)
    made = config.flows[flow]
    known = shapes.in_journal(config.journal.path)
    return [_run(config, made, example, known) for example in made.examples]


def _run(config: Config, flow: Flow, example: Example, known: Mapping[str, Relation]) -> Outcome:
    outcome = Outcome(flow.name, example.name, str(example.place))
    given = {
        table: _relation(
            flow, table if "." in table else f"public.{table}", [(row, None) for row in rows], known
        )
        for table, rows in example.settings.given.items()
    }
    tables = _Given(given, example.settings.given)
    chain = make_chain(flow, base=config.base, mask_key=config.mask_key, tables=lambda _flow: tables)
    try:
        incoming = [change.model_dump(exclude_none=True) for change in example.settings.in_]
        batch = batch_of(changes_of(flow, incoming, known))
        return replace(outcome, problems=tuple(_compare(chain, batch, example.settings.out)))
    except CdcflowError as error:
        hint = f" ({error.hint})" if error.hint else ""
        return replace(outcome, problems=(f"{error}{hint}",))
    finally:
        chain.close()


# What comes in.


def changes_of(flow: Flow, changes: Sequence[Mapping[str, Any]], known: Mapping[str, Relation]) -> list[Made]:
    """Changes from what people write: `{table, op, new, old}`. Raises ConfigurationError for a table that is
    not told, and for columns that it has not."""
    named = [(_table(flow, change), change) for change in changes]
    relations: dict[str, Relation] = {}
    for table, _ in named:
        rows = [(change.get("new"), change.get("old")) for name, change in named if name == table]
        relations[table] = relations.get(table) or _relation(flow, table, rows, known)
    made = []
    for number, (table, change) in enumerate(named, 1):
        relation = relations[table]
        new, old = change.get("new"), change.get("old")
        op = Op[str(change.get("op") or _op(new, old)).upper()]
        if relation.full and op is Op.UPDATE and old is not None and new is not None:
            old = {**new, **old}
        came, went = _texts(relation, new), _texts(relation, old)
        if op is Op.DELETE:
            came, went = None, went or came
        made.append(Made(relation, op, came, went, Position(8, number)))
    return made


def _table(flow: Flow, change: Mapping[str, Any]) -> str:
    given = change.get("table")
    if given:
        return str(given) if "." in str(given) else f"public.{given}"
    patterns = [TablePattern.parse(text) for text in flow.from_]
    literals = [pattern.literal for pattern in patterns if not pattern.excludes]
    if len(literals) == 1 and literals[0] is not None:
        return ".".join(literals[0])
    raise ConfigurationError(
        "which table is meant is not said", hint="give `table: public.orders` with the change"
    )


def _op(new: object, old: object) -> str:
    if new is None:
        return "truncate" if old is None else "delete"
    return "insert" if old is None else "update"


def _relation(
    flow: Flow,
    table: str,
    rows: Sequence[tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]],
    known: Mapping[str, Relation],
) -> Relation:
    """An old row with more than the key comes from a table under REPLICA IDENTITY FULL."""
    declared = {name if "." in name else f"public.{name}": columns for name, columns in flow.schema.items()}
    if table in declared:
        found = shapes.written(table, declared[table], full=False)
    elif table in known:
        found = known[table]
    else:
        found = shapes.guessed(table, [row for pair in rows for row in pair if row is not None], full=False)
    key = {found.names[place] for place in found.key}
    if not found.full and any(old is not None and old.keys() - key for _, old in rows):
        found = shapes.relation(table, found.columns, full=True)
    return found


def _texts(relation: Relation, row: Mapping[str, Any] | None) -> dict[str, Value] | None:
    if row is None:
        return None
    columns = {column.name: column for column in relation.columns}
    for name in row:
        if name not in columns:
            hint = f"its columns here: {', '.join(columns)}"
            raise ConfigurationError(f"{relation.qualified} has no column {name!r}", hint=hint)
    return {name: text_of(value, columns[name]) for name, value in row.items()}


class _Given:
    """The rows of an example that steps look up."""

    def __init__(
        self, relations: Mapping[str, Relation], rows: Mapping[str, Sequence[Mapping[str, Any]]]
    ) -> None:
        self._relations = {(found.schema, found.name): found for found in relations.values()}
        self._rows = {(relations[name].schema, relations[name].name): some for name, some in rows.items()}

    def _of(self, table: TableName) -> Relation:
        found = self._relations.get(table)
        if found is None:
            name = ".".join(table)
            raise ConfigurationError(
                f"the example gives no rows of {name}, which a step looks up",
                hint=f"add `given: {{{name}: [{{…}}]}}` to it",
            )
        return found

    def columns(self, table: TableName) -> Sequence[Column]:
        return self._of(table).columns

    def fetch(
        self, table: TableName, by: Sequence[str], keys: Sequence[tuple[str, ...]], columns: Sequence[str]
    ) -> Mapping[tuple[str, ...], tuple[str | None, ...]]:
        kinds = {column.name: column for column in self._of(table).columns}
        found: dict[tuple[str, ...], tuple[str | None, ...]] = {}
        for row in self._rows[table]:
            key = tuple(str(text_of(row.get(name), kinds[name])) for name in by)
            values = tuple(_plain(text_of(row.get(name), kinds[name])) for name in columns)
            if key in keys:
                found[key] = min(found.get(key, values), values, key=str)
        return found

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


def _plain(value: Value) -> str | None:
    return value if isinstance(value, str) else None


_: type[Tables] = _Given  # held by the type checker


# What comes out.


def _compare(chain: Chain, batch: Batch, expected: Sequence[ChangeSettings]) -> Iterable[str]:
    stages = chain.trace(batch)
    found = list(stages[-1].batch.changes())
    for number, (wanted, change) in enumerate(zip(expected, found, strict=False), 1):
        for problem in _differences(wanted, change):
            yield f"change {number}: {problem}" if len(expected) > 1 else problem
    if len(found) > len(expected):
        for change in found[len(expected) :]:
            yield f"one more came out than expected: {_shown(change)}"
    for wanted in expected[len(found) :]:
        what = wanted.model_dump(exclude_none=True)
        yield f"this did not come out: {what}; {_why(stages)}"


def _why(stages: Sequence[Stage]) -> str:
    reasons = [
        f"{stage.link.name} ({stage.link.site}): {reason}"
        for stage in stages
        if stage.link is not None
        for reason in {**stage.dropped, **stage.refused}.values()
    ]
    return "; ".join(dict.fromkeys(reasons)) or "no step says why"


def _differences(wanted: ChangeSettings, change: Change) -> Iterable[str]:
    if wanted.op is not None and wanted.op != change.op.word:
        yield f"expected {wanted.op}, found {change.op.word}"
    relation = change.relation
    if wanted.table is not None and wanted.table not in (relation.qualified, relation.name):
        yield f"expected table {wanted.table}, found {relation.qualified}"
    for row, expected, found in (("new", wanted.new, change.new), ("old", wanted.old, change.old)):
        if expected is None:
            continue
        columns = {column.name: column for column in relation.columns}
        if found is None:
            yield f"expected a row `{row}`, found none"
            continue
        for name, value in expected.items():
            if name not in columns:
                yield f"{row}.{name}: expected {value!r}, and there is no such column"
            elif not same(value, found.get(name), columns[name]):
                yield f"{row}.{name}: expected {value!r}, found {_value(found.get(name))}"
        if row == "new":
            # What is NULL need not be told; anything else that comes out is meant to be seen.
            extra = [name for name, value in found.items() if name not in expected and value is not None]
            for name in extra:
                yield f"new.{name}: found {_value(found[name])}, and nothing was expected of it"


def _value(value: Value) -> str:
    return "a value that was not sent" if value is UNCHANGED else "NULL" if value is None else repr(value)


def _shown(change: Change) -> str:
    if change.relation == MESSAGES:
        return "a message"
    rows = {name: value for name, value in (change.new or change.old or {}).items() if value is not None}
    return f"{change.op.word} {change.relation.qualified} {rows}"
