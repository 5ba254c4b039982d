"""`cdcflow query`: SQL about what a sink holds, answered by the running worker, or by the sink itself
where no engine runs."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdcflow.cli import output
from cdcflow.cli.invocation import load_running
from cdcflow.errors import ConfigurationError

if TYPE_CHECKING:
    from cdcflow.config import Config, Flow
    from cdcflow.sink import QuerySink


def query(
    context: typer.Context,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One statement that reads.")],
    sink: Annotated[
        str | None, typer.Option("--sink", help="Which sink to ask, where several can answer.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: a list of objects.")] = False,
) -> None:
    """Ask a sink such as the warehouse, also while the engine writes to it."""
    from cdcflow.engine import control

    config = load_running(context)
    flow = _flow_to_ask(config, sink)
    if control.status(config.engine.state) is None:
        answer = _ask_sink(config, flow, sql)
    else:
        answer = control.query(config.engine.state, flow.name, sql)
    columns = answer.schema.names
    rows = [
        row
        for batch in answer.to_batches()
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    ]
    if as_json:
        output.json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    output.table(columns, rows)
    if output.on_terminal():
        output.say(f"{len(rows)} row(s) from {flow.to}")


def _flow_to_ask(config: "Config", sink: str | None) -> "Flow":
    """Any flow of the sink that is meant: they all write to the same place."""
    able: dict[str, Flow] = {}
    for flow in config.flows.values():
        if flow.to not in able and _querying(config, flow) is not None:
            able[flow.to] = flow
    names = ", ".join(able)
    if sink is not None:
        if sink in able:
            return able[sink]
        if sink not in config.sinks:
            from cdcflow.config.problems import nearest

            raise ConfigurationError(f"there is no sink {sink!r}", hint=nearest(sink, config.sinks))
        used = any(flow.to == sink for flow in config.flows.values())
        why = f"a {config.sinks[sink].plugin.name} sink cannot be asked" if used else "no flow writes to it"
        raise ConfigurationError(
            f"sink {sink!r} does not answer SQL: {why}", hint=names and f"these do: {names}"
        )
    if len(able) == 1:
        return next(iter(able.values()))
    if able:
        raise ConfigurationError(f"several sinks answer SQL: {names}", hint="choose one with --sink NAME")
    raise ConfigurationError(
        "no flow has a sink that answers SQL", hint="send a flow to a sink of type duckdb"
    )


def _querying(config: "Config", flow: "Flow") -> "QuerySink | None":
    """The flow's sink if it answers SQL. Making it does no I/O."""
    from cdcflow.sink import FlowContext, QuerySink

    entry = config.sinks[flow.to]
    state = config.engine.state / "flows" / flow.name
    sink = entry.plugin.create(entry.settings, flow.options, FlowContext(flow.name, state))
    return sink if isinstance(sink, QuerySink) else None


def _ask_sink(config: "Config", flow: "Flow", sql: str) -> Any:
    """Asks the sink itself, without opening it for writing; no engine is there to be in its way."""
    import asyncio

    sink = _querying(config, flow)
    assert sink is not None
    return asyncio.run(sink.query(sql))
