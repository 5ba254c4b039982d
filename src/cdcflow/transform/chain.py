"""The steps of a flow, in order, from batch to batch.

What it keeps: the run of offsets (`base`, `count`, `last`), so that a change that is dropped still moves the
checkpoint; the total order of changes by `index`, and so the order within each key. Logical messages and
the marks of backfills pass untouched. Where a step makes several changes of one, these follow each other,
keep its index, and are told apart by the part of their position.

A step is bound once per generation that reaches it. What is wrong with a flow's steps comes out of `bind`
with file, line and key; out of a call, where a generation does not fit that comes in the middle of the
flow, as Permanent with the same words: the changes before it have been given.
"""

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from cdcflow.errors import CdcflowError, ConfigurationError, Permanent
from cdcflow.model import BACKFILLS, MESSAGES, Batch, Group, Relation
from cdcflow.model.patterns import TablePatterns
from cdcflow.model.position import PART_SHIFT, PARTS
from cdcflow.transform.mistakes import Misfit, Mistake
from cdcflow.transform.rows import assembled, bits, has_old, joined, metas, new_columns, old_columns, resolved
from cdcflow.transform.step import (
    Bound,
    Interruptible,
    Run,
    Site,
    Step,
    StepContext,
    StepError,
    StepPlugin,
    Way,
)


@dataclass(frozen=True)
class Link:
    """A step of a chain: its name, where it is written, and which tables of the source it is for (None:
    all of the flow's). `window` as in `StepPlugin`."""

    name: str
    step: Step
    site: Site
    tables: TablePatterns | None = None
    window: float | None = None
    options: Any = None
    #: As in `StepPlugin`, of these options.
    makes: frozenset[str] | None = None

    @classmethod
    def of(
        cls,
        plugin: StepPlugin,
        options: Any,
        context: StepContext,
        site: Site,
        tables: Sequence[str] = (),
    ) -> "Link":
        """A step made with its plugin. Raises as that does."""
        made = plugin.makes(options)
        return cls(
            plugin.name,
            plugin.create(options, context),
            site,
            TablePatterns(tables) if tables else None,
            plugin.window(options),
            options,
            None if made is None else frozenset(made),
        )

    def wants(self, origin: Relation) -> bool:
        return self.tables is None or self.tables.matches(origin.schema, origin.name)

    def mentions(self, names: Set[str], way: Way) -> bool:
        """Whether the value at `way` within the options names one of these columns, by its looks."""
        value: Any = self.options.model_dump() if isinstance(self.options, BaseModel) else self.options
        for part in way:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                break
        text = f"{way[-1] if way else ''} {value}"
        return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) for name in names)


@dataclass(frozen=True)
class Stage:
    """What was there after a step: the batch, and which changes of the one before are not in it any more, and
    why: `dropped` on purpose, `refused` for good. The first stage, without a step, is what came."""

    link: Link | None
    batch: Batch
    dropped: Mapping[int, str] = field(default_factory=dict)
    refused: Mapping[int, str] = field(default_factory=dict)


