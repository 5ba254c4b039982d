"""What the webhook sink's requests are made of, where they go, and who they say they come from."""

import asyncio
import base64
import gzip
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pytest
from pydantic import ValidationError
from standardwebhooks import Webhook

from cdcflow.errors import DeliveryError, Disabled, Permanent, Rejected, Transient, Unauthorized
from cdcflow.model import UNCHANGED, Batch, Column, Op
from cdcflow.model.position import PART_SHIFT, Position
from cdcflow.sink import FlowContext
from cdcflow.testing.batches import Made, batch_of, make_batch, make_relation
from cdcflow.testing.receiver import Answer, Received, Receiver
from cdcflow_sinks.webhook import WebhookSettings, WebhookSink
from cdcflow_sinks.webhook import addresses as addresses_module
from cdcflow_sinks.webhook.addresses import kind

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
ORDERS = make_relation("orders", ["id", "status", "note"])


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def send(url: str, batch: Batch, /, **settings: Any) -> None:
    values = {"type": "webhook", "url": url, "allow": ["127.0.0.1"], **settings}
    sink = WebhookSink(WebhookSettings.model_validate(values), FlowContext(flow="paid", state=Path()))

    async def run() -> None:
        try:
            await sink.open()
            await sink.write(batch)
        finally:
            await sink.close()

    asyncio.run(run())


def failure(url: str, batch: Batch, /, **settings: Any) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        send(url, batch, **settings)
    return caught.value


def orders(*rows: tuple[str, str | None]) -> Batch:
    return make_batch(
        ORDERS, [(Op.INSERT, {"id": key, "status": status, "note": None}, None) for key, status in rows]
    )


def kinds() -> Batch:
    return make_batch(
        ORDERS,
        [
            (Op.READ, {"id": "1", "status": "old", "note": None}, None),
            (Op.INSERT, {"id": "2", "status": "new", "note": "x"}, None),
            (Op.UPDATE, {"id": "2", "status": "paid", "note": UNCHANGED}, None),
            (Op.DELETE, None, {"id": "2"}),
        ],
    )


# Shapes.


def test_debezium_compatible_bodies(receiver: Receiver) -> None:
    send(receiver.url, kinds(), shape="debezium")
    read, insert, update, delete = sorted(
        (r.json for r in receiver.requests), key=lambda b: b["source"]["sequence"]
    )
    assert [body["op"] for body in (read, insert, update, delete)] == ["r", "c", "u", "d"]
    assert insert["before"] is None
    assert insert["after"] == {"id": "2", "status": "new", "note": "x"}
    assert update["after"]["note"] == "__debezium_unavailable_value"
    assert delete["after"] is None
    assert delete["before"]["id"] == "2"
    assert [body["source"]["snapshot"] for body in (read, insert)] == ["true", "false"]
    assert insert["source"]["table"] == "orders"
    assert insert["source"]["lsn"] == 8
    assert isinstance(insert["ts_ms"], int)


def test_several_debezium_bodies_are_an_array(receiver: Receiver) -> None:
    send(receiver.url, kinds(), shape="debezium", batch=True)
    [request] = receiver.requests
    assert [body["op"] for body in request.json] == ["r", "c", "u", "d"]


def test_structured_cloudevents(receiver: Receiver) -> None:
    send(receiver.url, orders(("1", "new")), shape="cloudevents")
    [request] = receiver.requests
    assert request.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    event = request.json
    # Required (spec 1.0.2, 3.1): id, source, specversion, type; all non-empty.
    assert event["specversion"] == "1.0"
    assert (event["source"], event["type"], event["id"]) == ("/cdcflow/paid", "io.cdcflow.insert", "0/8:1")
    assert event["subject"] == "public.orders/1"
    assert event["data"]["new"]["status"] == "new"


