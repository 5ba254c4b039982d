"""`cdcflow flow`: the flows that the configuration holds."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdcflow.cli import looking, output
from cdcflow.cli.invocation import load_config, load_running
from cdcflow.errors import ConfigurationError

if TYPE_CHECKING:
    from cdcflow.config import Config, Flow

app = typer.Typer(help="The flows: some tables, on their way to a sink.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]


app.command("preview")(looking.preview)
app.command("validate")(looking.validate)
app.command("explain")(looking.explain)
app.command("test")(looking.run_tests)


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


# What people do with a flow that exists.

Name = Annotated[str, typer.Argument(help="The flow's name.")]
Why = Annotated[str, typer.Option("--why", help="Kept with it, for those who wonder later.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
To = Annotated[str, typer.Option("--to", help="An offset, a time, 2h (ago), `start` or `now`.")]


@app.command("pause")
def pause(context: typer.Context, name: Name, why: Why = "") -> None:
    """Stop a flow at the next batch boundary, until it is resumed, over restarts too."""
    from cdcflow.engine import lifecycle

    config = load_running(context)
    lifecycle.pause(config, name, who=lifecycle.me(), why=why)
    found = lifecycle.settled(config, name, lambda flow: flow["state"] == "paused")
    if found is None and lifecycle.flow_status(config, name) is not None:
        output.warn(f"flow {name} still finishes the write in flight: `cdcflow status` says when it stands")
    else:
        output.say(f"flow {name} is paused; the journal keeps what it has not read")
    output.next_step(f"`cdcflow flow resume {name}`")


@app.command("resume")
def resume(context: typer.Context, name: Name) -> None:
    """Let a paused flow go on where it stopped."""
    from cdcflow.engine import lifecycle

    config = load_running(context)
    if not lifecycle.resume(config, name):
        output.say(f"flow {name} was not paused")
    elif lifecycle.flow_status(config, name) is None:
        output.say(f"flow {name} goes on at the next `cdcflow run`")
    else:
        output.say(f"flow {name} goes on")


@app.command("retry")
def retry(context: typer.Context, name: Annotated[str, typer.Argument(help="The flow's name.")]) -> None:
    """Have a flow that needs attention try again now: the cause is mended."""
    from cdcflow.engine import control

    config = load_config(context)
    if name not in config.flows:
        from cdcflow.config.problems import nearest

        raise ConfigurationError(f"there is no flow {name!r}", hint=nearest(name, config.flows))
    control.retry(config.engine.state, name)
    output.say(f"flow {name} tries again")


@app.command("rewind")
def rewind(
    context: typer.Context,
    name: Name,
    to: To = "",
    dry_run: DryRun = False,
    why: Why = "",
    yes: Yes = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Forget a move that waits.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send changes again: from an offset, a time, or the journal's start on."""
    if cancel:
        from cdcflow.engine import lifecycle

        was = lifecycle.take_back(load_running(context), name)
        output.say(f"flow {name} stays where it is" if was else f"no move of flow {name} is waiting")
        return
    _move(context, name, to, back=True, dry_run=dry_run, why=why, yes=yes, as_json=as_json)


@app.command("skip")
def skip(
    context: typer.Context,
    name: Name,
    to: To = "",
    dry_run: DryRun = False,
    why: Why = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Leave changes out: go on at `now`, an offset or a time. The sink never gets what lies between."""
    _move(context, name, to, back=False, dry_run=dry_run, why=why, yes=yes, as_json=as_json)


def _move(
    context: typer.Context,
    name: str,
    to: str,
    *,
    back: bool,
    dry_run: bool,
    why: str,
    yes: bool,
    as_json: bool,
) -> None:
    from cdcflow.delivery.moving import ONLY_WHOLE
    from cdcflow.engine import lifecycle

    if not to:
        raise ConfigurationError("say where to go on", hint="--to start" if back else "--to now")
    config = load_running(context)
    planned = lifecycle.plan_move(config, name, to)
    present = planned.first if planned.present is None else planned.present
    if back != (planned.offset <= present) and planned.offset != present:
        other = "skip" if back else "rewind"
        way = "ahead of" if back else "behind"
        raise ConfigurationError(
            f"offset {planned.offset} lies {way} the flow, which is at {present}",
            hint=f"`cdcflow flow {other} {name} --to {to}`",
        )
    if as_json and dry_run:
        output.json({**asdict(planned), "changes": planned.changes})
        return
    verb = "sent again" if back else "left out for good"
    output.say(f"flow {name} goes from offset {present:,} to {planned.offset:,}")
    output.say(f"{planned.changes:,} change(s) of its tables are {verb}, before any transform")
    output.table(("table", "changes"), list(planned.counts.items()))
    if planned.refused:
        raise ConfigurationError(
            f"flow {name} cannot go back to offset {planned.offset:,}: {planned.refused}", hint=ONLY_WHOLE
        )
    if dry_run:
        return
    if not back and planned.changes:
        output.warn(
            "what is skipped is lost to the sink: rows that nobody changes again stay as they are there"
        )
    if not yes and not typer.confirm("Go on?", err=True):
        raise typer.Exit(1)
    lifecycle.move(config, planned, who=lifecycle.me(), why=why)
    _tell_what_became(config, name, planned.offset)


def _tell_what_became(config: "Config", name: str, offset: int) -> None:
    from cdcflow.engine import lifecycle
    from cdcflow.errors import CdcflowError

    now = lifecycle.flow_status(config, name)
    if now is None or now.get("paused"):
        when = "at the next `cdcflow run`" if now is None else "when it is resumed"
        output.say(
            f"flow {name} goes on at offset {offset:,} {when}; `flow rewind {name} --cancel` forgets that"
        )
        return
    found = lifecycle.settled(
        config, name, lambda flow: flow.get("move") is None or bool(flow["move"]["refused"])
    )
    if found is None:
        output.warn("the flow has not moved yet: see `cdcflow status`")
    elif found.get("move"):
        raise CdcflowError(f"the flow stays where it was: {found['move']['refused']}")
    else:
        output.say(f"flow {name} goes on at offset {offset:,}")


@app.command("history")
def history(
    context: typer.Context,
    name: Name,
    diff: Annotated[bool, typer.Option("--diff", help="What each revision changed.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the revisions that a flow was run with, the newest last."""
    from cdcflow.engine import lifecycle
    from cdcflow.engine.revisions import Revisions, difference

    config = load_running(context)
    with lifecycle.state(config) as store:
        found = Revisions(store).of(name)
    if not found:
        lifecycle.plan(config, name)
    if as_json:
        output.json([asdict(revision) for revision in found])
        return
    if not diff:
        rows = [
            (one.number, one.hash, output.moment(one.first_seen), f"{one.author} ({one.source})")
            for one in found
        ]
        output.table(("revision", "hash", "first run", "author"), rows)
        return
    for before, one in zip([None, *found], found, strict=False):
        output.data(f"revision {one.number}, {one.hash}, {output.moment(one.first_seen)}, {one.author}")
        output.data(difference(before, one))


@app.command("reload")
def reload(context: typer.Context) -> None:
    """Have the running engine read its files now instead of within a second."""
    from cdcflow.engine import control
    from cdcflow.errors import EnvironmentFault

    if not control.reload(load_running(context).engine.state):
        raise EnvironmentFault(
            "the engine is not running", hint="`cdcflow run` reads its files when it starts"
        )
    output.say("the engine reads its files: `cdcflow status` shows what it refuses")
