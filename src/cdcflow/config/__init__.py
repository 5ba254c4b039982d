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
)

__all__ = [
    "Config",
    "EngineSettings",
    "Flow",
    "JournalSettings",
    "Keep",
    "SinkEntry",
    "SourceSettings",
    "load",
]