def test_several_cloudevents_are_the_batch_format(receiver: Receiver) -> None:
    send(receiver.url, orders(("1", "a"), ("2", "b")), shape="cloudevents", batch=True)
    [request] = receiver.requests
    assert request.headers["content-type"] == "application/cloudevents-batch+json; charset=utf-8"
    assert [event["subject"] for event in request.json] == ["public.orders/1", "public.orders/2"]


def test_binary_cloudevents_have_their_attributes_in_headers_that_no_value_can_break(
    receiver: Receiver,
) -> None:
    send(receiver.url, orders(('€ "%\r\nX-Evil: 1', "a")), shape="cloudevents-binary")
    [request] = receiver.requests
    assert request.headers["content-type"] == "application/json"
    assert request.headers["ce-specversion"] == "1.0"
    assert request.headers["ce-type"] == "io.cdcflow.insert"
    assert "x-evil" not in request.headers
    assert unquote(unquote(request.headers["ce-subject"])) == 'public.orders/€ "%\r\nX-Evil: 1'
    assert request.json["new"]["status"] == "a"


def test_binary_cloudevents_cannot_be_several(receiver: Receiver) -> None:
    with pytest.raises(ValidationError, match="no binary form"):
        send(receiver.url, orders(("1", "a")), shape="cloudevents-binary", batch=True)


def test_a_compressed_body_is_signed_as_what_it_holds(receiver: Receiver) -> None:
    send(receiver.url, orders(("1", "new")), compress="gzip", secret=SECRET)
    [request] = receiver.requests
    assert request.headers["content-encoding"] == "gzip"
    found = Webhook(SECRET).verify(gzip.decompress(request.body), dict(request.headers))
    assert found["new"]["status"] == "new"


# From the row.


def test_a_url_and_headers_come_from_the_row(receiver: Receiver) -> None:
    url = receiver.url + "hooks/{table}/{row.status}?key={key.id}&op={op}"
    send(
        url,
        orders(("1", "a/../b?c=d&e#f")),
        row_headers={"X-Status": "is {row.status}", "X-Note": "{row.note}"},
    )
    [request] = receiver.requests
    parts = urlsplit(request.path)
    assert [unquote(part) for part in parts.path.split("/")] == ["", "hooks", "orders", "a/../b?c=d&e#f"]
    assert parse_qs(parts.query) == {"key": ["1"], "op": ["insert"]}
    assert unquote(request.headers["x-status"]) == "is a/../b?c=d&e#f"
    assert "x-note" not in request.headers  # NULL


@pytest.mark.parametrize("value", [None, "", ".", ".."])
def test_a_value_that_gives_no_part_of_a_url_is_refused_with_its_change(
    receiver: Receiver, value: str | None
) -> None:
    error = failure(receiver.url + "hooks/{row.status}/x", orders(("1", value), ("2", "fine")))
    assert isinstance(error, Rejected)
    assert set(error.rows) == {0}
    assert [request.path for request in receiver.requests] == ["/hooks/fine/x"]


@pytest.mark.parametrize("batch", [False, True])
def test_what_comes_behind_a_change_that_gives_no_url_is_withheld(receiver: Receiver, batch: bool) -> None:
    given = orders(("1", "a"), ("1", None), ("2", "a"), ("1", "a"), ("2", None), ("3", "a"), ("2", "a"))
    error = failure(receiver.url + "hooks/{row.status}", given, batch=batch)
    assert isinstance(error, Rejected)
    assert (set(error.rows), set(error.withheld)) == ({1, 4}, {3, 6})
    assert sorted(event["key"]["id"] for r in receiver.requests for event in r.events) == ["1", "2", "3"]


