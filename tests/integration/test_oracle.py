"""Random values of every type, each on both paths, with Postgres itself as the judge.

CDCFLOW_SEED=7 replays the values of a run; `make oracle ARGS="--values 200000"` takes more of them.
"""

import os
import secrets
from pathlib import Path
from random import Random

import pyarrow as pa
import pytest

from cdcflow.testing.database import Database
from cdcflow.types.datetime import Date
from cdcflow.types.interval import Interval
from oracle.check import check
from oracle.values import TYPES, array

#: About twenty of each type, and of its arrays: a second or two.
VALUES = 4_000


def test_random_values_of_every_type_are_what_postgres_says(postgres: Database, tmp_path: Path) -> None:
    seed = int(os.environ.get("CDCFLOW_SEED") or secrets.randbits(32))

    report = check(postgres, tmp_path, values=VALUES, seed=seed)

    print(report)
    assert not report.differences, str(report)
    assert report.values > VALUES / 2


def test_a_converter_that_is_wrong_is_found(
    postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Interval, "json", lambda _self, text: text)
    monkeypatch.setattr(Date, "_convert", lambda _self, values: pa.nulls(len(values), pa.date32()))

    report = check(postgres, tmp_path, values=500, seed=1)

    assert all(line.startswith(("interval", "date")) for line in report.differences)
    assert any("JSON" in line for line in report.differences)
    assert any("warehouse (DATE)" in line for line in report.differences)
    assert "CDCFLOW_SEED=1" in str(report)


def test_a_seed_gives_the_same_values_again() -> None:
    def values(seed: int) -> list[str]:
        r = Random(seed)
        return [make for kind in TYPES for make in (kind.make(r), array(r, kind))]

    assert values(7) == values(7)
    assert values(7) != values(8)
