"""For sinks whose destination keeps a record per key, as a CRM does: only the last state of each record is
sent, and only where it is another one than the destination has. Knows no destination by name.

    collapse   a batch → what is to become of which record
    ledger     what the destination holds, as far as it matters: a fingerprint per record
    writer     the two above around a `Destination`, which upserts and removes
    preview    the same, shown and not done
    mapping    `match:` and `fields:` of a flow
    forms      the forms of values that JSON APIs have in common
    api        calls of a JSON API
    parts      records in calls of so many, several at a time
    sink       a whole sink of records, but for what is its destination's own
"""

from cdcflow.sink.records.api import Api, Reply
from cdcflow.sink.records.collapse import SKIP, Convert, Plan, Planned, Record, Unfit
from cdcflow.sink.records.ledger import Ledger, record_id
from cdcflow.sink.records.mapping import Mapped, Match, Nulls, RecordOptions, columns_of, nearest
from cdcflow.sink.records.parts import in_parts
from cdcflow.sink.records.sink import Problem, RecordSink, ledger_in
from cdcflow.sink.records.writer import Destination, Outcome, Refusal, Wanted, Writer

__all__ = [
    "SKIP",
    "Api",
    "Convert",
    "Destination",
    "Ledger",
    "Mapped",
    "Match",
    "Nulls",
    "Outcome",
    "Plan",
    "Planned",
    "Problem",
    "Record",
    "RecordOptions",
    "RecordSink",
    "Refusal",
    "Reply",
    "Unfit",
    "Wanted",
    "Writer",
    "columns_of",
    "in_parts",
    "ledger_in",
    "nearest",
    "record_id",
]
