"""Chains made from a few words, for tests of steps, ours and anybody's.

made = chain({"filter": "status = 'paid'"}, {"rename": {"id": "order_id"}})
rows(made(history.batch(insert(ORDERS, id="1", status="paid"))))
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from cdcflow.model import Batch, Column, Value
from cdcflow.transform import Chain, Link, Site, StepContext, StepPlugin, TableName, Tables, registry

#: What chains of tests mask with.
MASK_KEY = "the key of the tests, long enough"

#: (op, new, old)
Row = tuple[str, dict[str, Value] | None, dict[str, Value] | None]


class HeldTables:
    """`Tables` of rows that a test holds: Postgres' text by column, and what they are may change. `asked` are
    the numbers of keys of each question."""

    def __init__(self, columns: Sequence[Column], rows: Sequence[Mapping[str, str | None]] = ()) -> None:
        self._columns = columns
        self.rows = rows
        self.asked: list[int] = []

    def columns(self, _table: TableName) -> Sequence[Column]:
        return self._columns

    def fetch(
        self, _table: TableName, by: Sequence[str], keys: Sequence[tuple[str, ...]], columns: Sequence[str]
    ) -> Mapping[tuple[str, ...], tuple[str | None, ...]]:
        self.asked.append(len(keys))
        found = {tuple(row[name] for name in by): tuple(row[name] for name in columns) for row in self.rows}
        return {key: found[key] for key in keys if key in found}

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


def context(
    *,
    base: Path = Path(),
    mask_key: str | None = MASK_KEY,
    tables: Callable[[str | None], Tables] | None = None,
) -> StepContext:
    """What the steps of a chain know of where they stand."""
    return StepContext("flow", base, None if mask_key is None else SecretStr(mask_key), tables)


def chain(*steps: Mapping[str, Any], around: StepContext | None = None) -> Chain:
    """A chain of steps as a flow file has them: `{name: options}`, with `tables` beside the name.

    Raises pydantic's ValidationError for options that are none, and what steps raise.
    """
    return Chain(
        [link(registry.load(_name(step)), step, number, around) for number, step in enumerate(steps)]
    )


def link(
    plugin: StepPlugin, step: Mapping[str, Any], number: int = 0, around: StepContext | None = None
) -> Link:
    """A step of a chain, made with a plugin."""
    name = _name(step)
    around = context() if around is None else around
    options = plugin.options.model_validate(step[name], context={"base": around.base})
    site = Site(Path("flow.yaml"), number + 1, f"transforms[{number}].{name}")
    return Link.of(plugin, options, around, site, step.get("tables", ()))


def _name(step: Mapping[str, Any]) -> str:
    [name] = (name for name in step if name != "tables")
    return name


def rows(batch: Batch) -> list[Row]:
    """The changes of a batch in total order."""
    return [(change.op.word, change.new, change.old) for change in batch.changes()]


def through(made: Chain, batch: Batch) -> list[Row]:
    """What a chain makes of a batch, tail and all."""
    return rows(made.finish(made(batch)))
