"""The configuration: models, reading, and messages that name file, line, key and the nearest right name."""

from cdcflow.config.load import SUFFIXES, Parts, Texts, absolute, flow_files, flow_folder, load, load_parts
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
    "SUFFIXES",
    "Config",
    "EngineSettings",
    "Flow",
    "JournalSettings",
    "Keep",
    "Parts",
    "SinkEntry",
    "SourceSettings",
    "StepEntry",
    "Texts",
    "absolute",
    "flow_files",
    "flow_folder",
    "load",
    "load_parts",
    "make_chain",
]
