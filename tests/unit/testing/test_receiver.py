"""The receiver that tests, demo and bench rely on."""

import base64
import gc
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest
from standardwebhooks import Webhook

from cdcflow.testing.ports import PORTS
from cdcflow.testing.receiver import Answer, Received, Receiver, verifier, verify
from cdcflow.testing.waiting import TIMEOUT, eventually

KEY = bytes(range(24))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


def signed(body: bytes, identity: str = "a", at: float | None = None, secret: str = SECRET) -> dict[str, str]:
    moment = datetime.fromtimestamp(time.time() if at is None else at, UTC)
    return {
        "webhook-id": identity,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(secret).sign(identity, moment, body.decode()),
    }


def connect(receiver: Receiver) -> http.client.HTTPConnection:
    host, _, port = receiver.url.removeprefix("http://").rstrip("/").partition(":")
    return http.client.HTTPConnection(host, int(port), timeout=TIMEOUT)


def post(connection: http.client.HTTPConnection, body: bytes, headers: Mapping[str, str]) -> int:
    connection.request("POST", "/in", body, dict(headers))
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_requests_are_kept_in_order_with_the_time_they_came() -> None:
    with Receiver() as receiver:
        connection = connect(receiver)
        before = time.time()
        for number in range(3):
            assert post(connection, b'{"n":%d}' % number, {"Webhook-Id": f"id {number}"}) == 204
        connection.close()
        assert [request.json["n"] for request in receiver.requests] == [0, 1, 2]
        assert [request.id for request in receiver.requests] == ["id 0", "id 1", "id 2"]
        times = [request.received for request in receiver.requests]
        assert times == sorted(times)
        assert before <= times[0] <= times[-1] <= time.time()


def test_it_answers_as_it_is_told() -> None:
    with Receiver(respond=lambda request: Answer(200, body=request.body)) as receiver:
        receiver.answer_next(Answer(503, {"Retry-After": "3"}, b"later"), Answer(drop=True))
        connection = connect(receiver)
        connection.request("POST", "/", b"x")
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("Retry-After"), answer.read()) == (503, "3", b"later")
        with pytest.raises(ConnectionError):
            post(connection, b"x", {})
        connection.close()
        connection.request("POST", "/", b"echo")
        assert connection.getresponse().read() == b"echo"
        connection.close()
        assert (receiver.received, receiver.accepted) == (3, 1)


def test_a_hanging_answer_never_comes() -> None:
    with Receiver() as receiver:
        receiver.answer_next(Answer(hang=True))
        connection = connect(receiver)
        connection.timeout = 0.1
        with pytest.raises(TimeoutError):
            post(connection, b"x", {})
        connection.close()
        receiver.wait(1)


def test_a_delayed_answer_comes_later() -> None:
    with Receiver() as receiver:
        receiver.answer_next(Answer(delay=0.05))
        connection = connect(receiver)
        before = time.monotonic()
        assert post(connection, b"x", {}) == 204
        assert time.monotonic() - before >= 0.05
        connection.close()


def test_only_signed_requests_are_accepted_when_it_has_a_secret() -> None:
    body = b'{"a":1}'
    with Receiver(secrets=["whsec_" + base64.b64encode(bytes(32)).decode(), SECRET]) as receiver:
        connection = connect(receiver)
        assert post(connection, body, signed(body)) == 204
        assert post(connection, body, {}) == 401
        assert post(connection, body + b" ", signed(body)) == 401
        assert post(connection, body, signed(body) | {"webhook-id": "b"}) == 401
        assert post(connection, body, signed(body, at=time.time() - 600)) == 401
        connection.close()
        assert [request.verified for request in receiver.requests] == [True, False, False, False, False]
        assert receiver.accepted == 1


