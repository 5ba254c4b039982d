"""The `webhook` sink: every change reaches the endpoint at least once, and in order within each key.

The body of a request is an event (`cdcflow.sink.event`), or with `batch: true` an object of events,
`{"id": …, "events": […]}`. Headers and signature follow Standard Webhooks. `webhook-id` says what is in the
request: the flow and the event's id (`orders:0/1A2B3C8:7`), or the ids of the first and the last event
(`orders:0/1A2B3C8:7-0/1A2B3D0:2`). The same id is the same content, so a receiver can drop what it has seen.
A retry sends the same requests again. After a restart a batch may be cut at other places: then an event can
arrive in two requests with different ids, and a receiver of batches which must not act twice looks at the ids
of the events.

What was accepted is remembered: a `write` that is repeated sends only the rest. A batch that begins before
the last one is a rewind, and is sent as a whole.

One change per request: up to `concurrency` requests at once. After a failure, changes behind it wait, and
others go on, unless the failure is about the endpoint as a whole or as many failed in a row as there are
connections. If only single changes were refused, `Rejected` names them and, as withheld, those that come
behind them, and everything else was accepted. Batches go one at a time; a refused batch does not say which of
its events is meant, so it is `Permanent`, except that one which is too large is sent in parts.
"""

import asyncio
import time
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import accumulate

from cdcflow.errors import DeliveryError, Permanent, Rejected, Transient
from cdcflow.model import Batch
from cdcflow.sink import ExpectedTable, Finding, FlowContext, Rendered, judge_events
from cdcflow.sink.event import encode, events
from cdcflow.sink.order import Order, order
from cdcflow_sinks.webhook.answer import Failure, Outcome, excerpt, judge
from cdcflow_sinks.webhook.connection import Endpoint, Headers, Line, NoAnswer
from cdcflow_sinks.webhook.settings import WebhookSettings
from cdcflow_sinks.webhook.signature import signature, signing_key

AGENT = b"cdcflow"


