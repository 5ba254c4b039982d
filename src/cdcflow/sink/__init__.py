"""What a sink is: the protocol, its settings and how it is found. Knows no sink by name."""

from cdcflow.errors import DeliveryError, Permanent, Rejected, Transient
from cdcflow.sink.judging import ExpectedTable, Judges, judge_events
from cdcflow.sink.protocol import (
    Batching,
    Finding,
    FlowContext,
    PositionedSink,
    Probe,
    QuerySink,
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
    "ConfigPath",
    "DeliveryError",
    "ExpectedTable",
    "Finding",
    "FlowContext",
    "Judges",
    "Permanent",
    "PositionedSink",
    "Probe",
    "QuerySink",
    "Rejected",
    "RewindableSink",
    "SchemaSink",
    "Secret",
    "Settings",
    "Sink",
    "SinkOptions",
    "SinkPlugin",
    "SinkSettings",
    "TransactionalSink",
    "Transient",
    "judge_events",
]
