"""What happens to partitions that are published as their root, and that the server sends nothing about.

Rows come and go with a partition that is attached or detached, and a TRUNCATE of a partition under its own
name is not the root's (manual, 31.1). So the leaves of each root are remembered and compared. What cannot be
told apart is said as a possibility: a finding too many costs a look, one too few is a divergence that nobody
sees.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

import cdcflow.sql
from cdcflow.model.finding import Finding
from cdcflow.source.catalog import Connection

#: Pages of a leaf that are searched for old rows: those that it was attached with, or that a rewrite has
#: kept, come first. 8 MB take milliseconds.
PAGES = 1_000


@dataclass(frozen=True, slots=True)
class Leaf:
    """A partition that holds rows. `filled`: its file is not empty."""

    name: str
    files: int
    filled: bool


@dataclass(frozen=True, slots=True)
class Root:
    """A published partitioned table and its leaves by their OIDs."""

    name: str
    leaves: dict[int, Leaf]


Roots = dict[int, Root]


@dataclass(frozen=True, slots=True)
class Origin:
    """The transaction that last changed a leaf's entry, and the one, with the command in it, that made the
    leaf a part of the tree."""

    changed: int
    attached: int
    attaching: int


def look(connection: Connection, publication: str) -> tuple[Roots, dict[int, Origin]]:
    """The roots, and the origins of all leaves by their OIDs."""
    roots: Roots = {}
    origins: dict[int, Origin] = {}
    found = connection.execute(cdcflow.sql.load("watched_partitions"), (publication,))
    for oid, root, leaf, name, files, changed, filled, attached, attaching in found:
        roots.setdefault(oid, Root(root, {})).leaves[leaf] = Leaf(name, files, filled)
        origins[leaf] = Origin(changed, attached, attaching)
    return roots, origins


def compare(
    connection: Connection, before: Roots, now: Roots, origins: dict[int, Origin]
) -> Iterator[Finding]:
    """What has happened to the leaves of roots that were there before."""
    for oid, root in now.items():
        had = before.get(oid)
        if had is not None:
            yield from _came(connection, had, root, origins)
            yield from _went(had, root, connection)
            yield from _emptied(connection, had, root, origins)


def _came(connection: Connection, had: Root, root: Root, origins: dict[int, Origin]) -> Iterator[Finding]:
    for oid, leaf in root.leaves.items():
        origin = origins[oid]
        if oid in had.leaves or not leaf.filled:
            continue
        # Rows that were there before the command that attached them never came under the root's name.
        older = "age(xmin) > age({xid}::xid) OR (xmin = {xid}::xid AND cmin::text::bigint < {command})"
        values = {"xid": str(origin.attached), "command": origin.attaching}
        if _has(connection, oid, older, values) is not False:
            yield _finding(
                root,
                f"{leaf.name} was attached to {root.name} with rows: the server sends nothing of them, so the"
                " destinations lack them",
            )


def _went(had: Root, root: Root, connection: Connection) -> Iterator[Finding]:
    for oid, leaf in had.leaves.items():
        if oid in root.leaves or not leaf.filled:
            continue
        if _has(connection, oid, "true", {}) is not False:
            yield _finding(
                root,
                f"{leaf.name} was taken out of {root.name}, detached or dropped: the server sends nothing"
                " about the rows that were in it, so the destinations keep them",
                replace=True,
            )


def _emptied(connection: Connection, had: Root, root: Root, origins: dict[int, Origin]) -> Iterator[Finding]:
    emptied = []
    for oid, leaf in root.leaves.items():
        was = had.leaves.get(oid)
        if was is None or was.files == leaf.files or not was.filled:
            continue
        # A rewrite keeps rows that are older than itself, a TRUNCATE none.
        values = {"xid": str(origins[oid].changed)}
        if not (leaf.filled and _has(connection, oid, "age(xmin) > age({xid}::xid)", values)):
            emptied.append(oid)
    if not emptied:
        return
    filled = [oid for oid, leaf in had.leaves.items() if leaf.filled]
    at_once = len({origins[oid].changed for oid in emptied}) == 1
    shown = ", ".join(root.leaves[oid].name for oid in emptied)
    if at_once and set(emptied) == set(filled):
        yield _finding(
            root,
            f"all of {root.name} was emptied at once: a TRUNCATE of {root.name} itself has reached the"
            f" destinations; one of its partitions by their own names ({shown}) has not",
            replace=True,
        )
    else:
        yield _finding(
            root,
            f"{shown} of {root.name} was emptied by a TRUNCATE under its own name: the server sends nothing"
            " about it, so the destinations keep the rows",
            replace=True,
        )


def _has(connection: Connection, oid: int, condition: str, values: dict[str, Any]) -> bool | None:
    """Whether the first pages of a table hold a row of the condition; None where it is gone or may not be
    read, so that nobody knows."""
    query = sql.SQL("SELECT EXISTS (SELECT FROM ONLY {table} WHERE ctid < {end}::tid AND ({condition}))")
    try:
        named = connection.execute(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.oid = %s",
            (oid,),
        ).fetchone()
        if named is None:
            return None
        literals = {name: sql.Literal(value) for name, value in values.items()}
        found = connection.execute(
            query.format(
                table=sql.Identifier(*named),
                end=sql.Literal(f"({PAGES},0)"),
                condition=sql.SQL(condition).format(**literals),
            )
        ).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        return None
    return bool(found and found[0])


def _finding(root: Root, message: str, *, replace: bool = False) -> Finding:
    """`replace`: rows that are gone at the source are to go."""
    return Finding(
        "warning",
        "partitions",
        message,
        f"where that matters to a destination, read the table again: `cdcflow backfill start"
        f" {root.name}{' --replace' if replace else ''}`",
    )


def to_state(roots: Roots) -> dict[str, Any]:
    """For JSON."""
    return {
        str(oid): [root.name, {str(leaf): [v.name, v.files, v.filled] for leaf, v in root.leaves.items()}]
        for oid, root in roots.items()
    }


def from_state(state: dict[str, Any]) -> Roots:
    """What `to_state` has made. Raises TypeError or ValueError where it is anything else."""
    return {
        int(oid): Root(
            str(name),
            {
                int(leaf): Leaf(str(n), int(files), bool(filled))
                for leaf, (n, files, filled) in leaves.items()
            },
        )
        for oid, (name, leaves) in state.items()
    }