@pytest.mark.parametrize("batch", [False, True])
def test_of_a_change_that_became_several_all_are_refused_with_the_one_that_gives_no_url(
    receiver: Receiver, batch: bool
) -> None:
    pair = [
        Made(ORDERS, Op.INSERT, {"id": "1", "status": status, "note": None}, None, Position(8, ordinal))
        for status, ordinal in ((None, 1), ("a", 1 + (1 << PART_SHIFT)))
    ]
    later = Made(ORDERS, Op.INSERT, {"id": "2", "status": "b", "note": None}, None, Position(8, 2))
    given = batch_of([*pair, later])
    index = pa.array([0, 0, 1], pa.uint32())
    [group] = given.groups
    data = group.data.set_column(group.data.schema.get_field_index("index"), "index", index)
    given = replace(given.with_groups([replace(group, data=data)]), count=2)
    error = failure(receiver.url + "hooks/{row.status}", given, batch=batch)
    assert isinstance(error, Rejected)
    assert set(error.rows) == {0}
    assert [request.path for request in receiver.requests] == ["/hooks/b"]


def test_numbers_with_all_their_digits_and_json_come_from_the_row_as_their_text(receiver: Receiver) -> None:
    of_key = Column("id", 1700, key=True)
    sums = make_relation("sums", [of_key, Column("total", 1700), Column("doc", 3802), Column("more", 3802)])
    row = {"id": "12.50", "total": "98765432109876543210.10", "doc": '"a b"', "more": '{"a": 1}'}
    names = {"X-Total": "{row.total}", "X-Doc": "{row.doc}", "X-More": "{row.more}"}
    for numbers in ("exact", "safe"):
        url = receiver.url + "{key.id}"
        settings = {"numbers": numbers, "row_headers": names, "shape": "cloudevents-binary"}
        send(url, make_batch(sums, [(Op.INSERT, row, None)]), **settings)
    for request in receiver.requests:
        headers = {name: unquote(text) for name, text in request.headers.items()}
        assert (request.path, headers["x-doc"]) == ("/12.50", "a b")
        assert headers["x-total"] == "98765432109876543210.10"
        assert headers["ce-subject"] == "public.sums/12.50"
        assert "x-more" not in headers


def test_half_a_character_of_a_json_column_is_no_part_of_a_url_and_breaks_no_header(
    receiver: Receiver,
) -> None:
    docs = make_relation("docs", ["id", Column("doc", 114)])
    given = make_batch(docs, [(Op.INSERT, {"id": "1", "doc": '"x\\ud800"'}, None)])
    send(receiver.url, given, row_headers={"X-Doc": "{row.doc}"}, numbers="exact")
    assert receiver.requests[0].headers["x-doc"].startswith("x%3F")
    error = failure(receiver.url + "{row.doc}", given, numbers="exact")
    assert isinstance(error, Rejected)
    assert "half a character" in error.rows[0]


def test_no_value_can_begin_another_header_or_request(receiver: Receiver) -> None:
    evil = "x\r\nX-Evil: 1\r\n\r\nPOST /evil HTTP/1.1\r\n"
    send(receiver.url + "{row.status}", orders(("1", evil)), row_headers={"X-Status": "{row.status}"})
    [request] = receiver.requests
    assert "x-evil" not in request.headers
    assert unquote(request.headers["x-status"]) == evil
    assert unquote(request.path) == "/" + evil


@pytest.mark.parametrize("status", [404, 422, 500])
def test_an_error_repeats_no_value_as_a_url_a_header_or_a_page_has_it(
    receiver: Receiver, status: int
) -> None:
    def respond(request: Received) -> Answer:
        words = f"<p>Cannot POST {request.path}, {request.headers['x-status']}, Tom &amp; Ada&#x27;s</p>"
        return Answer(status, body=words.encode())

    receiver.respond = respond
    row = {"id": "1", "status": "ada@example.com/ß", "note": "Tom & Ada's"}
    error = failure(
        receiver.url + "hooks/{row.status}",
        make_batch(ORDERS, [(Op.INSERT, row, None)]),
        row_headers={"X-Status": "{row.status}"},
    )
    told = " ".join([str(error), *error.refused.values(), *error.answers.values()])
    assert "Cannot POST" in told
    for hidden in ("ada", "example.com", "%40", "Tom", "Ada"):
        assert hidden not in told


