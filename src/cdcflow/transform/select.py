"""Which tables, logical messages and rows of backfills a flow gets. Looks a relation up in the flow's
patterns once per generation, and keeps the offsets of what it drops, so that dropped changes still move
the checkpoint.

A step of a flow is a pure function from batch to batch, of which this is the first of any chain.
"""

from operator import is_

import pyarrow as pa

from cdcflow.model import BACKFILLS, MESSAGES, Batch, Group, PrefixPatterns, Relation, marks
from cdcflow.model.patterns import TablePatterns


class Select:
    """Keeps the changes of the tables and the messages that the patterns mean, and drops all others.

    No pattern of tables means messages; without patterns of prefixes, all of those are dropped. What a
    backfill has read for other flows than `flow` is dropped; so are its marks, unless `marked`.
    """

    def __init__(
        self,
        patterns: TablePatterns,
        prefixes: PrefixPatterns | None = None,
        *,
        flow: str | None = None,
        marked: bool = False,
    ) -> None:
        self._patterns = patterns
        self._flow = flow
        self._marked = marked
        self._prefixes = prefixes or PrefixPatterns()
        #: Verdicts by fingerprint: as many as there are table generations in the journal.
        self._bound: dict[str, bool] = {}

    def wants(self, relation: Relation) -> bool:
        verdict = self._bound.get(relation.fingerprint)
        if verdict is None:
            verdict = self._patterns.matches(relation.schema, relation.name)
            self._bound[relation.fingerprint] = verdict
        return verdict

    def __call__(self, batch: Batch) -> Batch:
        if batch.audience and self._flow is not None and self._flow not in batch.audience:
            return batch.with_groups(())
        kept = []
        for group in batch.groups:
            if group.relation == MESSAGES:
                kept.append(self._messages(group))
            elif group.relation == BACKFILLS:
                kept += [self._marks(group)] if self._marked else []
            elif self.wants(group.relation):
                kept.append(group)
        same = len(kept) == len(batch.groups) and all(map(is_, kept, batch.groups))
        return batch if same else batch.with_groups(kept)

    def _marks(self, group: Group) -> Group:
        wanted = [self._patterns.matches(mark.schema, mark.name) for mark in marks(group)]
        return group if all(wanted) else group.take(pa.array(wanted, pa.bool_()))

    def _messages(self, group: Group) -> Group:
        encoded = group.new(0).dictionary_encode()
        wanted = [self._prefixes.matches(prefix) for prefix in encoded.dictionary.to_pylist()]
        return group if all(wanted) else group.take(pa.array(wanted, pa.bool_()).take(encoded.indices))
