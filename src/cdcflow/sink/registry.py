"""The sinks that there are: what the entry point group `cdcflow.sinks` holds, under the types of `sinks:`."""

from cdcflow.plugins import Plugins
from cdcflow.sink.protocol import SinkPlugin

_sinks = Plugins("cdcflow.sinks", SinkPlugin, "sink of type")

names = _sinks.names
load = _sinks.load
