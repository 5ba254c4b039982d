"""`cdcflow setup` and `cdcflow teardown`: what capture needs at the source, and its end."""

from typing import Annotated

import typer

from cdcflow.cli import output
from cdcflow.cli.invocation import load_config
from cdcflow.errors import ConfigurationError


def setup(
    context: typer.Context,
    print_sql: Annotated[
        bool, typer.Option("--print-sql", help="Print a script for the DBA instead of running it.")
    ] = False,
) -> None:
    """Make the publication and the slot, and with `source.ddl: true` the event triggers for DDL. What is
    there already stays."""
    from cdcflow.engine.examination import wishes
    from cdcflow.source import setup as service

    source = load_config(context).source
    wanted = (source.dsn.get_secret_value(), source.tables, source.publication, source.slot, wishes(source))
    if print_sql:
        output.data(service.script(*wanted))
        output.next_step("let the DBA run this, then `cdcflow check`")
        return
    done = service.setup(*wanted)
    for line in done:
        output.say(line)
    if not done:
        output.say(f"publication {source.publication} and slot {source.slot} are there already")
    output.next_step("`cdcflow check`, then `cdcflow run`")


def teardown(
    context: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
) -> None:
    """Drop the slot and the publication. The journal and the sinks stay as they are."""
    from cdcflow.engine.examination import wishes
    from cdcflow.source import setup as service

    source = load_config(context).source
    what = f"the slot {source.slot} and the publication {source.publication}"
    what += ", and the event triggers for DDL" if source.ddl else ""
    if not yes:
        if not output.interactive():
            raise ConfigurationError(
                f"teardown drops {what}, and nobody is here to confirm it", hint="say so with --yes"
            )
        if not typer.confirm(f"drop {what}? What happens from then on is not captured", err=True):
            raise typer.Exit(1)
    done = service.teardown(
        source.dsn.get_secret_value(), source.tables, source.publication, source.slot, wishes(source)
    )
    for line in done:
        output.say(line)
    if not done:
        output.say(f"neither the slot {source.slot} nor the publication {source.publication} is there")
