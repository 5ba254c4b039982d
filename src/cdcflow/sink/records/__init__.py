"""For sinks whose destination keeps a record per key, as a CRM does: only the last state of each record is
sent, and only where it is another one than the destination has. Knows no destination by name.

    collapse   a batch → what is to become of which record
    ledger     what the destination holds, as far as it matters: a fingerprint per record
    writer     the two above around a `Destination`, which upserts and removes
    preview    the same, shown and not done
    mapping    `match:` and `fields:` of a flow
    api        calls of a JSON API
"""

from cdcflow.sink.records.api import Api, Reply
from cdcflow.sink.records.collapse import SKIP, Plan, Planned, Record, Unfit
from cdcflow.sink.records.ledger import Ledger, record_id
from cdcflow.sink.records.mapping import Mapped, Match, Nulls, RecordOptions, columns_of, nearest
from cdcflow.sink.records.preview import preview
from cdcflow.sink.records.writer import Destination, Outcome, Refusal, Wanted, Writer

__all__ = [
    "SKIP",
    "Api",
    "Destination",
    "Ledger",
    "Mapped",
    "Match",
    "Nulls",
    "Outcome",
    "Plan",
    "Planned",
    "Record",
    "RecordOptions",
    "Refusal",
    "Reply",
    "Unfit",
    "Wanted",
    "Writer",
    "columns_of",
    "nearest",
    "preview",
    "record_id",
]
