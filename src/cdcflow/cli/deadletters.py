"""`cdcflow deadletters`: changes that a sink refused for good, and what is parked behind them."""

import functools
import inspect
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdcflow.cli import output
from cdcflow.cli.invocation import load_config
from cdcflow.errors import ConfigurationError

if TYPE_CHECKING:
    from cdcflow.config import Config
    from cdcflow.delivery import Letter
    from cdcflow.engine.letters import Choice

app = typer.Typer(
    help="Changes that a sink refused for good: kept until somebody has them delivered or discards them.",
    no_args_is_help=True,
)

Numbers = Annotated[list[int] | None, typer.Argument(help="Their numbers, as `list` shows them.")]
All = Annotated[bool, typer.Option("--all", help="All that the other options leave.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]


def _choice(
    flow: Annotated[str | None, typer.Option("--flow", help="Only those of this flow.")] = None,
    table: Annotated[str | None, typer.Option("--table", help="Only those of this table.")] = None,
    cause: Annotated[
        str | None, typer.Option("--cause", help="Only those of this cause, by its short name.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Only those of this row: 42, or 1,de for two columns.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only those since: 2h (ago), or 2026-11-24T10:00:00Z.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="Only those before.")] = None,
) -> "Choice":
    from cdcflow.engine.letters import Choice

    return Choice(
        flow=flow,
        table=table,
        cause=cause,
        key=key,
        since=_time(since, "--since"),
        until=_time(until, "--until"),
    )


def _choosing(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of `_choice`, and their `Choice` as its argument `choice`."""
    options = inspect.signature(_choice).parameters
    own = inspect.signature(command)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in options}
        command(choice=_choice(**chosen), **given)

    # Typer reads both.
    parameters = [one for one in own.parameters.values() if one.name != "choice"]
    shown = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*parameters, *options.values())]
    run.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]
    run.__annotations__ = {**_choice.__annotations__, **command.__annotations__}
    del run.__annotations__["choice"]
    return run


@app.command("list")
@_choosing
def list_(
    context: typer.Context,
    choice: "Choice",
    parked: Annotated[bool, typer.Option("--parked", help="Those that wait behind others, too.")] = False,
    by_cause: Annotated[bool, typer.Option("--by-cause", help="One line per cause.")] = False,
    discarded: Annotated[bool, typer.Option("--discarded", help="What was discarded, why, by whom.")] = False,
    as_json: AsJson = False,
) -> None:
    """List dead letters, by flow, cause, key and time."""
    from cdcflow.engine import letters

    config = load_config(context)
    if discarded:
        _print_audit(letters.audit(config), as_json)
        return
    found = letters.chosen(config, choice)
    if by_cause:
        groups = letters.groups(found)
        if as_json:
            names = ("flow", "cause", "sentence", "count")
            output.json([dict(zip(names, group, strict=True)) for group in groups])
        else:
            output.table(("flow", "cause", "letters", "what"), [(f, n, c, s) for f, n, s, c in groups])
        return
    shown = [letter for letter in found if parked or letter.state == "dead"]
    if as_json:
        output.json([letters.summary(letter) for letter in shown])
        return
    output.table(
        ("number", "flow", "table", "key", "op", "state", "tries", "latest", "newer", "cause", "reason"),
        [
            (
                letter.number,
                letter.flow,
                letter.relation,
                letters.key_of(letter),
                letter.op,
                letter.state,
                letter.attempts,
                _moment(letter.latest),
                str(letter.newer) if letter.newer else None,
                letters.cause_name(letter.cause) if letter.cause else None,
                letter.reason or None,
            )
            for letter in shown
        ],
    )
    waiting = sum(letter.state == "parked" for letter in found)
    output.say(f"{len(found) - waiting} dead letter(s), {waiting} parked behind them")
    if found:
        output.next_step("mend the cause, then `cdcflow deadletters retry --cause CAUSE`")


@app.command("show")
def show(
    context: typer.Context,
    number: Annotated[int, typer.Argument(help="Its number.")],
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: why it was refused, what the destination said, and the whole change."""
    from cdcflow.engine import letters

    config = load_config(context)
    [letter] = letters.chosen(config, letters.Choice(numbers=(number,)))
    document = letters.document(config, letter)
    if as_json:
        output.json(document)
        return
    for name, value in document.items():
        if name in ("first", "latest"):
            value = _moment(value)
        if value is not None and value != "":
            output.data(f"{name + ':':<10} {output.dumps(value) if isinstance(value, dict) else value}")


@app.command("retry")
@_choosing
def retry(
    context: typer.Context,
    choice: "Choice",
    numbers: Numbers = None,
    everything: All = False,
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=0.01, help="At most so many a second, what is parked behind them too."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also those of rows of which newer state has gone out.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Deliver dead letters now, with what is parked behind them. Ends with 1 if some were not."""
    from cdcflow.engine import letters

    config = load_config(context)
    found = _meant(config, replace(choice, numbers=tuple(numbers or ())), everything, "retry")
    counts: dict[str, int] = {}
    reasons: dict[tuple[str, str], int] = {}
    outcomes: list[dict[str, Any]] = []
    try:
        for outcome in letters.deliver(config, found, force=force, rate=rate):
            outcomes.append(outcome)
            counts[outcome["what"]] = counts.get(outcome["what"], 0) + 1
            if outcome["reason"]:
                why = outcome["what"], outcome["reason"]
                reasons[why] = reasons.get(why, 0) + 1
    finally:
        if as_json:
            output.json(outcomes)
        elif outcomes:
            output.say(", ".join(f"{count} {what}" for what, count in counts.items()))
    for (what, reason), count in reasons.items():
        output.warn(f"{count} {what}{' again' if what == 'refused' else ''}: {reason}")
    superseded = sum(outcome["what"] == "superseded" and not outcome["reason"] for outcome in outcomes)
    if superseded:
        output.warn(
            f"newer state of {superseded} row(s) has gone out since: delivering the older one would"
            " bring it back; do so with --force, or discard the letter"
        )
    if any(counts.get(what) for what in ("refused", "superseded", "parked", "unknown")):
        raise typer.Exit(1)


@app.command("discard")
@_choosing
def discard(
    context: typer.Context,
    choice: "Choice",
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the audit.")],
    numbers: Numbers = None,
    everything: All = False,
) -> None:
    """Discard dead letters for good. What was parked behind them goes out."""
    from cdcflow.engine import letters

    config = load_config(context)
    found = _meant(config, replace(choice, numbers=tuple(numbers or ())), everything, "discard")
    output.say(f"{letters.discard(config, found, reason)} dead letter(s) discarded")


@app.command("export")
@_choosing
def export(
    context: typer.Context,
    choice: "Choice",
    file: Annotated[Path | None, typer.Option("--file", "-o", help="Instead of stdout.")] = None,
) -> None:
    """Write dead letters and parked changes as JSON lines, each with its change. They stay where they are."""
    from cdcflow.engine import letters

    config = load_config(context)
    found = letters.chosen(config, choice)
    lines = (output.dumps(letters.document(config, letter)) for letter in found)
    if file is None:
        for line in lines:
            output.data(line)
        return
    # Rows of tables: for this user only, as everything else that holds them.
    file.touch(mode=0o600)
    with file.open("w", encoding="utf-8") as target:
        target.writelines(line + "\n" for line in lines)
    output.say(f"{len(found)} change(s) written to {file}")


def _meant(config: "Config", choice: "Choice", everything: bool, verb: str) -> "list[Letter]":
    """The dead letters that are chosen. Choosing nothing is not choosing all."""
    from cdcflow.engine import letters

    if choice.everything and not everything:
        raise ConfigurationError(
            f"which dead letters to {verb} is not said",
            hint="name their numbers, choose by --flow, --cause, --key, --since, or say --all",
        )
    found = letters.chosen(config, choice if choice.numbers else replace(choice, state="dead"))
    if not found:
        output.say("there is no such dead letter")
    return found


def _time(text: str | None, option: str) -> float | None:
    if text is None:
        return None
    from cdcflow.sink.quantities import parse_duration

    try:
        return time.time() - parse_duration(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except ValueError:
        raise ConfigurationError(
            f"{option}: expected a time such as 2026-11-24T10:00:00Z or a duration such as 2h, found {text!r}"
        ) from None


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _print_audit(entries: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        output.json(entries)
        return
    output.table(
        ("number", "at", "who", "why", "flow", "table", "op", "position", "what"),
        [
            (
                e["number"],
                _moment(e["at"]),
                e["who"],
                e["why"],
                e["flow"],
                e["relation"],
                e["op"],
                e["position"],
                e["cause"],
            )
            for e in entries
        ],
    )