@pytest.mark.parametrize("own", [True, False])
def test_its_own_check_agrees_with_the_specifications_library(own: bool) -> None:
    check = (lambda headers, body: verify([KEY], headers, body)) if own else verifier([SECRET])
    body = '{"text":"ü"}'.encode()
    good = signed(body)
    assert check(good, body)
    other = signed(body, secret="whsec_" + base64.b64encode(bytes(24)).decode())
    several = f"v1a,abc {other['webhook-signature']} {good['webhook-signature']}"
    assert check(good | {"webhook-signature": several}, body)
    for wrong in (
        other,
        signed(body, at=time.time() + 600),
        good | {"webhook-signature": good["webhook-signature"].replace("v1,", "v2,")},
        good | {"webhook-signature": "v1,???"},
        good | {"webhook-signature": ""},
        good | {"webhook-timestamp": "soon"},
        good | {"webhook-id": ""},
    ):
        assert not check(wrong, body)


def test_it_comes_back_on_the_port_that_it_had() -> None:
    receiver = Receiver()
    receiver.start()
    url = receiver.url
    connection = connect(receiver)
    assert post(connection, b"x", {}) == 204
    receiver.stop()
    with pytest.raises(OSError):  # noqa: PT011 - refused or reset, as the system likes it
        post(connection, b"x", {})
    connection.close()
    receiver.start()
    assert receiver.url == url
    # None that an outgoing connection may be given meanwhile.
    assert urlsplit(url).port in PORTS
    assert post(connection, b"y", {}) == 204
    connection.close()
    receiver.stop()
    assert [request.body for request in receiver.requests] == [b"x", b"y"]


def test_connections_that_come_with_its_end_are_closed_with_it() -> None:
    for _ in range(10):
        with Receiver() as receiver:
            address = ("127.0.0.1", urlsplit(receiver.url).port)
            clients = [socket.create_connection(address) for _ in range(20)]
        for client in clients:
            client.close()
    # What nobody has closed is a warning, and warnings are errors.
    gc.collect()


def test_a_port_that_is_taken_is_an_error() -> None:
    with Receiver() as first:
        port = int(first.url.rstrip("/").rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            Receiver(port=port).start()


def test_waiting_for_requests_that_do_not_come_ends() -> None:
    with Receiver() as receiver, pytest.raises(TimeoutError, match="0 of 1 requests"):
        receiver.wait(1, timeout=0.01)


def test_a_body_may_come_in_many_pieces_and_be_large() -> None:
    body = os.urandom(5 << 20)
    with Receiver() as receiver:
        connection = connect(receiver)
        assert post(connection, body, {}) == 204
        assert post(connection, b"next", {}) == 204
        connection.close()
        assert [request.body for request in receiver.requests] == [body, b"next"]


def test_events_are_found_in_both_forms_of_a_body() -> None:
    def request(body: bytes) -> Received:
        return Received("POST", "/", {}, body, 0.0, 0.0, None, Answer())

    assert request(b'{"id":"1"}').events == [{"id": "1"}]
    assert request(b'{"id":"x","events":[{"id":"1"},{"id":"2"}]}').events == [{"id": "1"}, {"id": "2"}]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_as_a_process_it_prints_its_url_and_records_what_comes(tmp_path: Path, number: int) -> None:
    record = tmp_path / "record.jsonl"
    command = [sys.executable, "-m", "cdcflow.testing.receiver", "--port", "0", "--record", str(record)]
    with subprocess.Popen([*command, "--secret", SECRET], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        host, _, port = url.removeprefix("http://").rstrip("/").partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT)
        body = b'{"big":123456789012345678901234567890,\n"a":1}'
        assert post(connection, body, signed(body, "first")) == 204
        assert post(connection, b"not json", {}) == 401
        connection.close()
        eventually(lambda: len(record.read_bytes().splitlines()) == 2)
        process.send_signal(number)
        assert process.wait(TIMEOUT) == 0
    first, second = record.read_bytes().splitlines()
    assert b'"body":{"big":123456789012345678901234567890, "a":1}' in first
    found = orjson.loads(first)
    assert abs(found["received"] - time.time()) < 60
    assert (found["id"], found["verified"], found["status"]) == ("first", True, 204)
    assert {name: orjson.loads(second)[name] for name in ("verified", "status", "body")} == {
        "verified": False,
        "status": 401,
        "body": None,
    }
