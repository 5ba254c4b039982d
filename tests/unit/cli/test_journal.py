"""`cdcflow journal`, on a journal that a real writer wrote."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from cdcflow.journal import Identity, Writer
from cdcflow.model import Op
from cdcflow.testing.batches import make_batch, make_relation

Run = Callable[..., Result]

IDENTITY = Identity("7300000000000000001", 1, "shop", "cdcflow", "cdcflow")


@pytest.fixture
def journal(project: Path) -> Path:
    """Where the configuration looks for it, with two batches of three changes each."""
    path = project / "state" / "journal"
    path.parent.mkdir()
    relation = make_relation("orders")
    with Writer.open(path, IDENTITY) as writer:
        for lsn in (0x100, 0x200):
            rows = [(Op.INSERT, {"id": str(lsn + i)}, None) for i in range(3)]
            writer.append(make_batch(relation, rows, commit_lsn=lsn))
        writer.sync()
    return path


def test_segments_are_listed(journal: Path, run: Run) -> None:
    result = run("journal", "inspect")
    assert result.exit_code == 0
    header, line = result.stdout.splitlines()
    found = dict(zip(header.split("\t"), line.split("\t"), strict=True))
    assert (found["base"], found["end"]) == ("0", "6")
    assert (found["first"], found["last"]) == ("0/100:1", "0/200:3")
    assert found["tables"] == "public.orders"
    assert "1 segment(s), 6 change(s)" in result.stderr


def test_segments_are_listed_as_json(journal: Path, run: Run) -> None:
    (found,) = json.loads(run("journal", "inspect", str(journal), "--json").stdout)
    assert (found["base"], found["end"], found["tables"]) == (0, 6, ["public.orders"])
    assert found["first_commit_time"] == "2026-01-01 00:00:00.000+00:00"
    assert found["bad_at"] is None


def test_a_sound_journal_is_told_to_be_sound(journal: Path, run: Run) -> None:
    result = run("journal", "verify")
    assert result.exit_code == 0
    assert result.stderr.endswith(": sound\n")
    assert run("journal", "verify", "--json").stdout == "[]\n"


def test_damage_is_told_with_its_place_and_ends_with_3(journal: Path, run: Run) -> None:
    (segment,) = journal.glob("*.seg")
    data = bytearray(segment.read_bytes())
    place = 40  # within the segment's first frame, so that sound ones follow
    data[place] ^= 0xFF
    segment.write_bytes(data)
    result = run("journal", "verify", "--json")
    assert result.exit_code == 3
    (found, *_) = json.loads(result.stdout)
    assert found["segment"] == segment.name
    assert found["at"] <= place
    assert "is damaged in" in result.stderr
    assert segment.name in run("journal", "verify").stdout


def test_a_torn_tail_is_no_damage(journal: Path, run: Run) -> None:
    (segment,) = journal.glob("*.seg")
    with segment.open("ab") as file:
        file.write(b"\0" * 7)
    result = run("journal", "verify")
    assert result.exit_code == 0
    assert "torn tail" in result.stdout
    assert "sound up to a torn tail" in result.stderr


def test_a_place_without_a_journal_ends_with_3(project: Path, run: Run) -> None:
    for command in ("inspect", "verify"):
        result = run("journal", command)
        assert result.exit_code == 3
        assert str(project / "state" / "journal") in result.stderr