def test_a_batch_holds_only_events_for_the_same_url(receiver: Receiver) -> None:
    batch = orders(("1", "a"), ("2", "a"), ("3", "b"), ("4", "a"))
    send(receiver.url + "{row.status}", batch, batch=True)
    assert [(r.path, len(r.events)) for r in receiver.requests] == [("/a", 2), ("/b", 1), ("/a", 1)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"url": "https://{row.host}/x"}, "never in its host"),
        ({"url": "https://example.com/{rows.x}"}, "there is no field"),
        ({"url": "https://example.com/{row.x"}, "no partner"),
        ({"row_headers": {"Authorization": "{row.x}"}}, "set by cdcflow"),
        ({"row_headers": {"X-A": "plain"}}, "no field of the row"),
        ({"allow": ["10.0.0.1/8"]}, "no network"),
        ({"tls": {"cert": "x.pem"}}, "go together"),
        ({"auth": {"type": "bearer", "token": "t"}, "headers": {"Authorization": "x"}}, "twice"),
        (
            {"auth": {"type": "oauth2", "token_url": "ftp://x", "client_id": "a", "client_secret": "b"}},
            "http URL",
        ),
    ],
)
def test_a_setting_that_cannot_be_meant_is_told(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        WebhookSettings.model_validate({"type": "webhook", "url": "https://example.com/", **values})
    assert expected in str(caught.value)


# Where requests go.


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", ""),
        ("2606:4700::1111", ""),
        ("127.0.0.1", "loopback"),
        ("127.255.0.9", "loopback"),
        ("0.0.0.0", "this network"),
        ("10.1.2.3", "private"),
        ("172.31.0.1", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "shared (CGNAT)"),
        ("100.100.100.200", "shared (CGNAT)"),  # Alibaba's metadata
        ("169.254.169.254", "link-local"),  # everybody else's
        ("192.0.0.192", "reserved"),  # Oracle's
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("::1", "loopback"),
        ("::", "this network"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:a9fe:a9fe", "link-local"),
        ("::ffff:8.8.8.8", ""),
        ("::127.0.0.1", "loopback"),
        ("64:ff9b::10.0.0.1", "private"),
        ("2002:7f00:1::", "loopback"),
        ("fd00:ec2::254", "private"),
        ("fe80::1", "link-local"),
        ("ff02::1", "multicast"),
    ],
)
def test_every_address_that_is_not_public_is_known_as_what_it_is(address: str, expected: str) -> None:
    assert kind(ipaddress.ip_address(address)) == expected


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0x7f.1", "127.1", "0", "[::1]",
     "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "169.254.169.254", "[fd00:ec2::254]"],
)  # fmt: skip
@pytest.mark.parametrize("batch", [True, False])
def test_no_request_goes_to_an_address_that_is_not_public(receiver: Receiver, host: str, batch: bool) -> None:
    port = urlsplit(receiver.url).port
    error = failure(f"http://{host}:{port}/", orders(("1", "a")), allow=[], batch=batch)
    assert isinstance(error, Permanent)
    assert "where webhooks do not go" in str(error)
    assert "allow" in error.hint
    assert receiver.received == 0


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: Sequence[str]) -> list[str]:
    """Names resolve to these addresses, the last answer from then on; returns which names were asked for."""
    asked: list[str] = []
    real = asyncio.base_events.BaseEventLoop.getaddrinfo

    async def getaddrinfo(self: Any, host: str, port: int, **options: Any) -> Any:
        if host.replace(".", "").isdigit():
            return await real(self, host, port, **options)
        found = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked


def test_a_name_is_refused_when_any_of_its_addresses_is_private(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, ["8.8.8.8", "127.0.0.1"])
    port = urlsplit(receiver.url).port
    assert isinstance(failure(f"http://hooks.example:{port}/", orders(("1", "a")), allow=[]), Permanent)
    assert receiver.received == 0


