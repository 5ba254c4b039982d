from cdcflow.model.expected import ExpectedTable
from cdcflow.sink.judging import judge_events
from cdcflow.testing.batches import make_relation


def test_a_sink_of_events_says_which_values_updates_will_not_bring() -> None:
    documents = ExpectedTable(make_relation('Doc"s', ["id", "body"]), ("body",), 8192)
    (finding,) = judge_events("flow hook", [documents, ExpectedTable(make_relation("orders"))])
    assert (finding.severity, finding.subject) == ("warning", "flow hook")
    assert 'public.Doc"s (body)' in finding.message
    assert "orders" not in finding.message
    # Whole old rows change what identifies an event, so nobody runs this unasked.
    assert (finding.sql, finding.stage) == (
        'ALTER TABLE "public"."Doc""s" REPLICA IDENTITY FULL;',
        "choice",
    )


def test_whole_old_rows_bring_every_value() -> None:
    full = ExpectedTable(make_relation("docs", ["id", "body"], replica_identity="f"), ("body",), 8192)
    assert judge_events("flow hook", [full]) == []