class Chain:
    """Steps in order. Call it with a batch; where it has a tail, what it gives is to be gathered, and
    `finish` makes of it what the sink gets."""

    def __init__(self, links: Sequence[Link] = ()) -> None:
        self.links = tuple(links)
        gathering = [i for i, link in enumerate(self.links) if link.window is not None]
        #: Number of the first step that wants to see as much as possible at once.
        self._cut = gathering[0] if gathering else len(self.links)
        #: Per step: the input's fingerprint → the step bound to it.
        self._bound: list[dict[str, Bound]] = [{} for _ in self.links]
        #: (number of the step, fingerprint of the source's relation) → whether the step is for it.
        self._wanted: dict[tuple[int, str], bool] = {}
        #: Fingerprint of what goes on → the relation of the source that it was made of.
        self._origins: dict[str, Relation] = {}
        #: Fingerprints of relations in front of the tail for which a step has set `Run.omits`.
        self._omitting: set[str] = set()
        self._interruptible = [link.step for link in self.links if isinstance(link.step, Interruptible)]

    def __bool__(self) -> bool:
        return bool(self.links)

    @property
    def gathers(self) -> bool:
        """Whether there is a tail, for `finish`."""
        return self._cut < len(self.links)

    @property
    def window(self) -> float:
        """Seconds that changes are to gather before `finish`."""
        return max((link.window for link in self.links if link.window is not None), default=0.0)

    # Before rows flow.

    def bind(self, relation: Relation) -> list[tuple[Relation, ...]]:
        """The shapes after each step, so far as they are known without rows: one entry per step.

        Raises Misfit with all that does not fit. Behind a step that does not, the others are held against
        the columns before it, and what they say of a column that it would have made does not count.
        """
        found: list[tuple[Relation, ...]] = []
        shapes: tuple[Relation, ...] = (relation,)
        mistakes: dict[Mistake, None] = {}
        unknown: frozenset[str] = frozenset()
        for number, link in enumerate(self.links):
            if relation not in (MESSAGES, BACKFILLS) and self._wants(number, relation):
                after: list[Relation] = []
                fits = True
                for shape in shapes:
                    try:
                        after += self._bound_to(number, shape).relations
                    except StepError as error:
                        fits = False
                        after.append(shape)
                        certain = (one for one in error.all if not link.mentions(unknown, one.way))
                        mistakes |= dict.fromkeys(_mistake(link, shape, one) for one in certain)
                    except CdcflowError:
                        # What is known to be wrong counts more than what cannot be asked now.
                        if mistakes:
                            raise Misfit(mistakes) from None
                        raise
                if not fits:
                    if link.makes is None:
                        break
                    unknown |= link.makes
                shapes = tuple({made.fingerprint: made for made in after}.values())
            found.append(shapes)
        if mistakes:
            raise Misfit(mistakes)
        return found

    def output(self, relation: Relation) -> tuple[Relation, ...]:
        """What the sink gets of a relation. Raises as `bind` does."""
        return self.bind(relation)[-1] if self.links else (relation,)

    def _wants(self, number: int, origin: Relation) -> bool:
        key = number, origin.fingerprint
        wanted = self._wanted.get(key)
        if wanted is None:
            wanted = self._wanted[key] = self.links[number].wants(origin)
        return wanted

    def _bound_to(self, number: int, relation: Relation) -> Bound:
        """Raises StepError."""
        bound = self._bound[number].get(relation.fingerprint)
        if bound is None:
            bound = self._bound[number][relation.fingerprint] = self.links[number].step.bind(relation)
        return bound

    # While rows flow.

    def __call__(self, batch: Batch) -> Batch:
        """The batch behind the steps before the first that gathers (all, where none does).

        Raises Permanent where a step does not fit a relation of it, and what steps raise: EnvironmentFault
        where something outside is wrong that may heal.
        """
        return self._run(batch, 0, self._cut) if self._cut else batch

    def finish(self, batch: Batch) -> Batch:
        """The batch behind the rest of the steps. Raises as a call does."""
        return self._run(batch, self._cut, len(self.links)) if self.gathers else batch

    def trace(self, batch: Batch) -> list[Stage]:
        """What is there before the first and after every step, and why what is gone is gone. Raises as a
        call does."""
        run = Run(batch, noting=True)
        after: list[list[Group]] = [[] for _ in self.links]
        self._run(batch, 0, len(self.links), run, after)
        notes = run.notes or {}
        stages = [Stage(None, batch)]
        for number, link in enumerate(self.links):
            refused = {index: note.reason for index, note in run.refused.items() if note.step <= number}
            groups = _without(after[number], refused) if refused else after[number]
            stages.append(
                Stage(
                    link,
                    batch.with_groups(_merged(_numbered(groups))),
                    {index: note.reason for index, note in notes.items() if note.step == number},
                    {index: note.reason for index, note in run.refused.items() if note.step == number},
                )
            )
        return stages

    def interrupt(self) -> None:
        """Ends what a step waits for, from any thread: the call that waits raises."""
        for step in self._interruptible:
            step.interrupt()

    def close(self) -> None:
        for step in self._interruptible:
            step.close()

    def _run(
        self,
        batch: Batch,
        start: int,
        stop: int,
        run: Run | None = None,
        after: Sequence[list[Group]] | None = None,
    ) -> Batch:
        """`after`, where given, gets the groups that are there after each step."""
        run = Run(batch) if run is None else run
        made: list[Group] = []
        try:
            for group in batch.groups:
                if group.relation.oid in (MESSAGES.oid, BACKFILLS.oid):
                    made.append(group)
                    for groups in after or ():
                        groups.append(group)
                    continue
                run.omits = start > 0 and group.relation.fingerprint in self._omitting
                made += self._steps(resolved(group) if start == 0 else group, start, stop, run, after)
        except ConfigurationError as error:
            raise Permanent(str(error), hint=error.hint) from error
        refused = {index: note.reason for index, note in run.refused.items()}
        if refused:
            made = _without(made, refused)
        if run.multiplied:
            made = _numbered(made)
        found = batch.with_groups(_merged(made))
        if refused:
            found = replace(found, refused={**batch.refused, **refused})
        return found

    def _steps(
        self, group: Group, start: int, stop: int, run: Run, after: Sequence[list[Group]] | None
    ) -> list[Group]:
        origin = self._origins.setdefault(group.relation.fingerprint, group.relation)
        groups: list[Group] = [group]
        for number in range(start, stop):
            if not groups:
                break
            if self._wants(number, origin):
                run.step = number
                made: list[Group] = []
                for one in groups:
                    try:
                        bound = self._bound_to(number, one.relation)
                    except StepError as error:
                        link = self.links[number]
                        raise Misfit(_mistake(link, one.relation, e) for e in error.all) from error
                    made += [part for part in bound.apply(one, run) if part.data.num_rows]
                groups = made
            if after is not None:
                after[number] += groups
        for one in groups:
            self._origins.setdefault(one.relation.fingerprint, origin)
            if run.omits:
                self._omitting.add(one.relation.fingerprint)
        return groups


