"""`cdcflow check`: whether everything is as it must be, before and without starting."""

from typing import TYPE_CHECKING, Annotated

import typer

from cdcflow.cli import output
from cdcflow.cli.findings import described, print_findings
from cdcflow.cli.invocation import load_config
from cdcflow.errors import CdcflowError

if TYPE_CHECKING:
    from cdcflow.config import Config
    from cdcflow.sink import Finding

#: As EnvironmentFault: the configuration has been read by then.
_WRONG = 3


def check(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Check the configuration, the database and every sink. Ends with 3 if something must be mended."""
    config = load_config(context)
    findings = [*_source(config), *_sinks(config)]
    if as_json:
        output.json([described(finding) for finding in findings])
    else:
        print_findings(findings)
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    output.say(f"{errors} error(s), {warnings} warning(s)")
    if errors:
        output.next_step("mend what is marked as error, then `cdcflow check` again")
        raise typer.Exit(_WRONG)
    output.next_step("`cdcflow run`")


def _source(config: "Config") -> "list[Finding]":
    from cdcflow.source.preflight import preflight

    source = config.source
    return preflight(source.dsn.get_secret_value(), source.tables, source.publication, source.slot)


def _sinks(config: "Config") -> "list[Finding]":
    """What each flow's sink says of itself, if it can be asked without opening it."""
    import asyncio
    import tempfile
    from pathlib import Path

    from cdcflow.sink import Finding, FlowContext, Probe

    found: list[Finding] = []
    for flow in config.flows.values():
        entry = config.sinks[flow.to]
        with tempfile.TemporaryDirectory() as state:
            sink = entry.plugin.create(entry.settings, flow.options, FlowContext(flow.name, Path(state)))
            if isinstance(sink, Probe):
                try:
                    found += asyncio.run(sink.probe())
                except CdcflowError as error:
                    found.append(Finding("error", f"sink {flow.to}", str(error), error.hint))
    return found
