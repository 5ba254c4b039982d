"""`cdcflow init`: looks at a database and writes a first configuration for it. Never a password."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdcflow.cli import output
from cdcflow.cli.invocation import DEFAULT_CONFIG, invocation
from cdcflow.errors import ConfigurationError, EnvironmentFault

if TYPE_CHECKING:
    from cdcflow.cli.scaffold import Plan
    from cdcflow.cli.survey import Survey

#: libpq's connection options that hold a secret (manual, 34.1.2).
_SECRET_OPTIONS = ("password", "sslpassword", "oauth_client_secret")


def init(
    context: typer.Context,
    dsn: Annotated[
        str | None,
        typer.Argument(
            help="How to reach the database: postgresql://user@host/database, or key=value pairs.",
            envvar="DATABASE_URL",
        ),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Directory to write cdcflow.yaml into; else --config is written."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
) -> None:
    """Look at a database, and write cdcflow.yaml and a first flow for it."""
    from cdcflow.cli.scaffold import VARIABLE, Plan, configuration, plain, warehouse_flow
    from cdcflow.cli.survey import survey

    dsn = dsn or _asked()
    target = invocation(context).config if directory is None else directory / DEFAULT_CONFIG
    files = [target, target.parent / "flows" / "warehouse.yaml"]
    _may_write(files, force=force)
    secret = _holds_secret(dsn)
    exported = os.environ.get(VARIABLE) == dsn
    found = survey(dsn)
    plan = Plan(found, _schemas(found), f"${{{VARIABLE}}}" if secret or exported else plain(dsn))
    for file, text in zip(files, (configuration(plan), warehouse_flow()), strict=True):
        _write(file, text)
        output.data(str(file))
    _report(plan)
    named = "" if target == DEFAULT_CONFIG else f" --config {target}"
    if secret and not exported:
        output.say(f"the address holds a password, so {target} refers to ${{{VARIABLE}}} instead")
        output.next_step(f"export {VARIABLE}='…' (the address that you gave here)")
    output.next_step(f"cdcflow{named} setup, then cdcflow{named} run")


def _asked() -> str:
    if not output.interactive():
        raise ConfigurationError(
            "which database is missing",
            hint="cdcflow init postgresql://user@host/database, or set DATABASE_URL",
        )
    answer: str = typer.prompt("address of the database (postgresql://user@host/database)", err=True)
    return answer


def _may_write(files: list[Path], *, force: bool) -> None:
    there = [str(file) for file in files if file.exists()]
    if not there or force:
        return
    if output.interactive() and typer.confirm(f"overwrite {' and '.join(there)}?", err=True):
        return
    raise ConfigurationError(
        f"{' and '.join(there)} {'is' if len(there) == 1 else 'are'} there already",
        hint="overwrite with --force, or write elsewhere with --output DIR",
    )


def _holds_secret(dsn: str) -> bool:
    """Raises ConfigurationError for what libpq does not understand, which may not be repeated here."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        options = conninfo_to_dict(dsn)
    except ProgrammingError:
        raise ConfigurationError(
            "the address of the database is neither a URI nor key=value pairs",
            hint="write it as postgresql://user@host:5432/database, special characters percent-encoded",
        ) from None
    return any(options.get(name) for name in _SECRET_OPTIONS)


def _schemas(found: "Survey") -> list[str]:
    """The schemas to capture: all, unless a person says otherwise."""
    schemas = found.schemas
    if len(schemas) < 2 or not output.interactive():
        return schemas
    chosen = [
        schema
        for schema in schemas
        if typer.confirm(f"capture schema {schema} ({len(found.within([schema]))} table(s))?", True, err=True)
    ]
    if not chosen:
        raise ConfigurationError("no schema is left to capture", hint="say yes to at least one")
    return chosen


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EnvironmentFault(
            f"{file} cannot be written: {error.strerror}", hint="choose another directory with --output DIR"
        ) from error


def _report(plan: "Plan") -> None:
    survey = plan.survey
    output.say(
        f"{survey.database}: PostgreSQL {survey.version}, "
        f"{len(plan.tables)} table(s) in {len(plan.schemas)} schema(s)"
    )
    if not plan.tables:
        output.warn("there is no table to capture yet: public.* is written, correct it if you need to")
    if plan.unidentified:
        names = ", ".join(f"{table.schema}.{table.name}" for table in plan.unidentified)
        output.warn(f"left out, for want of a primary key: {names} (cdcflow.yaml says why)")
    if survey.wal_level != "logical":
        output.warn(
            f"wal_level is {survey.wal_level}, and must be logical: ALTER SYSTEM SET wal_level = 'logical';"
            " then restart the server (on a managed service set its parameter for logical replication)"
        )
