"""Which tables a flow gets. Looks a relation up in the flow's patterns once per generation, and keeps
the offsets of what it drops, so that dropped changes still move the checkpoint.

A step of a flow is a pure function from batch to batch, of which this is the first of any chain.
"""

from cdcflow.model import Batch, Relation
from cdcflow.model.patterns import TablePatterns


class Select:
    """Keeps the changes of the tables that the patterns mean, and drops all others."""

    def __init__(self, patterns: TablePatterns) -> None:
        self._patterns = patterns
        #: Verdicts by fingerprint: as many as there are table generations in the journal.
        self._bound: dict[str, bool] = {}

    def wants(self, relation: Relation) -> bool:
        verdict = self._bound.get(relation.fingerprint)
        if verdict is None:
            verdict = self._patterns.matches(relation.schema, relation.name)
            self._bound[relation.fingerprint] = verdict
        return verdict

    def __call__(self, batch: Batch) -> Batch:
        kept = [group for group in batch.groups if self.wants(group.relation)]
        return batch if len(kept) == len(batch.groups) else batch.with_groups(kept)
