"""`cdcflow check`: whether everything is as it must be, before and without starting."""

from typing import TYPE_CHECKING, Annotated

import typer

from cdcflow.cli import output
from cdcflow.cli.findings import described, print_findings
from cdcflow.cli.invocation import load_config
from cdcflow.errors import CdcflowError

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    running = _running(config)
    findings = [*_source(config), *_sinks(config, running)]
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
    if not running:
        output.next_step("`cdcflow run`")


def _running(config: "Config") -> "Mapping[str, str]":
    """The state of each flow that an engine delivers now, by its name."""
    from cdcflow.engine import control

    try:
        document = control.status(config.engine.state) or {"flows": []}
    except CdcflowError:  # one that does not answer: the source's slot says that it is there
        return {}
    return {flow["name"]: flow["state"] for flow in document["flows"] if flow.get("pid")}


def _source(config: "Config") -> "list[Finding]":
    from cdcflow.source.preflight import preflight

    source = config.source
    return preflight(source.dsn.get_secret_value(), source.tables, source.publication, source.slot)


def _sinks(config: "Config", running: "Mapping[str, str]") -> "list[Finding]":
    """What each flow's sink says of itself, if it can be asked without opening it. Of one that no other
    process can open while the engine has it, the engine knows more."""
    import asyncio
    import tempfile
    from pathlib import Path

    from cdcflow.sink import Finding, FlowContext, Probe

    found: list[Finding] = []
    for flow in config.flows.values():
        entry = config.sinks[flow.to]
        if flow.name in running and entry.plugin.exclusive(entry.settings) is not None:
            fine = running[flow.name] != "needs attention"
            said = f"in use by the running engine, whose flow {flow.name} is {running[flow.name]}"
            remedy = "" if fine else "`cdcflow status` tells the reason"
            found.append(Finding("ok" if fine else "warning", f"sink {flow.to}", said, remedy))
            continue
        with tempfile.TemporaryDirectory() as state:
            sink = entry.plugin.create(entry.settings, flow.options, FlowContext(flow.name, Path(state)))
            if isinstance(sink, Probe):
                try:
                    found += asyncio.run(sink.probe())
                except CdcflowError as error:
                    found.append(Finding("error", f"sink {flow.to}", str(error), error.hint))
    return found
