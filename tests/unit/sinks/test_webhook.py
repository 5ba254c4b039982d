"""The webhook sink against a real receiver."""

import asyncio
import base64
import os
import socket
import ssl
import threading
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError
from standardwebhooks import Webhook

from cdcflow.delivery.handover import chosen
from cdcflow.errors import DeliveryError, Permanent, Rejected, Transient
from cdcflow.model import Batch, Column, Op
from cdcflow.sink import FlowContext, Probe, Sink
from cdcflow.testing.accepting import Acceptor, streams
from cdcflow.testing.batches import inserts, make_batch, make_relation
from cdcflow.testing.conformance import SinkConformance
from cdcflow.testing.ports import free_ports, listening
from cdcflow.testing.receiver import Answer, Received, Receiver
from cdcflow.testing.waiting import eventually
from cdcflow_sinks.webhook import WebhookSettings, WebhookSink, plugin
from cdcflow_sinks.webhook.signature import signature, signer

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(24))).decode()
RELATION = make_relation()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(secrets=[SECRET]) as running:
        yield running


def sink_to(url: str, **settings: Any) -> WebhookSink:
    read = WebhookSettings.model_validate(
        {"type": "webhook", "url": url, "secret": SECRET, "allow": ["127.0.0.1"], **settings}
    )
    return WebhookSink(read, FlowContext(flow="paid-orders", state=Path()))


@asynccontextmanager
async def opened(url: str, **settings: Any) -> AsyncIterator[WebhookSink]:
    sink = sink_to(url, **settings)
    try:
        await sink.open()
        yield sink
    finally:
        await sink.close()


def write(url: str, *batches: Batch, **settings: Any) -> None:
    """Writes the batches by one sink; the first error ends it."""

    async def run() -> None:
        async with opened(url, **settings) as sink:
            for batch in batches:
                await sink.write(batch)

    asyncio.run(run())


def failure(url: str, changes: Batch, /, **settings: Any) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        write(url, changes, **settings)
    return caught.value


def batch_of_ids(*ids: int | str, base: int = 0) -> Batch:
    """An insert for the first mention of an id, an update for each later one."""
    seen: set[int | str] = set()
    rows = []
    for number, one in enumerate(ids):
        op = Op.UPDATE if one in seen else Op.INSERT
        seen.add(one)
        rows.append((op, {"id": str(one), "status": f"status {number}", "note": None}, None))
    return make_batch(RELATION, rows, base=base, commit_lsn=64 + 8 * base)


def refuse(status: int, *ids: str) -> Any:
    """Answers with `status` to the events of these rows."""

    def respond(request: Received) -> Answer:
        return Answer(status) if request.json["key"]["id"] in ids else Answer()

    return respond


