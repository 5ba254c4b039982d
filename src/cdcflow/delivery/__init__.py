"""Delivery: one worker per flow, from the journal to the sink, with retries and checkpoints."""

from cdcflow.delivery.checkpoints import Checkpoint, CheckpointStore
from cdcflow.delivery.moves import Move, Pause, Wishes
from cdcflow.delivery.progress import FlowReport, State
from cdcflow.delivery.worker import FlowPlan, FlowWorker, describe

__all__ = [
    "Checkpoint",
    "CheckpointStore",
    "FlowPlan",
    "FlowReport",
    "FlowWorker",
    "Move",
    "Pause",
    "State",
    "Wishes",
    "describe",
]
