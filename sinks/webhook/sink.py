"""The `webhook` sink: every change reaches the endpoint at least once, and in order within each key.

Headers and signature follow Standard Webhooks. `webhook-id` says what is in the request: the flow and the
event's id (`orders:0/1A2B3C8:7`), or with `batch: true` the ids of the first and the last event and a digest
of all of them (`orders:0/1A2B3C8:7-0/1A2B3D0:2:5f0c9a11`). The same id is the same content, and the same
changes have the same id over retries and restarts: where a batch is cut follows from its changes alone, and
the engine gives the batch that it was in the middle of again as it was (`SinkPlugin.repeats`). Only what
changes the content changes the id: a change that was refused or parked meanwhile, or an endpoint that takes
less than before.

One change per request: up to `concurrency` requests at once. After a failure, changes behind it wait, and
others go on, unless the failure is about the endpoint as a whole or as many failed in a row as there are
connections. Whatever was accepted is told to the engine and not sent again. If only single changes were
refused, `Rejected` names them and, as withheld, those that come behind them.

Several per request: one request at a time. A refused one does not say which of its events is meant, so its
halves are sent, until single ones are refused; where one after the other is, the trouble is not with single
ones, and the flow needs attention.
"""

import asyncio
import gzip
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from heapq import heapify, heappop, heappush
from itertools import islice

from cdcflow.errors import DeliveryError, Disabled, Permanent, Rejected, Transient, Unauthorized
from cdcflow.model import Batch
from cdcflow.sink import ExpectedTable, Finding, FlowContext, Rendered, judge_events
from cdcflow.sink.event import events
from cdcflow.sink.order import Order, order
from cdcflow.sink.sizing import Size
from cdcflow_sinks.webhook.answer import Failure, Outcome, excerpt, judge
from cdcflow_sinks.webhook.auth import Authorization, OAuth2Auth, authorization
from cdcflow_sinks.webhook.connection import Endpoint, Headers, Line, NoAnswer
from cdcflow_sinks.webhook.settings import WebhookSettings
from cdcflow_sinks.webhook.shapes import shape
from cdcflow_sinks.webhook.signature import Signer, signature, signer
from cdcflow_sinks.webhook.templates import NoValue, filled, for_header, for_url

AGENT = b"cdcflow"

#: After so many single refusals without anything accepted, what is refused is not single changes.
HOPELESS = 10

#: A request that went unanswered so often goes out in parts. The first time it goes out as it was, with its
#: id: it may have been taken.
SLOW = 2


#: Turns of the event loop until a request is on its way: connection, headers, body.
_STEPS = 8


@dataclass(slots=True)
class _Item:
    """A change ready to be sent: `body` is its event's, `target` and `headers` are those that its row asks
    for (None and empty: the endpoint's own). Not frozen: making one would take eight times as long."""

    index: int
    identity: str
    body: bytes
    target: bytes | None
    headers: tuple[tuple[bytes, bytes], ...]


