"""Many records at once: a Bulk API 2.0 ingest job, which a kill of this process does not lose.

developer.salesforce.com/docs/atlas.en-us.api_asynch.meta/api_asynch/…: a job is made, gets one CSV, is told
that this is all, and then works by itself; its results are three lists: successful, failed, unprocessed.

The job's id, with a digest of its CSV, is on disk before the job has any data. After a kill the same records
find their job and wait for it; for others it is aborted, and its end awaited, before anything is sent: a job
that went on beside newer states would overwrite them. In a job there is one row per external ID.
"""

import asyncio
import csv
import io
import os
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson

from cdcflow.errors import EnvironmentFault, Permanent, Transient
from cdcflow.sink.records import SKIP, Outcome, Reply, Wanted
from cdcflow_sinks.salesforce.answer import bulk_errors, failure, refusal, transient
from cdcflow_sinks.salesforce.client import Client
from cdcflow_sinks.salesforce.settings import SalesforceOptions

#: How often a job is asked for its state, in seconds: from what small jobs are done in, to what large ones do
#: not notice.
FIRST_POLL, LONGEST_POLL = 0.25, 10.0

#: "Maximum file size: 150 MB" of a job's data in base64, so of 100 MB as it is.
LARGEST = 100_000_000

NULL = "#N/A"

# Results repeat what was sent, and Python's reader takes no field of more than 128 KiB by itself.
csv.field_size_limit(LARGEST)

_OVER = frozenset({"JobComplete", "Failed", "Aborted"})


