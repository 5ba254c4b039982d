"""`cdcflow demo`: the whole of it at work, on a database of its own."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            min=1,
            help="Run this long, then compare everything and end; without, until Ctrl-C.",
        ),
    ] = None,
    directory: Annotated[
        Path, typer.Option("--dir", help="Where the run's folder is made; nothing there is removed.")
    ] = Path("demo"),
    rate: Annotated[
        float, typer.Option("--rate", min=0.1, help="Transactions per second of the shop.")
    ] = 50.0,
    seed: Annotated[int, typer.Option("--seed", help="The same number makes the same shop.")] = 1,
    version: Annotated[
        int | None, typer.Option("--pg", metavar="VERSION", help="PostgreSQL of this major version.")
    ] = None,
    system_postgres: Annotated[
        bool, typer.Option("--system-postgres", help="The system's PostgreSQL instead of the embedded one.")
    ] = False,
) -> None:
    """Watch a small shop's Postgres flow into a warehouse and a webhook.

    Starts a PostgreSQL of its own with a shop that is never at rest, the engine with a real configuration,
    and a receiver for the webhook. With --seconds it compares every value in the end, and its exit code is 0
    only if all are identical.
    """
    from cdcflow.demo.main import run

    code = run(
        seconds=seconds,
        directory=directory,
        version=version,
        system_postgres=system_postgres,
        rate=rate,
        seed=seed,
    )
    raise typer.Exit(code)
