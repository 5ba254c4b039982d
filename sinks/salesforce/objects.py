"""Records of one object through sObject Collections: upsert by external ID, delete, look up. What of a call
was written is known exactly afterwards, and one bad record never fails its call.

A call answers 200 with a result per record, in the order of the records. What is refused as a whole (a value
that cannot be read as its field's type) is sent in halves, down to the single record.
platform/api-rest/guide/resources-composite-sobjects-collections-upsert.html.
"""

import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from cdcflow.errors import DeliveryError, Permanent, Transient
from cdcflow.sink.records import SKIP, Outcome, Wanted, in_parts
from cdcflow_sinks.salesforce.answer import failure, listed, refusal, transient
from cdcflow_sinks.salesforce.bulk import Bulk
from cdcflow_sinks.salesforce.client import Client
from cdcflow_sinks.salesforce.describe import Described
from cdcflow_sinks.salesforce.settings import SalesforceOptions
from cdcflow_sinks.salesforce.values import Digits

MOST = 200

#: Of a query's text: the whole URI may have 16,384 characters, and quoting makes up to three of one.
LONGEST_QUERY = 4_000

#: A lock is held for as long as somebody's transaction takes: seconds.
_LOCKED_SECONDS = 2.0


class Objects:
    """A `Destination` of records: the object and the mapping of one flow."""

    def __init__(self, client: Client, options: SalesforceOptions, bulk: Bulk, concurrency: int) -> None:
        self._client = client
        self._options = options
        self._bulk = bulk
        self._concurrency = concurrency
        self._match, _ = options.matched
        #: Known when the sink is open.
        self.described = Described(options.object, {})

    async def put(self, records: Sequence[Wanted]) -> Outcome:
        outcome = Outcome()
        try:
            await self._bulk.leave_behind(records)
            most = self._options.bulk
            if most is not None and len(records) >= most:
                together = [record for record in records if self._bulk.takes(record)]
                outcome.add(await self._bulk.put(together))
                if outcome.error is not None:
                    return outcome
                # What a job found locked goes again by itself, at once.
                records = [
                    record
                    for record in records
                    if record.key not in outcome.done and record.key not in outcome.refused
                ]
        except DeliveryError as error:
            outcome.fail(error)
            return outcome
        outcome.add(await in_parts(records, MOST, self._upsert, at_once=self._concurrency))
        return outcome

    async def remove(self, records: Sequence[Wanted]) -> Outcome:
        try:
            await self._bulk.leave_behind(())
        except DeliveryError as error:
            return Outcome(error=error)
        then = self._delete if self._options.deletes == "delete" else self._clear
        return await in_parts(records, MOST, then, at_once=self._concurrency)

    async def read(self, matches: Sequence[str], names: Sequence[str]) -> Mapping[str, Mapping[str, object]]:
        own = [name for name in names if "." not in name]
        found = await self._look(matches, own)
        return {match: {name: one.get(name) for name in own} for match, one in found.items()}

    async def _upsert(self, records: Sequence[Wanted]) -> Outcome:
        body = {"allOrNone": False, "records": [self._record(record) for record in records]}
        path = f"/composite/sobjects/{self._options.object}/{self._match}"
        reply = await self._client.call("PATCH", path, body)
        results = reply.data
        if reply.status == 200 and isinstance(results, list) and len(results) == len(records):
            return self._results(records, results)
        error = failure(reply)
        if error is not None:
            raise error
        if len(records) == 1:
            return Outcome(refused={records[0].key: refusal(listed(reply))})
        outcome = Outcome()
        middle = (len(records) + 1) // 2
        for half in (records[:middle], records[middle:]):
            if outcome.error is None:
                outcome.add(await self._upsert(half))
        return outcome

    def _results(self, records: Sequence[Wanted], results: Sequence[Any]) -> Outcome:
        outcome = Outcome()
        locked = 0
        for record, result in zip(records, results, strict=True):
            errors = result.get("errors") or () if isinstance(result, Mapping) else ()
            if isinstance(result, Mapping) and result.get("success") is True:
                outcome.done.add(record.key)
            elif transient(errors) or not errors:
                locked += 1
            else:
                outcome.refused[record.key] = refusal(errors)
        if locked:
            outcome.fail(
                Transient(
                    f"{locked} record(s) of {self._options.object} are locked by somebody else, or were not"
                    " dealt with in time",
                    retry_after=_LOCKED_SECONDS,
                    everywhere=False,
                )
            )
        return outcome

    def _record(self, record: Wanted) -> dict[str, Any]:
        found: dict[str, Any] = {"attributes": {"type": self._options.object}}
        for name, value in (record.values or {}).items():
            relationship, dot, key = name.partition(".")
            if value is SKIP:
                continue
            if not dot:
                found[name] = orjson.Fragment(str(value)) if isinstance(value, Digits) else value
            elif value not in (None, ""):
                found[relationship] = {key: value}
            else:
                reference = self.described.reference(relationship)
                if reference is not None:
                    found[reference.name] = None
        found[self._match] = record.match
        return found

    def shown(self, record: Wanted) -> str:
        """For people: what would be asked for."""
        which = f"the record whose {self._match} is {record.match}"
        if record.values is None:
            names = ", ".join(self._options.mapped)
            return f"delete {which}" if self._options.deletes == "delete" else f"empty {names} of {which}"
        return f"upsert by {self._match}: {orjson.dumps(self._record(record)).decode()}"

    # Removal.

    async def _delete(self, records: Sequence[Wanted]) -> Outcome:
        there = await self._look([record.match for record in records], ())
        found = {
            record.key: str(there[self.fold(record.match)]["Id"])
            for record in records
            if self.fold(record.match) in there
        }
        outcome = Outcome(done={record.key for record in records} - found.keys())
        if not found:
            return outcome
        reply = await self._client.call(
            "DELETE", f"/composite/sobjects?ids={','.join(found.values())}&allOrNone=false"
        )
        results = reply.data
        if reply.status != 200 or not isinstance(results, list) or len(results) != len(found):
            error = failure(reply)
            raise error if error is not None else Permanent("Salesforce does not delete these records")
        for key, result in zip(found, results, strict=True):
            errors = result.get("errors") or ()
            gone = any(one.get("statusCode") == "ENTITY_IS_DELETED" for one in errors)
            if result.get("success") is True or gone:
                outcome.done.add(key)
            elif transient(errors):
                outcome.fail(
                    Transient(
                        "a record is locked by somebody else", retry_after=_LOCKED_SECONDS, everywhere=False
                    )
                )
            else:
                outcome.refused[key] = refusal(errors)
        return outcome

    async def _clear(self, records: Sequence[Wanted]) -> Outcome:
        """Empties the mapped fields of the records that are there; makes none."""
        there = await self._look([record.match for record in records], ())
        empty: dict[str, object] = {}
        for name in self._options.mapped:
            info = self.described.fields.get(name)
            if info is not None and info.type == "boolean":
                empty[name] = False
            elif info is None or not info.required:
                empty[name] = None
        known = [
            Wanted(one.key, one.match, empty, one.known) for one in records if self.fold(one.match) in there
        ]
        outcome = Outcome(done={one.key for one in records} - {one.key for one in known})
        if known:
            outcome.add(await self._upsert(known))
        return outcome

    async def _look(self, matches: Sequence[str], names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """Id and fields of those that are there, by folded external ID. Raises DeliveryError."""
        fields = ", ".join(dict.fromkeys(("Id", self._match, *names)))
        # Names that describe has confirmed, and quoted values.
        head = f"SELECT {fields} FROM {self._options.object} WHERE {self._match} IN ("  # noqa: S608
        found: dict[str, Mapping[str, Any]] = {}
        numeric = self.described.fields.get(self._match)
        plain = numeric is not None and numeric.type in ("double", "int")
        waiting = [match if plain else _quoted(match) for match in dict.fromkeys(matches)]
        while waiting:
            part = [waiting.pop()]
            while waiting and len(part) < MOST and sum(map(len, part)) + len(waiting[-1]) < LONGEST_QUERY:
                part.append(waiting.pop())
            query = urllib.parse.quote(f"{head}{','.join(part)})")
            for one in (await self._client.get(f"/query?q={query}")).get("records") or ():
                found[self.fold(str(one.get(self._match)))] = one
        return found

    def fold(self, value: str) -> str:
        """External IDs differ in case only where the field says so."""
        info = self.described.fields.get(self._match)
        return value if info is not None and info.case_sensitive else value.casefold()


def _quoted(text: str) -> str:
    """A SOQL string (soql_sosl: "Quoted String Escape Sequences")."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"