@asynccontextmanager
async def serving(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """The URL of a server that does with a connection what `handle` says, until the client closes it."""
    connections: list[asyncio.Task[None]] = []

    # Not a coroutine: a connection is known the moment it is made, and not only when its task first runs.
    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.ensure_future(serve(reader, writer)))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(asyncio.IncompleteReadError):
                await handle(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    listener = listening("127.0.0.1", 0)
    port = listener.getsockname()[1]
    acceptor = Acceptor(listener, streams(accept))
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        await acceptor.close()
        await asyncio.gather(*connections)


class _Webhook(SinkConformance):
    holds = "events"
    large = 1_000
    settings: Mapping[str, Any]

    @pytest.fixture(autouse=True)
    def _own_receiver(self) -> Iterator[None]:
        with Receiver(secrets=[SECRET]) as self.receiver:
            yield

    def make_sink(self, context: FlowContext) -> Sink:
        values = {"type": "webhook", "url": self.receiver.url, "secret": SECRET, **self.settings}
        values["allow"] = ["127.0.0.1"]
        return plugin.create(WebhookSettings.model_validate(values), plugin.options(), context)

    def events(self) -> Sequence[Mapping[str, Any]]:
        assert all(request.verified for request in self.receiver.requests)
        return [event for request in self.receiver.requests for event in request.events]


class TestOneChangePerRequest(_Webhook):
    settings: Mapping[str, Any] = {}


class TestOneAtATime(_Webhook):
    settings: Mapping[str, Any] = {"concurrency": 1}


class TestBatches(_Webhook):
    settings: Mapping[str, Any] = {"batch": True, "max_batch": 7}


# What a request is.


def test_a_request_is_signed_as_the_specification_says(receiver: Receiver) -> None:
    write(receiver.url, inserts(RELATION, [5], commit_lsn=0x1_0000_0040))
    (request,) = receiver.requests
    assert request.verified
    assert request.method == "POST"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == "paid-orders:1/40:1"
    assert "." not in request.headers["webhook-id"]
    assert abs(int(request.headers["webhook-timestamp"]) - request.received) < 5
    assert request.json["id"] == "1/40:1"
    assert request.json["new"] == {"id": "5", "status": "status 5", "note": "note 5"}


def test_the_specifications_own_example_gives_its_signature() -> None:
    # The test vector of the specification's libraries.
    sign = signer("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    found = signature([sign], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_specifications_own_private_key_gives_its_signature() -> None:
    # The test vector of the specification's library in Go (webhook_asymmetric_test.go).
    sign = signer("whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=")
    found = signature([sign], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    expected = "tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7KaaBRdM5WqyeFiL8Ag=="
    assert found == f"v1a,{expected}"


def test_a_receiver_with_the_public_key_alone_can_tell_our_requests(receiver: Receiver) -> None:
    seed = bytes(range(32))
    private = f"whsk_{base64.b64encode(seed).decode()}"
    # A receiver that has the secret goes on verifying beside it.
    write(receiver.url, batch_of_ids(1), secret=[private, SECRET])
    (request,) = receiver.requests
    assert request.verified
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    found = dict(part.split(",") for part in request.headers["webhook-signature"].split(" "))
    name, stamp = request.headers["webhook-id"], request.headers["webhook-timestamp"]
    public.verify(base64.b64decode(found["v1a"]), f"{name}.{stamp}.".encode() + request.body)
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(found["v1a"]), f"{name}.{stamp}.".encode() + request.body + b" ")


@pytest.mark.parametrize("wrong", ["whsk_", "whsk_???", "whsk_c2hvcnQ=", "whpk_" + "A" * 43 + "="])
def test_what_is_no_private_key_is_refused_without_being_shown(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"signing secret|private key") as refused:
        signer(wrong)
    assert wrong == "whsk_" or wrong not in str(refused.value)


def test_with_two_secrets_a_receiver_of_either_is_content(receiver: Receiver) -> None:
    write(receiver.url, batch_of_ids(1), secret=[OTHER, SECRET])
    (request,) = receiver.requests
    assert request.verified
    Webhook(OTHER).verify(request.body, dict(request.headers))
    assert len(request.headers["webhook-signature"].split(" ")) == 2


def test_without_a_secret_requests_are_not_signed() -> None:
    with Receiver() as receiver:
        write(receiver.url, batch_of_ids(1), secret=[])
        assert "webhook-signature" not in receiver.requests[0].headers
        assert receiver.requests[0].headers["webhook-id"]


def test_own_headers_are_sent_along(receiver: Receiver) -> None:
    write(receiver.url, batch_of_ids(1), headers={"Authorization": "Bearer abc", "User-Agent": "shop"})
    headers = receiver.requests[0].headers
    assert (headers["authorization"], headers["user-agent"]) == ("Bearer abc", "shop")


def test_the_path_and_the_query_of_the_url_are_kept(receiver: Receiver) -> None:
    write(receiver.url + "in/a%20b?x=1&y=%2F", batch_of_ids(1))
    assert receiver.requests[0].path == "/in/a%20b?x=1&y=%2F"


def test_a_batch_that_lost_one_in_its_middle_is_another_request(receiver: Receiver) -> None:
    """That one was refused or parked meanwhile; the same id would be another content."""
    batch = batch_of_ids(*range(4))
    write(receiver.url, batch, batch=True)
    write(receiver.url, chosen(batch, [0, 1, 3]), batch=True)
    write(receiver.url, batch, batch=True)
    first, second, third = (request.id for request in receiver.requests)
    assert first.startswith("paid-orders:0/40:1-0/40:4:")
    assert first == third != second


def test_a_batch_names_its_first_and_last_event(receiver: Receiver) -> None:
    write(receiver.url, batch_of_ids(*range(5)), batch=True, max_batch=3)
    assert [request.id.rpartition(":")[0] for request in receiver.requests] == [
        "paid-orders:0/40:1-0/40:3",
        "paid-orders:0/40:4-0/40:5",
    ]
    for request in receiver.requests:
        assert request.json["id"] == request.id
        assert "." not in request.id
    assert [len(request.events) for request in receiver.requests] == [3, 2]


def test_the_environments_proxy_is_ignored(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{next(free_ports())}")
    write(receiver.url, batch_of_ids(1))
    assert receiver.accepted == 1


# Order and concurrency.


def test_several_requests_are_under_way_at_once_but_no_more_than_allowed() -> None:
    now = most = 0
    lock = threading.Lock()
    together = threading.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            with lock:
                now += 1
                most = max(most, now)
                if now == 4:
                    together.set()
            # Nobody is answered before four wait, so fewer at a time would never end.
            await asyncio.to_thread(together.wait, 20)
            with lock:
                now -= 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def run() -> None:
        async with serving(handle) as url, opened(url, concurrency=4) as sink:
            await sink.write(batch_of_ids(*range(40)))

    asyncio.run(run())
    assert together.is_set()
    assert most == 4


def test_connections_are_kept_alive(receiver: Receiver) -> None:
    async def run() -> None:
        async with opened(receiver.url, concurrency=3) as sink:
            for base in range(0, 100, 20):
                await sink.write(batch_of_ids(*range(20), base=base))
            assert receiver.connections <= 3

    asyncio.run(run())
    assert receiver.accepted == 100
    eventually(lambda: receiver.connections == 0, what="the end of the connections")


def test_changes_of_one_row_wait_for_the_answer_to_the_one_before(receiver: Receiver) -> None:
    # Slow answers to the early ones: whoever does not wait overtakes.
    receiver.respond = lambda request: Answer(delay=0.02 if "status 0" in str(request.json) else 0.0)
    ids = [number % 5 for number in range(60)]
    write(receiver.url, batch_of_ids(*ids))
    arrived = defaultdict(list)
    for request in receiver.requests:
        arrived[request.json["key"]["id"]].append(request.json["id"])
    for identities in arrived.values():
        assert identities == sorted(identities, key=lambda text: int(text.rpartition(":")[2]))
    assert Counter(map(str, ids)) == {key: len(found) for key, found in arrived.items()}


def test_after_a_failure_nothing_of_the_same_row_overtakes_and_other_rows_go_on(receiver: Receiver) -> None:
    receiver.respond = refuse(500, "bad")
    error = failure(receiver.url, batch_of_ids("bad", 1, "bad", 2, 1, "bad", 3))
    assert isinstance(error, Transient)
    sent = [request.json["id"] for request in receiver.requests]
    assert sent.count("0/40:1") == 1
    assert sorted(sent) == ["0/40:1", "0/40:2", "0/40:4", "0/40:5", "0/40:7"]


def test_after_a_failure_the_engine_is_told_what_was_accepted(receiver: Receiver) -> None:
    receiver.respond = refuse(500, "bad")
    error = failure(receiver.url, batch_of_ids("bad", 1, "bad", 2, 3))
    assert isinstance(error, Transient)
    assert error.written == {1, 3, 4}
    receiver.respond = lambda request: Answer({"bad": 500, "4": 422}.get(request.json["key"]["id"], 204))
    error = failure(receiver.url, batch_of_ids("bad", 1, 4, 2))
    assert set(error.written) == {1, 3}
    assert set(error.refused) == {2}


def test_a_failure_among_batches_tells_what_was_accepted(receiver: Receiver) -> None:
    receiver.answer_next(Answer(), Answer(502))
    error = failure(receiver.url, batch_of_ids(*range(7)), batch=True, max_batch=3)
    assert error.written == {0, 1, 2}


def test_a_retry_has_the_same_id_and_a_signature_of_its_own_time(receiver: Receiver) -> None:
    receiver.answer_next(Answer(502))

    async def run() -> None:
        async with opened(receiver.url) as sink:
            with pytest.raises(Transient):
                await sink.write(batch_of_ids(1))
            await sink.write(batch_of_ids(1))

    asyncio.run(run())
    first, second = receiver.requests
    assert first.id == second.id
    assert first.body == second.body
    assert second.verified


def test_an_id_survives_a_restart(receiver: Receiver) -> None:
    for settings in ({}, {"batch": True}):
        write(receiver.url, batch_of_ids(1, 2, base=50), **settings)
        write(receiver.url, batch_of_ids(1, 2, base=50), **settings)
        half = len(receiver.requests) // 2
        first, second = receiver.requests[:half], receiver.requests[half:]
        assert {(request.id, request.body) for request in first} == {(r.id, r.body) for r in second}
        receiver.requests.clear()


def test_a_batch_whose_outcome_is_unknown_goes_out_as_it_was_and_in_parts_only_later(
    receiver: Receiver,
) -> None:
    batch = batch_of_ids(1, 2, 3, 4)
    receiver.answer_next(Answer(drop=True), Answer(drop=True))

    async def run() -> None:
        async with opened(receiver.url, batch=True, max_batch=4) as sink:
            for _ in range(2):
                with pytest.raises(Transient):
                    await sink.write(batch)
            await sink.write(batch)

    asyncio.run(run())
    assert receiver.requests[0].id == receiver.requests[1].id
    assert [request.id.rpartition(":")[0] for request in receiver.requests] == [
        "paid-orders:0/40:1-0/40:4",
        "paid-orders:0/40:1-0/40:4",
        "paid-orders:0/40:1-0/40:2",
        "paid-orders:0/40:3-0/40:4",
    ]


# Failures.


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
@pytest.mark.parametrize("batch", [True, False])
def test_what_may_heal_is_transient(receiver: Receiver, status: int, batch: bool) -> None:
    receiver.respond = lambda _: Answer(status)
    assert isinstance(failure(receiver.url, batch_of_ids(1, 2), batch=batch), Transient)


@pytest.mark.parametrize("status", [301, 302, 307, 308, 401, 402, 403, 404, 405, 409, 410, 415, 451, 499])
@pytest.mark.parametrize("batch", [True, False])
def test_what_a_person_must_mend_is_permanent(receiver: Receiver, status: int, batch: bool) -> None:
    receiver.respond = lambda _: Answer(status, headers={"Location": receiver.url})
    error = failure(receiver.url, batch_of_ids(*range(50)), batch=batch)
    assert isinstance(error, Permanent)
    assert str(status) in str(error)
    assert len(receiver.requests) <= 8, "the rest of the backlog was sent to an endpoint that takes nothing"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_change_is_named_with_what_waits_behind_it(receiver: Receiver, status: int) -> None:
    receiver.respond = refuse(status, "bad")
    error = failure(receiver.url, batch_of_ids(1, "bad", 2, "bad", 1))
    assert isinstance(error, Rejected)
    assert set(error.rows) == {1}
    assert f"answered {status}" in error.rows[1]
    assert error.withheld == {3}
    assert [request.json["key"]["id"] for request in receiver.requests].count("bad") == 1
    assert receiver.accepted == 3


def test_any_number_of_refused_changes_does_not_stop_the_others(receiver: Receiver) -> None:
    receiver.respond = refuse(422, *map(str, range(50)))
    error = failure(receiver.url, batch_of_ids(*range(60)))
    assert isinstance(error, Rejected)
    assert set(error.rows) == set(range(50))
    assert receiver.accepted == 10


def test_a_refusal_is_not_final_while_something_else_may_heal(receiver: Receiver) -> None:
    receiver.respond = lambda request: Answer({"a": 422, "b": 500}.get(request.json["key"]["id"], 204))
    assert isinstance(failure(receiver.url, batch_of_ids("a", "b", "c")), Transient)


@pytest.mark.parametrize("status", [400, 422])
def test_of_a_refused_batch_only_the_refused_change_stays_behind(receiver: Receiver, status: int) -> None:
    receiver.respond = lambda request: Answer(
        status if any(event["key"]["id"] == "13" for event in request.events) else 204
    )
    error = failure(receiver.url, batch_of_ids(*range(40)), batch=True)
    assert isinstance(error, Rejected)
    assert set(error.rows) == {13}
    accepted = [e["key"]["id"] for r in receiver.requests if r.answer.accepts for e in r.events]
    assert accepted == [str(i) for i in range(40) if i != 13]


def test_of_a_refused_batch_what_comes_behind_the_refused_change_of_its_row_is_withheld(
    receiver: Receiver,
) -> None:
    receiver.respond = lambda request: Answer(
        422 if any(event["new"]["status"] == "status 1" for event in request.events) else 204
    )
    error = failure(receiver.url, batch_of_ids(1, "bad", 2, "bad", 3, "bad", 1), batch=True)
    assert isinstance(error, Rejected)
    assert (set(error.rows), set(error.withheld)) == ({1}, {3, 5})
    accepted = [e["key"]["id"] for r in receiver.requests if r.answer.accepts for e in r.events]
    assert accepted == ["1", "2", "3", "1"]


def test_an_endpoint_that_refuses_every_batch_gets_no_dead_letters(receiver: Receiver) -> None:
    receiver.respond = lambda _: Answer(422)
    error = failure(receiver.url, batch_of_ids(*range(500)), batch=True)
    assert isinstance(error, Permanent)
    assert not error.refused
    assert "one change after the other" in error.hint
    assert len(receiver.requests) < 50


def test_a_batch_that_is_too_large_is_sent_in_parts(receiver: Receiver) -> None:
    batch = batch_of_ids(*range(40))
    receiver.respond = lambda request: Answer(413) if len(request.events) > 6 else Answer()
    write(receiver.url, batch, batch=True)
    accepted = [request for request in receiver.requests if request.answer.accepts]
    assert [event["key"]["id"] for request in accepted for event in request.events] == [
        str(number) for number in range(40)
    ]
    # What was learned is not forgotten: 40, 20, 10 and no more are tried in vain.
    assert len(receiver.requests) - len(accepted) == 3


def test_a_single_event_that_is_too_large_is_refused(receiver: Receiver) -> None:
    receiver.respond = lambda request: Answer(413 if request.events[0]["key"]["id"] == "2" else 204)
    error = failure(receiver.url, batch_of_ids(1, 2, 3), batch=True, max_batch=1)
    assert isinstance(error, Rejected)
    assert set(error.rows) == {1}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("soon", None),
        ("Thu, 01 Jan 2015 00:00:00 GMT", 0.0),
        ("-5", None),
        ("", None),
    ],
)
def test_retry_after_is_passed_on(receiver: Receiver, header: str, expected: float | None) -> None:
    receiver.respond = lambda _: Answer(503, headers={"Retry-After": header})
    error = failure(receiver.url, batch_of_ids(1))
    assert isinstance(error, Transient)
    assert error.retry_after == expected


def test_retry_after_may_be_a_date(receiver: Receiver) -> None:
    receiver.respond = lambda _: Answer(429, headers={"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"})
    error = failure(receiver.url, batch_of_ids(1), batch=True)
    assert isinstance(error, Transient)
    assert error.retry_after is not None
    assert error.retry_after > 1e9


@pytest.mark.parametrize("status", [429, 503])
def test_an_endpoint_that_asks_for_rest_gets_it(receiver: Receiver, status: int) -> None:
    receiver.respond = lambda _: Answer(status)
    failure(receiver.url, batch_of_ids(*range(500)))
    assert len(receiver.requests) <= 8


def test_an_endpoint_that_fails_every_request_is_left_alone_soon(receiver: Receiver) -> None:
    receiver.respond = lambda _: Answer(500)
    failure(receiver.url, batch_of_ids(*range(500)))
    assert len(receiver.requests) <= 16


def test_a_receiver_that_hangs_is_left_after_the_timeout(receiver: Receiver) -> None:
    receiver.answer_next(Answer(hang=True))

    async def run() -> None:
        async with opened(receiver.url, timeout="2s", concurrency=1) as sink:
            with pytest.raises(Transient, match=r"did not answer within 2 s"):
                await sink.write(batch_of_ids(1))
            await sink.write(batch_of_ids(1))

    asyncio.run(run())
    first, second = receiver.requests
    assert first.id == second.id


def test_a_connection_that_ends_without_an_answer_is_transient(receiver: Receiver) -> None:
    receiver.respond = lambda _: Answer(drop=True)
    error = failure(receiver.url, batch_of_ids(1))
    assert isinstance(error, Transient)
    assert "127.0.0.1" in str(error)


def test_a_dead_receiver_is_transient_and_found_again_when_it_returns() -> None:
    receiver = Receiver(secrets=[SECRET], port=next(free_ports()))

    async def run() -> None:
        async with opened(receiver.url) as sink:
            with pytest.raises(Transient, match="Connection refused"):
                await sink.write(batch_of_ids(1, 2, 3))
            receiver.start()
            await sink.write(batch_of_ids(1, 2, 3))
            # Its connections die with it, and the sink notices before it uses them.
            await asyncio.to_thread(receiver.stop)
            receiver.start()
            await sink.write(batch_of_ids(4, 5, 6, base=3))

    try:
        asyncio.run(run())
    finally:
        receiver.stop()
    assert receiver.accepted == 6


def test_something_that_is_not_http_is_transient() -> None:
    async def run() -> DeliveryError:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"220 mail.example.com ESMTP\r\n")

        async with serving(handle) as url, opened(url) as sink:
            with pytest.raises(DeliveryError) as caught:
                await sink.write(batch_of_ids(1))
        return caught.value

    assert isinstance(asyncio.run(run()), Transient)


