"""The sinks that come with cdcflow, one package each. The core finds them by entry point only."""
