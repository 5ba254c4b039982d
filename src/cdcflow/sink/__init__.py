"""What a sink is: the protocol, its settings and how it is found. Knows no sink by name."""

from cdcflow.errors import DeliveryError, Disabled, Permanent, Rejected, TooLarge, Transient, Unauthorized
from cdcflow.sink.budget import Budget, Limit
from cdcflow.sink.describing import Describes, Field
from cdcflow.sink.formulas import Computed, Formula
from cdcflow.sink.judging import Claims, ExpectedTable, Judges, judge_events
from cdcflow.sink.protocol import (
    Batching,
    Converges,
    Finding,
    FlowContext,
    PositionedSink,
    Previews,
    Probe,
    QuerySink,
    Redelivers,
    Remembers,
    Rendered,
    RewindableSink,
    SchemaSink,
    Sink,
    SinkPlugin,
    TransactionalSink,
)
from cdcflow.sink.settings import BASE, ConfigPath, Secret, Settings, SinkOptions, SinkSettings

__all__ = [
    "BASE",
    "Batching",
    "Budget",
    "Claims",
    "Computed",
    "ConfigPath",
    "Converges",
    "DeliveryError",
    "Describes",
    "Disabled",
    "ExpectedTable",
    "Field",
    "Finding",
    "FlowContext",
    "Formula",
    "Judges",
    "Limit",
    "Permanent",
    "PositionedSink",
    "Previews",
    "Probe",
    "QuerySink",
    "Redelivers",
    "Rejected",
    "Remembers",
    "Rendered",
    "RewindableSink",
    "SchemaSink",
    "Secret",
    "Settings",
    "Sink",
    "SinkOptions",
    "SinkPlugin",
    "SinkSettings",
    "TooLarge",
    "TransactionalSink",
    "Transient",
    "Unauthorized",
    "judge_events",
]