class Bulk:
    """Jobs of one flow, one at a time. Every method raises DeliveryError."""

    def __init__(self, client: Client, options: SalesforceOptions, place: Path) -> None:
        self._client = client
        self._options = options
        self._place = place
        self._match, _ = options.matched

    def takes(self, record: Wanted) -> bool:
        """Not a parent that becomes none, which CSV has no form for."""
        return all(
            "." not in name or value not in (None, "") for name, value in (record.values or {}).items()
        )

    async def leave_behind(self, records: Sequence[Wanted]) -> None:
        """Ends a job from before a kill, unless it is the job of these records."""
        job = self._remembered()
        if job is not None and (not records or job["digest"] != self._digest(self._csv(records))):
            await self._end(job["id"])
            self._forget()

    async def put(self, records: Sequence[Wanted]) -> Outcome:
        if not records:
            return Outcome()
        data = self._csv(records)
        if len(data) > LARGEST:
            middle = (len(records) + 1) // 2
            outcome = await self.put(records[:middle])
            if outcome.error is None:
                outcome.add(await self.put(records[middle:]))
            return outcome
        job: Mapping[str, str] | None = self._remembered()
        if job is not None and job["digest"] == self._digest(data):
            info = await self._info(job["id"])
            if info is None or info.get("state") == "Open":
                # Killed before it had its data, or forgotten by Salesforce (jobs are kept for seven days).
                await self._end(job["id"])
                self._forget()
                job = None
        if job is None:
            job = await self._begin(data)
        info = await self._wait(job["id"])
        outcome = await self._results(job["id"], info, records)
        self._forget()
        return outcome

    # A job's life.

    async def _begin(self, data: bytes) -> Mapping[str, str]:
        wanted = {
            "object": self._options.object,
            "operation": "upsert",
            "externalIdFieldName": self._match,
            "contentType": "CSV",
            "lineEnding": "LF",
            "columnDelimiter": "COMMA",
        }
        reply = await self._client.call("POST", "/jobs/ingest", wanted)
        made = reply.data
        if reply.status not in (200, 201) or not isinstance(made, Mapping) or "id" not in made:
            raise failure(reply) or Permanent("Salesforce does not take a bulk job", hint="set `bulk: null`")
        job = {"id": str(made["id"]), "digest": self._digest(data)}
        self._remember(job)
        path = f"/jobs/ingest/{job['id']}"
        reply = await self._client.call("PUT", f"{path}/batches", csv=data)
        # Nothing but its own answer: what is 200 to somebody in between is a job without data.
        if reply.status != 201:
            raise failure(reply) or Transient("Salesforce does not take the data of a bulk job")
        reply = await self._client.call("PATCH", path, {"state": "UploadComplete"})
        if reply.status != 200 or not isinstance(reply.data, Mapping):
            raise failure(reply) or Transient("Salesforce does not begin a bulk job")
        return job

    async def _info(self, identity: str) -> Mapping[str, Any] | None:
        reply = await self._client.call("GET", f"/jobs/ingest/{identity}")
        if reply.status == 404:
            return None
        if reply.status != 200 or not isinstance(reply.data, Mapping):
            raise failure(reply) or Transient("Salesforce does not say how a bulk job is")
        return reply.data

    async def _wait(self, identity: str) -> Mapping[str, Any]:
        pause = FIRST_POLL
        while True:
            info = await self._info(identity)
            if info is None:
                raise Transient("a bulk job is gone")
            if info.get("state") in _OVER:
                return info
            if info.get("state") == "Open":
                raise Transient("a bulk job has not begun")  # nor will it by itself
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_POLL)

    async def _end(self, identity: str) -> None:
        """Aborts a job and awaits its end; one that is over or gone is no error."""
        info = await self._info(identity)
        if info is None or info.get("state") in _OVER:
            return
        # It may be over by now, which the next look shows.
        await self._client.call("PATCH", f"/jobs/ingest/{identity}", {"state": "Aborted"})
        await self._wait(identity)

    # Its results.

    async def _results(self, identity: str, info: Mapping[str, Any], records: Sequence[Wanted]) -> Outcome:
        keys = {record.match: record.key for record in records}
        outcome = Outcome()
        for row in await self._list(identity, "successfulResults"):
            if row.get(self._match, "") in keys:
                outcome.done.add(keys[row[self._match]])
        for row in await self._list(identity, "failedResults"):
            key = keys.get(row.get(self._match, ""))
            errors = bulk_errors(row.get("sf__Error", ""))
            if key is not None and not transient(errors):
                outcome.refused[key] = refusal(errors)
        left = len(records) - len(outcome.done) - len(outcome.refused)
        state, said = info.get("state"), str(info.get("errorMessage") or "")
        if state == "Failed" and "InvalidBatch" in said and not outcome.done:
            outcome.fail(
                Permanent(
                    "Salesforce does not take the fields of a bulk job",
                    hint="correct `fields` in the flow's `with:`, or give the user access to them",
                )
            )
        elif left and state != "JobComplete":
            outcome.fail(Transient(f"a bulk job ended as {state}, with {left} record(s) not dealt with"))
        return outcome

    async def _list(self, identity: str, what: str) -> list[dict[str, str]]:
        reply: Reply = await self._client.call("GET", f"/jobs/ingest/{identity}/{what}", accept="text/csv")
        if reply.status != 200:
            raise failure(reply) or Transient("Salesforce does not say what became of a bulk job")
        try:
            rows = csv.DictReader(io.StringIO(reply.body.decode(), newline=""))
            if "sf__Id" not in (rows.fieldnames or ()):
                raise csv.Error
            return [{k: v for k, v in row.items() if k and v is not None} for row in rows]
        except (UnicodeDecodeError, csv.Error):
            raise Transient("Salesforce answered with something that is not CSV") from None

    # Its data.

    def _csv(self, records: Sequence[Wanted]) -> bytes:
        names = sorted({name for record in records for name in record.values or {}} - {self._match})
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow([self._match, *names])
        for record in records:
            values = record.values or {}
            writer.writerow([record.match, *(_cell(values.get(name, SKIP)) for name in names)])
        return text.getvalue().encode()

    @staticmethod
    def _digest(data: bytes) -> str:
        return blake2b(data, digest_size=16).hexdigest()

    # What survives a kill.

    def _remembered(self) -> dict[str, str] | None:
        try:
            found = orjson.loads(self._place.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, orjson.JSONDecodeError) as error:
            raise EnvironmentFault(
                f"{self._place} cannot be read: {error}",
                hint="delete it when no bulk job of this flow runs (Setup, Bulk Data Load Jobs)",
            ) from error
        return {str(name): str(value) for name, value in found.items()}

    def _remember(self, job: Mapping[str, str]) -> None:
        fresh = self._place.with_suffix(".new")
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, orjson.dumps(dict(job)))
                os.fsync(fd)
            finally:
                os.close(fd)
            fresh.replace(self._place)
        except OSError as error:
            raise EnvironmentFault(
                f"{self._place} cannot be written: {error.strerror}", hint="make its folder writable"
            ) from error

    def _forget(self) -> None:
        self._place.unlink(missing_ok=True)


def _cell(value: object) -> str:
    """An empty cell leaves a field alone; NULL and an empty text empty it."""
    if value is SKIP:
        return ""
    if value is None or value == "":
        return NULL
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
