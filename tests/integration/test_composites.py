"""Composites as objects by attribute, for who says which attributes they have; Postgres' own JSON judges."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cdcflow.model import BACKFILLS, Value
from cdcflow.testing.database import Database
from cdcflow.testing.journals import read_all
from cdcflow.testing.steps import chain
from integration.capturing import capturing, journaled, publish

#: Marks that record_out and array_out quote, in each other too.
MARKS = [
    "",
    " ",
    ",",
    "(",
    ")",
    '"',
    "\\",
    "{",
    "}",
    "NULL",
    "null",
    "ü€",
    "\n",
    "\t",
    "a",
    "'",
    '""',
    "\\\\",
]

SHAPE = {"name": "text", "n": "int4", "inside": {"ok": "bool", "word": "text"}, "words": "text[]"}


def test_composites_are_the_objects_that_postgres_says_on_both_paths(
    postgres: Database, tmp_path: Path
) -> None:
    postgres.execute("CREATE TYPE inside AS (ok bool, word text)")
    postgres.execute("CREATE TYPE pair AS (name text, n int, inside inside, words text[])")
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, v pair, w pair[])")
    draw = random.Random(7)
    _insert(postgres, draw, range(200))
    publish(postgres, "t")
    with capturing(postgres, tmp_path / "journal", backfill=True):
        journaled(tmp_path / "journal", 200)
        _insert(postgres, draw, range(200, 400))
        journaled(tmp_path / "journal", 400)
    step = chain({"composite": {"v": SHAPE, "w": SHAPE}})
    changes = [change for batch in read_all(tmp_path / "journal") for change in step(batch).changes()]
    changes = [change for change in changes if change.relation != BACKFILLS]
    found = {int(str((c.new or {})["id"])): [_read((c.new or {})[name]) for name in "vw"] for c in changes}
    wanted = postgres.execute("SELECT id, to_json(v)::text, to_json(w)::text FROM t ORDER BY id")
    assert found == {number: [_read(text) for text in texts] for number, *texts in wanted}
    assert len(found) == 400


def _read(value: Value) -> Any:
    return None if value is None else json.loads(str(value))


def _insert(postgres: Database, draw: random.Random, ids: Sequence[int]) -> None:
    def text() -> str | None:
        return None if draw.random() < 0.2 else "".join(draw.choices(MARKS, k=draw.randrange(5)))

    def pair() -> tuple[str, list[Any]]:
        """An expression, and what goes into it."""
        if draw.random() < 0.1:
            return "NULL::pair", []
        inside, given = "NULL::inside", list[Any]()
        if draw.random() < 0.8:
            inside, given = "ROW(%s::bool, %s::text)::inside", [draw.choice([True, False, None]), text()]
        words = None if draw.random() < 0.2 else [text() for _ in range(draw.randrange(3))]
        values = [text(), draw.choice([None, -(2**31), 7]), *given, words]
        return f"ROW(%s::text, %s::int, {inside}, %s::text[])::pair", values

    for number in ids:
        single, given = pair()
        several = [pair() for _ in range(draw.randrange(3))]
        array = ", ".join(expression for expression, _ in several)
        values = [number, *given, *(value for _, part in several for value in part)]
        postgres.execute(f"INSERT INTO t VALUES (%s, {single}, ARRAY[{array}]::pair[])", values)


def test_a_value_with_other_attributes_than_were_named_is_refused(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TYPE pair AS (a int, b text)")
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, v pair)")
    publish(postgres, "t")
    with capturing(postgres, tmp_path / "journal"):
        postgres.execute("INSERT INTO t VALUES (1, ROW(1, ''))")
        postgres.execute("ALTER TYPE pair ADD ATTRIBUTE c int")
        postgres.execute("INSERT INTO t VALUES (2, ROW(1, NULL, 3)), (3, NULL)")
        journaled(tmp_path / "journal", 3)
    step = chain({"composite": {"v": {"a": "int4", "b": "text"}}})
    made = [step(batch) for batch in read_all(tmp_path / "journal")]
    kept = {str((c.new or {})["id"]): _read((c.new or {})["v"]) for batch in made for c in batch.changes()}
    assert kept == {"1": {"a": 1, "b": ""}, "3": None}
    [reason] = [reason for batch in made for reason in batch.refused.values()]
    assert reason == "the value of v has 3 attributes, and 2 are named: name those that its type has now"
