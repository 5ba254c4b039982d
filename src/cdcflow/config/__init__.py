"""The configuration: models, reading, and messages that name file, line, key and the nearest right name."""

from cdcflow.config.load import Parts, Texts, absolute, flow_files, flow_folder, load, load_parts
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
    "Parts",
    "SinkEntry",
    "SourceSettings",
    "Texts",
    "absolute",
    "flow_files",
    "flow_folder",
    "load",
    "load_parts",
]