class WebhookSink:
    """See the module."""

    def __init__(self, settings: WebhookSettings, context: FlowContext) -> None:
        self._flow = context.flow
        self._settings = settings
        self._endpoint = self._to(settings.url.partition("{")[0] if "{" in settings.url else settings.url)
        self._url = for_url("/" + settings.url.partition("://")[2].partition("/")[2])
        self._row_headers = {name: for_header(text) for name, text in settings.row_headers.items()}
        self._shape = shape(settings.shape, context.flow)
        self._size = Size(settings.max_batch)
        #: The first event of a request that went unanswered, and how often.
        self._unanswered = ("", 0)
        self._signers: list[Signer] = []
        self._headers: Headers = []
        self._secrets: list[str] = []
        self._auth: Authorization | None = None
        self._lines: list[Line] = []

    def _to(self, url: str) -> Endpoint:
        tls = self._settings.tls
        return Endpoint(
            url, self._settings.timeout, self._settings.allow, ca=tls.ca, cert=tls.cert, key=tls.key
        )

    async def open(self) -> None:
        """Makes no connection: an endpoint that is down is a matter of `write`. Reads the secrets as they are
        now. Raises Unauthorized where one of them can be none."""
        settings = self._settings
        try:
            self._signers = [signer(secret.get_secret_value()) for secret in settings.secret]
        except ValueError as error:
            raise Unauthorized(str(error), hint="correct the file of the sink's `secret`") from None
        own = {name: value.get_secret_value() for name, value in settings.headers.items()}
        kind = self._shape.several_type if settings.batch else self._shape.content_type
        self._headers = [(b"Content-Type", kind)]
        if settings.compress:
            self._headers.append((b"Content-Encoding", b"gzip"))
        if not any(name.lower() == "user-agent" for name in own):
            self._headers.append((b"User-Agent", AGENT))
        self._headers += [(name.encode("ascii"), value.encode("ascii")) for name, value in own.items()]
        if settings.auth is not None:
            token = settings.auth.token_url if isinstance(settings.auth, OAuth2Auth) else None
            self._auth = authorization(settings.auth, None if token is None else self._to(token))
        self._secrets = [secret.get_secret_value() for secret in settings.secret]
        self._secrets += [*own.values(), self._endpoint.target.strip("/")]
        tls = await asyncio.to_thread(self._endpoint.tls)
        count = 1 if settings.batch else settings.concurrency
        self._lines = [Line(self._endpoint, tls) for _ in range(count)]

    async def write(self, batch: Batch) -> None:
        refused: dict[int, str] = {}
        if self._settings.batch:
            await self._write_together(batch, refused)
        else:
            ready, withheld = self._ready(batch, refused)
            items = list(ready)
            await self._write_each(_in_order(batch, items), items, refused, withheld)
        if refused:
            raise Rejected(refused)

    async def close(self) -> None:
        lines, self._lines = self._lines, []
        for line in lines:
            await line.close()
        auth, self._auth = self._auth, None
        if auth is not None:
            await auth.close()

    async def probe(self) -> Sequence[Finding]:
        subject = f"webhook {self._endpoint.origin}"
        reached = await self._endpoint.reach()
        if isinstance(reached, NoAnswer):
            hint = reached.hint or "start the receiver, or correct the `url` of the sink"
            return [Finding("error", subject, reached.reason, hint)]
        found = [Finding("ok", subject, f"takes connections at {reached}")]
        if not self._settings.secret:
            remedy = "give the sink a `secret`, so that the receiver can tell our requests from others"
            found.append(Finding("warning", subject, "requests are not signed", remedy))
        return found

    def judge(self, tables: Sequence[ExpectedTable]) -> Sequence[Finding]:
        return judge_events(f"flow {self._flow}", tables)

    def preview(self, batch: Batch) -> Sequence[Rendered]:
        """The requests, without what is or may be secret: own headers, the signature, the URL's path."""
        left = list(self._items(batch, {}))
        found = []
        while left:
            part = self._cut(left) if self._settings.batch else left[:1]
            left = left[len(part) :]
            found.append(self._request(part))
        return found

    def _request(self, part: Sequence[_Item]) -> Rendered:
        first = part[0]
        name, body, kind = f"{self._flow}:{first.identity}", first.body, self._shape.content_type
        if self._settings.batch:
            assert self._shape.several is not None
            name = f"{self._flow}:{_identity_of(part)}"
            body, kind = self._shape.several(name, [item.body for item in part]), self._shape.several_type
        lines = [f"Content-Type: {kind.decode()}", *(f"{header}: ***" for header in self._settings.headers)]
        lines += [f"{header.decode()}: {value.decode()}" for header, value in first.headers]
        lines += [f"webhook-id: {name}", "webhook-timestamp: (when it is sent)"]
        lines += ["Authorization: ***"] if self._settings.auth is not None else []
        lines += ["webhook-signature: ***"] if self._settings.secret else []
        path = "/***" if first.target is not None or self._endpoint.target.strip("/") else ""
        indexes = tuple(item.index for item in part)
        text = "\n".join([*lines, "", body.decode()])
        return Rendered(indexes, f"POST {self._endpoint.origin}{path}", text)

    def _ready(self, batch: Batch, refused: dict[int, str]) -> tuple[Iterable[_Item], set[int]]:
        """What there is to send, and what is not since it comes behind a change that is refused before
        anything is sent."""
        if not self._url:
            return self._items(batch, refused), set()
        items = list(self._items(batch, refused))
        withheld = _behind(batch, refused.keys()) - refused.keys() if refused else set()
        return [i for i in items if i.index not in refused and i.index not in withheld], withheld

    def _items(self, batch: Batch, refused: dict[int, str]) -> Iterator[_Item]:
        """What there is to send; a change that its own row makes impossible to send is refused."""
        one, headers_of = self._shape.one, self._shape.headers
        plain = not self._url and not self._row_headers and headers_of is None
        for index, event in events(batch, self._settings.numbers):
            if plain:
                yield _Item(index, event["id"], one(event), None, ())
                continue
            try:
                target = self._url.fill(event).encode("ascii") if self._url else None
            except NoValue as error:
                refused[index] = f"the URL {error}"
                continue
            headers = filled(self._row_headers, event)
            if headers_of is not None:
                headers += headers_of(event)
            yield _Item(index, event["id"], one(event), target, tuple(headers))

    # One change per request.

    async def _write_each(
        self, wanted: Order, items: list[_Item], refused: dict[int, str], withheld: set[int]
    ) -> None:
        delivery = _Delivery(wanted, limit=len(self._lines))
        await _Crew(self._post, self._lines, delivery, items).work()
        delivery.check(self._endpoint.origin, [item.index for item in items], refused, withheld)

    # Several changes per request.

    async def _write_together(self, batch: Batch, refused: dict[int, str]) -> None:
        ready, withheld = self._ready(batch, refused)
        source = iter(ready)
        #: What comes next, in order; of a request that was refused, its parts, the first one last.
        ahead: list[_Item] = []
        parts: list[list[_Item]] = []
        written: list[int] = []
        hopeless = 0

        def fill() -> None:
            """Makes the next request's events, so far as they are not."""
            ahead.extend(islice(source, max(self._size.now - len(ahead), 0)))

        while True:
            waiting = parts.pop() if parts else ahead
            if waiting is ahead:
                fill()
                if not ahead:
                    break
            part = self._cut(waiting)
            del waiting[: len(part)]
            if waiting and waiting is not ahead:
                parts.append(waiting)
            part = [item for item in part if item.index not in withheld]
            if not part:
                continue
            failure = await self._post_meanwhile(part, fill)
            if failure is None:
                written += [item.index for item in part]
                hopeless = 0
                self._size.fine(len(part))
            elif failure.too_large and len(part) > 1:
                self._size.too_much(len(part))
                if parts or waiting is not ahead:
                    parts.append(part)
                else:
                    ahead[:0] = part
            elif failure.outcome is Outcome.REFUSED and len(part) > 1 and hopeless < HOPELESS:
                half = len(part) // 2
                parts += [part[half:], part[:half]]
            elif failure.outcome is Outcome.REFUSED and hopeless < HOPELESS:
                refused[part[0].index] = f"{self._endpoint.origin} {failure.reason}"
                withheld |= _behind(batch, (part[0].index,)) - refused.keys()
                hopeless += not written
            else:
                self._not_answered(part, failure)
                # What has the same index comes of one change: it is written when all of it is.
                unsent = {item.index for one in (part, ahead, *parts) for item in one}
                done = [index for index in written if index not in unsent]
                raise _error(failure, self._endpoint.origin, done, refused)
        if withheld:
            raise Rejected(refused, withheld=withheld)

    async def _post_meanwhile(self, part: Sequence[_Item], work: Callable[[], None]) -> Failure | None:
        """Sends a request, and works while the receiver does."""
        sending = asyncio.ensure_future(self._post_together(part))
        try:
            for _ in range(_STEPS):
                await asyncio.sleep(0)
            work()
            return await sending
        except BaseException:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            raise

    def _cut(self, waiting: list[_Item]) -> list[_Item]:
        """The next request: events for the same URL with the same headers, as many as may be."""
        first = waiting[0]
        part = []
        for item in waiting[: self._size.now]:
            if (item.target, item.headers) != (first.target, first.headers):
                break
            part.append(item)
        return part

    def _not_answered(self, part: Sequence[_Item], failure: Failure) -> None:
        if not failure.unanswered or len(part) == 1:
            return
        first, before = self._unanswered
        count = before + 1 if first == part[0].identity else 1
        self._unanswered = part[0].identity, count
        if count >= SLOW:
            self._size.too_much(len(part))

    async def _post_together(self, part: Sequence[_Item]) -> Failure | None:
        assert self._shape.several is not None
        identity = _identity_of(part)
        body = self._shape.several(f"{self._flow}:{identity}", [item.body for item in part])
        return await self._post(self._lines[0], identity, body, part[0])

    async def _post(self, line: Line, identity: str, body: bytes, item: _Item) -> Failure | None:
        """Sends one request; None: accepted."""
        name = f"{self._flow}:{identity}"
        stamp = int(time.time())
        sent = gzip.compress(body, compresslevel=5, mtime=0) if self._settings.compress else body
        headers = [
            *self._headers,
            *item.headers,
            (b"webhook-id", name.encode()),
            (b"webhook-timestamp", b"%d" % stamp),
        ]
        if self._auth is not None:
            try:
                headers.append((b"Authorization", await self._auth.value()))
            except DeliveryError as error:
                return Failure.of(error)
        if self._signers:
            headers.append((b"webhook-signature", signature(self._signers, name, stamp, body).encode()))
        answer = await line.post(headers, sent, item.target)
        if isinstance(answer, NoAnswer):
            outcome = Outcome.PERMANENT if answer.lasting else Outcome.AGAIN
            return Failure(
                outcome,
                answer.reason,
                answer.hint,
                everywhere=answer.everywhere,
                unanswered=not answer.everywhere,
            )
        if 200 <= answer.status < 300:
            return None
        secrets = [*self._secrets, *(self._auth.secrets() if self._auth is not None else ())]
        return judge(answer.status, answer.retry_after, excerpt(answer.body, body, secrets))