def _mistake(link: Link, relation: Relation, error: StepError) -> Mistake:
    return Mistake(str(link.site.at(error.way, error.line)), relation.qualified, str(error), error.hint)


def _without(groups: Sequence[Group], refused: Mapping[int, str]) -> list[Group]:
    """What a step made of a change whose other part was refused goes with it."""
    gone = pa.array(list(refused), pa.uint32())
    return [group.take(pc.invert(pc.is_in(group.meta("index"), value_set=gone))) for group in groups]


def _merged(groups: Sequence[Group]) -> list[Group]:
    """One group per relation."""
    if len(groups) < 2:
        return list(groups)
    parts: dict[str, list[Group]] = {}
    for group in groups:
        parts.setdefault(group.relation.fingerprint, []).append(group)
    return [joined(some[0].relation, some) for some in parts.values()]


def _numbered(groups: Sequence[Group]) -> list[Group]:
    """The n-th change that was made of one is the n-th part of its position, from 0, in total order."""
    seen: dict[int, int] = {}
    indexes = [group.meta("index").to_pylist() for group in groups]
    order = sorted((index, which) for which, some in enumerate(indexes) for index in some)
    parts: list[list[int]] = [[] for _ in groups]
    for index, which in order:
        part = seen.get(index, 0)
        seen[index] = part + 1
        parts[which].append(part)
    if max(seen.values(), default=0) > PARTS:
        raise Permanent(f"more than {PARTS} changes were made of one", hint="explode a smaller array")
    return [_in_parts(group, some) for group, some in zip(groups, parts, strict=True)]


def _in_parts(group: Group, parts: Sequence[int]) -> Group:
    meta = metas(group)
    low = pc.bit_wise_and(meta[3], pa.scalar((1 << PART_SHIFT) - 1, pa.uint64()))
    # In front of a window they may have been parts already.
    if not any(parts) and low.equals(meta[3]):
        return group
    high = pc.shift_left(pa.array(parts, pa.uint64()), pa.scalar(PART_SHIFT, pa.uint64()))
    meta[3] = pc.bit_wise_or(low, high)
    return assembled(
        group.relation,
        meta,
        new_columns(group),
        has_old=has_old(group),
        old=old_columns(group),
        unchanged=bits(group),
    )
