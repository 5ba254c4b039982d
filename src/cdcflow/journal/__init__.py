"""The journal: an append-only log of decoded changes on local disk, one writer, any number of readers.

An offset is a change's sequence number: the first change ever has 0. A checkpoint is the next offset to
read, so the lag in changes is the head's offset minus the checkpoint.
"""

from cdcflow.journal.contents import Chunk, Packed, Tail, pack
from cdcflow.journal.head import Head
from cdcflow.journal.inspection import Damage, SegmentInfo, inspect, verify
from cdcflow.journal.layout import Asked, Identity, Origin, Segment
from cdcflow.journal.ledger import Key, Ledger, Spans, Step, Work
from cdcflow.journal.reader import Reader
from cdcflow.journal.writer import Writer

__all__ = [
    "Asked",
    "Chunk",
    "Damage",
    "Head",
    "Identity",
    "Key",
    "Ledger",
    "Origin",
    "Packed",
    "Reader",
    "Segment",
    "SegmentInfo",
    "Spans",
    "Step",
    "Tail",
    "Work",
    "Writer",
    "inspect",
    "pack",
    "verify",
]