def _behind(batch: Batch, indexes: Collection[int]) -> set[int]:
    """The changes that come behind these on the lanes of their rows."""
    changes = list(batch.changes())
    wanted = order(changes)
    first = [number for number, change in enumerate(changes) if change.index in indexes]
    return {changes[behind].index for number in first for behind in wanted.behind(number)}


def _in_order(batch: Batch, items: Sequence[_Item]) -> Order:
    """Which of the items have to wait for which."""
    ready = {item.index for item in items}
    return order(change for change in batch.changes() if change.index in ready)


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
        self._accepted: set[int] = set()

    @property
    def ready(self) -> int:
        """How many changes could be sent now."""
        return 0 if self._stopped else len(self._ready)

    def next(self) -> int | None:
        """The earliest change that may be sent, or None when there is none now."""
        return heappop(self._ready) if self.ready else None

    def accepted(self, number: int) -> None:
        self._in_a_row = 0
        self._accepted.add(number)
        for follower in self._order.followers[number]:
            self._waits[follower] -= 1
            if not self._waits[follower]:
                heappush(self._ready, follower)

    def failed(self, number: int, failure: Failure) -> None:
        self._failures[number] = failure
        if failure.outcome is not Outcome.REFUSED:
            self._in_a_row += 1
            self._stopped |= failure.everywhere or self._in_a_row >= self._limit

    def check(
        self, origin: str, indexes: Sequence[int], refused: dict[int, str], withheld: Collection[int]
    ) -> None:
        """Raises what `write` raises. `indexes` are the changes' places in the batch; `refused` those that
        were refused before anything was sent, and `withheld` those behind them.

        What may heal by itself comes first, since the rest comes again in any case.
        """
        by_outcome: dict[Outcome, Failure] = {}
        for failure in self._failures.values():
            by_outcome.setdefault(failure.outcome, failure)
        refused |= {
            indexes[number]: f"{origin} {failure.reason}"
            for number, failure in sorted(self._failures.items())
            if failure.outcome is Outcome.REFUSED
        }
        wishes = [one.retry_after for one in self._failures.values() if one.retry_after is not None]
        for outcome in Outcome:
            if outcome in by_outcome and outcome is not Outcome.REFUSED:
                # What has the same index comes of one change: it is written when all of it is.
                unsent = {index for number, index in enumerate(indexes) if number not in self._accepted}
                written = [indexes[number] for number in self._accepted if indexes[number] not in unsent]
                raise _error(by_outcome[outcome], origin, written, refused, max(wishes, default=None))
        if refused:
            behind = {waiting for number in self._failures for waiting in self._order.behind(number)}
            waiting_too = {indexes[number] for number in behind}.union(withheld)
            raise Rejected(refused, withheld=waiting_too - refused.keys())


