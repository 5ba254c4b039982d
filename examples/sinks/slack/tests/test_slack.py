"""The conformance suite that comes with cdcflow, and what is Slack's own."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from cdcflow_slack import SlackOptions, SlackSettings, SlackSink
from slack_server import Slack

from cdcflow.errors import DeliveryError, Disabled, Permanent, Rejected, Transient
from cdcflow.model import Batch, Op
from cdcflow.sink import FlowContext, Sink, registry
from cdcflow.testing.batches import make_batch, make_relation
from cdcflow.testing.conformance import SinkConformance

ORDERS = make_relation("orders", ["id", "status"])


@pytest.fixture
def slack() -> Iterator[Slack]:
    with Slack() as running:
        yield running


class TestSlack(SinkConformance):
    holds = "events"
    large = 300

    @pytest.fixture(autouse=True)
    def _own_slack(self, slack: Slack) -> None:
        self.slack = slack

    def make_sink(self, context: FlowContext) -> Sink:
        settings = SlackSettings.model_validate({"type": "slack", "url": self.slack.url, "rate": 100_000})
        return SlackSink(settings, SlackOptions(text="{event}"), context)

    def make_failing_sink(self, context: FlowContext) -> Sink:
        return SlackSink(
            SlackSettings.model_validate({"type": "slack", "url": "no"}), SlackOptions(), context
        )

    def events(self) -> Sequence[Mapping[str, Any]]:
        return [json.loads(unescaped(text)) for text in self.slack.messages]


def unescaped(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def write(slack: Slack, batch: Batch, text: str = "{key.id} is {row.status}", rate: int = 100_000) -> None:
    settings = SlackSettings.model_validate({"type": "slack", "url": slack.url, "rate": rate})
    sink = SlackSink(settings, SlackOptions(text=text), FlowContext("sales", Path()))

    async def run() -> None:
        try:
            await sink.open()
            await sink.write(batch)
        finally:
            await sink.close()

    asyncio.run(run())


def failure(slack: Slack, batch: Batch) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        write(slack, batch)
    return caught.value


def test_cdcflow_finds_the_sink_by_its_entry_point() -> None:
    assert registry.load("slack").settings is SlackSettings


def test_a_message_says_what_the_flow_wants_and_cannot_mention_anybody(slack: Slack) -> None:
    batch = make_batch(ORDERS, [(Op.INSERT, {"id": "1", "status": "<!channel> & co"}, None)])
    write(slack, batch, "{op} of {table} {key.id}: {row.status} {row.nothing}")
    assert slack.messages == ["insert of orders 1: &lt;!channel&gt; &amp; co –"]


def test_a_refused_message_is_named_and_the_others_are_there(slack: Slack) -> None:
    slack.answers = [(200, "ok"), (400, "invalid_payload")]
    error = failure(slack, three())
    assert isinstance(error, Rejected)
    assert error.rows == {1: "Slack answered 400 invalid_payload"}


@pytest.mark.parametrize(
    ("status", "word", "kind"),
    [
        (403, "action_prohibited", Permanent),
        (404, "channel_not_found", Permanent),
        (410, "channel_is_archived", Disabled),
        (429, "rate_limited", Transient),
        (500, "rollup_error", Transient),
    ],
)
def test_what_slack_says_against_all_messages_is_no_refused_row(
    slack: Slack, status: int, word: str, kind: type[DeliveryError]
) -> None:
    slack.answers = [(200, "ok"), (status, word)]
    error = failure(slack, three())
    assert type(error) is kind
    assert word in str(error)
    assert set(error.written) == {0}
    assert not error.refused
    assert slack.url not in f"{error} {error.hint}"


def test_retry_after_is_honoured(slack: Slack) -> None:
    slack.answers, slack.retry_after = [(429, "rate_limited")], "7"
    error = failure(slack, three())
    assert isinstance(error, Transient)
    assert error.retry_after == 7.0


def three() -> Batch:
    return make_batch(ORDERS, [(Op.INSERT, {"id": str(i), "status": "new"}, None) for i in range(3)])
