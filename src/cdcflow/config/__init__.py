"""The configuration: models, reading, and messages that name file, line, key and the nearest right name."""

from cdcflow.config.load import load
from cdcflow.config.models import (
    Config,
    EngineSettings,
    Flow,
    JournalSettings,
    Keep,
    SinkEntry,
    SourceSettings,
    StepEntry,
)
from cdcflow.config.transforms import make_chain

__all__ = [
    "Config",
    "EngineSettings",
    "Flow",
    "JournalSettings",
    "Keep",
    "SinkEntry",
    "SourceSettings",
    "StepEntry",
    "load",
    "make_chain",
]
