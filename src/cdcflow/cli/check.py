"""`cdcflow check`: whether everything is as it must be, before and without starting."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cdcflow.cli import output
from cdcflow.cli.findings import described, print_findings, told
from cdcflow.cli.invocation import load_config, load_sound
from cdcflow.errors import CdcflowError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cdcflow.config import Config
    from cdcflow.sink import Finding

#: As EnvironmentFault: the configuration has been read by then.
_WRONG = 3


def check(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    fix_sql: Annotated[
        bool, typer.Option("--fix-sql", help="Print all remedies as one script for psql, and run nothing.")
    ] = False,
) -> None:
    """Check the configuration, the database and every sink. Ends with 3 if something must be mended, with
    2 if that is in a file."""
    if as_json and fix_sql:
        raise ConfigurationError("--json and --fix-sql are two different outputs", hint="ask for one of them")
    if fix_sql:
        _script(load_config(context))
        return
    from cdcflow.engine.examination import check_all

    config, wrong = load_sound(context)
    running = _running(config)
    findings = [*map(told, wrong), *check_all(config), *_sinks(config, running)]
    if as_json:
        output.json([described(finding) for finding in findings])
    else:
        print_findings(findings)
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    output.say(f"{errors} error(s), {warnings} warning(s)")
    script = "; `cdcflow check --fix-sql` prints the SQL as one script" if _has_sql(findings) else ""
    if errors:
        output.next_step(f"mend what is marked as error, then `cdcflow check` again{script}")
        raise typer.Exit(ConfigurationError.exit_code if wrong else _WRONG)
    if not running:
        output.next_step(f"`cdcflow run`{script}")


def _running(config: "Config") -> "Mapping[str, str]":
    """The state of each flow that an engine delivers now, by its name."""
    from cdcflow.engine import control

    try:
        document = control.status(config.engine.state) or {"flows": []}
    except CdcflowError:  # one that does not answer: the source's slot says that it is there
        return {}
    return {flow["name"]: flow["state"] for flow in document["flows"] if flow.get("pid")}


def _has_sql(findings: "Sequence[Finding]") -> bool:
    return any(finding.sql and finding.severity != "ok" for finding in findings)


def _script(config: "Config") -> None:
    """The script on stdout. A server that cannot be asked is told as any other error of it."""
    from cdcflow.engine.examination import check_source, judge_flows
    from cdcflow.source.remedies import script

    examined = check_source(config)
    if not examined.database:
        print_findings(examined.findings, err=True)
        raise typer.Exit(_WRONG)
    findings = [*examined.findings, *judge_flows(config, examined.tables)]
    output.data(script(findings, database=examined.database, role=examined.role).rstrip("\n"))
    if _has_sql(findings):
        output.next_step("let the DBA run this with psql, then `cdcflow check`")


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
