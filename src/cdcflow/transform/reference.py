"""The reference of the steps, made from the plugins: `python -m cdcflow.transform > docs/transforms.md`."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, RootModel
from pydantic_core import PydanticUndefined

from cdcflow.transform import registry
from cdcflow.transform.step import StepPlugin

#: In the order in which people meet them.
ORDER = (
    *(
        "filter",
        "select",
        "exclude",
        "rename",
        "set",
        "cast",
        "key",
        "mask",
        "flatten",
        "composite",
        "explode",
    ),
    *("route", "lookup", "toast", "diff", "collapse", "python"),
)

_HEAD = """\
# Transforms

The steps are made from the code by `python -m cdcflow.transform > docs/transforms.md`.

A flow's `transforms` is a list of steps, which every change goes through in order:

```yaml
# flows/paid-orders.yaml
from: [public.orders]
transforms:
  - filter: status = 'paid'
  - set: {amount_eur: 'round(amount * 0.92, 2)'}
  - mask: {email: sha256}
to: crm
```

A step is for all of the flow's tables, or for those that `tables` beside it names, by patterns of the source's
names; the others pass untouched:

```yaml
  - exclude: [password_hash]
    tables: [public.users]
```

## What holds for every step

* **Columns and types are known before rows flow.** A column that is not there, a type that does not fit, a
  step that the table's replica identity cannot feed: all are said by `cdcflow check`, with file, line, key and
  the nearest right name. Where the source's table changes so that a step no longer fits, the flow stops at that
  change and says the same.
* **Nothing is skipped without a trace.** A change that is dropped still moves the checkpoint. One for which a
  step has no answer (a division by zero, a value that was not sent) is refused for good, with the reason, as
  one that the sink refuses.
* **Order per key stays**, and so do positions. Where a step makes several changes of one, they follow each
  other, and `+1`, `+2` … behind the position tell them apart.
* **Every kind of change goes through.** Inserts, updates and rows of a backfill (`read`) have a new row; deletes
  have an old one; a truncate passes every step as it is (but see `route`); logical messages pass untouched.
* **Old rows are shaped as new ones are.** Under the default replica identity an old row holds the key, and only
  when it changed, or the row was deleted; under `REPLICA IDENTITY FULL` it is the whole row, always. Steps say
  what they need.
* **A value that an update did not send** (TOAST) is not NULL: it stays *unchanged* through every step, and what is
  computed from nothing else is unchanged as well. See `toast`.
* **A change of the transforms takes effect with the next change** that is delivered; what was delivered before
  stays as it is, until the flow is rewound. A warehouse follows a column that the flow renames, and sets aside one
  that it gives no longer; for a column that it computes anew, takes up, or masks differently, it stops and says
  what to do, since its older rows would lack it.

"""  # noqa: E501

_TAIL = """\
## Writing a step

A step is a `StepPlugin` that a package names under the entry point group `cdcflow.transforms`. Ours are found in
the same way: `cdcflow/transform/steps/rename.py` is a short one to begin with.

```python
from cdcflow.model import Group, Relation
from cdcflow.transform import Bound, Run, StepContext, StepPlugin
from cdcflow.transform.options import Names, Plain, places_of
from cdcflow.transform.rows import assembled, bits, has_old, metas, new_columns, old_columns
import pyarrow.compute as pc


class Columns(Plain[Names]):  # what stands behind the step's name: a list of columns
    pass


class Upper:
    def __init__(self, options: Columns, context: StepContext) -> None:
        self._names = options.root

    def bind(self, relation: Relation) -> Bound:
        # Once per shape of a table. Raise StepError where the step does not fit it: this does, for all
        # columns that are not there. `Noted` does so for mistakes of your own.
        places = places_of(relation, (((i,), name) for i, name in enumerate(self._names)))

        def apply(group: Group, run: Run) -> list[Group]:
            # For every batch: whole columns of Postgres' text, as Arrow arrays.
            new, old = new_columns(group), old_columns(group)
            for place in places:
                new[place] = pc.utf8_upper(new[place])
                if place in old:
                    old[place] = pc.utf8_upper(old[place])
            made = assembled(
                relation, metas(group), new, has_old=has_old(group), old=old, unchanged=bits(group)
            )
            return [made]

        return Bound((relation,), apply)


upper = StepPlugin(
    "upper",
    Columns,
    Upper,
    # The columns that it makes: where it does not fit, the steps behind it are judged all the same.
    makes=lambda options: options.root,
    about="Makes text upper case.",
    example="- upper: [status]",
)
```

```toml
[project.entry-points."cdcflow.transforms"]
upper = "my_package:upper"
```

* `bind` gives the relation of the output, made by `cdcflow.transform.derive.derived`, so that columns keep their
  identity for sinks that follow schema changes.
* `apply` keeps the rows' order. `run.drop` leaves rows out and `run.refuse` refuses them for good, each with a
  reason; set `run.multiplied` where several rows are made of one.
* Old rows are shaped as new ones: a column of the key must come out of the old row as it does out of the new.
* What is not sent (`group.unchanged_patterns`) is not NULL.

`cdcflow.testing.step_conformance.StepConformance` asks all of this of a step, and
`cdcflow.testing.steps` makes chains from a few words:

```python
class TestUpper(StepConformance):
    options = {"upper": ["status"]}

    def expected(self, row):
        return {**row, "status": row["status"] and row["status"].upper()}
```
"""  # noqa: E501


def page() -> str:
    """The whole page, in Markdown."""
    sections = ("\n".join(_section(registry.load(name))) for name in ORDER)
    return _HEAD + "## The steps\n\n" + "\n".join(sections) + "\n" + _TAIL


def _section(plugin: StepPlugin) -> Iterator[str]:
    yield f"### {plugin.name}\n"
    yield f"```yaml\n{plugin.example}\n```\n"
    yield f"{plugin.about}\n"
    rows = list(_options(plugin.options))
    if rows:
        yield "| option | default |"
        yield "|---|---|"
        yield from rows
        yield ""


def _options(model: type[BaseModel]) -> Iterator[str]:
    if issubclass(model, RootModel):
        return
    for name, field in model.model_fields.items():
        default = "needed" if field.is_required() else _told(field.get_default(call_default_factory=True))
        yield f"| `{field.alias or name}` | {default} |"


def _told(value: Any) -> str:
    if value is None or value is PydanticUndefined or value == {}:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