class _Crew:
    """The lines at work on a delivery, as many as there are changes to send at once.

    Functions in `write` that call each other would do as well, and leave all of a batch to the collector of
    cycles each time.
    """

    def __init__(
        self,
        post: Callable[[Line, str, bytes, _Item], Awaitable[Failure | None]],
        lines: Sequence[Line],
        delivery: _Delivery,
        items: Sequence[_Item],
    ) -> None:
        self._post = post
        self._idle = list(lines)
        self._delivery = delivery
        self._items = items

    async def work(self) -> None:
        """Returns when nothing can be sent any more."""
        async with asyncio.TaskGroup() as group:
            self._start(group, self._delivery.ready)

    def _start(self, group: asyncio.TaskGroup, count: int) -> None:
        for _ in range(min(len(self._idle), count)):
            group.create_task(self._send(group, self._idle.pop()))

    async def _send(self, group: asyncio.TaskGroup, line: Line) -> None:
        while (number := self._delivery.next()) is not None:
            item = self._items[number]
            failure = await self._post(line, item.identity, item.body, item)
            if failure is None:
                self._delivery.accepted(number)
                # This line takes the next one itself.
                self._start(group, self._delivery.ready - 1)
            else:
                self._delivery.failed(number, failure)
        self._idle.append(line)