def test_a_name_that_resolves_to_another_address_a_moment_later_gains_nothing(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The judged address is the one that is connected to: whoever resolves once more would get loopback.
    asked = resolving(monkeypatch, ["192.0.2.1"], ["127.0.0.1"])
    monkeypatch.setattr(
        addresses_module, "kind", lambda address: "" if str(address) == "192.0.2.1" else "loopback"
    )
    port = urlsplit(receiver.url).port
    error = failure(f"http://hooks.example:{port}/", orders(("1", "a")), allow=[], timeout="300ms")
    assert isinstance(error, Transient)
    assert asked == ["hooks.example"]
    assert receiver.received == 0


@pytest.mark.parametrize("allow", [["hooks.example"], ["127.0.0.0/8"]])
def test_a_name_on_the_list_may_be_private_and_keeps_its_host_header(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, allow: list[str]
) -> None:
    resolving(monkeypatch, ["127.0.0.1"])
    port = urlsplit(receiver.url).port
    send(f"http://hooks.example:{port}/", orders(("1", "a")), allow=allow)
    [request] = receiver.requests
    assert request.headers["host"] == f"hooks.example:{port}"


def test_a_name_on_the_list_does_not_open_the_way_to_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, ["169.254.169.254"])
    error = failure("http://hooks.example/", orders(("1", "a")), allow=["hooks.example"])
    assert "link-local" in str(error)


@pytest.mark.parametrize("location", ["http://127.0.0.1:1/", "http://169.254.169.254/latest/meta-data/"])
def test_a_redirect_is_not_followed(receiver: Receiver, location: str) -> None:
    receiver.respond = lambda _: Answer(307, headers={"Location": location})
    assert isinstance(failure(receiver.url, orders(("1", "a"))), Permanent)
    assert receiver.received == 1


# Who they come from.


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("batch", [True, False])
def test_refused_credentials_are_no_refused_rows(receiver: Receiver, status: int, batch: bool) -> None:
    receiver.respond = lambda _: Answer(status)
    error = failure(receiver.url, orders(*((str(i), "a") for i in range(50))), batch=batch)
    assert isinstance(error, Unauthorized)
    assert not error.refused


@pytest.mark.parametrize("batch", [True, False])
def test_gone_disables_the_flow(receiver: Receiver, batch: bool) -> None:
    receiver.respond = lambda _: Answer(410)
    assert isinstance(failure(receiver.url, orders(("1", "a"), ("2", "b")), batch=batch), Disabled)


