"""The words of the domain as values. Imports nothing of ours but the exceptions and does no I/O."""

from cdcflow.model.backfill import BACKFILLS, Mark, mark_batch, marks
from cdcflow.model.batch import (
    META,
    TRUNCATE_CASCADE,
    TRUNCATE_RESTART_IDENTITY,
    UNCHANGED,
    Batch,
    Change,
    Group,
    Op,
    Unchanged,
    Value,
    concat,
    group_schema,
    join,
    run_length,
)
from cdcflow.model.layout import Attribute, Layout
from cdcflow.model.message import MESSAGES, PrefixPatterns
from cdcflow.model.position import ORIGIN, Position, format_lsn, parse_lsn
from cdcflow.model.relation import Column, Relation, ReplicaIdentity

__all__ = [
    "BACKFILLS",
    "MESSAGES",
    "META",
    "ORIGIN",
    "TRUNCATE_CASCADE",
    "TRUNCATE_RESTART_IDENTITY",
    "UNCHANGED",
    "Attribute",
    "Batch",
    "Change",
    "Column",
    "Group",
    "Layout",
    "Mark",
    "Op",
    "Position",
    "PrefixPatterns",
    "Relation",
    "ReplicaIdentity",
    "Unchanged",
    "Value",
    "concat",
    "format_lsn",
    "group_schema",
    "join",
    "mark_batch",
    "marks",
    "parse_lsn",
    "run_length",
]
