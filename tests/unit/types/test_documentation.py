"""The type table of the documentation, and the families that it is made of."""

from pathlib import Path

import orjson
import pyarrow as pa
import pytest

from cdcflow.types import arrays, declared
from cdcflow.types.__main__ import page
from cdcflow.types.base import Known
from cdcflow.types.builtin import BY_OID, FAMILIES

DOCUMENT = Path(__file__).parents[3] / "docs" / "types.md"
ALL = [
    known
    for family in (*FAMILIES, *declared.EXTENSIONS, arrays.FAMILY, declared.FAMILY)
    for known in family.types
]


def test_the_type_table_is_what_the_code_says() -> None:
    assert DOCUMENT.read_text() == page(), "run: python -m cdcflow.types > docs/types.md"


def test_every_built_in_type_and_its_array_belong_to_one_family() -> None:
    oids = [
        oid for family in FAMILIES for known in family.types for oid in (known.oid, known.array_oid) if oid
    ]

    assert sorted(oids) == sorted(BY_OID)


@pytest.mark.parametrize("known", ALL, ids=lambda known: known.typname)
def test_the_example_of_a_type_is_a_value_of_it(known: Known) -> None:
    converted = known.kind.to_arrow(pa.array([None, known.example], pa.string()))

    assert converted.type == known.kind.arrow
    assert converted.is_valid().to_pylist() == [False, True]
    orjson.loads(orjson.dumps(known.kind.json(known.example)))
