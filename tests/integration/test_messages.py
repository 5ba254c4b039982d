"""`pg_logical_emit_message` as changes: what a real server sends, once and in order, whatever is restarted
or configured in between."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cdcflow.journal import Asked, Reader, Writer
from cdcflow.journal.layout import read_manifest
from cdcflow.model import Batch, Op, Position, parse_lsn
from cdcflow.source import capture as capture_module
from cdcflow.testing.database import Database
from cdcflow.testing.waiting import eventually
from integration.capturing import capturing, changes, journaled, publish


@pytest.fixture(params=["c", "py"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    name = {"c": "cdcflow.decode._kernel", "py": "cdcflow.decode.twin"}[request.param]
    module = pytest.importorskip(name, reason="the compiled decoder is not built")
    monkeypatch.setattr(capture_module, "Decoder", module.Decoder)


def emit(postgres: Database, prefix: str, content: str, *, transactional: bool = True) -> int:
    """Returns the LSN that the function gives."""
    [(lsn,)] = postgres.execute(
        "SELECT pg_logical_emit_message(%s, %s, %s)::text", [transactional, prefix, content]
    )
    return parse_lsn(lsn)


def said(journal: Path) -> list[str]:
    """The rows' ids and the messages' contents, in order."""
    return [str((c.new or {})["content" if c.op is Op.MESSAGE else "id"]) for c in changes(journal)]


def confirmed(postgres: Database) -> int:
    [(lsn,)] = postgres.execute(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", [postgres.slot]
    )
    return parse_lsn(lsn)


def places(journal: Path) -> list[tuple[Position, str]]:
    positions = [change.position for change in changes(journal)]
    return list(zip(positions, said(journal), strict=True))


def in_order(journal: Path) -> bool:
    positions = [c.position for c in changes(journal)]
    return positions == sorted(set(positions))


@pytest.mark.usefixtures("decoder")
def test_messages_come_once_and_in_order_with_the_changes_around_them(
    postgres: Database, tmp_path: Path
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    publish(postgres, "t")
    journal = tmp_path / "journal"
    wanted = ("orders.*", "job")
    with capturing(postgres, journal, messages=wanted):
        with postgres.connect(autocommit=False) as connection:
            connection.execute("INSERT INTO t VALUES (1)")
            connection.execute("SELECT pg_logical_emit_message(true, 'orders.paid', 'first €')")
            connection.execute("SELECT pg_logical_emit_message(true, 'audit', 'not wanted')")
            connection.execute("SELECT pg_logical_emit_message(true, 'cdcflow.x', 'our own')")
            # At once, though its transaction is still open; and kept, though a part is rolled back.
            connection.execute("SAVEPOINT s")
            connection.execute("SELECT pg_logical_emit_message(false, 'job', 'before')")
            connection.execute("SELECT pg_logical_emit_message(true, 'job', 'rolled back')")
            connection.execute("ROLLBACK TO s")
            connection.execute("INSERT INTO t VALUES (2)")
            connection.commit()
        postgres.execute("SELECT pg_logical_emit_message(true, 'orders.raw', '\\xff00'::bytea)")
        found = journaled(journal, 5)
    assert [(c.op.word, c.position.ordinal) for c in found] == [
        ("message", 0),
        ("insert", 1),
        ("message", 2),
        ("insert", 5),
        ("message", 1),
    ]
    assert [c.new for c in found if c.op is Op.MESSAGE] == [
        {"prefix": "job", "content": "before", "bytes": None, "transactional": "f"},
        {"prefix": "orders.paid", "content": "first €", "bytes": None, "transactional": "t"},
        {"prefix": "orders.raw", "content": None, "bytes": "\\xff00", "transactional": "t"},
    ]
    assert len({c.xid for c in found[1:4]}) == 1
    assert found[0].xid == 0
    # When the server sent it: it has no commit.
    assert abs(found[0].commit_time - found[1].commit_time) < 60_000_000
    assert in_order(journal)

    # Nothing but messages, in both ways, over several restarts.
    for start in range(3):
        emit(postgres, "job", f"{start} down", transactional=False)
        emit(postgres, "orders.sent", f"{start} down too")
        with capturing(postgres, journal, messages=wanted):
            lsn = emit(postgres, "job", f"{start} up", transactional=False)
            emit(postgres, "audit", "not wanted", transactional=False)
            found = journaled(journal, 5 + 3 * (start + 1))
            assert found[-1].position == Position(lsn, 0)  # the LSN that the function returned
    assert said(journal)[5:] == [
        text for start in range(3) for text in (f"{start} down", f"{start} down too", f"{start} up")
    ]
    assert in_order(journal)


def test_messages_of_savepoints_have_one_place_whenever_they_are_read(
    postgres: Database, tmp_path: Path
) -> None:
    # The server orders a message by its record's end, where the next record begins: the two may change
    # places when they belong to different subtransactions.
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    publish(postgres, "t")
    copy = f"{postgres.slot}_copy"
    postgres.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", [postgres.slot, copy])
    with postgres.connect(autocommit=False) as connection:
        for number in range(100):
            connection.execute("SAVEPOINT s")
            connection.execute("SELECT pg_logical_emit_message(true, 'job', %s)", [f"{number}"])
            connection.execute("RELEASE s")
            connection.execute("INSERT INTO t VALUES (%s)", [1000 + number])
        connection.commit()
    with capturing(postgres, tmp_path / "whole", messages=("job",)):
        journaled(tmp_path / "whole", 200)
    with capturing(postgres, tmp_path / "again", messages=("job",), slot=copy):
        journaled(tmp_path / "again", 200)
    assert places(tmp_path / "again") == places(tmp_path / "whole")
    for number in range(100):
        at = {text: index for index, text in enumerate(said(tmp_path / "whole"))}
        assert abs(at[str(1000 + number)] - at[str(number)]) == 1


def test_messages_that_nobody_wants_cost_no_journal_and_hold_no_wal(
    postgres: Database, tmp_path: Path
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    publish(postgres, "t")
    for wanted in ((), ("job",)):
        with capturing(postgres, tmp_path / "journal", messages=wanted) as running:
            before = running.capture._bytes
            emit(postgres, "audit", "x" * 10_000, transactional=False)
            end = emit(postgres, "audit", "x" * 10_000)
            eventually(lambda end=end: confirmed(postgres) >= end, what="the confirmation")  # type: ignore[misc]
            # Without any pattern the server is not even asked for them.
            assert (running.capture._bytes - before > 20_000) is bool(wanted)
    assert changes(tmp_path / "journal") == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("*",), ("*",)),
        (("job",), ("*",)),
        (("*",), ("job",)),
        ((), ("*",)),
        (("*",), ()),
    ],
    ids=["same", "wider", "narrower", "on", "off"],
)
def test_a_restart_in_the_middle_of_a_transaction_goes_on_whatever_is_now_wanted(
    postgres: Database, tmp_path: Path, before: Sequence[str], after: Sequence[str]
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    publish(postgres, "t")
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    slot_copy = f"{postgres.slot}_copy"
    postgres.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", [postgres.slot, slot_copy])
    start = confirmed(postgres)
    with postgres.connect(autocommit=False) as connection:
        for number in range(1, 101):
            connection.execute("INSERT INTO t VALUES (%s)", [number])
            for prefix in ("job", "audit"):
                connection.execute(
                    "SELECT pg_logical_emit_message(true, %s, %s)", [prefix, f"{prefix} {number}"]
                )
        connection.commit()
    emit(postgres, "job", "behind", transactional=False)
    postgres.execute("INSERT INTO t VALUES (101)")

    def wanted_of(number: int, prefixes: Sequence[str]) -> list[str]:
        found = [str(number)]
        return found + [f"{p} {number}" for p in ("job", "audit") if "*" in prefixes or p in prefixes]

    expected = [text for number in range(1, 101) for text in wanted_of(number, before)]
    expected += ["behind", "101"] if before else ["101"]
    with capturing(postgres, whole, messages=tuple(before)):
        journaled(whole, len(expected))
    assert said(whole) == expected

    # A journal that holds the first part of the transaction, as a kill leaves it behind.
    manifest = read_manifest(whole)
    assert manifest is not None
    assert manifest.asked.messages is bool(before)
    with Reader(whole) as reader:
        batch = reader.read(0, max_changes=10**6, max_bytes=10**9)[0]
    count = len(expected) // 3
    part = batch.slice(0, count)
    last = [change.position for change in part.changes()][-1]
    with Writer.open(torn, replace(manifest.identity, slot=slot_copy)) as writer:
        writer.ask(Asked(bool(before)))
        writer.progress(start, 0)
        writer.append(Batch(part.groups, count, last))
        writer.sync()
    # What is not journaled yet comes as it is wanted now. But a transaction that was begun without
    # messages is ended without.
    now = after if before else ()
    rest: list[str] = []
    for number in range(1, 101):
        texts = ["job", "audit"] if before else []
        for ordinal, text in enumerate([str(number), *(f"{p} {number}" for p in texts)], 1):
            place = (number - 1) * (1 + len(texts)) + ordinal
            if place > last.ordinal and text in wanted_of(number, now):
                rest.append(text)
    rest += ["behind", "101"] if after else ["101"]
    with capturing(postgres, torn, slot=slot_copy, messages=tuple(after)):
        journaled(torn, count + len(rest))
        postgres.execute("INSERT INTO t VALUES (102)")
        journaled(torn, count + len(rest) + 1)
    assert said(torn) == [*expected[:count], *rest, "102"]
    assert in_order(torn)
    kept = read_manifest(torn)
    assert kept is not None
    assert kept.asked.messages is bool(after)
