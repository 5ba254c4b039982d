"""What the server does not send of partitions that are published as their root is found by watching."""

import threading
from itertools import pairwise
from pathlib import Path

import pytest
from psycopg import sql

from cdcflow.source import monitor, partitions
from cdcflow.testing.database import Database
from cdcflow.testing.waiting import eventually
from integration.capturing import Running, capturing, make_slot


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "INTERVAL", 0.05)
    monkeypatch.setattr(monitor, "WATCH_INTERVAL", 0.05)


def partitioned(postgres: Database) -> None:
    postgres.execute("""
        CREATE TABLE m (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE m_0 PARTITION OF m FOR VALUES FROM (0) TO (10);
        CREATE TABLE m_1 PARTITION OF m FOR VALUES FROM (10) TO (20);
        INSERT INTO m SELECT generate_series(0, 19);
        CREATE TABLE other (id int PRIMARY KEY);
        INSERT INTO other VALUES (30);
    """)
    statement = sql.SQL("CREATE PUBLICATION {} FOR TABLE m WITH (publish_via_partition_root)")
    postgres.execute(statement.format(sql.Identifier(postgres.publication)))
    make_slot(postgres)


def said(running: Running) -> list[tuple[str, str]]:
    found = running.latest.get("findings", ())
    return [(f["message"], f["remedy"]) for f in found if f["subject"] == "partitions"]


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        ("ALTER TABLE m ATTACH PARTITION other FOR VALUES FROM (30) TO (40)", "public.other was attached"),
        ("ALTER TABLE m DETACH PARTITION m_0", "public.m_0 was taken out of public.m"),
        ("DROP TABLE m_0", "public.m_0 was taken out of public.m"),
        ("TRUNCATE m_0; INSERT INTO m VALUES (3)", "public.m_0 of public.m was emptied by a TRUNCATE"),
        ("TRUNCATE m_0, m_1", "all of public.m was emptied at once"),
        (
            "BEGIN; CREATE TABLE n (LIKE m INCLUDING ALL); INSERT INTO n VALUES (41);"
            " ALTER TABLE m ATTACH PARTITION n FOR VALUES FROM (40) TO (50);"
            " INSERT INTO m VALUES (42); COMMIT",
            "public.n was attached",
        ),
    ],
)
@pytest.mark.parametrize("down", [False, True], ids=["streaming", "down"])
def test_what_partitions_do_unseen_under_their_root_is_a_finding_that_names_the_backfill(
    postgres: Database, tmp_path: Path, statements: str, words: str, down: bool
) -> None:
    partitioned(postgres)
    journal = tmp_path / "journal"
    with capturing(postgres, journal) as running:
        eventually(lambda: (journal / "watch.json").exists(), what="the first look")
        if not down:
            postgres.execute(statements)
            [(message, remedy)] = eventually(lambda: said(running), what="the finding")
    if down:
        postgres.execute(statements)
        with capturing(postgres, journal) as running:
            [(message, remedy)] = eventually(lambda: said(running), what="the finding")
    assert words in message
    assert "`cdcflow backfill start public.m" in remedy
    assert ("--replace" in remedy) == ("attached" not in message)


def test_what_the_stream_brings_of_partitions_is_no_finding(postgres: Database, tmp_path: Path) -> None:
    partitioned(postgres)
    journal = tmp_path / "journal"
    with capturing(postgres, journal):
        eventually(lambda: (journal / "watch.json").exists(), what="the first look")
    for statements in (
        "BEGIN; CREATE TABLE m_2 PARTITION OF m FOR VALUES FROM (20) TO (30);"
        " INSERT INTO m VALUES (20); COMMIT",
        "CREATE TABLE n (LIKE m INCLUDING ALL);"
        " ALTER TABLE m ATTACH PARTITION n FOR VALUES FROM (40) TO (50);"
        " INSERT INTO m VALUES (42)",
        "VACUUM FULL m_0",
        "DELETE FROM m WHERE id < 10; ALTER TABLE m DETACH PARTITION m_0",
    ):
        for statement in (
            statements.split(";") if statements.startswith(("BEGIN", "CREATE")) else [statements]
        ):
            postgres.execute(statement)
        with capturing(postgres, journal) as running:
            eventually(lambda: running.latest.get("wal_status"), what="a look at the source")
            assert not said(running), statements


def test_a_truncate_that_a_look_waits_for_is_not_missed(postgres: Database) -> None:
    """The look's snapshot is from before, the size that it asks for from afterwards."""
    partitioned(postgres)
    looks = []
    waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with postgres.connect(autocommit=True) as watching, postgres.connect() as other:

        def take_a_look() -> None:
            looks.append(partitions.look(watching, postgres.publication))

        take_a_look()
        other.execute("BEGIN")
        other.execute("TRUNCATE m_0, m_1")
        thread = threading.Thread(target=take_a_look)
        thread.start()
        eventually(lambda: postgres.execute(waits), what="the look waits")
        other.execute("COMMIT")
        thread.join()
        take_a_look()
        found = [
            finding.message
            for (before, _), (now, origins) in pairwise(looks)
            for finding in partitions.compare(watching, before, now, origins)
        ]
    assert len(found) == 1
    assert "all of public.m was emptied at once" in found[0]
