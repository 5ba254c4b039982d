"""Generated SQL expressions over generated rows, with Postgres itself as the judge.

CDCFLOW_SEED=7 replays a run; `make differential ARGS="--expressions 20000 --rows 50"` makes more of them.
"""

import os

import pytest

from cdcflow.testing.database import Database
from cdcflow.transform.expression import exact
from differential.check import check
from differential.database import utf8_database
from differential.generate import Generator, Made
from differential.signatures import differing

#: A few seconds.
EXPRESSIONS, ROWS = 600, 20
#: The same expressions every time, so that a failure is the change's doing; `make differential` draws others.
SEED = 7


def test_generated_expressions_give_what_postgres_gives_or_are_refused(postgres: Database) -> None:
    seed = int(os.environ.get("CDCFLOW_SEED") or SEED)

    with utf8_database(postgres.server) as connection:
        report = check(connection, expressions=EXPRESSIONS, rows_each=ROWS, seed=seed)

    print(report)
    assert not report.differences, str(report)
    assert report.compared > EXPRESSIONS * 0.7


def test_a_kernel_that_is_wrong_is_found(newest_postgres: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "MIN_SIGNIFICANT", 12)
    # By chance, few of some hundred are numbers divided.
    monkeypatch.setattr(Generator, "expression", lambda _self: Made("numeric_1 / 7"))

    with utf8_database(newest_postgres.server) as connection:
        report = check(connection, expressions=1, rows_each=20, seed=1)

    assert report.differences
    assert all("/" in line for line in report.differences)
    assert "--seed 1" in str(report)


def test_the_catalog_is_what_postgres_says(postgres: Database) -> None:
    """Of PostgreSQL 18 exactly; an older server may lack some of it, but has nothing else."""
    missing, unknown = differing(postgres.connect())

    assert not unknown
    if postgres.server.version == 18:
        assert not missing
