"""A real HTTP receiver of webhooks, for tests, the demo and the bench.

It takes requests on loopback, checks their Standard Webhooks signatures, remembers or records what
came and when, and answers as it is told: any status, late, never, or by closing the connection. Small enough
(HTTP/1.1 with Content-Length, nothing else) to take thousands of requests a second beside what is measured.

In a test, in a thread of its own:

    with Receiver(secrets=[secret]) as receiver:
        receiver.answer_next(Answer(503, headers={"Retry-After": "1"}), Answer(drop=True))
        ...
        receiver.wait(3)
        assert [request.answer.status for request in receiver.requests] == ...

As a process, `python -m cdcflow.testing.receiver --port 0 --record FILE [--secret whsec_…]` prints its URL on
the first line of stdout and adds one JSON line per request to FILE, the body among it:

    {"received": 1795371524.123456, "id": "orders:0/1A2B3C8:7", "verified": true, "status": 204, "body": {…}}
"""

import argparse
import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import orjson

from cdcflow.testing.accepting import Acceptor
from cdcflow.testing.http import END, Unreadable, read_head, rendered
from cdcflow.testing.threaded import Threaded
from cdcflow.testing.waiting import TIMEOUT

#: How far a timestamp may be from now (the specification's libraries use five minutes).
TOLERANCE = 300.0
#: What one request may bring; a webhook sink's batches are far below.
LARGEST = 256 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver does with a request: after `delay` seconds it answers, or closes the connection
    (`drop`), or answers something that is no HTTP (`garbage`), or does nothing until it is stopped (`hang`).
    `took`: it has acted on the request although the sender gets no such answer."""

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay: float = 0.0
    drop: bool = False
    hang: bool = False
    garbage: bool = False
    took: bool = False

    @property
    def accepts(self) -> bool:
        return 200 <= self.status < 300 and not (self.drop or self.hang or self.garbage)

    @property
    def acts(self) -> bool:
        """Whether what is in the request counts at the receiver."""
        return self.accepts or self.took


OK = Answer()

#: Faults that a receiver can be given by name: what becomes of a request that is hit.
FAULTS: Mapping[str, Answer] = {
    "reject": Answer(422, body=b"this one never"),
    "fail after write": Answer(drop=True, took=True),
    "hang": Answer(hang=True),
    "hang after write": Answer(hang=True, took=True),
    "slow": Answer(delay=0.3),
    "reset": Answer(drop=True),
    "garbage": Answer(garbage=True),
    "garbage after write": Answer(garbage=True, took=True),
    "down": Answer(503),
    "busy": Answer(429, headers={"Retry-After": "1"}),
    "unauthorized": Answer(401),
}


@dataclass(frozen=True)
class Received:
    """A request. `received` is the wall clock in seconds, `at` the monotonic one, both when its last byte
    came. `verified` is None where the receiver has no secret, else whether the signature holds."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    received: float
    at: float
    verified: bool | None
    answer: Answer

    @property
    def id(self) -> str:
        return self.headers.get("webhook-id", "")

    @cached_property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of a batch, or the single one."""
        found: list[dict[str, Any]] = self.json.get("events", [self.json])
        return found


Verifier = Callable[[Mapping[str, str], bytes], bool]


def verifier(secrets: Sequence[str]) -> Verifier:
    """Says whether a request is signed with one of `secrets` (`whsec_…`), with the specification's own
    library where it is installed."""
    found = _verifier_of_the_library(secrets)
    if found is not None:
        return found
    keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets]
    return lambda headers, body: verify(keys, headers, body)


def _verifier_of_the_library(secrets: Sequence[str]) -> Verifier | None:
    try:
        from standardwebhooks import Webhook, WebhookVerificationError
    except ImportError:
        return None
    webhooks = [Webhook(secret) for secret in secrets]

    def check(headers: Mapping[str, str], body: bytes) -> bool:
        for webhook in webhooks:
            # ValueError: what should be base64 or a number is not.
            with contextlib.suppress(WebhookVerificationError, ValueError):
                webhook.verify(body, dict(headers), json_parse=False)
                return True
        return False

    return check


def verify(keys: Sequence[bytes], headers: Mapping[str, str], body: bytes) -> bool:
    """Standard Webhooks, "Verifying signatures": v1 over `id.timestamp.body`, and a recent timestamp."""
    identity, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not identity or not stamp.isdigit() or abs(time.time() - int(stamp)) > TOLERANCE:
        return False
    signed = f"{identity}.{stamp}.".encode() + body
    expected = [hmac.digest(key, signed, hashlib.sha256) for key in keys]
    for part in headers.get("webhook-signature", "").split(" "):
        version, _, text = part.partition(",")
        if version != "v1":
            continue
        try:
            found = base64.b64decode(text, validate=True)
        except binascii.Error:
            continue
        if any(hmac.compare_digest(found, signature) for signature in expected):
            return True
    return False


class Receiver(Threaded):
    """A receiver in a thread.

    A request goes to `answer_next`'s answers while there are any, else to `respond`, which is given the
    request and runs in the receiver's thread. With `record`, requests are written to that file and not
    kept in memory.
    """

    name: ClassVar[str] = "receiver"

    def __init__(
        self,
        *,
        secrets: Sequence[str] = (),
        respond: Callable[[Received], Answer] = lambda _request: OK,
        host: str = "127.0.0.1",
        port: int = 0,
        record: Path | None = None,
    ) -> None:
        super().__init__(host, port)
        self.respond = respond
        self.requests: list[Received] = []
        #: Requests seen, and those with an accepting answer.
        self.received = 0
        self.accepted = 0
        self._verify = verifier(secrets) if secrets else None
        self._record = record
        self._record_fd = -1
        self._scripted: deque[Answer] = deque()
        self._changed = threading.Condition()
        self._connections: set[_Connection] = set()

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}/"

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._connections)

    def answer_next(self, *answers: Answer) -> None:
        """The next requests get these answers, one each, before `respond` is asked again."""
        self._scripted.extend(answers)

    def wait(self, count: int, timeout: float = TIMEOUT) -> list[Received]:
        """Returns the requests when `count` have come. Raises TimeoutError after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.received >= count, timeout):
                raise TimeoutError(f"{self.received} of {count} requests came within {timeout:g} s")
            return list(self.requests)

    async def serve(self, ready: Callable[[], None]) -> None:
        self._begin()
        if self._record is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._record_fd = os.open(self._record, flags, 0o600)
        try:
            acceptor = Acceptor(self._listen(), lambda: _Connection(self))
            ready()
            try:
                await self._stopping.wait()
            finally:
                await acceptor.close()
                for connection in list(self._connections):
                    connection.abort()
        finally:
            if self._record_fd >= 0:
                os.close(self._record_fd)
                self._record_fd = -1

    def take(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Handles one request in the receiver's thread."""
        received, at = time.time(), time.monotonic()
        verified = self._verify(headers, body) if self._verify is not None else None
        request = Received(method, path, headers, body, received, at, verified, OK)
        if verified is False:
            answer = Answer(401, body=b"the signature does not hold")
        else:
            answer = self._scripted.popleft() if self._scripted else self.respond(request)
        if answer is not OK:
            request = replace(request, answer=answer)
        if self._record_fd >= 0:
            os.write(self._record_fd, _record_line(request))
        with self._changed:
            if self._record_fd < 0:
                self.requests.append(request)
            self.received += 1
            self.accepted += answer.accepts
            self._changed.notify_all()
        return answer


def _record_line(request: Received) -> bytes:
    body = None
    with contextlib.suppress(orjson.JSONDecodeError):
        # Only to see whether it is JSON: numbers beyond 64 bits must stay as they came.
        orjson.loads(request.body)
        body = orjson.Fragment(request.body.replace(b"\n", b" "))
    return orjson.dumps(
        {
            "received": request.received,
            "id": request.id,
            "verified": request.verified,
            "status": request.answer.status,
            "body": body,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


class _Connection(asyncio.Protocol):
    """One connection: requests, one at a time."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._buffer = bytearray()
        self._needed = 0
        self._busy = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._receiver._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._receiver._connections.discard(self)

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= self._needed and not self._busy:
            self._next()

    def _next(self) -> None:
        end = self._buffer.find(END)
        if end < 0:
            return
        try:
            head = read_head(bytes(self._buffer[:end]), LARGEST)
        except Unreadable as error:
            self._write(Answer(error.status))
            self._transport.close()
            return
        start = end + len(END)
        self._needed = start + head.length
        if len(self._buffer) < self._needed:
            return
        body = bytes(self._buffer[start : self._needed])
        del self._buffer[: self._needed]
        self._needed = 0
        self._busy = True
        self._do(self._receiver.take(head.method, head.target, head.headers, body))

    def _do(self, answer: Answer) -> None:
        if answer.delay:
            asyncio.get_running_loop().call_later(answer.delay, self._do, replace(answer, delay=0.0))
            return
        if answer.hang:
            return
        if answer.drop:
            self._transport.abort()
            return
        if answer.garbage:
            self._transport.write(b"\x00\xffnot HTTP at all\r\n\r\n")
            self._transport.close()
            return
        self._write(answer)
        self._busy = False
        if self._buffer:
            self._next()

    def _write(self, answer: Answer) -> None:
        if self._transport.is_closing():
            return
        if answer is OK:
            self._transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            return
        self._transport.write(rendered(answer.status, answer.headers, answer.body))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cdcflow.testing.receiver", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--record", type=Path, help="file that gets a JSON line per request")
    parser.add_argument("--secret", action="append", default=[], help="whsec_…; may be given several times")
    options = parser.parse_args(arguments)
    receiver = Receiver(secrets=options.secret, port=options.port, record=options.record)

    async def run() -> None:
        serving = asyncio.ensure_future(receiver.serve(lambda: print(receiver.url, flush=True)))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    try:
        asyncio.run(run())
    except OSError as error:
        print(f"the receiver cannot use port {options.port}: {error.strerror}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
