"""The layouts of tables, looked up in the catalog while their changes come.

The catalog shows the present, not the state at the position that the stream has reached. A layout says
where it was true, and is never older than the changes that it is given to; what was the case between
two layouts is for their reader to conclude.
"""

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import psycopg

import cdcflow.sql
from cdcflow.errors import SourceUnavailable
from cdcflow.model import MESSAGES, Batch, Group, Layout, Relation, parse_lsn
from cdcflow.source.connection import connect

#: A commit is decoded a moment before other sessions see it; with synchronous replication the moment
#: lasts as long as the standby takes.
VISIBLE_WITHIN = 5.0
#: Seconds between two looks.
LOOK_AGAIN = 0.005

#: Behind every commit that an earlier statement could see. A standby receives WAL before it replays it.
_BEHIND = """
    SELECT CASE WHEN pg_is_in_recovery()
        THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
        ELSE pg_current_wal_insert_lsn() END
"""

#: Whether a transaction of the last two billion is over for everybody.
_VISIBLE = """
    SELECT pg_visible_in_snapshot(
        (now.newest - (now.newest - %(xid)s::bigint & 4294967295))::text::xid8, now.snapshot
    )
    FROM (
        SELECT s AS snapshot, pg_snapshot_xmax(s)::text::bigint AS newest FROM pg_current_snapshot() s
    ) now
"""


def look_up(connection: psycopg.Connection[Any], oids: Iterable[int], lsn: int) -> dict[int, Layout]:
    """The layouts of those of the tables that exist, said to be true at `lsn`."""
    rows = connection.execute(cdcflow.sql.load("layouts"), (list(oids),))
    return {oid: Layout.from_state([files, count, attributes, lsn]) for oid, files, count, attributes in rows}


class Layouts:
    """Gives every batch of a stream the layouts of its relations. One object per session of a stream.

    A relation is looked up when the server has announced it: after DDL, after some maintenance (ANALYZE
    is of that kind), and once per session. In between its layout cannot have changed for the stream.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg.Connection[Any] | None = None
        #: Per table: the relation as the decoder gave it, and with its layout.
        self._known: dict[int, tuple[Relation, Relation]] = {}

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def added_to(self, batch: Batch) -> Batch:
        """The batch with layouts. Raises SourceUnavailable where the server does not answer."""
        # Logical messages are of no table.
        fresh = [g for g in batch.groups if g.relation != MESSAGES and not self._knows(g.relation)]
        if fresh:
            try:
                self._learn(fresh)
            except psycopg.Error as error:
                self.close()
                raise SourceUnavailable(
                    f"the catalog cannot be read: {' '.join(str(error).split())}"
                ) from error
        return replace(
            batch,
            groups=tuple(
                group
                if group.relation == MESSAGES
                else replace(group, relation=self._known[group.relation.oid][1])
                for group in batch.groups
            ),
        )

    def _knows(self, relation: Relation) -> bool:
        known = self._known.get(relation.oid)
        return known is not None and known[0] is relation

    def _learn(self, groups: list[Group]) -> None:
        if self._connection is None:
            self._connection = connect(self._dsn, purpose="capture catalog")
        self._wait_for({group.meta("xid")[len(group) - 1].as_py() for group in groups})
        oids = [group.relation.oid for group in groups]
        found = look_up(self._connection, oids, 0)
        [(behind,)] = self._connection.execute(_BEHIND).fetchall()
        lsn = parse_lsn(behind)
        for group in groups:
            layout = found.get(group.relation.oid)
            known = None if layout is None else replace(layout, lsn=lsn)
            self._known[group.relation.oid] = group.relation, replace(group.relation, layout=known)

    def _wait_for(self, xids: set[int]) -> None:
        """Until the transactions are over for other sessions too: then what they had seen is visible."""
        assert self._connection is not None
        deadline = time.monotonic() + VISIBLE_WITHIN
        for xid in xids:
            while self._connection.execute(_VISIBLE, {"xid": xid}).fetchall() != [(True,)]:
                if time.monotonic() > deadline:
                    raise SourceUnavailable(f"transaction {xid} is decoded but not yet visible")
                time.sleep(LOOK_AGAIN)
