"""A flow's `transforms`: a list of steps, each a mapping from the step's name to its options, and with
`tables` beside it where the step is for some of the flow's tables only."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr

from cdcflow.config.document import Document, Way, dotted
from cdcflow.config.models import Flow, MaskSettings, StepEntry, TablePatternText
from cdcflow.config.problems import Problems
from cdcflow.config.validation import validate
from cdcflow.errors import ConfigurationError
from cdcflow.sink import Formula, Settings
from cdcflow.transform import Chain, Link, Site, StepContext, StepError, Tables, registry

#: The key beside a step's name.
TABLES = "tables"


class _Reach(Settings):
    tables: Annotated[tuple[TablePatternText, ...], Field(min_length=1)] = ()


def read_steps(
    document: Document, way: Way, given: object, problems: Problems, context: StepContext
) -> tuple[StepEntry, ...]:
    """The steps that stand at `way`, as far as they are right; everything else goes to `problems`."""
    if given is None:
        return ()
    if not isinstance(given, list):
        problems.add(document.place(way), dotted(way), "must be a list of steps", "- filter: status = 'paid'")
        return ()
    read = (_step(document, (*way, i), one, problems, context) for i, one in enumerate(given))
    return tuple(entry for entry in read if entry is not None)


def _step(
    document: Document, way: Way, given: Any, problems: Problems, context: StepContext
) -> StepEntry | None:
    place, known = document.place(way), "a step is a name and its options: `- filter: status = 'paid'`"
    if isinstance(given, str):
        problems.add(place, dotted(way), f"the step {given!r} has no options", known)
        return None
    if not isinstance(given, dict) or not given:
        problems.add(place, dotted(way), "is not a step", known)
        return None
    names = [name for name in given if name != TABLES]
    if len(names) != 1:
        found = ", ".join(names) or "no step"
        problems.add(place, dotted(way), f"expected one step, found {found}", "give each step its own `-`")
        return None
    [name] = names
    here: Way = (*way, name)
    try:
        plugin = registry.load(name)
    except ConfigurationError as error:
        problems.add(document.place(here), dotted(here), str(error), error.hint)
        return None
    beside = {key: value for key, value in given.items() if key == TABLES}
    reach = validate(_Reach, document, way, problems, data=beside)
    options = validate(plugin.options, document, here, problems)
    if options is None or reach is None:
        return None
    site = Site(document.file, document.place(here).line, dotted(here), document.lines_below(here))
    try:
        plugin.create(options, context)
    except StepError as error:
        for one in error.all:
            at = site.at(one.way, one.line)
            problems.add(document.place((*here, *one.way)).moved(at.line), at.key, str(one), one.hint)
        return None
    return StepEntry(name, plugin, options, reach.tables, site=site)


def computed_step(
    document: Document, way: Way, formulas: Sequence[Formula], problems: Problems, context: StepContext
) -> tuple[StepEntry, ...]:
    """The step behind all others that makes the columns which the `with:` at `way` computes."""
    if not formulas:
        return ()
    plugin = registry.load("set")
    options = plugin.options.model_validate({one.column: one.expression for one in formulas})
    here: Way = (*way, "fields")
    lines: dict[Way, int] = {(one.column,): document.place((*way, *one.way)).line for one in formulas}
    site = Site(document.file, document.place(here).line, dotted(here), lines)
    try:
        plugin.create(options, context)
    except StepError as error:
        for mistake in error.all:
            at = site.at(mistake.way, mistake.line)
            [wrong] = [one for one in formulas if (one.column,) == mistake.way[:1]] or formulas[:1]
            problems.add(
                document.place((*way, *wrong.way)).moved(at.line), at.key, str(mistake), mistake.hint
            )
        return ()
    return (StepEntry("set", plugin, options, site=site),)


def make_chain(
    flow: Flow,
    *,
    base: Path,
    mask_key: SecretStr | None,
    tables: Callable[[str | None], Tables] | None = None,
) -> Chain:
    """A new chain of the flow's steps. `tables` is where steps look things up; without it, a step that does
    cannot be bound."""
    context = StepContext(flow.name, base, mask_key, tables, flow.code)
    return Chain(links(flow.transforms, context))


def links(entries: Sequence[StepEntry], context: StepContext) -> list[Link]:
    """The steps made, for a chain."""
    return [Link.of(entry.plugin, entry.options, context, entry.site, entry.tables) for entry in entries]


def mask_key(document: Document, given: Mapping[str, Any] | None, problems: Problems) -> SecretStr | None:
    """The key of the section `mask:`."""
    if not given:
        return None
    settings = validate(MaskSettings, document, ("mask",), problems, data=given)
    return None if settings is None else settings.key