def _error(
    failure: Failure,
    origin: str,
    written: Sequence[int],
    refused: dict[int, str],
    wish: float | None = None,
) -> DeliveryError:
    message = failure.reason if failure.told else f"{origin} {failure.reason}"
    wish = failure.retry_after if wish is None else wish
    hint = failure.hint
    match failure.outcome:
        case Outcome.AGAIN:
            return Transient(
                message,
                retry_after=wish,
                everywhere=failure.everywhere,
                hint=hint,
                written=written,
                refused=refused,
            )
        case Outcome.UNAUTHORIZED:
            return Unauthorized(message, hint=hint, written=written, refused=refused)
        case Outcome.DISABLED:
            return Disabled(message, hint=hint, written=written, refused=refused)
        case Outcome.REFUSED:
            hint = "one change after the other is refused, so they are not meant singly: mend the receiver"
            return Permanent(message, hint=hint, written=written)
        case Outcome.PERMANENT:
            return Permanent(message, hint=hint, written=written, refused=refused)


def _identity_of(part: Sequence[_Item]) -> str:
    """What a request for several is known by. A change between the first and the last may be refused or
    parked by the time they come again, and then it is another request."""
    names = "\n".join(item.identity for item in part)
    digest = blake2b(names.encode(), digest_size=4).hexdigest()
    return f"{part[0].identity}-{part[-1].identity}:{digest}"
