"""What a batch would become at a destination of records, without asking it: the record that each change ends
in, what would be sent of it, and that nothing would where the ledger knows the destination to have it so."""

from collections.abc import Callable, Mapping, Sequence

from cdcflow.model import Batch
from cdcflow.sink.protocol import Rendered
from cdcflow.sink.records.collapse import Plan, collapse
from cdcflow.sink.records.ledger import Ledger, record_id
from cdcflow.sink.records.writer import Wanted, mark_of


class _Nowhere:
    """Nothing was delivered yet. Implements `Sources`."""

    def matches(self, _keys: Sequence[bytes]) -> Mapping[bytes, str]:
        return {}

    def of_table(self, _origin: str) -> Mapping[bytes, str]:
        return {}


def preview(
    batch: Batch,
    plans: Mapping[str, Plan],
    ledger: Ledger | None,
    *,
    follow: bool,
    only_changes: bool,
    target: str,
    text: Callable[[Wanted], str],
) -> list[Rendered]:
    """`ledger` is open for looking, or None where nothing was delivered. `text` renders a record to be
    written or removed; the rest is as in `Writer`. Changes of one record are sent as one."""
    found = collapse(batch, plans, (ledger or _Nowhere()) if follow else None)
    ids = [record_id(key) for key in found.records]
    sent = ledger.sent(ids) if ledger is not None and ids else {}
    names = frozenset[str]().union(*(plan.names for plan in plans.values()))
    shown = []
    for key, record in found.records.items():
        known = sent.get(record_id(key))
        if only_changes and known is not None and known == mark_of(record, names):
            said = f"nothing: the record {record.match} is there as it is to be"
        else:
            said = text(Wanted(key, record.match, record.state(), known is not None))
        shown.append(Rendered(tuple(dict.fromkeys(record.indexes)), target, said))
    shown += [Rendered((index,), target, f"refused: {why}") for index, why in found.refused.items()]
    shown += [Rendered((index,), target, "nothing: no record is touched") for index in found.idle]
    return shown
