"""`cdcflow flow preview|validate|explain|test`: a flow looked at without running it. Nothing is sent."""

import json as plain_json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdcflow.cli import output
from cdcflow.cli.findings import told
from cdcflow.cli.invocation import load_config, load_sound, load_valid
from cdcflow.errors import CdcflowError, ConfigurationError

if TYPE_CHECKING:
    from cdcflow.engine.preview import Preview, Traced

AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Name = Annotated[str, typer.Argument(help="The flow's name.")]
Names = Annotated[list[str] | None, typer.Argument(help="Flows; none: all.")]

#: A value that would fill the screen is cut.
WIDEST = 60


def preview(
    context: typer.Context,
    name: Name,
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many changes.")] = 10,
    key: Annotated[str | None, typer.Option("--key", "-k", help="Those of one row: 42, or 7,1.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Changes from a file of lines.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show recent changes on their way through a flow's steps, and what its sink would get."""
    from cdcflow.engine import preview as service
    from cdcflow.engine.lookups import tables_of

    config = load_valid(context)
    found = service.preview(config, name, last=last, key=key, rows=file, tables=tables_of(config))
    if as_json:
        output.json({**asdict(found), "changes": [_traced(one) for one in found.changes]})
    else:
        _print(found)
    if found.error:
        raise CdcflowError(found.error, hint=found.hint)


def _traced(one: "Traced") -> dict[str, Any]:
    return {**asdict(one), "out": list(one.out)}


def _print(found: "Preview") -> None:
    for one in found.changes:
        if output.on_terminal():
            _draw(one)
        else:
            _write(lines(one))
        output.data("")
    sent = sum(
        bool(one.out) and (not one.passages or one.passages[-1].state == "kept") for one in found.changes
    )
    output.say(
        f"{len(found.changes)} change(s) of flow {found.flow}, revision {found.revision}: {sent} would go to "
        f"{found.sink}. Nothing was sent"
    )
    if not found.complete:
        output.warn(f"only the newest {found.scanned:,} changes were looked at")


def _write(found: Iterable[str]) -> None:
    for line in found:
        output.data(output.visible(line))


def _draw(one: "Traced") -> None:
    """The same for a terminal, side by side as far as it has a place there."""
    from rich.console import Console

    from cdcflow.cli.side_by_side import grid

    table = grid(one)
    if table is None:
        _write(lines(one))
        return
    _write([_heading(one)])
    Console().print(table)
    stop = one.passages[-1] if one.passages and one.passages[-1].state != "kept" else None
    if stop is not None:
        _write([f"  {stop.step} ✗ {stop.state}: {stop.reason}  [{stop.place}]"])
    _write(_sent(one))


def lines(one: "Traced") -> Iterable[str]:
    """A change and its way, line by line."""
    yield _heading(one)
    yield f"  {'came':<12} {_row(one.came)}"
    yield from _way(one)
    yield from _sent(one)


def _heading(one: "Traced") -> str:
    came = one.came
    what = came.get("table")
    where = f"{came['schema']}.{what}" if what else f"message {came.get('prefix')}"
    key = ", ".join(f"{name}={_cut(value)}" for name, value in (came.get("key") or {}).items())
    return f"offset {one.offset}  {came['op']} {where}  {key}  {came['commit_time']}"


def _way(one: "Traced") -> Iterable[str]:
    before: list[Mapping[str, Any]] = [one.came]
    for passage in one.passages:
        if passage.state != "kept":
            yield f"  {passage.step:<12} ✗ {passage.state}: {passage.reason}  [{passage.place}]"
            break
        changes = list(passage.changes)
        if len(changes) == len(before):
            for was, now in zip(before, changes, strict=True):
                yield f"  {passage.step:<12} {_difference(was, now)}"
        else:
            yield f"  {passage.step:<12} makes {len(changes)} of {len(before)}"
            for now in changes:
                yield f"  {'':<12}   {_row(now)}"
        before = list(changes)


def _sent(one: "Traced") -> Iterable[str]:
    for target, text in one.sent:
        yield f"  → {target}"
        for line in text.splitlines():
            yield f"      {line}"


def _row(event: Mapping[str, Any]) -> str:
    row = event.get("new") or event.get("old") or {}
    values = [f"{name}={_cut(value)}" for name, value in row.items()]
    unsent = [f"{name}=(not sent)" for name in event.get("unchanged") or ()]
    return ", ".join([*values, *unsent]) or "–"


def _difference(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What a step has changed; `✓` where it has let the change pass as it was."""
    found = []
    if was["op"] != now["op"]:
        found.append(f"{was['op']} → {now['op']}")
    if (was.get("schema"), was.get("table")) != (now.get("schema"), now.get("table")):
        found.append(f"to {now.get('schema')}.{now.get('table')}")
    before, after = was.get("new") or {}, now.get("new") or {}
    if now.get("new") is not None:
        found += [f"+ {name}={_cut(value)}" for name, value in after.items() if name not in before]
        found += [
            f"- {name}" for name in before if name not in after and name not in (now.get("unchanged") or ())
        ]
        found += [
            f"{name}: {_cut(before[name])} → {_cut(value)}"
            for name, value in after.items()
            if name in before and before[name] != value
        ]
    return "; ".join(found) or "✓"


def _cut(value: Any) -> str:
    text = plain_json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def explain(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Show the columns and types of a flow's tables after every step."""
    from cdcflow.engine import preview as service
    from cdcflow.engine.lookups import tables_of
    from cdcflow.transform import Misfit, by_place

    config = load_valid(context)
    found = service.explain(config, name, tables=tables_of(config))
    if as_json:
        output.json([asdict(one) for one in found])
    else:
        rows = [
            (one.table, shape.step, shape.table, column.name, column.type + (" (key)" if column.key else ""))
            for one in found
            for shape in one.shapes
            for column in shape.columns
        ]
        output.table(("table", "after", "is", "column", "type"), rows)
    if not found:
        output.say("none of its tables is known here: neither the journal nor the source shows one")
    mistakes = by_place(mistake for one in found for mistake in one.mistakes)
    if mistakes:
        raise Misfit(mistakes)
    wrong = [one for one in found if one.error]
    if wrong:
        raise ConfigurationError(wrong[0].error, hint=wrong[0].hint)


def validate(context: typer.Context, names: Names = None, as_json: AsJson = False) -> None:
    """Check flows: their files, and their steps against the tables they will meet. Ends with 2 if one is
    wrong."""
    from cdcflow.engine import preview as service
    from cdcflow.engine.lifecycle import plan
    from cdcflow.engine.lookups import tables_of

    config, wrong = load_sound(context)
    refused = {problem.place.file.stem for problem in wrong}
    sound = [name for name in names or config.flows if name not in refused or name in config.flows]
    for name in sound:
        plan(config, name)
    known = service.known_tables(config)
    found = [
        *(told(problem) for problem in wrong if not names or problem.place.file.stem in names),
        *service.validate(config, sound, known=known, tables=tables_of(config)),
    ]
    if as_json:
        output.json([asdict(finding) for finding in found])
    else:
        rows = [(one.severity, one.subject, one.message, one.remedy or None) for one in found]
        output.table(("", "what", "found", "remedy"), rows)
        if not known.reached:
            output.say("the source was not reached: judged by the tables that the journal knows")
    if any(finding.severity == "error" for finding in found):
        raise typer.Exit(ConfigurationError.exit_code)


def run_tests(context: typer.Context, names: Names = None, as_json: AsJson = False) -> None:
    """Run the examples that stand in flow files. Needs no database. Ends with 1 if one fails."""
    from cdcflow.engine.examples import run_examples

    config = load_config(context)
    found = [outcome for name in names or config.flows for outcome in run_examples(config, name)]
    failed = [outcome for outcome in found if not outcome.passed]
    if as_json:
        output.json([{**asdict(outcome), "passed": outcome.passed} for outcome in found])
    else:
        for outcome in found:
            output.data(f"{'ok  ' if outcome.passed else 'FAIL'} {outcome.flow}: {outcome.name}")
            for problem in outcome.problems:
                output.data(output.visible(f"       {outcome.place}: {problem}"))
        output.say(f"{len(found) - len(failed)} of {len(found)} example(s) hold")
    if failed:
        raise typer.Exit(1)
    if not found:
        output.next_step("write `examples: [{in: {…}, out: {…}}]` into a flow's file")
