"""Delivery: one worker per flow, from the journal to the sink, with retries, dead letters and checkpoints."""

from cdcflow.delivery.breaker import Breakers
from cdcflow.delivery.checkpoints import Checkpoint, CheckpointStore
from cdcflow.delivery.letters import Letter, LetterStore, Selection
from cdcflow.delivery.moves import Move, Pause, Wishes
from cdcflow.delivery.progress import FlowReport, State
from cdcflow.delivery.redelivery import Outcome
from cdcflow.delivery.refusals import Limits
from cdcflow.delivery.worker import FlowPlan, FlowWorker, describe

__all__ = [
    "Breakers",
    "Checkpoint",
    "CheckpointStore",
    "FlowPlan",
    "FlowReport",
    "FlowWorker",
    "Letter",
    "LetterStore",
    "Limits",
    "Move",
    "Outcome",
    "Pause",
    "Selection",
    "State",
    "Wishes",
    "describe",
]
