"""Online backfills: rows that were there come into the journal while the stream goes on, each once, in a
place where nothing older follows anything newer."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cdcflow.journal import Reader, verify
from cdcflow.model import BACKFILLS, Change, Op
from cdcflow.source.requests import Kept, Request, Requests
from cdcflow.testing.database import Database
from cdcflow.testing.waiting import eventually
from integration.capturing import Running, capturing, changes, publish

MINUTE = 60.0


@pytest.fixture
def requests(tmp_path: Path) -> Requests:
    return Requests(tmp_path / "backfills")


@contextmanager
def backfilling(postgres: Database, tmp_path: Path, requests: Requests, **changed: Any) -> Iterator[Running]:
    with capturing(postgres, tmp_path / "journal", backfills=requests.folder, **changed) as running:
        yield running


def ended(requests: Requests, request: Request, *states: str) -> Kept:
    """Waits until a backfill is over."""

    def over() -> Kept | None:
        kept = requests.get(request.name)
        return kept if kept.state in (states or ("done", "failed", "cancelled")) else None

    found = eventually(over, timeout=MINUTE, what=f"the end of the backfill, {requests.all()}")
    assert found is not None
    return found


def rows(found: list[Change], table: str) -> dict[str, dict[str, Any]]:
    """The table as somebody has it who has followed the journal from its beginning, by its column id."""
    held: dict[str, dict[str, Any]] = {}
    for change in found:
        if change.relation.name != table:
            continue
        if change.op is Op.DELETE:
            assert change.old is not None
            held.pop(str(change.old["id"]), None)
        elif change.new is not None:
            old = change.old
            if old is not None and old["id"] != change.new["id"]:
                held[str(change.new["id"])] = held.pop(str(old["id"]), {})
            known = held.get(str(change.new["id"]), {})
            values = {k: v for k, v in change.new.items() if v is None or isinstance(v, str)}
            if len(values) == len(change.new) or known:
                held[str(change.new["id"])] = {**known, **values}
    return held


def test_rows_that_were_there_come_between_the_changes_of_the_stream(
    postgres: Database, tmp_path: Path, requests: Requests
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    postgres.execute("INSERT INTO t SELECT g, 0 FROM generate_series(1, 5000) g")
    publish(postgres, "t")

    with backfilling(postgres, tmp_path, requests):
        request = requests.add(Request("", ("public.t",)))
        done = ended(requests, request)
        postgres.execute("UPDATE t SET v = 1 WHERE id = 7")
        eventually(lambda: rows(changes(tmp_path / "journal"), "t").get("7") == {"id": "7", "v": "1"})

    assert done.state == "done"
    assert done.outcomes["public.t"].rows == 5000
    found = changes(tmp_path / "journal")
    assert [c.op for c in found if c.relation == BACKFILLS] == [Op.MESSAGE, Op.MESSAGE]
    assert sum(change.op is Op.READ for change in found) == 5000
    assert len(rows(found, "t")) == 5000
    assert not list(verify(tmp_path / "journal"))
    with Reader(tmp_path / "journal") as reader:
        assert reader.head().offset == 5003