class WebhookSink:
    """See the module."""

    def __init__(self, settings: WebhookSettings, context: FlowContext) -> None:
        self._flow = context.flow
        self._settings = settings
        self._endpoint = Endpoint(settings.url, settings.timeout)
        self._keys = [signing_key(secret.get_secret_value()) for secret in settings.secret]
        own = {name: value.get_secret_value() for name, value in settings.headers.items()}
        self._secrets = [secret.get_secret_value() for secret in settings.secret]
        self._secrets += [*own.values(), self._endpoint.target.strip("/")]
        self._headers: Headers = [(b"Content-Type", b"application/json")]
        if not any(name.lower() == "user-agent" for name in own):
            self._headers.append((b"User-Agent", AGENT))
        self._headers += [(name.encode("ascii"), value.encode("ascii")) for name, value in own.items()]
        self._lines: list[Line] = []
        #: Where the last batch began. From there on, everything below `_done` was accepted, and these above.
        self._base = 0
        self._done = 0
        self._accepted: set[int] = set()
        #: The last offset of a request of several events that has not been accepted, or -1.
        self._cut = -1
        #: A request of several events has to be smaller, as the endpoint has said. Bytes; None: it has not.
        self._too_large: int | None = None

    async def open(self) -> None:
        """Makes no connection: an endpoint that is down is a matter of `write`."""
        tls = await asyncio.to_thread(self._endpoint.tls)
        count = 1 if self._settings.batch else self._settings.concurrency
        self._lines = [Line(self._endpoint, tls) for _ in range(count)]

    async def write(self, batch: Batch) -> None:
        if batch.base < self._base:
            self._done, self._cut = 0, -1
            self._accepted.clear()
        self._base = batch.base
        if self._settings.batch:
            await self._write_together(batch)
        else:
            await self._write_each(batch)
        self._done = max(self._done, batch.end)
        self._accepted = {offset for offset in self._accepted if offset >= self._done}

    async def close(self) -> None:
        lines, self._lines = self._lines, []
        for line in lines:
            await line.close()

    async def probe(self) -> Sequence[Finding]:
        subject = f"webhook {self._endpoint.origin}"
        reached = await self._endpoint.reach()
        if isinstance(reached, NoAnswer):
            hint = reached.hint or "start the receiver, or correct the `url` of the sink"
            return [Finding("error", subject, reached.reason, hint)]
        found = [Finding("ok", subject, f"takes connections at {reached}")]
        if not self._keys:
            remedy = "give the sink a `secret`, so that the receiver can tell our requests from others"
            found.append(Finding("warning", subject, "requests are not signed", remedy))
        return found

    def judge(self, tables: Sequence[ExpectedTable]) -> Sequence[Finding]:
        return judge_events(f"flow {self._flow}", tables)

    def preview(self, batch: Batch) -> Sequence[Rendered]:
        """The requests, without what is secret in them: own headers, the signature, and the URL's path."""
        made = [(index, event["id"], encode(event)) for index, event in events(batch, self._settings.numbers)]
        size = self._settings.max_batch if self._settings.batch else 1
        return [self._request(made[start : start + size]) for start in range(0, len(made), size)]

    def _request(self, made: Sequence[tuple[int, str, bytes]]) -> Rendered:
        bodies = [body for _, _, body in made]
        first, last = made[0][1], made[-1][1]
        name = f"{self._flow}:{first}-{last}" if self._settings.batch else f"{self._flow}:{first}"
        own = {header.lower() for header in self._settings.headers}
        lines = [
            f"{header.decode()}: {'***' if header.decode().lower() in own else value.decode()}"
            for header, value in self._headers
        ]
        lines += [f"webhook-id: {name}", "webhook-timestamp: (when it is sent)"]
        lines += ["webhook-signature: ***"] if self._keys else []
        body = b",".join(bodies)
        if self._settings.batch:
            body = b'{"id":"%s","events":[%s]}' % (name.encode(), body)
        target = f"POST {self._endpoint.origin}" + ("/***" if self._endpoint.target.strip("/") else "")
        return Rendered(tuple(index for index, _, _ in made), target, "\n".join([*lines, "", body.decode()]))

    # One change per request.

    async def _write_each(self, batch: Batch) -> None:
        changes = []
        bodies = []
        for change, (_, event) in zip(batch.changes(), events(batch, self._settings.numbers), strict=True):
            if change.offset >= self._done and change.offset not in self._accepted:
                changes.append(change)
                bodies.append((str(change.position), encode(event)))
        if not changes:
            return
        delivery = _Delivery(order(changes), limit=len(self._lines))

        async def work(line: Line) -> None:
            while (number := delivery.next()) is not None:
                identity, body = bodies[number]
                failure = await self._post(line, identity, body)
                if failure is None:
                    self._accepted.add(changes[number].offset)
                    delivery.accepted(number)
                    start()
                else:
                    delivery.failed(number, failure)
            idle.append(line)

        def start() -> None:
            """Puts idle lines to work, but for the one that takes the next change itself."""
            for _ in range(min(len(idle), delivery.ready - 1)):
                group.create_task(work(idle.pop()))

        idle = list(self._lines)
        async with asyncio.TaskGroup() as group:
            group.create_task(work(idle.pop()))
            start()
        error = delivery.error(self._endpoint.origin, [change.index for change in changes])
        if error is not None:
            raise error

    # Several changes per request.

    async def _write_together(self, batch: Batch) -> None:
        waiting = [
            (batch.base + index, event["id"], encode(event))
            for index, event in events(batch, self._settings.numbers)
            if batch.base + index >= self._done
        ]
        while waiting:
            part = waiting[: self._count(waiting)]
            (_, first_id, _), (last, last_id, _) = part[0], part[-1]
            self._cut = last
            together = b",".join(body for _, _, body in part)
            failure = await self._post(self._lines[0], f"{first_id}-{last_id}", together)
            if failure is not None and failure.too_large and len(part) > 1:
                self._too_large, self._cut = len(together), -1
                continue
            if failure is not None:
                raise _error(failure, self._endpoint.origin)
            del waiting[: len(part)]
            self._done, self._cut = last + 1, -1

    def _count(self, waiting: Sequence[tuple[int, str, bytes]]) -> int:
        """How many of the events that wait go into the next request."""
        most = min(self._settings.max_batch, len(waiting))
        if self._cut >= 0:
            # What became of this request may be unknown: it must go out as it was, with its id.
            same = sum(offset <= self._cut for offset, _, _ in waiting[:most])
            if same:
                return same
        if self._too_large is not None:
            sizes = accumulate(len(body) + 1 for _, _, body in waiting[:most])
            # Half of what was too large, so that few requests are needed to find what is not.
            most = max(sum(size <= self._too_large // 2 for size in sizes), 1)
        return most

    async def _post(self, line: Line, identity: str, body: bytes) -> Failure | None:
        """Sends one request; None: accepted."""
        name = f"{self._flow}:{identity}"
        if self._settings.batch:
            body = b'{"id":"%s","events":[%s]}' % (name.encode(), body)
        stamp = int(time.time())
        headers = [
            *self._headers,
            (b"webhook-id", name.encode()),
            (b"webhook-timestamp", b"%d" % stamp),
        ]
        if self._keys:
            headers.append((b"webhook-signature", signature(self._keys, name, stamp, body).encode()))
        answer = await line.post(headers, body)
        if isinstance(answer, NoAnswer):
            outcome = Outcome.PERMANENT if answer.lasting else Outcome.AGAIN
            return Failure(outcome, answer.reason, answer.hint, everywhere=answer.everywhere)
        if 200 <= answer.status < 300:
            return None
        return judge(answer.status, answer.retry_after, excerpt(answer.body, body, self._secrets))


class _Delivery:
    """The state of sending some changes in their order: what is next, and what follows from failures."""

    def __init__(self, wanted: Order, limit: int) -> None:
        self._order = wanted
        self._waits = list(wanted.waits)
        self._ready = [number for number, waits in enumerate(wanted.waits) if not waits]
        heapify(self._ready)
        self._limit = limit
        self._in_a_row = 0
        self._stopped = False
        self._failures: dict[int, Failure] = {}

    @property
    def ready(self) -> int:
        """How many changes could be sent now."""
        return 0 if self._stopped else len(self._ready)

    def next(self) -> int | None:
        """The earliest change that may be sent, or None when there is none now."""
        return heappop(self._ready) if self.ready else None

    def accepted(self, number: int) -> None:
        self._in_a_row = 0
        for follower in self._order.followers[number]:
            self._waits[follower] -= 1
            if not self._waits[follower]:
                heappush(self._ready, follower)

    def failed(self, number: int, failure: Failure) -> None:
        self._failures[number] = failure
        if failure.outcome is not Outcome.REFUSED:
            self._in_a_row += 1
            self._stopped |= failure.everywhere or self._in_a_row >= self._limit

    def error(self, origin: str, indexes: Sequence[int]) -> DeliveryError | None:
        """What `write` raises. `indexes` are the changes' places in the batch.

        What may heal by itself comes first, since the batch comes again in any case.
        """
        by_outcome: dict[Outcome, Failure] = {}
        for failure in self._failures.values():
            by_outcome.setdefault(failure.outcome, failure)
        wishes = [one.retry_after for one in self._failures.values() if one.retry_after is not None]
        for outcome in (Outcome.AGAIN, Outcome.PERMANENT):
            if outcome in by_outcome:
                return _error(by_outcome[outcome], origin, max(wishes, default=None))
        if not self._failures:
            return None
        refused = {indexes[number]: self._failures[number].reason for number in sorted(self._failures)}
        behind = {waiting for number in self._failures for waiting in self._order.behind(number)}
        return Rejected(refused, withheld={indexes[number] for number in behind} - refused.keys())


def _error(failure: Failure, origin: str, wish: float | None = None) -> DeliveryError:
    message = f"{origin} {failure.reason}"
    if failure.outcome is Outcome.AGAIN:
        wish = failure.retry_after if wish is None else wish
        return Transient(message, retry_after=wish, hint=failure.hint)
    hint = failure.hint
    if failure.outcome is Outcome.REFUSED:
        hint = "a refused batch does not say which event is meant: mend the receiver, or set `batch: false`"
    return Permanent(message, hint=hint)
