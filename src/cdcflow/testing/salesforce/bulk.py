"""Bulk API 2.0 ingest jobs, upsert by external id.

developer.salesforce.com/docs/atlas.en-us.api_asynch.meta/api_asynch/…: create_job, upload_job_data (once per
job), close_job (UploadComplete, Aborted), get_job_info, get_job_successful_results, get_job_failed_results,
get_job_unprocessed_results. `#N/A` is NULL and an empty value is left alone
(datafiles_prepare_csv); a parent is named in the header as `Account.Number__c`
(relationship_fields_in_a_header_row__2_0).
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cdcflow.testing.salesforce.org import Malformed, Org, Refused
from cdcflow.testing.service import Answer, Request

#: What CSV calls NULL.
NULL = "#N/A"


csv.field_size_limit(100_000_000)


@dataclass
class Job:
    """One ingest job. It is worked on when its state has been asked for `polls` times."""

    id: str
    object: str
    external_id: str
    state: str = "Open"
    data: bytes = b""
    error: str = ""
    polls: int = 0
    header: list[str] = field(default_factory=list)
    done: list[tuple[str, bool, list[str]]] = field(default_factory=list)
    failed: list[tuple[str, list[str]]] = field(default_factory=list)
    unprocessed: list[list[str]] = field(default_factory=list)

    def info(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "operation": "upsert",
            "object": self.object,
            "externalIdFieldName": self.external_id,
            "state": self.state,
            "contentType": "CSV",
            "lineEnding": "LF",
            "columnDelimiter": "COMMA",
            "numberRecordsProcessed": len(self.done) + len(self.failed),
            "numberRecordsFailed": len(self.failed),
            "errorMessage": self.error,
        }


class Bulk:
    """The jobs of an org. `polls`: how often a job's state is asked for until it is complete; `stops_after`:
    a job fails when so many rows are done, and the rest is unprocessed."""

    def __init__(self, org: Org, error: Callable[[int, str, str], Answer]) -> None:
        self._org = org
        self._error = error
        self.jobs: dict[str, Job] = {}
        self.polls = 1
        self.stops_after: int | None = None

    def handle(self, request: Request, parts: Sequence[str]) -> Answer:
        match (request.method, *parts):
            case ("POST",):
                return self._create(request.json)
            case (_, identity, *rest) if identity in self.jobs:
                return self._job(request, self.jobs[identity], rest)
            case _:
                return self._error(404, "NOT_FOUND", "The requested resource does not exist")

    def _create(self, body: Mapping[str, Any]) -> Answer:
        kind = self._org.types.get(str(body["object"]))
        by = str(body.get("externalIdFieldName", ""))
        if kind is None:
            return self._error(400, "INVALIDENTITY", f"entity type {body['object']} is not supported")
        if body["operation"] != "upsert" or by not in kind.fields or not kind.fields[by].external_id:
            return self._error(400, "INVALIDJOB", f"InvalidJob : Field name not found : {by}")
        job = Job(f"750KX{len(self.jobs):010}AAA", kind.name, by)
        self.jobs[job.id] = job
        return Answer.json({**job.info(), "contentUrl": f"services/data/v62.0/jobs/ingest/{job.id}/batches"})

    def _job(self, request: Request, job: Job, rest: Sequence[str]) -> Answer:
        match (request.method, *rest):
            case ("GET",):
                self._advance(job)
                return Answer.json(job.info())
            case ("PUT", "batches"):
                if job.state != "Open" or job.data:
                    return self._error(400, "INVALIDJOBSTATE", "Job data was uploaded already")
                job.data = request.body
                return Answer(201)
            case ("PATCH",):
                wanted = request.json["state"]
                if wanted == "UploadComplete" and job.state == "Open":
                    job.state = "UploadComplete"
                elif wanted == "Aborted" and job.state in ("Open", "UploadComplete", "InProgress"):
                    job.state = "Aborted"
                    if job.data:
                        _, job.unprocessed = _rows(job)
                else:
                    return self._error(
                        400, "INVALIDJOBSTATE", f"Transition from {job.state} to {wanted} is not allowed"
                    )
                return Answer.json(job.info())
            case ("GET", "successfulResults"):
                rows = [[identity, str(new).lower(), *row] for identity, new, row in job.done]
                return _csv(["sf__Id", "sf__Created", *job.header], rows)
            case ("GET", "failedResults"):
                return _csv(
                    ["sf__Id", "sf__Error", *job.header], [["", why, *row] for why, row in job.failed]
                )
            case ("GET", "unprocessedrecords"):
                return _csv(job.header, job.unprocessed)
            case ("DELETE",):
                del self.jobs[job.id]
                return Answer(204)
            case _:
                return self._error(404, "NOT_FOUND", "The requested resource does not exist")

    def _advance(self, job: Job) -> None:
        if job.state not in ("UploadComplete", "InProgress"):
            return
        job.polls += 1
        job.state = "InProgress"
        if job.polls >= self.polls:
            self._work(job)

    def _work(self, job: Job) -> None:
        kind = self._org.types[job.object]
        if not job.data:
            job.state, job.error = "Failed", "InvalidBatch : the job has no data"
            return
        job.header, rows = _rows(job)
        unknown = [name for name in job.header if name.split(".")[0] not in {*kind.fields, *_relations(kind)}]
        if unknown:
            job.state, job.error = "Failed", f"InvalidBatch : Field name not found : {unknown[0]}"
            job.unprocessed = rows
            return
        keys = [row[job.header.index(job.external_id)] for row in rows]
        seen: set[str] = set()
        for number, (key, row) in enumerate(zip(keys, rows, strict=True)):
            if self.stops_after is not None and number >= self.stops_after:
                job.state, job.error = "Failed", "TooManyLockFailure : too many lock failures"
                job.unprocessed = rows[number:]
                return
            if key.casefold() in seen:
                job.failed.append((f"DUPLICATE_VALUE:Duplicate external id specified: {key}:--", row))
                continue
            seen.add(key.casefold())
            try:
                found, new = self._org.upsert(kind, job.external_id, _record(job.header, row))
            except Refused as refused:
                why = f"{refused.code}:{refused.message}:{','.join(refused.fields) or '--'}"
                job.failed.append((why, row))
            except Malformed as malformed:
                job.failed.append((f"INVALID_TYPE_ON_FIELD_IN_RECORD:{malformed.message}:--", row))
            else:
                job.done.append((found.id, new, row))
        job.state = "JobComplete"


def _relations(kind: Any) -> set[str]:
    return {one.relationship for one in kind.fields.values() if one.relationship}


def _rows(job: Job) -> tuple[list[str], list[list[str]]]:
    header, *rows = csv.reader(io.StringIO(job.data.decode(), newline=""))
    return header, rows


def _record(header: Sequence[str], row: Sequence[str]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for name, value in zip(header, row, strict=True):
        if value == "":
            continue
        relation, dot, key = name.partition(".")
        if dot:
            record[relation] = {key: value}
        else:
            record[name] = None if value == NULL else value
    return record


def _csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Answer:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(header)
    writer.writerows(rows)
    return Answer(200, text.getvalue().encode(), {"Content-Type": "text/csv"})
