"""What a flow's steps may look things up in: the source, and the warehouses of flows."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from cdcflow.config import Config
from cdcflow.config.problems import nearest
from cdcflow.engine import control
from cdcflow.errors import CdcflowError, ConfigurationError, EnvironmentFault
from cdcflow.model import Column
from cdcflow.sink import FlowContext, QuerySink
from cdcflow.source.lookup import SourceTables
from cdcflow.transform import TableName, Tables

#: OID of text.
TEXT = 25


def tables_of(config: Config) -> Callable[[str | None], Tables]:
    """Finds tables for the steps of one flow: one connection to the source, however many steps use it."""
    lock = threading.Lock()
    known: dict[str | None, Tables] = {}

    def find(warehouse: str | None) -> Tables:
        with lock:
            if warehouse not in known:
                if warehouse is None:
                    known[None] = SourceTables(config.source.dsn.get_secret_value())
                else:
                    _check_warehouse(config, warehouse)
                    known[warehouse] = WarehouseTables(config.engine.state, warehouse)
            return known[warehouse]

    return find


def _check_warehouse(config: Config, flow: str) -> None:
    """Raises ConfigurationError unless there is such a flow, and its sink can be asked."""
    if flow not in config.flows:
        raise ConfigurationError(
            f"there is no flow {flow!r} to look anything up in", hint=nearest(flow, config.flows)
        )
    entry = config.sinks[config.flows[flow].to]
    context = FlowContext(flow, config.engine.state / "flows" / flow)
    if not isinstance(entry.plugin.create(entry.settings, config.flows[flow].options, context), QuerySink):
        raise ConfigurationError(
            f"the flow {flow!r} brings its rows to {entry.plugin.name}, which answers no questions",
            hint="name a flow into a warehouse (duckdb)",
        )


class WarehouseTables:
    """The tables of a flow's warehouse, asked through the process that writes it. Implements `Tables`.

    Values are text as the warehouse prints them, so all columns are of type text.
    """

    def __init__(self, state: Path, flow: str) -> None:
        self._state = state
        self._flow = flow

    def columns(self, table: TableName) -> Sequence[Column]:
        schema, name = map(_literal, table)
        found = self._ask(
            "SELECT column_name FROM information_schema.columns "  # noqa: S608 - literals are quoted
            f"WHERE table_schema = {schema} AND table_name = {name} ORDER BY ordinal_position"
        )
        if not found.num_rows:
            raise EnvironmentFault(
                f"the warehouse of flow {self._flow!r} has no table {'.'.join(table)}",
                hint="it is made with the table's first change: see whether that flow takes the table, and "
                "how far it is; or correct the name",
            )
        return [Column(column, TEXT) for column in found.column(0).to_pylist()]

    def fetch(
        self,
        table: TableName,
        by: Sequence[str],
        keys: Sequence[tuple[str, ...]],
        columns: Sequence[str],
    ) -> Mapping[tuple[str, ...], tuple[str | None, ...]]:
        if not keys:
            return {}
        rows = ", ".join(
            "(" + ", ".join([str(number), *(_literal(text) for text in key)]) + ")"
            for number, key in enumerate(keys)
        )
        names = ", ".join(f"k{i}" for i in range(len(by)))
        same = " AND ".join(f"t.{_quote(name)}::VARCHAR = k.k{i}" for i, name in enumerate(by))
        wanted = "".join(f", t.{_quote(name)}::VARCHAR" for name in columns)
        place = ".".join(map(_quote, table))
        answer = self._ask(
            f"SELECT k.n{wanted} FROM (VALUES {rows}) AS k (n, {names}) "  # noqa: S608 - all is quoted
            f"JOIN {place} t ON {same} ORDER BY ALL"
        )
        found: dict[tuple[str, ...], tuple[str | None, ...]] = {}
        for number, *values in zip(*(column.to_pylist() for column in answer.columns), strict=True):
            found.setdefault(keys[number], tuple(values))
        return found

    def interrupt(self) -> None:
        """A warehouse answers in milliseconds, or its process ends."""

    def close(self) -> None:
        """Nothing is held."""

    def _ask(self, sql: str) -> pa.Table:
        """Whatever is wrong, the other flow may mend it: it is paused, about to start, or has yet to bring
        the table."""
        try:
            return control.query(self._state, self._flow, sql)
        except CdcflowError as error:
            raise EnvironmentFault(
                f"nothing can be looked up in the warehouse of flow {self._flow!r}: {error}",
                hint=f"see `cdcflow status` for flow {self._flow}: once that delivers, this one goes on",
            ) from error


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
