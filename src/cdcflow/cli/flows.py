"""`cdcflow flow`: the flows that the configuration holds."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdcflow.cli import output
from cdcflow.cli.invocation import load_config
from cdcflow.errors import ConfigurationError

if TYPE_CHECKING:
    from cdcflow.config import Config, Flow

app = typer.Typer(help="The flows: some tables, on their way to a sink.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]


@app.command("list")
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List the flows."""
    config = load_config(context)
    if as_json:
        output.json([_described(config, flow) for flow in config.flows.values()])
        return
    rows = [
        (flow.name, ", ".join(flow.sources), flow.to, config.sinks[flow.to].plugin.name)
        for flow in config.flows.values()
    ]
    output.table(("flow", "from", "to", "type"), rows)
    if not rows:
        output.next_step(f"write a flow into {config.base / 'flows'}, such as `from: [public.*]`, `to: NAME`")


@app.command("show")
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The flow's name.")],
    as_json: AsJson = False,
) -> None:
    """Show one flow, where it is written, and what its sink is told. Secrets are stars."""
    config = load_config(context)
    flow = config.flows.get(name)
    if flow is None:
        from cdcflow.config.problems import nearest

        raise ConfigurationError(f"there is no flow {name!r}", hint=nearest(name, config.flows))
    described = _described(config, flow)
    if as_json:
        output.json(described)
        return
    for key, value in described.items():
        if value not in ({}, []):
            output.data(f"{key + ':':<10} {_line(value)}")


@app.command("resync")
def resync(context: typer.Context, name: Annotated[str, typer.Argument(help="The flow's name.")]) -> None:
    """Forget what a flow's sink takes for delivered, so that each row is sent the next time it comes, changed
    or not. For a destination that was changed by others."""
    from cdcflow.engine.places import Places
    from cdcflow.sink import FlowContext, Remembers

    config = load_config(context)
    flow = config.flows.get(name)
    if flow is None:
        from cdcflow.config.problems import nearest

        raise ConfigurationError(f"there is no flow {name!r}", hint=nearest(name, config.flows))
    entry = config.sinks[flow.to]
    folder = Places(config.engine.state).flow(name)
    sink = entry.plugin.create(entry.settings, flow.options, FlowContext(name, folder))
    if not isinstance(sink, Remembers):
        raise ConfigurationError(
            f"flow {name!r} has nothing to forget: a {entry.plugin.name} sink sends every row that comes",
            hint="rewind the flow, or give it a new backfill, to have rows sent again",
        )
    output.data(f"{sink.forget()} records of {flow.to} are no longer taken for delivered")
    output.next_step(
        "rows that change are sent whole now; rewind the flow or backfill it to send all of them"
    )


def _described(config: "Config", flow: "Flow") -> dict[str, Any]:
    sink = config.sinks[flow.to]
    return {
        "name": flow.name,
        "from": list(flow.from_),
        "messages": list(flow.messages),
        "to": flow.to,
        "sink": sink.settings.model_dump(mode="json"),
        "with": flow.options.model_dump(mode="json"),
        "start": flow.start,
        "file": str(flow.file),
        "line": flow.line,
    }


def _line(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={output.cell(inner)}" for key, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
