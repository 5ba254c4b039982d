"""What a sink is: the protocol, its settings and how it is found. Knows no sink by name."""

from cdcflow.errors import DeliveryError, Disabled, Permanent, Rejected, TooLarge, Transient, Unauthorized
from cdcflow.sink.budget import Budget, Limit
from cdcflow.sink.judging import ExpectedTable, Judges, judge_events
from cdcflow.sink.protocol import (
    Batching,
    Finding,
    FlowContext,
    PositionedSink,
    Probe,
    QuerySink,
    Redelivers,
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
    "ConfigPath",
    "DeliveryError",
    "Disabled",
    "ExpectedTable",
    "Finding",
    "FlowContext",
    "Judges",
    "Limit",
    "Permanent",
    "PositionedSink",
    "Probe",
    "QuerySink",
    "Redelivers",
    "Rejected",
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
