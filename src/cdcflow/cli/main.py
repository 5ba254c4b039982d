"""The program `cdcflow`: its commands, how errors are shown, and the exit codes that they end with.

Importing this module, and every module of a command, loads neither drivers nor models: a command
imports what it needs when it runs, so that `cdcflow --help` is there at once.
"""

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cdcflow.cli import (
    backfill,
    check,
    deadletters,
    demo,
    flows,
    init,
    journal,
    output,
    query,
    run,
    setup,
    status,
    tail,
    version,
)
from cdcflow.cli.invocation import DEFAULT_CONFIG, Invocation
from cdcflow.errors import CdcflowError

#: The options of `cdcflow` itself, and whether each takes a value.
_GLOBAL = {"--config": True, "-c": True, "--verbose": False, "-v": False}

#: Frames of an unexpected error that say where it happened without filling the screen.
_FRAMES = 3


class _Root(TyperGroup):
    """Takes the global options wherever they stand, and turns our exceptions into words and exit codes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, hoist(args))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CdcflowError as error:
            output.error(str(error), error.hint)
            raise typer.Exit(error.exit_code) from error


def hoist(args: list[str]) -> list[str]:
    """The arguments with the global options moved to the front: `run -c x` means `-c x run`."""
    front: list[str] = []
    rest: list[str] = []
    left = iter(args)
    for argument in left:
        if argument == "--":
            rest += [argument, *left]
        elif argument in _GLOBAL:
            value = next(left, None) if _GLOBAL[argument] else None
            front += [argument] if value is None else [argument, value]
        elif argument.startswith("--config="):
            front.append(argument)
        else:
            rest.append(argument)
    return [*front, *rest]


app = typer.Typer(
    cls=_Root,
    name="cdcflow",
    help="Change data capture for Postgres: from the write-ahead log to the places that act on it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.callback()
def _global(
    context: typer.Context,
    config: Annotated[
        Path, typer.Option("--config", "-c", envvar="CDCFLOW_CONFIG", help="The configuration file.")
    ] = DEFAULT_CONFIG,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")] = False,
) -> None:
    context.obj = Invocation(config=config, verbose=verbose)


app.command("demo")(demo.demo)
app.command("init")(init.init)
app.command("setup")(setup.setup)
app.command("check")(check.check)
app.command("run")(run.run)
app.command("status")(status.status)
app.command("tail")(tail.tail)
app.command("query")(query.query)
app.add_typer(flows.app, name="flow")
app.add_typer(deadletters.app, name="deadletters")
app.add_typer(journal.app, name="journal")
app.add_typer(backfill.app, name="backfill")
app.command("teardown")(setup.teardown)
app.command("version")(version.version)


def main() -> None:
    """Runs the command of `sys.argv` and ends the process.

    0 fine, 1 failed while running, 2 the command line or the configuration is wrong, 3 the environment
    is wrong, 130 interrupted.
    """
    try:
        app(prog_name="cdcflow")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - the last place where anything can be said of it
        _unexpected(error)
        sys.exit(1)


def _unexpected(error: Exception) -> None:
    """A defect of ours. Its message may hold values of rows, so it shows only when asked for."""
    if {"--verbose", "-v"} & set(sys.argv):
        traceback.print_exception(error)
        return
    output.error(
        f"unexpected {type(error).__name__}: this is a defect of cdcflow",
        "run it again with --verbose for the whole trace, and report it",
    )
    for frame in traceback.extract_tb(error.__traceback__)[-_FRAMES:]:
        output.say(f"  {frame.filename}:{frame.lineno} in {frame.name}")
