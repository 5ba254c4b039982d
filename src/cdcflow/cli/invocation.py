"""What was said on the command line before the command's own name, and the configuration it leads to."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from cdcflow.config import Config
    from cdcflow.config.problems import Problems

DEFAULT_CONFIG = Path("cdcflow.yaml")


@dataclass(frozen=True)
class Invocation:
    """The global options."""

    config: Path = DEFAULT_CONFIG
    verbose: bool = False


def invocation(context: typer.Context) -> Invocation:
    found: Invocation = context.ensure_object(Invocation)
    return found


def load_valid(context: typer.Context) -> "Config":
    """As `load_config`, but without the flows whose files are wrong, which are told on stderr: what is asked
    of the others, or of the engine, needs no file to be right but the main one."""
    from cdcflow.cli import output

    config, problems = load_sound(context)
    if problems:
        output.warn(problems.error().told)
    return config


def load_running(context: typer.Context) -> "Config":
    """As `load_valid`, but a flow whose file is wrong is as it was taken over before, if it ever was: it runs
    on so."""
    from cdcflow.engine.accepted import as_it_runs

    return as_it_runs(load_valid(context))


def load_sound(context: typer.Context) -> "tuple[Config, Problems]":
    """The configuration without the flows whose files are wrong, and what is wrong with those. Raises
    ConfigurationError where it is the main file that is wrong, with all that is wrong in any."""
    from cdcflow.config import load_parts

    parts = load_parts(invocation(context).config)
    if parts.config is None:
        raise parts.problems.error()
    return parts.config, parts.problems


def load_config(context: typer.Context) -> "Config":
    """Reads the configuration that the invocation names; raises ConfigurationError."""
    from cdcflow.config import load

    return load(invocation(context).config)
