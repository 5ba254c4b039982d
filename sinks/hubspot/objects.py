"""Batches of one object: upsert, archive, look up, associate. What of a batch was written is known exactly
afterwards, whatever the answer, and one bad record never fails its batch.

Every input has an `objectWriteTraceId`, so that an answer says which of them were refused
(developers.hubspot.com/docs/api-reference/error-handling, "Multi-status errors"). Some refusals still come
for the batch as a whole (a conflict of contacts by e-mail, github.com/airbytehq/airbyte/pull/76340): then
halves of it are sent, down to the single record. Repeating is harmless: an upsert by a unique property is
idempotent.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from cdcflow.errors import DeliveryError, Permanent, Transient
from cdcflow.sink.records import SKIP, Ledger, Outcome, Refusal, Wanted, in_parts, record_id
from cdcflow_sinks.hubspot.answer import failure, read_batch, refusal
from cdcflow_sinks.hubspot.client import Client, batches
from cdcflow_sinks.hubspot.settings import Association, HubSpotOptions

#: "Up to 100 records" of every batch endpoint of objects; 2,000 of associations.
MOST = 100
MOST_ASSOCIATIONS = 2_000


class Objects:
    """A `Destination` of records: the object and the mapping of one flow."""

    def __init__(self, client: Client, options: HubSpotOptions, ledger: Ledger, concurrency: int) -> None:
        self._client = client
        self._ledger = ledger
        self._options = options
        self._concurrency = concurrency
        self._path = f"/crm/v3/objects/{options.object}/batch"
        self._match, _ = options.matched

    async def put(self, records: Sequence[Wanted]) -> Outcome:
        return await in_parts(records, MOST, self._put, at_once=self._concurrency)

    async def remove(self, records: Sequence[Wanted]) -> Outcome:
        then = self._archive if self._options.deletes == "archive" else self._clear
        return await in_parts(records, MOST, then, at_once=self._concurrency)

    # Upsert.

    async def _put(self, records: Sequence[Wanted]) -> Outcome:
        outcome, ids = Outcome(), dict[str, str]()
        await self._upsert(records, outcome, ids)
        for association in self._options.associate:
            if outcome.error is None:
                await self._associate(association, records, outcome, ids)
        return outcome

    async def _upsert(self, records: Sequence[Wanted], outcome: Outcome, ids: dict[str, str]) -> None:
        """`ids` gets the record ids of what was written, by key."""
        traces = {str(number): record for number, record in enumerate(records)}
        body = {"inputs": [self._input(trace, record) for trace, record in traces.items()]}
        try:
            reply = await self._client.call("POST", f"{self._path}/upsert", body)
        except DeliveryError as error:
            outcome.fail(error)
            return
        found = read_batch(reply, {trace: record.match for trace, record in traces.items()})
        for trace, identity in found.written.items():
            outcome.done.add(traces[trace].key)
            ids[traces[trace].key] = identity
        for trace, reason in found.refused.items():
            outcome.refused[traces[trace].key] = reason
        if found.error is not None:
            outcome.fail(found.error)
            return
        left = [
            record
            for trace, record in traces.items()
            if trace not in found.written and trace not in found.refused
        ]
        if not left:
            return
        if len(records) == 1:
            if found.split is not None:
                outcome.refused[records[0].key] = found.split
            else:
                outcome.fail(Transient("HubSpot answered that it is done, and names no record as written"))
            return
        middle = (len(left) + 1) // 2
        for half in (left[:middle], left[middle:]):
            if half and outcome.error is None:
                await self._upsert(half, outcome, ids)

    def _input(self, trace: str, record: Wanted) -> dict[str, Any]:
        properties = {
            name: value
            for name, value in (record.values or {}).items()
            if not name.startswith("@") and value is not SKIP
        }
        properties[self._match] = record.match
        return {
            "id": record.match,
            "idProperty": self._match,
            "properties": properties,
            "objectWriteTraceId": trace,
        }

    def shown(self, record: Wanted) -> str:
        """For people: what would be asked for."""
        which = f"the record whose {self._match} is {record.match}"
        if record.values is None:
            names = ", ".join(self._options.mapped)
            return f"archive {which}" if self._options.deletes == "archive" else f"empty {names} of {which}"
        asked = {name: value for name, value in self._input("", record).items() if value}
        lines = [orjson.dumps(asked, option=orjson.OPT_INDENT_2).decode()]
        for one in self._options.associate:
            value = record.values.get(one.field)
            if value not in (None, "", SKIP):
                lines.append(f"associated with the record of {one.to} whose {one.match} is {value}")
        return "\n".join(lines)

    # Removal.

    async def _archive(self, records: Sequence[Wanted]) -> Outcome:
        """By record id, which has to be looked up: `batch/archive` takes nothing else. What is not there is
        archived already, and a record that is archived twice is no error."""
        ids = await self._lookup(self._options.object, self._match, [record.match for record in records])
        outcome = Outcome()
        if ids:
            inputs = [{"id": identity} for identity in sorted(set(ids.values()))]
            reply = await self._client.call("POST", f"{self._path}/archive", {"inputs": inputs})
            if reply.status != 204:
                error = failure(reply)
                if error is None:
                    said = reply.data if isinstance(reply.data, Mapping) else {}
                    outcome.refused.update((record.key, refusal(said)) for record in records)
                    return outcome
                raise error
        outcome.done.update(record.key for record in records)
        return outcome

    async def _clear(self, records: Sequence[Wanted]) -> Outcome:
        """Empties the mapped properties of the records that are there; makes none."""
        ids = await self._lookup(self._options.object, self._match, [record.match for record in records])
        empty = dict.fromkeys(self._options.mapped, "")
        there = [
            Wanted(record.key, record.match, empty, record.known)
            for record in records
            if fold(self._match, record.match) in ids
        ]
        outcome = Outcome(done={record.key for record in records} - {record.key for record in there})
        if there:
            written: dict[str, str] = {}
            await self._upsert(there, outcome, written)
            for association in self._options.associate:
                nothing = {key: (identity, None) for key, identity in written.items()}
                await self._unlink(association, nothing)
        return outcome

    async def read(self, matches: Sequence[str], names: Sequence[str]) -> Mapping[str, Mapping[str, object]]:
        wanted = [name for name in names if not name.startswith("@")]
        found = await self._look(self._options.object, self._match, matches, wanted)
        return {
            match: {name: (one.get("properties") or {}).get(name) or "" for name in wanted}
            for match, one in found.items()
        }

    async def _lookup(self, kind: str, by: str, matches: Sequence[str]) -> dict[str, str]:
        """The record ids of those that are there, by folded match value. Raises DeliveryError."""
        found = await self._look(kind, by, matches, ())
        return {match: str(one["id"]) for match, one in found.items()}

    async def _look(
        self, kind: str, by: str, matches: Sequence[str], names: Sequence[str]
    ) -> dict[str, Mapping[str, Any]]:
        found: dict[str, Mapping[str, Any]] = {}
        distinct = list({fold(by, match): match for match in matches}.values())
        for part in batches(distinct, MOST):
            inputs = [{"id": match} for match in part]
            body = {"idProperty": by, "properties": [by, *names], "inputs": inputs}
            reply = await self._client.call("POST", f"/crm/v3/objects/{kind}/batch/read", body)
            data = reply.data
            # 404: none of them is there, told from an unknown object by the list of what is there: none.
            if reply.status in (200, 207, 404) and isinstance(data, Mapping) and "results" in data:
                for one in data["results"]:
                    value = (one.get("properties") or {}).get(by)
                    if value is not None:
                        found[fold(by, str(value))] = one
                continue
            error = failure(reply)
            raise error if error is not None else Transient(f"HubSpot answered {reply.status} to a look-up")
        return found

    # Associations (developers.hubspot.com/docs/api-reference/crm-associations-v4/guide).

    async def _associate(
        self, association: Association, records: Sequence[Wanted], outcome: Outcome, ids: Mapping[str, str]
    ) -> None:
        given: dict[str, str] = {}
        for record in records:
            value = (record.values or {}).get(association.field)
            if record.key in ids and isinstance(value, str):
                given[record.key] = value
        if not given:
            return
        wanted = {key: value for key, value in given.items() if value}
        try:
            targets = await self._lookup(association.to, association.match, list(wanted.values()))
            now = {key: targets.get(fold(association.match, value)) for key, value in wanted.items()}
            await self._unlink(association, {key: (ids[key], now.get(key)) for key in given})
            pairs = []
            for key, target in now.items():
                if target is None:
                    outcome.done.discard(key)
                    outcome.refused[key] = Refusal(
                        f"the record is written, but not associated: no {association.to} have the row's"
                        f" {association.column} as {association.match}; retry when they are there"
                    )
                else:
                    pairs.append((key, ids[key], target))
            links = [(record_id(key), target) for key, _, target in pairs]
            await asyncio.to_thread(self._ledger.linking, association.field, links)
            for part in batches(pairs, MOST_ASSOCIATIONS):
                await self._link(association, part, outcome)
        except DeliveryError as error:
            # What is not associated is not done.
            outcome.done.difference_update(given)
            outcome.fail(error)

    async def _unlink(self, association: Association, now: Mapping[str, tuple[str, str | None]]) -> None:
        """Removes what was made before and is not `now`: by key, the record's id and that of the other one.
        Of a label, that label: there may be others between the two. Raises DeliveryError."""
        records = {record_id(key): one for key, one in now.items()}
        known = await asyncio.to_thread(self._ledger.links, association.field, list(records))
        former = [(record, target) for record, target in known if target != records[record][1]]
        path = f"/crm/v4/associations/{self._options.object}/{association.to}/batch"
        for part in batches(former, MOST_ASSOCIATIONS):
            inputs: list[dict[str, Any]] = []
            for record, target in part:
                one: dict[str, Any] = {"from": {"id": records[record][0]}, "to": {"id": target}}
                if association.label is None:
                    one["to"] = [one["to"]]
                else:
                    one["types"] = [_label(association.label)]
                inputs.append(one)
            what = "archive" if association.label is None else "labels/archive"
            reply = await self._client.call("POST", f"{path}/{what}", {"inputs": inputs})
            if reply.status != 204:
                raise failure(reply) or Permanent(
                    f"HubSpot does not remove associations with {association.to} ({reply.status})",
                    hint="look whether the label of `associate` still exists",
                )
            await asyncio.to_thread(self._ledger.unlinked, association.field, part)

    async def _link(
        self, association: Association, pairs: Sequence[tuple[str, str, str]], outcome: Outcome
    ) -> None:
        path = f"/crm/v4/associations/{self._options.object}/{association.to}/batch"
        inputs: list[dict[str, Any]] = [
            {"from": {"id": source}, "to": {"id": target}} for _, source, target in pairs
        ]
        if association.label is None:
            reply = await self._client.call("POST", f"{path}/associate/default", {"inputs": inputs})
        else:
            for one in inputs:
                one["types"] = [_label(association.label)]
            reply = await self._client.call("POST", f"{path}/create", {"inputs": inputs})
        if reply.status not in (200, 201, 207) or not isinstance(reply.data, Mapping):
            error = failure(reply)
            if error is not None:
                raise error
        said = reply.data if isinstance(reply.data, Mapping) else {}
        failed = {
            str(source)
            for one in said.get("errors") or ()
            if isinstance(one, Mapping)
            for source in (one.get("context") or {}).get("fromObjectId", ())
        }
        if reply.status not in (200, 201, 207):
            failed = {source for _, source, _ in pairs}
        for key, source, _ in pairs:
            if source in failed:
                outcome.done.discard(key)
                outcome.refused[key] = Refusal(
                    f"the record is written, but HubSpot does not associate it with its {association.to}",
                    refusal(said).answer,
                )


def _label(number: int) -> dict[str, Any]:
    return {"associationCategory": "USER_DEFINED", "associationTypeId": number}


def fold(name: str, value: str) -> str:
    """HubSpot keeps e-mail addresses in lower case, and so takes two spellings for the same."""
    return value.strip().lower() if name == "email" else value
