"""`cdcflow run`: the engine, in the foreground, until it is told to stop."""

import typer

from cdcflow.cli.invocation import invocation


def run(context: typer.Context) -> None:
    """Run the engine: capture, and every flow. Ctrl-C stops it in order, a second Ctrl-C at once."""
    from cdcflow.engine import accepted, supervisor

    config = accepted.start(invocation(context).config).config
    raise typer.Exit(supervisor.run(config, verbose=invocation(context).verbose))
