"""Shows findings: the one printer for whoever checks something."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from cdcflow.config.problems import Problem
    from cdcflow.sink import Finding

_MARKS = {
    "ok": ("ok", typer.colors.GREEN),
    "warning": ("warning", typer.colors.YELLOW),
    "error": ("error", typer.colors.RED),
}


def described(finding: "Finding") -> dict[str, Any]:
    return asdict(finding)


def told(problem: "Problem") -> "Finding":
    """What is wrong in a file, as a finding. Its place is the subject."""
    from cdcflow.sink import Finding

    said = ": ".join(part for part in (problem.key, problem.message) if part)
    return Finding("error", str(problem.place), said, problem.hint)


def print_findings(findings: Iterable["Finding"], *, err: bool = False) -> None:
    """To stdout, since they are what was asked for; to stderr with `err`, when they end something else."""
    for finding in findings:
        word, colour = _MARKS[finding.severity]
        typer.secho(f"{word:<8}", fg=colour, nl=False, err=err)
        typer.echo(f"{finding.subject}: {finding.message}", err=err)
        if finding.remedy:
            typer.echo(f"{'':8}{finding.remedy}", err=err)
        for line in finding.sql.splitlines():
            typer.secho(f"{'':8}  {line}", bold=True, err=err)