def test_bearer_and_basic(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t0ken\n")
    send(receiver.url, orders(("1", "a")), auth={"type": "bearer", "token": f"file:{tmp_path}/token"})
    send(receiver.url, orders(("1", "a")), auth={"type": "basic", "user": "ada", "password": "lövelace"})
    bearer, basic = (request.headers["authorization"] for request in receiver.requests)
    assert bearer == "Bearer t0ken"
    assert base64.b64decode(basic.removeprefix("Basic ")).decode() == "ada:lövelace"


def test_a_secret_is_read_from_its_file_when_the_sink_is_opened_again(
    receiver: Receiver, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    values = {"type": "webhook", "url": receiver.url, "allow": ["127.0.0.1"]}
    settings = WebhookSettings.model_validate({**values, "auth": {"type": "bearer", "token": f"file:{file}"}})

    async def run() -> None:
        for text in ("old", "new"):
            file.write_text(text)
            sink = WebhookSink(settings, FlowContext(flow="paid", state=tmp_path))
            await sink.open()
            await sink.write(orders(("1", "a")))
            await sink.close()

    asyncio.run(run())
    assert [r.headers["authorization"] for r in receiver.requests] == ["Bearer old", "Bearer new"]


class Authority:
    """An authorization server: gives a token per request for the right client (RFC 6749, 4.4)."""

    def __init__(self, expires_in: object = 3600) -> None:
        self.given = 0
        self.expires_in = expires_in
        self.receiver = Receiver(respond=self.respond)

    def respond(self, request: Received) -> Answer:
        form = parse_qs(request.body.decode())
        client = base64.b64encode(b"client:s%20ecret").decode()
        if request.headers.get("authorization") != f"Basic {client}" or form["grant_type"] != [
            "client_credentials"
        ]:
            return Answer(401, body=b'{"error": "invalid_client"}')
        self.given += 1
        body = {"access_token": f"token{self.given}", "token_type": "bearer", "expires_in": self.expires_in}
        return Answer(200, body=json.dumps(body).encode())


def oauth(authority: Authority, secret: str = "s ecret") -> dict[str, str]:
    return {
        "type": "oauth2",
        "token_url": authority.receiver.url,
        "client_id": "client",
        "client_secret": secret,
        "scope": "hooks",
    }


def test_a_token_is_fetched_once_and_used_for_all(receiver: Receiver) -> None:
    authority = Authority()
    with authority.receiver:
        send(receiver.url, orders(*((str(i), "a") for i in range(30))), auth=oauth(authority))
    assert authority.given == 1
    assert {request.headers["authorization"] for request in receiver.requests} == {"Bearer token1"}


def test_a_token_is_replaced_before_it_expires_and_not_after_a_refusal(receiver: Receiver) -> None:
    authority = Authority(expires_in=0)  # each is over at once
    with authority.receiver:
        send(receiver.url, orders(*((str(i), "a") for i in range(5))), auth=oauth(authority), concurrency=1)
    assert [request.headers["authorization"] for request in receiver.requests] == [
        f"Bearer token{number}" for number in range(1, 6)
    ]


def test_a_client_that_the_authority_does_not_know_is_unauthorized_and_shows_no_secret(
    receiver: Receiver,
) -> None:
    authority = Authority()
    with authority.receiver:
        error = failure(receiver.url, orders(("1", "a")), auth=oauth(authority, "wr0ng"))
    assert isinstance(error, Unauthorized)
    assert "invalid_client" in str(error)
    assert "wr0ng" not in f"{error} {error.hint}"
    assert receiver.received == 0


def test_an_authority_that_is_down_is_waited_for(receiver: Receiver) -> None:
    authority = Authority()
    authority.receiver.start()
    authority.receiver.stop()
    assert isinstance(failure(receiver.url, orders(("1", "a")), auth=oauth(authority)), Transient)


def test_the_client_shows_its_certificate(tmp_path: Path, authority_files: dict[str, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority_files["server"])
    context.load_verify_locations(cafile=authority_files["ca"])
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))
    names: list[object] = []

    def serve() -> None:
        while len(names) < 2:
            connection, _ = listener.accept()
            try:
                with context.wrap_socket(connection, server_side=True) as stream:
                    stream.settimeout(60)
                    request = b""
                    while not request.endswith(b"}"):
                        request += stream.recv(65536)
                    names.append((stream.getpeercert() or {}).get("subject"))
                    stream.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            except OSError:
                names.append(None)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
    ca, client = str(authority_files["ca"]), str(authority_files["client"])
    send(url, orders(("1", "a")), tls={"ca": ca, "cert": client, "key": client}, concurrency=1)
    assert isinstance(failure(url, orders(("1", "a")), tls={"ca": ca}, concurrency=1), Transient)
    thread.join(10)
    listener.close()
    assert "cdcflow" in str(names[0])
    assert names[1] is None


@pytest.fixture
def authority_files(tmp_path: Path) -> dict[str, Path]:
    trustme = pytest.importorskip("trustme")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    client = ca.issue_cert("client@example.com", common_name="cdcflow")
    client.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    return {name: tmp_path / f"{name}.pem" for name in ("ca", "server", "client")}