def test_a_cancelled_write_can_be_repeated(receiver: Receiver) -> None:
    receiver.answer_next(Answer(hang=True), Answer(hang=True))

    async def run() -> None:
        async with opened(receiver.url, concurrency=2) as sink:
            writing = asyncio.create_task(sink.write(batch_of_ids(1, 2, 3)))
            await asyncio.to_thread(receiver.wait, 2)
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
            await sink.write(batch_of_ids(1, 2, 3))

    asyncio.run(run())
    assert receiver.accepted == 3


def test_a_long_answer_is_not_read_to_its_end(receiver: Receiver) -> None:
    receiver.respond = lambda _: Answer(200, body=b"x" * (20 << 20))
    write(receiver.url, batch_of_ids(*range(20)))
    assert receiver.accepted == 20


# What people are told.


def test_an_error_repeats_neither_values_nor_secrets_nor_the_path(receiver: Receiver) -> None:
    row = {"id": "4711", "status": "ada@example.com", "note": 'said "hi" to\nBen, ' + "at length " * 30}

    def respond(request: Received) -> Answer:
        told = request.body.decode() + request.headers["x-token"] + request.path + SECRET
        return Answer(500, body=b"first words " + told.encode())

    receiver.respond = respond
    batch = make_batch(RELATION, [("insert", row, None)])
    for settings in ({}, {"batch": True}):
        error = failure(receiver.url + "hooks/T0K3N", batch, headers={"X-Token": "hunter22"}, **settings)
        text = str(error)
        assert "answered 500 Internal Server Error: first words" in text
        assert receiver.url.rstrip("/") in text
        for hidden in ("4711", "ada@", "said", "at length", "hunter22", "T0K3N", SECRET, SECRET[6:]):
            assert hidden not in text
        assert len(text) < 300


