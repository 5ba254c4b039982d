"""`cdcflow run`: the engine, in the foreground, until it is told to stop."""

import typer

from cdcflow.cli.invocation import invocation, load_config


def run(context: typer.Context) -> None:
    """Run the engine: capture, and every flow. Ctrl-C stops it in order, a second Ctrl-C at once."""
    config = load_config(context)

    from cdcflow.engine import supervisor

    raise typer.Exit(supervisor.run(config, verbose=invocation(context).verbose))
