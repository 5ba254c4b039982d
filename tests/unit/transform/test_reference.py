"""The reference of the steps is what the code says."""

from pathlib import Path

import pyarrow.compute as pc
import pytest
from ruamel.yaml import YAML

from cdcflow.model import Group, Relation
from cdcflow.testing.history import ORDERS, History, insert
from cdcflow.testing.step_conformance import StepConformance
from cdcflow.testing.steps import link, rows
from cdcflow.testing.things import Row
from cdcflow.transform import Bound, Chain, Run, StepContext, StepPlugin, registry
from cdcflow.transform.options import Names, Plain, place_of
from cdcflow.transform.reference import ORDER, page
from cdcflow.transform.rows import assembled, bits, has_old, metas, new_columns, old_columns

PAGE = Path(__file__).parents[3] / "docs" / "transforms.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m cdcflow.transform > docs/transforms.md"


def test_every_step_is_on_the_page() -> None:
    assert sorted(ORDER) == registry.names()


@pytest.mark.parametrize("name", ORDER)
def test_the_example_of_a_step_is_right(name: str) -> None:
    plugin = registry.load(name)
    for step in YAML(typ="safe").load(plugin.example):
        assert list(step) == [name]
        plugin.options.model_validate(step[name])


class Columns(Plain[Names]):
    """As on the page."""


class Upper:
    """As on the page."""

    def __init__(self, options: Columns, _context: StepContext) -> None:
        self._names = options.root

    def bind(self, relation: Relation) -> Bound:
        places = [place_of(relation, name, (i,)) for i, name in enumerate(self._names)]

        def apply(group: Group, _run: Run) -> list[Group]:
            new, old = new_columns(group), old_columns(group)
            for place in places:
                new[place] = pc.utf8_upper(new[place])
                if place in old:
                    old[place] = pc.utf8_upper(old[place])
            return [
                assembled(relation, metas(group), new, has_old=has_old(group), old=old, unchanged=bits(group))
            ]

        return Bound((relation,), apply)


UPPER = StepPlugin("upper", Columns, Upper)


class TestUpper(StepConformance):
    options = {"upper": ["status"]}  # noqa: RUF012 - as on the page

    def make_chain(self) -> Chain:
        return Chain([link(UPPER, self.options)])

    def expected(self, row: Row) -> Row:
        return {**row, "status": row["status"] and row["status"].upper()}


def test_somebody_elses_step_works_as_ours_do() -> None:
    made = Chain([link(UPPER, {"upper": ["status"]})])
    assert rows(made(History().batch(insert(ORDERS, id="1", status="paid")))) == [
        ("insert", {"id": "1", "status": "PAID", "body": None}, None)
    ]