def test_an_endpoints_words_are_cut_and_on_one_line(receiver: Receiver) -> None:
    receiver.respond = lambda _: Answer(
        502, body="<html>\r\n\t<b>upstream\x1b[31m</b>ü".encode() + b"\xff" * 500
    )
    text = str(failure(receiver.url, batch_of_ids(1)))
    assert "<html> <b>upstream�[31m</b>ü" in text
    assert text.isprintable()
    assert len(text) < 300


def test_the_settings_show_no_secret(receiver: Receiver) -> None:
    values = {
        "type": "webhook",
        "url": receiver.url + "T0K3N",
        "secret": SECRET,
        "headers": {"A": "hunter22"},
    }
    shown = repr(WebhookSettings.model_validate(values))
    for hidden in (SECRET[6:], "T0K3N", "hunter22"):
        assert hidden not in shown


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"secret": "s3cr3t"}, "begins with whsec_"),
        ({"secret": "whsec_s3cr3t!"}, "base64"),
        ({"secret": "whsec_" + base64.b64encode(b"s3cr3t").decode()}, "24 to 64 bytes, found 6"),
        ({"secret": [SECRET, "s3cr3t"]}, "begins with whsec_"),
        ({"url": "ftp://example.com/s3cr3t"}, "not an http URL"),
        ({"url": "s3cr3t"}, "not an http URL"),
        ({"url": "http://exa mple.com:s3cr3t/"}, "not a URL"),
        ({"url": "https://me:s3cr3t@example.com/"}, "auth"),
        ({"url": "https://example.com/#s3cr3t"}, "fragment"),
        ({"headers": {"Webhook-Id": "s3cr3t"}}, "set by cdcflow"),
        ({"headers": {"Host": "s3cr3t"}}, "set by cdcflow"),
        ({"headers": {"A b": "s3cr3t"}}, "not the name"),
        ({"headers": {"A": "s3cr3t\r\nB: c"}}, "printable ASCII"),
        ({"timeout": "0s"}, "greater than 0"),
        ({"concurrency": 0}, "greater than or equal to 1"),
        ({"max_batch": 10}, "no effect without `batch: true`"),
        ({"batch": True, "concurrency": 2}, "no effect with `batch: true`"),
        ({"retries": 3}, "Extra inputs"),
    ],
)
def test_a_wrong_setting_is_told_without_its_secret(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        WebhookSettings.model_validate({"type": "webhook", "url": "https://example.com/", **values})
    assert expected in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


# The probe.


def probe(url: str, **settings: Any) -> list[tuple[str, str]]:
    sink = sink_to(url, **settings)
    assert isinstance(sink, Probe)
    return [(finding.severity, finding.message) for finding in asyncio.run(sink.probe())]


def test_the_probe_connects_and_sends_nothing(receiver: Receiver) -> None:
    ((severity, message),) = probe(receiver.url)
    assert severity == "ok"
    assert "127.0.0.1" in message
    assert receiver.requests == []


def test_the_probe_warns_of_unsigned_requests(receiver: Receiver) -> None:
    assert [severity for severity, _ in probe(receiver.url, secret=[])] == ["ok", "warning"]


def test_the_probe_says_why_an_endpoint_is_not_reached() -> None:
    assert probe(f"http://127.0.0.1:{next(free_ports())}/") == [
        ("error", f"cannot be reached: {os.strerror(111)}"),
    ]
    assert probe("http://nowhere.invalid/") == [("error", "has a name that does not resolve")]


#: Made for this test, valid for a hundred years, and signed by nobody but itself.
CERTIFICATE = """
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgHz5nklWMffYhwaC+
XOqDKfNVgiLouTo7HAQCHH2X8SehRANCAATgt0kRgi+AMog8pk9ILVsks/qu0b4n
hJ98AypH6hAJqaP91R8EwS1ileFC63AQfGXIihog5HlOIV1lT/aqNqsV
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBjzCCATagAwIBAgIUFFgXXLkTdTykmIVr8/eGe3gfLiYwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMjE5MDY0NVoYDzIxMjYxMDI5
MTkwNjQ1WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAATgt0kRgi+AMog8pk9ILVsks/qu0b4nhJ98AypH6hAJqaP91R8EwS1i
leFC63AQfGXIihog5HlOIV1lT/aqNqsVo2QwYjAdBgNVHQ4EFgQU4+5hnB4riKWL
p4v9Gyg3HTnQIaUwHwYDVR0jBBgwFoAU4+5hnB4riKWLp4v9Gyg3HTnQIaUwDwYD
VR0TAQH/BAUwAwEB/zAPBgNVHREECDAGhwR/AAABMAoGCCqGSM49BAMCA0cAMEQC
IEan5LLT47dAM1vzY838DqnHaQROk4ZjSmds6e3XMBKDAiA5fLHM0nq0F38r1Amf
8YHB6PzKN4djDUCu7KNVtR1pbw==
-----END CERTIFICATE-----
"""


@pytest.fixture
def untrusted(tmp_path: Path) -> Iterator[str]:
    """The URL of a TLS server with a certificate that nobody vouches for."""
    (tmp_path / "server.pem").write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    context.wrap_socket(connection, server_side=True).close()
                except OSError:
                    # The client hangs up when it has seen the certificate.
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{listener.getsockname()[1]}/"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)


def test_a_certificate_that_nobody_vouches_for_is_not_accepted(untrusted: str) -> None:
    error = failure(untrusted, batch_of_ids(1))
    assert isinstance(error, Permanent)
    assert "certificate that cannot be trusted: self-signed certificate" in str(error)
    assert "add its authority" in error.hint
    ((severity, message),) = probe(untrusted)
    assert severity == "error"
    assert "cannot be trusted" in message


def test_the_systems_authorities_are_trusted(
    untrusted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # OpenSSL's own variable for the system's file of authorities.
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
    ((severity, _),) = probe(untrusted)
    assert severity == "ok"


@pytest.mark.parametrize("batch", [False, True])
def test_exact_numbers_go_out_with_all_their_digits_and_stay_out_of_errors(
    receiver: Receiver, batch: bool
) -> None:
    relation = make_relation(
        "amounts", [Column("id", 23, key=True), Column("total", 1700), Column("doc", 114)]
    )
    values = {"id": "1", "total": "12345678901234567890.10", "doc": '{"lone": "\\ud800"}'}
    changes = make_batch(relation, [(Op.INSERT, values, None)])
    bodies = []

    def respond(request: Received) -> Answer:
        bodies.append(request.body)
        return Answer(500, body=b"bad total 12345678901234567890.10")

    receiver.respond = respond

    error = failure(receiver.url, changes, numbers="exact", batch=batch)

    assert b'"total":12345678901234567890.10' in bodies[0]
    assert "bad total" in str(error)
    assert "1234567890" not in str(error)
