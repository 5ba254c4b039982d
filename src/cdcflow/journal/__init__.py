"""The journal: an append-only log of decoded changes on local disk, one writer, any number of readers.

An offset is a change's sequence number: the first change ever has 0. A checkpoint is the next offset to
read, so the lag in changes is the head's offset minus the checkpoint.
"""

from cdcflow.journal.contents import Tail
from cdcflow.journal.head import Head
from cdcflow.journal.inspection import Damage, SegmentInfo, inspect, verify
from cdcflow.journal.layout import Asked, Identity, Origin, Segment
from cdcflow.journal.reader import Reader
from cdcflow.journal.writer import Writer

__all__ = [
    "Asked",
    "Damage",
    "Head",
    "Identity",
    "Origin",
    "Reader",
    "Segment",
    "SegmentInfo",
    "Tail",
    "Writer",
    "inspect",
    "verify",
]
